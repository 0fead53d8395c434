// a bank: the writer. It carries out the steps one after the other: puts operands together, takes results back into
//     L1, and does whatever only moves.
//
//     arrays in L1 --> cb_in, cb_rows, cb_left, cb_right --> compute --> cb_out --> arrays in L1 --> other cores, DRAM
#include "dram.h"
#include "gather.h"
#include "integers.h"
#include "matrix_tiles.h"
#include "rows.h"
#include "tile_maps.h"
#include "top_k.h"
#include "walk.h"
#include "weights.h"

constexpr uint32_t cb_rows = tt::CBIndex::c_1;
constexpr uint32_t cb_in = tt::CBIndex::c_2;
constexpr uint32_t cb_picks = tt::CBIndex::c_5;
constexpr uint32_t cb_out = tt::CBIndex::c_16;
constexpr uint32_t cb_bounce = tt::CBIndex::c_24;
constexpr uint32_t cb_scratch = tt::CBIndex::c_25;
constexpr uint32_t operand_slots = 8;
constexpr uint32_t semaphore_free = 0;
constexpr uint32_t semaphore_landed = 1;
constexpr uint32_t rows_pages = 2;

void kernel_main() {
    const uint32_t core = get_arg_val<uint32_t>(0);
    const Share own_3_of_7 = share_of(core, 7, 3);
    const uint32_t scratch = get_write_ptr(cb_scratch);
    const uint32_t bounce = get_write_ptr(cb_bounce);
    const Cores cores{3, core, 6};
    constexpr auto inputs_layout = TensorAccessorArgs<0>();
    const auto inputs_in_dram = TensorAccessor(inputs_layout, get_arg_val<uint32_t>(2), 64);
    constexpr auto x_layout = TensorAccessorArgs<inputs_layout.next_compile_time_args_offset()>();
    const auto x_in_dram = TensorAccessor(x_layout, get_arg_val<uint32_t>(3), 256);
    constexpr auto table_layout = TensorAccessorArgs<x_layout.next_compile_time_args_offset()>();
    const auto table_in_dram = TensorAccessor(table_layout, get_arg_val<uint32_t>(4), 64);
    constexpr auto logits_layout = TensorAccessorArgs<table_layout.next_compile_time_args_offset()>();
    const auto logits_in_dram = TensorAccessor(logits_layout, get_arg_val<uint32_t>(5), 640);
    const Array inputs{scratch + 0, 0};
    const Array g_values{scratch + 64, 0};
    const Array x{scratch + 128, 0};
    const Array picks{scratch + 384, 0};
    const Array values{scratch + 448, 0};
    const Array ring{scratch + 512, 0};
    const Array most{scratch + 576, 0};
    const Array count_values{scratch + 640, 0};
    const Array hi{scratch + 704, 0};
    const Array lo{scratch + 960, 0};
    const Array window{scratch + 1216, 0};
    const Array out{scratch + 1280, 0};
    const Array a_hi{scratch + 1920, static_cast<int32_t>(own_3_of_7.first * 10)};
    const Array a_lo{scratch + 2048, static_cast<int32_t>(own_3_of_7.first * 10)};
    const Array b_hi{scratch + 2176, static_cast<int32_t>(own_3_of_7.first * 10)};
    const Array b_lo{scratch + 2304, static_cast<int32_t>(own_3_of_7.first * 10)};
    const Array a{scratch + 2432, static_cast<int32_t>(own_3_of_7.first * 10)};
    const Array b{scratch + 2560, static_cast<int32_t>(own_3_of_7.first * 10)};
    const Array a_all{scratch + 2688, 0};
    const Array b_all{scratch + 3008, 0};
    zero_words(get_write_ptr(cb_in), operand_slots * TILE_ELEMENTS);
    zero_words(get_write_ptr(cb_rows), rows_pages * TILE_ELEMENTS);

    // inputs
    fetch_words(inputs_in_dram, 2, 0, inputs, 0, 2, bounce);

    // x
    fetch_words(x_in_dram, 50, 0, x, 0, 50, bounce);

    // g
    {
        const int32_t place0 = inputs.whole(0);
        fetch_words(table_in_dram, 4, place0, g_values, 0, 4, bounce);
    }

    // values, picks
    each_element<Walk<1>>(0, 1, [&](int32_t) {
        TopK<2> best;
        for (int32_t g = 0; g < 4; ++g) {
            best.offer(g_values.whole(g), g);
        }
        for (int32_t n = 0; n < 2; ++n) {
            words_at(values.at(n))[0] = best.bits[n];
            words_at(picks.at(n))[0] = best.place[n];
        }
    });

    // most
    {
        const int32_t place0 = picks.whole(0);
        const int32_t place1 = picks.whole(1);
        send_pick(cb_picks, place0);
        send_pick(cb_picks, place1);
        each_element<Walk<1>>(0, 1, [&](int32_t) {
            Extreme<false> best;
            for (int32_t g = 0; g < 4; ++g) {
                best.offer(g_values.whole(g));
            }
            words_at(most.at(0))[0] = best.bits;
        });
    }

    // ring
    {
        copy_words(ring.at(0), wait_page(cb_out), 6);
        pop_page(cb_out);
    }

    // ring
    {
        const int32_t place0 = inputs.whole(1);
        const int32_t place1 = (place0 % 3);
        const int32_t place2 = (place1 * 2);
        copy_words(ring.at(place2), values.at(0), 2);
    }

    // window
    {
        const int32_t place0 = inputs.whole(1);
        set_elements<Walk<3, 2>>(window, 0, 6,
            [&](int32_t t, int32_t n) { return t * 2 + n; },
            [&](int32_t t, int32_t n) { return (t <= place0) ? ring.whole(n + ((((place0 - t) + 3) % 3) * 2)) : static_cast<int32_t>(0x40e00000); });
    }

    // count
    {
        const int32_t place0 = inputs.whole(1);
        set_elements<Walk<2>>(count_values, 0, 2,
            [&](int32_t n) { return n; },
            [&](int32_t n) { return float_bits(((picks.whole(n) * -3) + place0)); });
    }

    // hi
    {
        const uint32_t operands = reserve_pages(cb_in, operand_slots);
        copy_words(operands, x.at(0), 50);
        push_pages(cb_in, operand_slots);
        copy_words(hi.at(0), wait_page(cb_out), 50);
        pop_page(cb_out);
    }

    // lo
    {
        const uint32_t operands = reserve_pages(cb_in, operand_slots);
        copy_words(operands, x.at(0), 50);
        push_pages(cb_in, operand_slots);
        copy_words(lo.at(0), wait_page(cb_out), 50);
        pop_page(cb_out);
    }

    // a_hi, a_lo
    //     a[i] = sum[k](F[picks[0], i, k]*x[k])
    if (own_3_of_7.count > 0) {
        const uint32_t parts = reserve_pages(cb_in, operand_slots);
        for (uint32_t k = 0; k < 50; k += TILE_SIDE) {
            const uint32_t rows = reserve_pages(cb_rows, 1);
            put_row(rows, PLAIN_ROW, hi.at(k), in_tile(50, k));
            put_row(rows, LOST_ROW, lo.at(k), in_tile(50, k));
            spread_row(rows);
            push_pages(cb_rows, 1);
        }
        {
            const uint32_t result = wait_page(cb_out);
            collect_rows(parts, 0, result, LANES, own_3_of_7.count * 10);
            give_row(a_lo.at(own_3_of_7.first * 10), result, LOST_ROW, own_3_of_7.count * 10);
            pop_page(cb_out);
        }
        push_pages(cb_in, operand_slots);
        copy_words(a_hi.at(own_3_of_7.first * 10), wait_page(cb_out), own_3_of_7.count * 10);
        pop_page(cb_out);
    }

    // a
    //     a[i] = sum[k](F[picks[0], i, k]*x[k])
    if (const uint32_t e = own_3_of_7.first * 10, count = own_3_of_7.count * 10; count > 0) {
        const uint32_t operands = reserve_pages(cb_in, operand_slots);
        copy_words(operands, a_hi.at(e), count);
        copy_words(page_of(operands, 1), a_lo.at(e), count);
        push_pages(cb_in, operand_slots);
        copy_words(a.at(e), wait_page(cb_out), count);
        pop_page(cb_out);
    }

    // a_all
    meet(cores, semaphore_free, 1);
    gather(cores, a_all, a, own_3_of_7.first * 10, own_3_of_7.count * 10, bounce);
    meet(cores, semaphore_landed, 1);

    // b_hi, b_lo
    //     b[i] = sum[k](F[picks[1], i, k]*x[k])
    if (own_3_of_7.count > 0) {
        const uint32_t parts = reserve_pages(cb_in, operand_slots);
        for (uint32_t k = 0; k < 50; k += TILE_SIDE) {
            const uint32_t rows = reserve_pages(cb_rows, 1);
            put_row(rows, PLAIN_ROW, hi.at(k), in_tile(50, k));
            put_row(rows, LOST_ROW, lo.at(k), in_tile(50, k));
            spread_row(rows);
            push_pages(cb_rows, 1);
        }
        {
            const uint32_t result = wait_page(cb_out);
            collect_rows(parts, 0, result, LANES, own_3_of_7.count * 10);
            give_row(b_lo.at(own_3_of_7.first * 10), result, LOST_ROW, own_3_of_7.count * 10);
            pop_page(cb_out);
        }
        push_pages(cb_in, operand_slots);
        copy_words(b_hi.at(own_3_of_7.first * 10), wait_page(cb_out), own_3_of_7.count * 10);
        pop_page(cb_out);
    }

    // b
    //     b[i] = sum[k](F[picks[1], i, k]*x[k])
    if (const uint32_t e = own_3_of_7.first * 10, count = own_3_of_7.count * 10; count > 0) {
        const uint32_t operands = reserve_pages(cb_in, operand_slots);
        copy_words(operands, b_hi.at(e), count);
        copy_words(page_of(operands, 1), b_lo.at(e), count);
        push_pages(cb_in, operand_slots);
        copy_words(b.at(e), wait_page(cb_out), count);
        pop_page(cb_out);
    }

    // b_all
    meet(cores, semaphore_free, 2);
    gather(cores, b_all, b, own_3_of_7.first * 10, own_3_of_7.count * 10, bounce);
    meet(cores, semaphore_landed, 2);

    // out
    copy_words(out.at(0), a_all.at(0), 70);

    // out
    copy_words(out.at(70), b_all.at(0), 70);

    // out
    copy_words(out.at(140), window.at(0), 6);

    // out
    copy_words(out.at(146), count_values.at(0), 2);

    // out
    copy_words(out.at(148), most.at(0), 1);

    // logits
    if (core == 0) {
        write_words(logits_in_dram, 149, out, 0, 149, bounce);
    }
}
