// a bank: the compute kernel. Its steps are those of the writer that compute something, in the same order.
//
//     cb_in --SFPU--> cb_out      cb_rows x cb_weights --FPU--> cb_out      cb_left x cb_right --FPU--> cb_out
#include "add_rows.h"
#include "compute_steps.h"
#include "elementwise.h"

constexpr uint32_t cb_weights = tt::CBIndex::c_0;
constexpr uint32_t cb_rows = tt::CBIndex::c_1;
constexpr uint32_t cb_in = tt::CBIndex::c_2;
constexpr uint32_t cb_out = tt::CBIndex::c_16;
constexpr uint32_t operand_slots = 8;

void kernel_main() {
    const uint32_t core = get_arg_val<uint32_t>(0);
    const Share own_3_of_7 = share_of(core, 7, 3);
    compute_kernel_hw_startup<SrcOrder::Reverse>(cb_rows, cb_weights, cb_out);

    // ring
    tile_regs_acquire();
    tile::fill(0, 0xbf800000);  // -1
    pack_result(0, cb_out);

    // hi
    to_elementwise(cb_in);
    begin_tile(cb_in, operand_slots);
    load_operand(cb_in, 0, 0);
    tile::keep_fpu_bits(0);
    end_tile(cb_in, operand_slots, 0, cb_out);

    // lo
    begin_tile(cb_in, operand_slots);
    load_operand(cb_in, 0, 0);
    load_operand(cb_in, 0, 1);
    tile::keep_fpu_bits(1);
    tile::subtract(0, 1, 0);
    end_tile(cb_in, operand_slots, 0, cb_out);

    // a_hi, a_lo
    //     a[i] = sum[k](F[picks[0], i, k]*x[k])
    if (own_3_of_7.count > 0) {
        to_product(cb_rows, cb_weights, 0);
        multiply_streamed(cb_rows, cb_weights, cb_out, 2, 1, 1);
        to_elementwise(cb_in);
        add_rows(cb_in, operand_slots, cb_out, LANES);
    }

    // a
    //     a[i] = sum[k](F[picks[0], i, k]*x[k])
    to_elementwise(cb_in);
    for (uint32_t tile = 0; tile < tiles_of(own_3_of_7.count * 10); ++tile) {
        begin_tile(cb_in, operand_slots);
        load_operand(cb_in, 0, 0);
        load_operand(cb_in, 1, 1);
        tile::add(0, 1, 0);
        end_tile(cb_in, operand_slots, 0, cb_out);
    }

    // b_hi, b_lo
    //     b[i] = sum[k](F[picks[1], i, k]*x[k])
    if (own_3_of_7.count > 0) {
        to_product(cb_rows, cb_weights, 0);
        multiply_streamed(cb_rows, cb_weights, cb_out, 2, 1, 1);
        to_elementwise(cb_in);
        add_rows(cb_in, operand_slots, cb_out, LANES);
    }

    // b
    //     b[i] = sum[k](F[picks[1], i, k]*x[k])
    to_elementwise(cb_in);
    for (uint32_t tile = 0; tile < tiles_of(own_3_of_7.count * 10); ++tile) {
        begin_tile(cb_in, operand_slots);
        load_operand(cb_in, 0, 0);
        load_operand(cb_in, 1, 1);
        tile::add(0, 1, 0);
        end_tile(cb_in, operand_slots, 0, cb_out);
    }
}
