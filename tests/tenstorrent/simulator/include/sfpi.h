// The SFPI compiler's header without what its vector types can do (that needs the compiler's built-ins): the modifier numbers that the
// wheel's raw-instruction headers take from it.
#pragma once
#define sfpi_inline __attribute__((always_inline)) inline
namespace sfpi {
class vFloat;  // only named, as the kind of a template
class vInt;
class vUInt;
constexpr unsigned SFP_DESTREG_STRIDE = 2;
constexpr unsigned SFPLOAD_MOD0_FMT_SRCB = 0, SFPLOAD_MOD0_FMT_FP16B = 2;
constexpr unsigned SFPSTORE_MOD0_FMT_SRCB = 0, SFPSTORE_MOD0_FMT_FP16B = 2;
constexpr unsigned SFPLOADI_MOD0_FLOATB = 0, SFPLOADI_MOD0_FLOATA = 1, SFPLOADI_MOD0_USHORT = 2, SFPLOADI_MOD0_SHORT = 4,
                   SFPLOADI_MOD0_UPPER = 8, SFPLOADI_MOD0_LOWER = 10;
constexpr unsigned SFPMAD_MOD1_OFFSET_NONE = 0;
constexpr unsigned SFPIADD_MOD1_ARG_LREG_DST = 0, SFPIADD_MOD1_ARG_IMM = 1, SFPIADD_MOD1_ARG_2SCOMP_LREG_DST = 2,
                   SFPIADD_MOD1_CC_LT0 = 0, SFPIADD_MOD1_CC_NONE = 4, SFPIADD_MOD1_CC_GTE0 = 8;
constexpr unsigned SFPSETCC_MOD1_LREG_LT0 = 0, SFPSETCC_MOD1_LREG_NE0 = 2, SFPSETCC_MOD1_LREG_GTE0 = 4,
                   SFPSETCC_MOD1_LREG_EQ0 = 6;
constexpr unsigned SFPENCC_MOD1_EU_R1 = 0, SFPENCC_MOD1_EI_RI = 10, SFPENCC_IMM12_BOTH = 3;
constexpr unsigned SFPSWAP_MOD1_SWAP = 0, SFPSWAP_MOD1_VEC_MIN_MAX = 1;
constexpr unsigned SFPCAST_MOD1_INT32_TO_FP32_RNE = 0, SFPCAST_MOD1_SM32_TO_FP32_RNE = 0;
constexpr unsigned SFPSTOCHRND_RND_EVEN = 0, SFPSTOCHRND_MOD1_FP32_TO_FP16B = 1, SFPSTOCHRND_MOD1_FP32_TO_UINT8 = 2,
                   SFPSTOCHRND_MOD1_FP32_TO_INT8 = 3, SFPSTOCHRND_MOD1_FP32_TO_UINT16 = 6,
                   SFPSTOCHRND_MOD1_FP32_TO_INT16 = 7;
constexpr unsigned SFPSHFT2_MOD1_SUBVEC_SHFLROR1 = 3, SFPSHFT2_MOD1_SUBVEC_SHFLSHR1 = 4, SFPSHFT2_MOD1_SHFT_LREG = 5,
                   SFPSHFT2_MOD1_SHFT_IMM = 6;
}  // namespace sfpi
