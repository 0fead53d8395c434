// The vector unit: f32 in the destination registers, by the C library's functions where the hardware has polynomials.
#include <cmath>

#include "numerics.h"

namespace emulation {

void sfpu_setup(const char* init, uint32_t variant) {
    pause();
    Setup& now = self->core->setup;
    if (self->role != COMPUTE) fail("%s: only for compute kernels", init);
    now.sfpu = init, now.sfpu_variant = variant;
}

static void need(const char* operation, const char* init, uint32_t variant = 0) {
    pause();
    const Setup& now = self->core->setup;
    if (self->role != COMPUTE) fail("%s: only for compute kernels", operation);
    if (!now.sfpu) fail("%s without %s", operation, init);
    if (__builtin_strcmp(now.sfpu, init)) fail("%s runs under %s: it needs %s", operation, now.sfpu, init);
    if (now.sfpu_variant != variant) fail("%s runs under a %s with other template arguments", operation, init);
}

static uint32_t* operand(const char* operation, uint32_t tile) {
    uint32_t* words = dst_tile(tile, operation, true);
    check_set(operation, words, "DST tile", tile);
    return words;
}

template <class F>
static void each(uint32_t* words, F f) {
    for (uint32_t n = 0; n < TILE_ELEMENTS; n++) words[n] = flushed(as_word(f(as_float(flushed(words[n])))));
}

static float one_if(bool condition) { return condition ? 1.0f : 0.0f; }
static float sign(float x) { return x > 0 ? 1.0f : x < 0 ? -1.0f : 0.0f; }

static void apply(uint32_t* at, Unary what, float n) {
    switch (what) {
#define CASE(NAME, VALUE)                       \
    case NAME:                                  \
        return each(at, [n](float x) -> float { \
            (void)n;                            \
            return VALUE;                       \
        })
        CASE(ABS, std::fabs(x));
        CASE(CBRT, std::cbrt(x));
        CASE(CEIL, std::ceil(x));
        CASE(COS, std::cos(x));
        CASE(ERF, std::erf(x));
        CASE(ERFC, std::erfc(x));
        CASE(EXP, std::exp(x));
        CASE(EXP2, std::exp2(x));
        CASE(EXPM1, std::expm1(x));
        CASE(EQZ, one_if(x == 0));
        CASE(FLOOR, std::floor(x));
        CASE(FRAC, x - std::trunc(x));
        CASE(GELU, 0.5f * x * (1 + std::erf(x * 0.70710678f)));
        CASE(GEZ, one_if(x >= 0));
        CASE(GTZ, one_if(x > 0));
        CASE(IDENTITY, x);
        CASE(LEZ, one_if(x <= 0));
        CASE(LOG, std::log(x));
        CASE(LOG1P, std::log1p(x));
        CASE(LOGICAL_NOT, one_if(x == 0));
        CASE(LTZ, one_if(x < 0));
        CASE(NEGATIVE, -x);
        CASE(NEZ, one_if(x != 0));
        CASE(RECIPROCAL, 1 / x);
        CASE(RELU, x > 0 ? x : 0);
        CASE(RSQRT, 1 / std::sqrt(x));
        CASE(SIGMOID, 1 / (1 + std::exp(-x)));
        CASE(SIGN, sign(x));
        CASE(SIGNBIT, one_if(as_word(x) >> 31 != 0));
        CASE(SILU, x / (1 + std::exp(-x)));
        CASE(SIN, std::sin(x));
        CASE(SOFTSIGN, x / (1 + std::fabs(x)));
        CASE(SQRT, std::sqrt(x));
        CASE(SQUARE, x * x);
        CASE(TAN, std::tan(x));
        CASE(TANH, std::tanh(x));
        CASE(TRUNC, std::trunc(x));
        CASE(ACOS, std::acos(x));
        CASE(ACOSH, std::acosh(x));
        CASE(ASIN, std::asin(x));
        CASE(ASINH, std::asinh(x));
        CASE(ATAN, std::atan(x));
        CASE(ATANH, std::atanh(x));
        CASE(COSH, std::cosh(x));
        CASE(SINH, std::sinh(x));
        CASE(ADD_NUMBER, x + n);
        CASE(SUB_NUMBER, x - n);
        CASE(RSUB_NUMBER, n - x);
        CASE(MUL_NUMBER, x * n);
        CASE(DIV_NUMBER, x * n);  // the caller passes the reciprocal
        CASE(EQ_NUMBER, one_if(x == n));
        CASE(NE_NUMBER, one_if(x != n));
        CASE(LT_NUMBER, one_if(x < n));
        CASE(GT_NUMBER, one_if(x > n));
        CASE(LE_NUMBER, one_if(x <= n));
        CASE(GE_NUMBER, one_if(x >= n));
        CASE(MAX_NUMBER, x > n ? x : n);
        CASE(MIN_NUMBER, x < n ? x : n);
        CASE(POWER_NUMBER, std::pow(x, n));
        CASE(LEAKY_RELU, x < 0 ? x * n : x);
        CASE(RELU_MAX, x > n ? n : x < 0 ? 0 : x);
        CASE(RELU_MIN, x < n ? n : x);
        CASE(HEAVISIDE, x > 0 ? 1 : x < 0 ? 0 : n);
        CASE(SOFTPLUS_OF, x * n > 20 ? x : std::log1p(std::exp(x * n)) / n);
#undef CASE
    }
}

void sfpu_unary(const char* operation, const char* init, Unary what, uint32_t dst, uint32_t number, uint32_t variant) {
    need(operation, init, variant);
    apply(operand(operation, dst), what, as_float(number));
    dst_written(dst);
}

void sfpu_clamp(uint32_t dst, uint32_t low, uint32_t high) {
    need("clamp_tile", "clamp_tile_init");
    float least = as_float(low), most = as_float(high);
    each(operand("clamp_tile", dst), [=](float x) { return x < least ? least : x > most ? most : x; });
    dst_written(dst);
}

template <class F>
static void both(const uint32_t* a, const uint32_t* b, uint32_t* out, F f) {
    for (uint32_t n = 0; n < TILE_ELEMENTS; n++)
        out[n] = flushed(as_word(f(as_float(flushed(a[n])), as_float(flushed(b[n])))));
}

void sfpu_pair(const char* operation, const char* init, Pair what, uint32_t first, uint32_t second, uint32_t out) {
    need(operation, init);
    const uint32_t* a = operand(operation, first);
    const uint32_t* b = operand(operation, second);
    uint32_t* to = dst_tile(out, operation, false);
    switch (what) {
#define CASE(NAME, VALUE) \
    case NAME: both(a, b, to, [](float x, float y) -> float { return VALUE; }); break
        CASE(ADD_PAIR, x + y);
        CASE(SUB_PAIR, x - y);
        CASE(RSUB_PAIR, y - x);
        CASE(MUL_PAIR, x * y);
        CASE(DIV_PAIR, x / y);
        CASE(POWER_PAIR, std::pow(x, y));
        CASE(MAX_PAIR, x > y ? x : y);
        CASE(MIN_PAIR, x < y ? x : y);
        CASE(EQ_PAIR, one_if(x == y));
        CASE(NE_PAIR, one_if(x != y));
        CASE(LT_PAIR, one_if(x < y));
        CASE(GT_PAIR, one_if(x > y));
        CASE(LE_PAIR, one_if(x <= y));
        CASE(GE_PAIR, one_if(x >= y));
#undef CASE
    }
    dst_written(out);
}

static uint32_t combined(Bits what, uint32_t x, uint32_t y) {
    return what == AND ? x & y : what == OR ? x | y : what == XOR ? x ^ y : ~x;
}

void sfpu_bits(const char* operation, const char* init, Bits what, uint32_t dst, uint32_t mask) {
    need(operation, init);
    uint32_t* words = operand(operation, dst);
    for (uint32_t n = 0; n < TILE_ELEMENTS; n++) words[n] = combined(what, words[n], mask);
    dst_written(dst);
}

void sfpu_pair_bits(const char* operation, Bits what, uint32_t first, uint32_t second, uint32_t out) {
    need(operation, "binary_bitwise_tile_init");
    const uint32_t* a = operand(operation, first);
    const uint32_t* b = operand(operation, second);
    uint32_t* to = dst_tile(out, operation, false);
    for (uint32_t n = 0; n < TILE_ELEMENTS; n++) to[n] = combined(what, a[n], b[n]);
    dst_written(out);
}

void sfpu_fill(const char* operation, uint32_t dst, uint32_t word) {
    need(operation, "fill_tile_init");
    uint32_t* words = dst_tile(dst, operation, false);
    for (uint32_t n = 0; n < TILE_ELEMENTS; n++) words[n] = word;
    dst_written(dst);
}

void sfpu_where(uint32_t condition, uint32_t yes, uint32_t no, uint32_t out) {
    need("where_tile", "where_tile_init");
    const uint32_t *on = operand("where_tile", condition), *a = operand("where_tile", yes),
                   *b = operand("where_tile", no);
    uint32_t* to = dst_tile(out, "where_tile", false);
    for (uint32_t n = 0; n < TILE_ELEMENTS; n++) to[n] = as_float(flushed(on[n])) != 0 ? a[n] : b[n];
    dst_written(out);
}

void sfpu_copy(uint32_t from, uint32_t to) {
    need("copy_dest_values", "copy_dest_values_init");
    const uint32_t* a = dst_tile(from, "copy_dest_values", true);
    __builtin_memmove(dst_tile(to, "copy_dest_values", false), a, TILE_ELEMENTS * 4);
    dst_written(to);
}

// The seven other even columns of the left face, which the SFPU loads along with column 0 and multiplies by zero: what is
// no number stays none.
static float masked_columns(const uint32_t* tile, uint32_t row) {
    float sum = 0;
    for (uint32_t c = 2; c < 16; c += 2) sum += as_float(flushed(tile[place(row, c)])) * 0.0f;
    return sum;
}

// data op= the column 0 or row 0 of another tile.
void sfpu_broadcast(const char* operation, Binary what, Broadcast shape, uint32_t data, uint32_t vector) {
    need(operation, shape == COLUMN ? "sfpu_bcast_col_init" : "sfpu_bcast_row_init");
    if (!registers().fp32) fail("%s needs fp32_dest_acc_en", operation);
    uint32_t* words = operand(operation, data);
    const uint32_t* by = dst_tile(vector, operation, true);
    for (uint32_t r = 0; r < 32; r++)
        for (uint32_t c = 0; c < 32; c++) {
            uint32_t from = shape == COLUMN ? place(r, 0) : place(0, c), to = place(r, c);
            if (is_unset(by[from])) fail_unset(operation, by[from], from, "DST tile", vector);
            float x = as_float(flushed(words[to])), y = as_float(flushed(by[from]));
            if (shape == COLUMN) y += masked_columns(by, r);
            words[to] = flushed(as_word(what == ADD ? x + y : what == SUB ? x - y : x * y));
        }
    dst_written(data);
}

}  // namespace emulation
