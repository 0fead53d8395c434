/* The arithmetic that generated code calls.  Everything is inline: the compiler sees through it.

   Sums run in lanes, a fixed order that vectorises without relaxing floating point: lane l adds up the elements l, l + 8,
   …, then the lanes are added pairwise.  Inner products have four such sums, of every fourth block of 8, which do not
   wait for one another. */
#ifndef CDR_KERNELS_H
#define CDR_KERNELS_H

#include "inline.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { CDR_LANES = 8 };

/* CDR_NO_VECTORS stands for a compiler that has none; plain C does without them too. */
#if defined(__GNUC__) && !defined(CDR_PLAIN) && !defined(CDR_NO_VECTORS)
typedef float cdr_lanes __attribute__((vector_size(32)));
#define CDR_LOAD(v, p) memcpy(&(v), (p), sizeof(cdr_lanes))
#define CDR_ADD(s, a, b) ((s) += (a) * (b))
#define CDR_JOIN(s, a) ((s) += (a))
#if defined(__clang__) || __GNUC__ >= 12
#define CDR_PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define CDR_PICK(a, b, ...) __builtin_shuffle(a, b, (int __attribute__((vector_size(32)))){__VA_ARGS__})
#endif
/* Asks for what lies a page ahead, which the processor's own prefetching does not cross to; it need not exist. */
#define CDR_AHEAD(p) __builtin_prefetch((const void *)((uintptr_t)(p) + 4096))
#else
typedef struct {
  float at[8];
} cdr_lanes;
#define CDR_LOAD(v, p) memcpy(&(v), (p), sizeof(cdr_lanes))
#define CDR_ADD(s, a, b)                                              \
  do {                                                                \
    for (int l_ = 0; l_ < 8; l_++) (s).at[l_] += (a).at[l_] * (b).at[l_]; \
  } while (0)
#define CDR_JOIN(s, a)                                        \
  do {                                                        \
    for (int l_ = 0; l_ < 8; l_++) (s).at[l_] += (a).at[l_]; \
  } while (0)
#define CDR_AHEAD(p) ((void)(p))
#endif
#define CDR_MULTIPLY(s, a, b) \
  do {                        \
    cdr_lanes x_, y_;         \
    CDR_LOAD(x_, a);          \
    CDR_LOAD(y_, b);          \
    CDR_ADD(s, x_, y_);       \
  } while (0)

CDR_INLINE float cdr_fold(const float *a)
{
  return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
}

CDR_INLINE float cdr_fold_lanes(const cdr_lanes *v)
{
  float a[CDR_LANES];
  memcpy(a, v, sizeof a);
  return cdr_fold(a);
}

/* sum[k](a[k] * b[k]); `a` is the operand that comes from far. */
CDR_INLINE float cdr_dot(const float *restrict a, const float *restrict b, ptrdiff_t n)
{
  static const cdr_lanes zero;
  const ptrdiff_t whole = n - n % CDR_LANES, fours = n - n % (4 * CDR_LANES);
  cdr_lanes s0 = zero, s1 = zero, s2 = zero, s3 = zero;
  for (ptrdiff_t k = 0; k < fours; k += 4 * CDR_LANES) {
    CDR_AHEAD(a + k);
    CDR_AHEAD(a + k + 2 * CDR_LANES);
    CDR_MULTIPLY(s0, a + k, b + k);
    CDR_MULTIPLY(s1, a + k + CDR_LANES, b + k + CDR_LANES);
    CDR_MULTIPLY(s2, a + k + 2 * CDR_LANES, b + k + 2 * CDR_LANES);
    CDR_MULTIPLY(s3, a + k + 3 * CDR_LANES, b + k + 3 * CDR_LANES);
  }
  for (ptrdiff_t k = fours; k < whole; k += CDR_LANES) CDR_MULTIPLY(s0, a + k, b + k);
  CDR_JOIN(s0, s1);
  CDR_JOIN(s2, s3);
  CDR_JOIN(s0, s2);
  float sum = cdr_fold_lanes(&s0);
  for (ptrdiff_t k = whole; k < n; k++) sum += a[k] * b[k];
  return sum;
}

/* y[r] is cdr_fold of v[r], for eight. */
CDR_INLINE void cdr_fold_eight(float *y, const cdr_lanes *v)
{
#if defined(CDR_PICK)
  cdr_lanes half[4], quarter[2], sums;
  for (int r = 0; r < 4; r++)
    half[r] = CDR_PICK(v[r], v[r + 4], 0, 1, 2, 3, 8, 9, 10, 11) + CDR_PICK(v[r], v[r + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  for (int r = 0; r < 2; r++)
    quarter[r] = CDR_PICK(half[2 * r], half[2 * r + 1], 0, 1, 8, 9, 4, 5, 12, 13) +
                 CDR_PICK(half[2 * r], half[2 * r + 1], 2, 3, 10, 11, 6, 7, 14, 15);
  sums = CDR_PICK(quarter[0], quarter[1], 0, 2, 8, 10, 4, 6, 12, 14) +
         CDR_PICK(quarter[0], quarter[1], 1, 3, 9, 11, 5, 7, 13, 15);
  memcpy(y, &sums, sizeof sums);
#else
  for (int r = 0; r < CDR_LANES; r++) y[r] = cdr_fold_lanes(v + r);
#endif
}

/* y[i] = sum[k](W[i,k] * x[k]).  Long rows one at a time, for memory is fastest read in order; of short ones, which caches
   hold, eight, for their sums would take longer to add up than to make. */
CDR_INLINE void cdr_matvec(float *restrict y, const float *restrict W, const float *restrict x, ptrdiff_t rows,
                           ptrdiff_t cols)
{
  static const cdr_lanes zero;
  const ptrdiff_t eights = cols <= 32 * CDR_LANES && cols % CDR_LANES == 0 ? rows - rows % 8 : 0;
  for (ptrdiff_t i = 0; i < eights; i += 8) {
    cdr_lanes s[8] = {zero, zero, zero, zero, zero, zero, zero, zero};
    for (ptrdiff_t k = 0; k < cols; k += CDR_LANES)
      for (int r = 0; r < 8; r++) CDR_MULTIPLY(s[r], W + (i + r) * cols + k, x + k);
    cdr_fold_eight(y + i, s);
  }
  for (ptrdiff_t i = eights; i < rows; i++) y[i] = cdr_dot(W + i * cols, x, cols);
}

/* The k largest of n, largest first, ties by the lowest place. */
CDR_INLINE void cdr_top(const float *source, ptrdiff_t n, ptrdiff_t k, float *values, int32_t *picks)
{
  ptrdiff_t count = 0;
  for (ptrdiff_t e = 0; e < n; e++) {
    ptrdiff_t at = count < k ? count++ : k;
    for (; at > 0 && source[e] > values[at - 1]; at--)
      if (at < k) values[at] = values[at - 1], picks[at] = picks[at - 1];
    if (at < k) values[at] = source[e], picks[at] = (int32_t)e;
  }
}

/* A place in a ring of `window` slots, one turn at most too far. */
CDR_INLINE ptrdiff_t cdr_wrap(ptrdiff_t at, ptrdiff_t window) { return at < window ? at : at - window; }

/* A NaN operand gives NaN, as in the reference. */
CDR_INLINE float cdr_max(float a, float b) { return a > b || a != a ? a : b; }
CDR_INLINE float cdr_min(float a, float b) { return a < b || a != a ? a : b; }
CDR_INLINE double cdr_max_d(double a, double b) { return a > b || a != a ? a : b; }
CDR_INLINE double cdr_min_d(double a, double b) { return a < b || a != a ? a : b; }
CDR_INLINE int64_t cdr_max_i(int64_t a, int64_t b) { return a > b ? a : b; }
CDR_INLINE int64_t cdr_min_i(int64_t a, int64_t b) { return a < b ? a : b; }

CDR_INLINE float cdr_square(float x) { return x * x; }
CDR_INLINE double cdr_square_d(double x) { return x * x; }
CDR_INLINE float cdr_cube(float x) { return x * x * x; }
CDR_INLINE double cdr_cube_d(double x) { return x * x * x; }

CDR_INLINE float cdr_relu(float x) { return x < 0.0f ? 0.0f : x; }
CDR_INLINE double cdr_relu_d(double x) { return x < 0.0 ? 0.0 : x; }
CDR_INLINE float cdr_sign(float x) { return x != x ? x : (float)((x > 0.0f) - (x < 0.0f)); }
CDR_INLINE double cdr_sign_d(double x) { return x != x ? x : (double)((x > 0.0) - (x < 0.0)); }
CDR_INLINE int64_t cdr_sign_i(int64_t x) { return (x > 0) - (x < 0); }
CDR_INLINE int64_t cdr_number(int64_t truth) { return truth; }
CDR_INLINE int64_t cdr_abs_i(int64_t x) { return x < 0 ? -x : x; }

CDR_INLINE float cdr_of_bits(uint32_t bits)
{
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/* Within an ulp, without a call or a branch, so that loops run in vectors: 2^n times a polynomial of what is left, as in
   Moshier's Cephes library. */
CDR_INLINE float cdr_exp(float x)
{
  const float nearest = 12582912.0f; /* 1.5 * 2^23: the last bits of a sum with it are a whole number */
  const float within = x > 89.0f ? 89.0f : x < -104.0f ? -104.0f : x;
  const float shifted = within * 1.44269504f + nearest, whole = shifted - nearest;
  const float r = (within - whole * 0.693359375f) + whole * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  uint32_t n;
  memcpy(&n, &shifted, sizeof n);
  n -= 0x4b400000u; /* the bits of `nearest` */
  const uint32_t half = (uint32_t)((int32_t)n / 2); /* 2^n in two factors: it may be subnormal */
  return ((p * (r * r) + r) + 1.0f) * cdr_of_bits((half + 127u) << 23) * cdr_of_bits((n - half + 127u) << 23);
}
CDR_INLINE double cdr_exp_d(double x) { return exp(x); }

/* The mathematical library's.  In plain C the same bits whoever's library it is: two of them may differ in the last bit of
   a double, hardly ever in the float that it is rounded to. */
#if defined(CDR_PLAIN)
#define CDR_LIBRARY(name, ...) (float)name(__VA_ARGS__)
#else
#define CDR_LIBRARY(name, ...) name##f(__VA_ARGS__)
#endif
CDR_INLINE float cdr_log(float x) { return CDR_LIBRARY(log, x); }
CDR_INLINE float cdr_sin(float x) { return CDR_LIBRARY(sin, x); }
CDR_INLINE float cdr_cos(float x) { return CDR_LIBRARY(cos, x); }
CDR_INLINE float cdr_tanh(float x) { return CDR_LIBRARY(tanh, x); }
CDR_INLINE float cdr_log1p(float x) { return CDR_LIBRARY(log1p, x); }
CDR_INLINE float cdr_expm1(float x) { return CDR_LIBRARY(expm1, x); }
CDR_INLINE float cdr_erf(float x) { return CDR_LIBRARY(erf, x); }
CDR_INLINE float cdr_atan2(float y, float x) { return CDR_LIBRARY(atan2, y, x); }
CDR_INLINE float cdr_pow(float x, float y) { return CDR_LIBRARY(pow, x, y); }

CDR_INLINE float cdr_sigmoid(float x) { return 1.0f / (1.0f + cdr_exp(-x)); }
CDR_INLINE double cdr_sigmoid_d(double x) { return x < 0.0 ? exp(x) / (1.0 + exp(x)) : 1.0 / (1.0 + exp(-x)); }
CDR_INLINE float cdr_silu(float x) { return x * cdr_sigmoid(x); }
CDR_INLINE double cdr_silu_d(double x) { return x * cdr_sigmoid_d(x); }

/* log(exp(a) + exp(b)); equal infinities stay what they are. */
CDR_INLINE float cdr_logaddexp(float a, float b)
{
  return a == b ? a + 0.69314718f : cdr_max(a, b) + cdr_log1p(cdr_exp(-fabsf(a - b)));
}
CDR_INLINE double cdr_logaddexp_d(double a, double b)
{
  return a == b ? a + 0.69314718055994531 : cdr_max_d(a, b) + log1p(exp(-fabs(a - b)));
}
CDR_INLINE float cdr_softplus(float x) { return cdr_logaddexp(x, 0.0f); }
CDR_INLINE double cdr_softplus_d(double x) { return cdr_logaddexp_d(x, 0.0); }

/* Floored division and its remainder, which has the divisor's sign. */
CDR_INLINE int64_t cdr_floordiv_i(int64_t a, int64_t b) { return a / b - ((a % b != 0) & ((a < 0) != (b < 0))); }
CDR_INLINE int64_t cdr_mod_i(int64_t a, int64_t b) { return a - b * cdr_floordiv_i(a, b); }
CDR_INLINE float cdr_mod(float a, float b)
{
  float r = fmodf(a, b);
  return r != 0.0f && (r < 0.0f) != (b < 0.0f) ? r + b : r;
}
CDR_INLINE double cdr_mod_d(double a, double b)
{
  double r = fmod(a, b);
  return r != 0.0 && (r < 0.0) != (b < 0.0) ? r + b : r;
}
CDR_INLINE float cdr_floordiv(float a, float b) { return rintf((a - cdr_mod(a, b)) / b); }
CDR_INLINE double cdr_floordiv_d(double a, double b) { return rint((a - cdr_mod_d(a, b)) / b); }

/* A whole power, as the reference computes it on whole numbers. */
CDR_INLINE int64_t cdr_pow_i(int64_t a, int64_t b)
{
  uint64_t result = 1, factor = (uint64_t)a;
  for (; b > 0; b >>= 1, factor *= factor)
    if (b & 1) result *= factor;
  return (int64_t)result;
}

/* Of rows that are given to instances, those of the first one that has some left, at most so many, each once: their
   number, 0 when none is left. */
CDR_INLINE ptrdiff_t cdr_rows_of_one(int32_t *chosen, ptrdiff_t count, ptrdiff_t *place, int32_t *rows, ptrdiff_t most)
{
  ptrdiff_t found = 0;
  *place = -1;
  for (ptrdiff_t i = 0; i < count && found < most; i++) {
    if (chosen[i] < 0 || (found && chosen[i] != *place)) continue;
    *place = chosen[i];
    rows[found++] = (int32_t)i;
    chosen[i] = -1;
  }
  return found;
}

#endif
