/* Products with NEON: four registers are a block of rows.  Whole numbers are multiplied by dot products where the
   processor has them (ARMv8.2: a Raspberry Pi 5, Apple's) and widened to 16 bits elsewhere (a Raspberry Pi 4); both give
   the bits of plain C. */
#include "matrix_kernels.h"

#if defined(__aarch64__) && defined(__GNUC__) && !defined(CDR_PLAIN)
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif

/* What each function may use, whatever the file is compiled for: else one is not made part of another. */
#if defined(__clang__)
#define CDR_NEON
#define CDR_DOT __attribute__((target("dotprod")))
#else
#define CDR_NEON __attribute__((target("arch=armv8-a")))
#define CDR_DOT __attribute__((target("arch=armv8.2-a+dotprod")))
#endif
#define CDR_TILE_N static inline __attribute__((always_inline))

enum { CDR_QUADS = CDR_ROWS / 4, CDR_TILE_FLOATS = 3, CDR_TILE_NEON = 4 };

CDR_TILE_N CDR_NEON void store_neon(const cdr_job *j, ptrdiff_t row, ptrdiff_t t, float32x4_t y)
{
  const ptrdiff_t left = j->rows - row;
  float *at = j->y + t * j->rows + row, lanes[4];
  if (left >= 4) {
    vst1q_f32(at, y);
    return;
  }
  vst1q_f32(lanes, y);
  for (ptrdiff_t r = 0; r < left; r++) at[r] = lanes[r];
}

/* Four rows of a column of floats; of bf16 the one of the pair that `odd` says. */
CDR_TILE_N CDR_NEON float32x4_t floats_neon(const unsigned char *w, const cdr_encoding e, const int odd)
{
  if (e == CDR_AS_F32) return vreinterpretq_f32_u8(vld1q_u8(w));
  if (e == CDR_AS_F16) return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(w)));
  const uint32x4_t pair = vreinterpretq_u32_u8(vld1q_u8(w));
  return vreinterpretq_f32_u32(odd ? vandq_u32(pair, vdupq_n_u32(0xffff0000u)) : vshlq_n_u32(pair, 16));
}

/* Two sums a row, of every second column. */
CDR_TILE_N CDR_NEON void tile_floats_neon(const cdr_job *j, ptrdiff_t row, ptrdiff_t t, const int n, const cdr_encoding e)
{
  const ptrdiff_t column = e == CDR_AS_F32 ? 64 : 32, quad = e == CDR_AS_F16 ? 8 : 16, step = j->x.cols;
  const ptrdiff_t each = e == CDR_AS_BF16 ? 2 : 1;
  const float *x = (const float *)j->x.values + t * step;
  const unsigned char *w = j->blocks + row / CDR_ROWS * j->cols * column;
  float32x4_t s[CDR_TILE_FLOATS][2][CDR_QUADS];
  for (int i = 0; i < n; i++)
    for (int r = 0; r < CDR_QUADS; r++) s[i][0][r] = s[i][1][r] = vdupq_n_f32(0.0f);
  for (ptrdiff_t k = 0; k < j->cols; k += 2, w += 2 * column) {
    float32x2_t two[CDR_TILE_FLOATS];
    __builtin_prefetch(w + 1024);
    for (int i = 0; i < n; i++) two[i] = vld1_f32(x + i * step + k);
    for (int r = 0; r < CDR_QUADS; r++) {
      const float32x4_t even = floats_neon(w + quad * r, e, 0);
      const float32x4_t odd = floats_neon(w + quad * r + (each == 2 ? 0 : column), e, 1);
      for (int i = 0; i < n; i++) {
        s[i][0][r] = vfmaq_lane_f32(s[i][0][r], even, two[i], 0);
        s[i][1][r] = vfmaq_lane_f32(s[i][1][r], odd, two[i], 1);
      }
    }
  }
  for (int i = 0; i < n; i++)
    for (int r = 0; r < CDR_QUADS; r++)
      store_neon(j, row + 4 * r, t + i, vaddq_f32(s[i][0][r], s[i][1][r]));
}

/* Four rows of four times four columns of a group, by columns. */
CDR_TILE_N CDR_NEON void sixteen_neon(int8x16_t w[4], const unsigned char *v, const int nibbles)
{
  for (int q = 0; q < 4; q++) {
    uint8x16_t at = vld1q_u8(v + 4 * CDR_ROWS * (nibbles ? q / 2 : q));
    if (!nibbles) at = veorq_u8(at, vdupq_n_u8(128)); /* the number + 128 becomes a signed one */
    else at = q % 2 ? vshrq_n_u8(at, 4) : vandq_u8(at, vdupq_n_u8(15));
    w[q] = vreinterpretq_s8_u8(at);
  }
}

/* Sums of products of whole numbers: four rows of a group, 16 columns `x` of them. */
CDR_TILE_N CDR_NEON int32x4_t add_neon(int32x4_t s, const int8x16_t w[4], int8x16_t x)
{
  int8x16_t four[4]; /* each times every row */
  four[0] = vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x), 0));
  four[1] = vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x), 1));
  four[2] = vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x), 2));
  four[3] = vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x), 3));
  for (int q = 0; q < 4; q += 2) {
    /* two products, and no more, are within 16 bits: 2 * 128 * 127 */
    const int16x8_t low = vmlal_s8(vmull_s8(vget_low_s8(w[q]), vget_low_s8(four[q])), vget_low_s8(w[q + 1]),
                                   vget_low_s8(four[q + 1]));
    const int16x8_t high = vmlal_high_s8(vmull_high_s8(w[q], four[q]), w[q + 1], four[q + 1]);
    s = vaddq_s32(s, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
  }
  return s;
}

/* The scales of four rows. */
CDR_TILE_N CDR_NEON float32x4_t scales_neon(const unsigned char *w, int r, const int halves)
{
  return halves ? floats_neon(w + 8 * r, CDR_AS_F16, 0) : floats_neon(w + 16 * r, CDR_AS_F32, 0);
}

#define CDR_TILE_WHOLE(name, target, add)                                                                             \
  CDR_TILE_N target void name(const cdr_job *j, ptrdiff_t row, ptrdiff_t t, const int n, const cdr_encoding e)        \
  {                                                                                                                   \
    const int by_row = e == CDR_AS_I8, nibbles = e == CDR_AS_I4;                                                      \
    const ptrdiff_t scales = CDR_SCALES_OF(e), numbers = CDR_NUMBERS_OF(e), step = j->x.cols, block = row / CDR_ROWS; \
    const int8_t *x = (const int8_t *)j->x.values + t * step;                                                         \
    const unsigned char *w = j->blocks + block * numbers * j->x.groups;                                               \
    const unsigned char *of_rows = j->scales + block * scales * (by_row ? 1 : j->x.groups);                           \
    float32x4_t y[CDR_TILE_NEON][CDR_QUADS];                                                                          \
    for (int i = 0; i < n; i++)                                                                                       \
      for (int r = 0; r < CDR_QUADS; r++) y[i][r] = vdupq_n_f32(0.0f);                                                \
    for (ptrdiff_t g = 0; g < j->x.groups; g++, x += CDR_GROUP, w += numbers, of_rows += by_row ? 0 : scales) {       \
      for (int line = 0; line < (int)numbers; line += 64) __builtin_prefetch(w + 1024 + line);                        \
      if (!by_row) __builtin_prefetch(of_rows + CDR_SCALES_AHEAD);                                                    \
      for (int r = 0; r < CDR_QUADS; r++) {                                                                           \
        const float32x4_t scale = by_row ? vdupq_n_f32(1.0f) : scales_neon(of_rows, r, nibbles);                      \
        int8x16_t first[4], second[4];                                                                                \
        sixteen_neon(first, w + 16 * r, nibbles);                                                                     \
        sixteen_neon(second, w + 16 * r + numbers / 2, nibbles);                                                      \
        for (int i = 0; i < n; i++) {                                                                                 \
          const ptrdiff_t at = (t + i) * j->x.groups + g;                                                             \
          int32x4_t s = vdupq_n_s32(nibbles ? j->x.begin[at] : 0);                                                    \
          s = add(add(s, first, vld1q_s8(x + i * step)), second, vld1q_s8(x + i * step + CDR_GROUP / 2));             \
          const float32x4_t by = by_row ? vdupq_n_f32(j->x.scale[at]) : vmulq_n_f32(scale, j->x.scale[at]);           \
          y[i][r] = vaddq_f32(y[i][r], vmulq_f32(vcvtq_f32_s32(s), by));                                              \
        }                                                                                                             \
      }                                                                                                               \
    }                                                                                                                 \
    for (int i = 0; i < n; i++)                                                                                       \
      for (int r = 0; r < CDR_QUADS; r++)                                                                             \
        store_neon(j, row + 4 * r, t + i, by_row ? vmulq_f32(y[i][r], scales_neon(of_rows, r, 0)) : y[i][r]);         \
  }

CDR_RUN(f32_neon, CDR_NEON, tile_floats_neon, CDR_AS_F32, CDR_ROWS, CDR_TILE_FLOATS)
CDR_RUN(f16_neon, CDR_NEON, tile_floats_neon, CDR_AS_F16, CDR_ROWS, CDR_TILE_FLOATS)
CDR_RUN(bf16_neon, CDR_NEON, tile_floats_neon, CDR_AS_BF16, CDR_ROWS, CDR_TILE_FLOATS)

CDR_TILE_WHOLE(tile_whole_neon, CDR_NEON, add_neon)
CDR_RUN(i8_neon, CDR_NEON, tile_whole_neon, CDR_AS_I8, CDR_ROWS, CDR_TILE_NEON)
CDR_RUN(i8g32_neon, CDR_NEON, tile_whole_neon, CDR_AS_I8G32, CDR_ROWS, CDR_TILE_NEON)
CDR_RUN(i4_neon, CDR_NEON, tile_whole_neon, CDR_AS_I4, CDR_ROWS, CDR_TILE_NEON)

static int there_neon(void) { return 1; }

const cdr_kernels cdr_kernels_neon = {
  "neon", there_neon,
  {{CDR_FLOATS, f32_neon}, {CDR_FLOATS, f16_neon}, {CDR_FLOATS, bf16_neon},
   {CDR_WHOLE, i8_neon}, {CDR_WHOLE, i8g32_neon}, {CDR_WHOLE, i4_neon}},
};

#if defined(CDR_NEON_DOT)
CDR_TILE_N CDR_DOT int32x4_t add_dot(int32x4_t s, const int8x16_t w[4], int8x16_t x)
{
  s = vdotq_laneq_s32(vdotq_laneq_s32(s, w[0], x, 0), w[1], x, 1);
  return vdotq_laneq_s32(vdotq_laneq_s32(s, w[2], x, 2), w[3], x, 3);
}

CDR_TILE_WHOLE(tile_whole_dot, CDR_DOT, add_dot)
CDR_RUN(i8_dot, CDR_DOT, tile_whole_dot, CDR_AS_I8, CDR_ROWS, CDR_TILE_NEON)
CDR_RUN(i8g32_dot, CDR_DOT, tile_whole_dot, CDR_AS_I8G32, CDR_ROWS, CDR_TILE_NEON)
CDR_RUN(i4_dot, CDR_DOT, tile_whole_dot, CDR_AS_I4, CDR_ROWS, CDR_TILE_NEON)

static int there_dot(void)
{
#if defined(__ARM_FEATURE_DOTPROD) || defined(__APPLE__)
  return 1;
#elif defined(__linux__)
  return (getauxval(AT_HWCAP) >> 20 & 1) != 0; /* HWCAP_ASIMDDP */
#else
  return 0;
#endif
}

const cdr_kernels cdr_kernels_neon_dot = {
  "neon_dot", there_dot,
  {{CDR_FLOATS, f32_neon}, {CDR_FLOATS, f16_neon}, {CDR_FLOATS, bf16_neon},
   {CDR_WHOLE, i8_dot}, {CDR_WHOLE, i8g32_dot}, {CDR_WHOLE, i4_dot}},
};
#endif
#endif
