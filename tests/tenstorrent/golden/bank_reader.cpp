// a bank: the reader. It streams the weights in the order in which they lie in DRAM, as far ahead as there is room,
//     and waits for nothing but the picks of experts.
//
//     DRAM --> cb_weights --> compute
#include "weights.h"

constexpr uint32_t cb_weights = tt::CBIndex::c_0;
constexpr uint32_t cb_picks = tt::CBIndex::c_5;
constexpr uint32_t weights_pages = 32;
constexpr uint32_t weights_page_bytes = 2048;
constexpr uint32_t weights_batch = 16;

void kernel_main() {
    const uint32_t core = get_arg_val<uint32_t>(0);
    const Share own_3_of_7 = share_of(core, 7, 3);
    constexpr auto F_layout = TensorAccessorArgs<0>();
    const auto F_in_dram = TensorAccessor(F_layout, get_arg_val<uint32_t>(2), 2048);
    WeightStream weights(cb_weights, weights_pages, weights_page_bytes, weights_batch);

    // a_hi, a_lo
    //     a[i] = sum[k](F[picks[0], i, k]*x[k])
    weights.read(F_in_dram, (next_pick(cb_picks) * 3 + core) * 2, own_3_of_7.count > 0 ? 2 : 0);

    // b_hi, b_lo
    //     b[i] = sum[k](F[picks[1], i, k]*x[k])
    weights.read(F_in_dram, (next_pick(cb_picks) * 3 + core) * 2, own_3_of_7.count > 0 ? 2 : 0);
}
