/* Weights as the file holds them, every encoding in a plain form: widened as they are read, nothing is copied.

   For an encoding e, `cdr_e` is where a tensor lies, its numbers and, for some, the scales of its rows or of groups of
   their elements.  cdr_on_e is the same from element `at` on, the first of a row of `row`; cdr_at_e is one element;
   cdr_matvec_e is cdr_matvec. */
#ifndef CDR_ENCODINGS_H
#define CDR_ENCODINGS_H

#include "inline.h"
#include "kernels.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

CDR_INLINE float cdr_widen_bf16(uint16_t bits) { return cdr_of_bits((uint32_t)bits << 16); }

/* The product makes up for the exponent's other bias, and subnormal numbers become normal by it; what is infinite or no
   number gets the exponent that says so.  Without a branch, so that loops run in vectors. */
CDR_INLINE float cdr_widen_f16(uint16_t half)
{
  const uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = (uint32_t)(half & 0x7fff) << 13;
  const float x = cdr_of_bits(rest) * 0x1p112f;
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return cdr_of_bits(sign | bits | (rest >= 0x0f800000 ? 0x7f800000 : 0));
}

CDR_INLINE float cdr_widen_whole(int8_t whole) { return whole; }

/* sum[k](a[k] * b[k]) of numbers as they are held, in lanes as the sums of kernels.h. */
#define CDR_DOT_OF(e, type, widen)                                                                     \
  CDR_INLINE float cdr_dot_##e(const type *restrict a, const float *restrict b, ptrdiff_t n)           \
  {                                                                                                    \
    const ptrdiff_t whole = n - n % CDR_LANES;                                                         \
    float lanes[CDR_LANES] = {0};                                                                      \
    for (ptrdiff_t k = 0; k < whole; k += CDR_LANES)                                                   \
      for (ptrdiff_t lane = 0; lane < CDR_LANES; lane++)                                               \
        lanes[lane] += widen(a[k + lane]) * b[k + lane];                                               \
    float sum = cdr_fold(lanes);                                                                       \
    for (ptrdiff_t k = whole; k < n; k++) sum += widen(a[k]) * b[k];                                   \
    return sum;                                                                                        \
  }

/* An encoding whose numbers are the values, once `widen` has made them f32. */
#define CDR_VALUES(e, type, widen)                                                                     \
  typedef struct {                                                                                     \
    const type *values;                                                                                \
  } cdr_##e;                                                                                           \
  CDR_INLINE cdr_##e cdr_on_##e(cdr_##e W, ptrdiff_t at, ptrdiff_t row)                                \
  {                                                                                                    \
    (void)row;                                                                                         \
    W.values += at;                                                                                    \
    return W;                                                                                          \
  }                                                                                                    \
  CDR_INLINE float cdr_at_##e(cdr_##e W, ptrdiff_t at, ptrdiff_t row)                                  \
  {                                                                                                    \
    (void)row;                                                                                         \
    return widen(W.values[at]);                                                                        \
  }                                                                                                    \
  CDR_DOT_OF(e, type, widen)                                                                           \
  CDR_INLINE void cdr_matvec_##e(float *restrict y, cdr_##e W, const float *restrict x,                \
                                 ptrdiff_t rows, ptrdiff_t cols)                                       \
  {                                                                                                    \
    for (ptrdiff_t i = 0; i < rows; i++) y[i] = cdr_dot_##e(W.values + i * cols, x, cols);             \
  }

/* An encoding whose numbers are multiplied by a scale: one for every `group` elements of a row, CDR_ROW: for all. */
enum { CDR_ROW = 0 };
CDR_INLINE ptrdiff_t cdr_group(ptrdiff_t group, ptrdiff_t row) { return group == CDR_ROW ? row : group; }
CDR_INLINE ptrdiff_t cdr_groups(ptrdiff_t group, ptrdiff_t row)
{
  return (row + cdr_group(group, row) - 1) / cdr_group(group, row);
}

#define CDR_SCALED(e, type, widen, group)                                                              \
  typedef struct {                                                                                     \
    const type *values;                                                                                \
    const float *scale;                                                                                \
  } cdr_##e;                                                                                           \
  CDR_INLINE cdr_##e cdr_on_##e(cdr_##e W, ptrdiff_t at, ptrdiff_t row)                                \
  {                                                                                                    \
    W.values += at;                                                                                    \
    W.scale += at / row * cdr_groups(group, row);                                                      \
    return W;                                                                                          \
  }                                                                                                    \
  CDR_INLINE float cdr_at_##e(cdr_##e W, ptrdiff_t at, ptrdiff_t row)                                  \
  {                                                                                                    \
    ptrdiff_t scale = at / row * cdr_groups(group, row) + at % row / cdr_group(group, row);            \
    return widen(W.values[at]) * W.scale[scale];                                                       \
  }                                                                                                    \
  CDR_DOT_OF(e, type, widen)                                                                           \
  CDR_INLINE void cdr_matvec_##e(float *restrict y, cdr_##e W, const float *restrict x,                \
                                 ptrdiff_t rows, ptrdiff_t cols)                                       \
  {                                                                                                    \
    const ptrdiff_t each = cdr_group(group, cols);                                                     \
    for (ptrdiff_t i = 0; i < rows; i++, W = cdr_on_##e(W, cols, cols)) {                              \
      const float *scale = W.scale;                                                                    \
      y[i] = 0.0f;                                                                                     \
      for (ptrdiff_t k = 0; k < cols; k += each)                                                       \
        y[i] += *scale++ * cdr_dot_##e(W.values + k, x + k, each < cols - k ? each : cols - k);        \
    }                                                                                                  \
  }

CDR_VALUES(f16, uint16_t, cdr_widen_f16)
CDR_VALUES(bf16, uint16_t, cdr_widen_bf16)
CDR_SCALED(i8, int8_t, cdr_widen_whole, CDR_ROW)
CDR_SCALED(i8g32, int8_t, cdr_widen_whole, 32)

/* Whole numbers from -8 to 7, two in a byte, the first in its low half; an f16 scale for every 32 of a row. */
typedef struct {
  const uint8_t *values;
  const uint16_t *scale;
} cdr_i4;
CDR_INLINE ptrdiff_t cdr_groups_i4(ptrdiff_t row) { return cdr_groups(32, row); }
CDR_INLINE cdr_i4 cdr_on_i4(cdr_i4 W, ptrdiff_t at, ptrdiff_t row)
{
  W.values += at / row * cdr_groups_i4(row) * 16;
  W.scale += at / row * cdr_groups_i4(row);
  return W;
}
CDR_INLINE float cdr_at_i4(cdr_i4 W, ptrdiff_t at, ptrdiff_t row)
{
  const ptrdiff_t k = at % row;
  W = cdr_on_i4(W, at - k, row);
  return (float)((W.values[k / 2] >> 4 * (k % 2) & 15) - 8) * cdr_widen_f16(W.scale[k / 32]);
}
CDR_INLINE void cdr_matvec_i4(float *restrict y, cdr_i4 W, const float *restrict x, ptrdiff_t rows, ptrdiff_t cols)
{
  for (ptrdiff_t i = 0; i < rows; i++, W = cdr_on_i4(W, cols, cols)) {
    y[i] = 0.0f;
    for (ptrdiff_t k = 0; k < cols; k++) y[i] += cdr_at_i4(W, k, cols) * x[k];
  }
}

#endif
