// Declared because the wheel's API headers name them, defined nowhere: a kernel that uses one fails to link with its name.
#pragma once
#include <cstdint>

// An object, not a function: the API takes NAME<some, arguments> by reference and calls it.
#define ABSENT(NAME)                                                          \
    struct NAME##_absent {                                                    \
        template <class... Arguments> void operator()(Arguments&&...) const;  \
    };                                                                        \
    template <auto...> constexpr NAME##_absent NAME{};
#define ABSENT_PLAIN(NAME)                                                    \
    struct NAME##_absent {                                                    \
        template <class... Arguments> void operator()(Arguments&&...) const;  \
    };                                                                        \
    inline constexpr NAME##_absent NAME{};
#define ABSENT_INIT(NAME) void NAME();
namespace ckernel::sfpu {
ABSENT(calculate_abs_int32) ABSENT(calculate_add_int32) ABSENT(calculate_sub_int32) ABSENT(_calculate_negative_int_)
ABSENT(calculate_add_top_row) ABSENT(calculate_alt_complex_rotate90) ABSENT(calculate_exp2) 
ABSENT(calculate_heaviside) ABSENT(calculate_max_pool_with_indices) ABSENT(calculate_reduce) ABSENT(calculate_signbit)
ABSENT(calculate_signbit_int32) ABSENT(calculate_tiled_prod) ABSENT(calculate_unary_max_min)
ABSENT(calculate_unary_max_min_int32) ABSENT(calculate_unary_power) ABSENT(calculate_unary_power_iterative)
ABSENT(calculate_binary_max_min_int32)
ABSENT(calculate_comp_int) ABSENT(calculate_comp_uint16) ABSENT(calculate_eqz_uint32) ABSENT(calculate_nez_uint32)
ABSENT(calculate_comp_unary_int) ABSENT(_calculate_comp_unary_int_) ABSENT(calculate_unary_eq) ABSENT(calculate_unary_ne)
ABSENT(calculate_unary_lt) ABSENT(calculate_unary_le) ABSENT(calculate_unary_gt) ABSENT(calculate_unary_ge)
ABSENT(calculate_acos) ABSENT(calculate_acosh) ABSENT(calculate_asin) ABSENT(calculate_asinh) ABSENT(calculate_atan)
ABSENT(calculate_atanh) ABSENT(calculate_cosh) ABSENT(calculate_sinh) ABSENT(calculate_tangent)
ABSENT(calculate_lrelu) ABSENT(relu_clamp_int) ABSENT(relu_clamp_uint) ABSENT(_calculate_fill_int_)
ABSENT(_calculate_ceil_) ABSENT(_calculate_trunc_) ABSENT(_calculate_frac_) ABSENT(_calculate_round_)
ABSENT(_calculate_stochastic_round_)
ABSENT(exp2_init) ABSENT(init_max_pool_with_indices) ABSENT(init_reduce)
ABSENT(unary_max_min_init) ABSENT(unary_max_min_int32_init) ABSENT(binary_max_min_int32_init)
ABSENT(asin_acos_init) ABSENT(atan_init) ABSENT(cosh_init) ABSENT(init_atanh) ABSENT(init_inverse_hyperbolic)
ABSENT(sinh_init) ABSENT(tangent_init)
ABSENT_PLAIN(_calculate_sfpu_normalize_bcast_col_full_tile_) ABSENT_PLAIN(_calculate_sfpu_normalize_bcast_col_two_tiles_)
ABSENT_PLAIN(_calculate_sfpu_normalize_bcast_scalar_full_tile_)
ABSENT_PLAIN(_calculate_sfpu_residual_normalize_bcast_col_full_tile_)
ABSENT_INIT(init_add_top_row) ABSENT_INIT(sfpu_unary_pow_init) ABSENT_INIT(signbit_init) ABSENT_INIT(signbit_int32_init)
}  // namespace ckernel::sfpu
#undef ABSENT
#undef ABSENT_PLAIN
#undef ABSENT_INIT
