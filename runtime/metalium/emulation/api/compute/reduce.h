// Sums, means and maxima along rows or columns, times a scaler.
#pragma once
#include "api/compute/common.h"

namespace ckernel {

template <PoolType reduce_type, ReduceDim reduce_dim, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void reduce_init(std::uint32_t icb, std::uint32_t icb_scaler, std::uint32_t ocb, std::uint32_t = 0) {
    emulation::reduce_setup(emulation::Pool(reduce_type), emulation::Direction(reduce_dim), icb, icb_scaler, ocb);
}
ALWI void reduce_uninit(std::uint32_t = 0) { emulation::reduce_done(); }
template <PoolType reduce_type, ReduceDim reduce_dim, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
ALWI void reduce_tile(std::uint32_t icb, std::uint32_t icb_scaler, std::uint32_t itile, std::uint32_t itile_scaler,
                      std::uint32_t idst) {
    emulation::reduce(emulation::Pool(reduce_type), emulation::Direction(reduce_dim), icb, icb_scaler, itile,
                      itile_scaler, idst);
}

}  // namespace ckernel
