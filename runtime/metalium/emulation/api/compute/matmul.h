// Matrix products: DST += in0 * in1, tile by tile or in blocks.
#pragma once
#include "api/compute/common.h"

namespace ckernel {

ALWI void matmul_init(std::uint32_t in0_cb_id, std::uint32_t in1_cb_id, const std::uint32_t transpose = 0,
                      std::uint32_t = 0) {
    emulation::matmul_setup(in0_cb_id, in1_cb_id, transpose, 1, 1, false);
}
ALWI void matmul_tiles(std::uint32_t in0_cb_id, std::uint32_t in1_cb_id, std::uint32_t in0_tile_index,
                       std::uint32_t in1_tile_index, std::uint32_t idst) {
    emulation::matmul(in0_cb_id, in1_cb_id, in0_tile_index, in1_tile_index, idst);
}
ALWI void matmul_block_init(std::uint32_t in0_cb_id, std::uint32_t in1_cb_id, const std::uint32_t transpose = 0,
                            std::uint32_t ct_dim = 1, std::uint32_t rt_dim = 1, std::uint32_t = 1, std::uint32_t = 0) {
    emulation::matmul_setup(in0_cb_id, in1_cb_id, transpose, ct_dim, rt_dim, true);
}
ALWI void matmul_block(std::uint32_t in0_cb_id, std::uint32_t in1_cb_id, std::uint32_t in0_tile_index,
                       std::uint32_t in1_tile_index, std::uint32_t idst, const std::uint32_t transpose,
                       std::uint32_t ct_dim, std::uint32_t rt_dim, std::uint32_t kt_dim, std::uint32_t = 0) {
    emulation::matmul_blocks(in0_cb_id, in1_cb_id, in0_tile_index, in1_tile_index, idst, transpose, ct_dim, rt_dim,
                             kt_dim);
}

}  // namespace ckernel
