/* Products with WebAssembly's SIMD: a register is four rows.  Everything has the bits of plain C: there is no fused
   multiplication and addition, and the sums are made in its order. */
#include "matrix_kernels.h"

#if defined(__wasm_simd128__) && !defined(CDR_PLAIN)
#include <wasm_simd128.h>

#define CDR_TILE_W static inline __attribute__((always_inline))

enum { CDR_TILE_WASM = 3 };

CDR_TILE_W void store_wasm(const cdr_job *j, ptrdiff_t row, ptrdiff_t t, v128_t y)
{
  const ptrdiff_t left = j->rows - row;
  float *at = j->y + t * j->rows + row, lanes[4];
  if (left >= 4) {
    wasm_v128_store(at, y);
    return;
  }
  wasm_v128_store(lanes, y);
  for (ptrdiff_t r = 0; r < left; r++) at[r] = lanes[r];
}

/* Four rows of a column of floats; of bf16 the one of the pair that `odd` says. */
CDR_TILE_W v128_t floats_wasm(const unsigned char *w, const cdr_encoding e, const int odd)
{
  if (e == CDR_AS_F32) return wasm_v128_load(w);
  if (e == CDR_AS_BF16) {
    const v128_t pair = wasm_v128_load(w);
    return odd ? wasm_v128_and(pair, wasm_i32x4_splat((int32_t)0xffff0000)) : wasm_i32x4_shl(pair, 16);
  }
  /* as cdr_widen_f16 */
  const v128_t half = wasm_u32x4_load16x4(w), rest = wasm_i32x4_shl(wasm_v128_and(half, wasm_i32x4_splat(0x7fff)), 13);
  const v128_t sign = wasm_i32x4_shl(wasm_v128_and(half, wasm_i32x4_splat(0x8000)), 16);
  const v128_t infinite = wasm_v128_and(wasm_i32x4_ge(rest, wasm_i32x4_splat(0x0f800000)), wasm_i32x4_splat(0x7f800000));
  return wasm_v128_or(wasm_v128_or(sign, infinite), wasm_f32x4_mul(rest, wasm_f32x4_splat(0x1p112f)));
}

/* Four rows: four sums of each, of every fourth column. */
CDR_TILE_W void tile_floats_wasm(const cdr_job *j, ptrdiff_t row, ptrdiff_t t, const int n, const cdr_encoding e)
{
  const ptrdiff_t column = e == CDR_AS_F32 ? 64 : 32, step = j->x.cols;
  const float *x = (const float *)j->x.values + t * step;
  const unsigned char *w = j->blocks + row / CDR_ROWS * j->cols * column + row % CDR_ROWS * (e == CDR_AS_F16 ? 2 : 4);
  v128_t s[CDR_TILE_WASM][4];
  for (int i = 0; i < n; i++)
    for (int a = 0; a < 4; a++) s[i][a] = wasm_f32x4_splat(0.0f);
  for (ptrdiff_t k = 0; k < j->cols; k += 4, w += 4 * column)
    for (int a = 0; a < 4; a++) {
      const v128_t v = floats_wasm(w + (e == CDR_AS_BF16 ? a / 2 * 2 : a) * column, e, a % 2);
      for (int i = 0; i < n; i++)
        s[i][a] = wasm_f32x4_add(s[i][a], wasm_f32x4_mul(v, wasm_v128_load32_splat(x + i * step + k + a)));
    }
  for (int i = 0; i < n; i++)
    store_wasm(j, row, t + i, wasm_f32x4_add(wasm_f32x4_add(s[i][0], s[i][1]), wasm_f32x4_add(s[i][2], s[i][3])));
}

/* Four columns of four rows, as signed numbers. */
CDR_TILE_W v128_t sixteen_wasm(const unsigned char *v, const int nibbles, const int q)
{
  if (!nibbles) return wasm_v128_xor(wasm_v128_load(v + 4 * CDR_ROWS * q), wasm_i8x16_splat(-128));
  const v128_t two = wasm_v128_load(v + 4 * CDR_ROWS * (q / 2));
  return q % 2 ? wasm_u8x16_shr(two, 4) : wasm_v128_and(two, wasm_i8x16_splat(15));
}

CDR_TILE_W void tile_whole_wasm(const cdr_job *j, ptrdiff_t row, ptrdiff_t t, const int n, const cdr_encoding e)
{
  const int by_row = e == CDR_AS_I8, nibbles = e == CDR_AS_I4;
  const ptrdiff_t scales = CDR_SCALES_OF(e), numbers = CDR_NUMBERS_OF(e), step = j->x.cols;
  const ptrdiff_t block = row / CDR_ROWS, within = row % CDR_ROWS;
  const int8_t *x = (const int8_t *)j->x.values + t * step;
  const unsigned char *w = j->blocks + block * numbers * j->x.groups + 4 * within;
  const unsigned char *of_rows = j->scales + block * scales * (by_row ? 1 : j->x.groups) + scales / CDR_ROWS * within;
  v128_t y[CDR_TILE_WASM], scale = wasm_f32x4_splat(1.0f);
  if (by_row) scale = wasm_v128_load(of_rows);
  for (int i = 0; i < n; i++) y[i] = wasm_f32x4_splat(0.0f);
  for (ptrdiff_t g = 0; g < j->x.groups; g++, x += CDR_GROUP, w += numbers, of_rows += by_row ? 0 : scales) {
    v128_t low[CDR_TILE_WASM], high[CDR_TILE_WASM]; /* two sums a row, of two rows each */
    if (!by_row) scale = floats_wasm(of_rows, nibbles ? CDR_AS_F16 : CDR_AS_F32, 0);
    for (int i = 0; i < n; i++) low[i] = high[i] = wasm_i32x4_splat(0);
    for (int q = 0; q < CDR_GROUP / 4; q += 2) {
      const v128_t a = sixteen_wasm(w, nibbles, q), b = sixteen_wasm(w, nibbles, q + 1);
      for (int i = 0; i < n; i++) {
        const v128_t xa = wasm_v128_load32_splat(x + i * step + 4 * q), xb = wasm_v128_load32_splat(x + i * step + 4 * q + 4);
        /* two products, and no more, are within 16 bits: 2 * 128 * 127 */
        low[i] = wasm_i32x4_add(low[i], wasm_i32x4_extadd_pairwise_i16x8(wasm_i16x8_add(
                                          wasm_i16x8_extmul_low_i8x16(a, xa), wasm_i16x8_extmul_low_i8x16(b, xb))));
        high[i] = wasm_i32x4_add(high[i], wasm_i32x4_extadd_pairwise_i16x8(wasm_i16x8_add(
                                            wasm_i16x8_extmul_high_i8x16(a, xa), wasm_i16x8_extmul_high_i8x16(b, xb))));
      }
    }
    for (int i = 0; i < n; i++) {
      const ptrdiff_t at = (t + i) * j->x.groups + g;
      v128_t s = wasm_i32x4_add(wasm_i32x4_shuffle(low[i], high[i], 0, 2, 4, 6), wasm_i32x4_shuffle(low[i], high[i], 1, 3, 5, 7));
      if (nibbles) s = wasm_i32x4_add(s, wasm_i32x4_splat(j->x.begin[at])); /* the others have become signed */
      const v128_t by = wasm_f32x4_splat(j->x.scale[at]);
      y[i] = wasm_f32x4_add(y[i], wasm_f32x4_mul(wasm_f32x4_convert_i32x4(s), by_row ? by : wasm_f32x4_mul(by, scale)));
    }
  }
  for (int i = 0; i < n; i++) store_wasm(j, row, t + i, by_row ? wasm_f32x4_mul(y[i], scale) : y[i]);
}

CDR_RUN(f32_wasm, , tile_floats_wasm, CDR_AS_F32, 4, CDR_TILE_WASM)
CDR_RUN(f16_wasm, , tile_floats_wasm, CDR_AS_F16, 4, CDR_TILE_WASM)
CDR_RUN(bf16_wasm, , tile_floats_wasm, CDR_AS_BF16, 4, CDR_TILE_WASM)
CDR_RUN(i8_wasm, , tile_whole_wasm, CDR_AS_I8, 4, CDR_TILE_WASM)
CDR_RUN(i8g32_wasm, , tile_whole_wasm, CDR_AS_I8G32, 4, CDR_TILE_WASM)
CDR_RUN(i4_wasm, , tile_whole_wasm, CDR_AS_I4, 4, CDR_TILE_WASM)

static int there_wasm(void) { return 1; }

const cdr_kernels cdr_kernels_wasm = {
  "simd128", there_wasm,
  {{CDR_FLOATS, f32_wasm}, {CDR_FLOATS, f16_wasm}, {CDR_FLOATS, bf16_wasm},
   {CDR_WHOLE, i8_wasm}, {CDR_WHOLE, i8g32_wasm}, {CDR_WHOLE, i4_wasm}},
};
#endif
