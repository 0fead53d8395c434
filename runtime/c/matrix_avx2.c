/* Products with AVX2, FMA and F16C: two registers are a block of rows. */
#include "matrix_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(CDR_PLAIN)
#include <cpuid.h>
#include <immintrin.h>

#define CDR_AVX2 __attribute__((target("avx2,fma,f16c")))
#define CDR_TILE_2 static inline __attribute__((always_inline))

enum { CDR_HALF = CDR_ROWS / 2, CDR_TILE_256 = 3 };

CDR_TILE_2 CDR_AVX2 void store_256(const cdr_job *j, ptrdiff_t row, ptrdiff_t t, __m256 y)
{
  const ptrdiff_t left = j->rows - row;
  float *at = j->y + t * j->rows + row, lanes[CDR_HALF];
  if (left >= CDR_HALF) {
    _mm256_storeu_ps(at, y);
    return;
  }
  _mm256_storeu_ps(lanes, y);
  for (ptrdiff_t r = 0; r < left; r++) at[r] = lanes[r];
}

/* Half a block. */
CDR_TILE_2 CDR_AVX2 void tile_floats_256(const cdr_job *j, ptrdiff_t row, ptrdiff_t t, const int n, const cdr_encoding e)
{
  const ptrdiff_t column = e == CDR_AS_F32 ? 64 : 32, step = j->x.cols;
  const float *x = (const float *)j->x.values + t * step;
  const unsigned char *w = j->blocks + row / CDR_ROWS * j->cols * column;
  const __m256i high = _mm256_set1_epi32((int)0xffff0000);
  __m256 s[CDR_TILE_256][4];
  w += row % CDR_ROWS * (e == CDR_AS_F16 ? 2 : 4);
  for (int i = 0; i < n; i++)
    for (int a = 0; a < 4; a++) s[i][a] = _mm256_setzero_ps();
  for (ptrdiff_t k = 0; k < j->cols; k += 4, w += 4 * column)
    for (int a = 0; a < 4; a++) {
      __m256 v;
      if (e == CDR_AS_F32) v = _mm256_loadu_ps((const float *)(const void *)(w + 64 * a));
      else if (e == CDR_AS_F16) v = _mm256_cvtph_ps(_mm_loadu_si128((const void *)(w + 32 * a)));
      else {
        const __m256i pair = _mm256_loadu_si256((const void *)(w + 64 * (a / 2)));
        v = _mm256_castsi256_ps(a % 2 ? _mm256_and_si256(pair, high) : _mm256_slli_epi32(pair, 16));
      }
      for (int i = 0; i < n; i++) s[i][a] = _mm256_fmadd_ps(v, _mm256_set1_ps(x[i * step + k + a]), s[i][a]);
    }
  for (int i = 0; i < n; i++)
    store_256(j, row, t + i, _mm256_add_ps(_mm256_add_ps(s[i][0], s[i][1]), _mm256_add_ps(s[i][2], s[i][3])));
}

/* Four columns of half a block, whose rows stand by fours, times those of a vector, added to two sums a row that follow
   one another; of nibbles to one. */
CDR_TILE_2 CDR_AVX2 void add_four_256(__m256i s[2], const unsigned char *v, int32_t four, const int nibbles, const int high)
{
  if (nibbles) {
    __m256i a = _mm256_loadu_si256((const void *)v);
    if (high) a = _mm256_srli_epi16(a, 4);
    a = _mm256_maddubs_epi16(_mm256_and_si256(a, _mm256_set1_epi8(15)), _mm256_set1_epi32(four));
    s[0] = _mm256_add_epi32(s[0], _mm256_madd_epi16(a, _mm256_set1_epi16(1)));
    return;
  }
  const __m256i z = _mm256_broadcastq_epi64(_mm_cvtepi8_epi16(_mm_cvtsi32_si128(four)));
  s[0] = _mm256_add_epi32(s[0], _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)v)), z));
  s[1] = _mm256_add_epi32(s[1], _mm256_madd_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)(v + 16))), z));
}

CDR_TILE_2 CDR_AVX2 void tile_whole_256(const cdr_job *j, ptrdiff_t row, ptrdiff_t t, const int n, const cdr_encoding e)
{
  const int by_row = e == CDR_AS_I8, nibbles = e == CDR_AS_I4;
  const ptrdiff_t scales = nibbles ? 32 : 64, numbers = CDR_GROUP * CDR_ROWS / (nibbles ? 2 : 1);
  const ptrdiff_t group = numbers + (by_row ? 0 : scales), half = row % CDR_ROWS;
  const int8_t *x = (const int8_t *)j->x.values + t * j->x.cols;
  const unsigned char *w = j->blocks + row / CDR_ROWS * (group * j->x.groups + (by_row ? scales : 0));
  const __m256i order = _mm256_setr_epi32(0, 1, 4, 5, 2, 3, 6, 7);
  __m256 y[CDR_TILE_256], scale = _mm256_setzero_ps();
  if (by_row) scale = _mm256_loadu_ps((const float *)(const void *)w + half), w += scales;
  for (int i = 0; i < n; i++) y[i] = _mm256_setzero_ps();
  for (ptrdiff_t g = 0; g < j->x.groups; g++, x += CDR_GROUP, w += group) {
    __m256i s[CDR_TILE_256][2];
    const unsigned char *v = (by_row ? w : w + scales) + 4 * half;
    if (nibbles) scale = _mm256_cvtph_ps(_mm_loadu_si128((const void *)(w + 2 * half)));
    else if (!by_row) scale = _mm256_loadu_ps((const float *)(const void *)w + half);
    for (int i = 0; i < n; i++) s[i][0] = s[i][1] = _mm256_setzero_si256();
    for (int q = 0; q < CDR_GROUP / 4; q++)
      for (int i = 0; i < n; i++) {
        int32_t four;
        __builtin_memcpy(&four, x + i * j->x.cols + 4 * q, 4);
        add_four_256(s[i], v + 4 * CDR_ROWS * (nibbles ? q / 2 : q), four, nibbles, q % 2);
      }
    for (int i = 0; i < n; i++) {
      const ptrdiff_t at = (t + i) * j->x.groups + g;
      const __m256i rows = nibbles ? s[i][0] : _mm256_permutevar8x32_epi32(_mm256_hadd_epi32(s[i][0], s[i][1]), order);
      const __m256 each = _mm256_set1_ps(j->x.scale[at]);
      y[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_add_epi32(rows, _mm256_set1_epi32(j->x.begin[at]))),
                             by_row ? each : _mm256_mul_ps(each, scale), y[i]);
    }
  }
  for (int i = 0; i < n; i++) store_256(j, row, t + i, by_row ? _mm256_mul_ps(y[i], scale) : y[i]);
}

#define CDR_RUN_256(name, tile, how)                                                         \
  static CDR_AVX2 void name(const cdr_job *j, ptrdiff_t from, ptrdiff_t to)                  \
  {                                                                                          \
    for (ptrdiff_t row = from * CDR_ROWS; row < to * CDR_ROWS && row < j->rows; row += CDR_HALF) { \
      ptrdiff_t t = 0;                                                                       \
      for (; t + 3 <= j->n; t += 3) tile(j, row, t, 3, how);                                 \
      if (j->n - t == 2) tile(j, row, t, 2, how);                                            \
      else if (j->n - t == 1) tile(j, row, t, 1, how);                                       \
    }                                                                                        \
  }
CDR_RUN_256(f32_256, tile_floats_256, CDR_AS_F32)
CDR_RUN_256(f16_256, tile_floats_256, CDR_AS_F16)
CDR_RUN_256(bf16_256, tile_floats_256, CDR_AS_BF16)
CDR_RUN_256(i8_256, tile_whole_256, CDR_AS_I8)
CDR_RUN_256(i8g32_256, tile_whole_256, CDR_AS_I8G32)
CDR_RUN_256(i4_256, tile_whole_256, CDR_AS_I4)

/* Not every compiler knows f16c by name; avx2 says that the system keeps the registers. */
static int there_256(void)
{
  unsigned int a, b, c, d;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &a, &b, &c, &d) && c & bit_F16C;
}

const cdr_kernels cdr_kernels_avx2 = {
  "avx2", there_256,
  {{CDR_FLOATS, f32_256}, {CDR_FLOATS, f16_256}, {CDR_FLOATS, bf16_256}, {CDR_WHOLE, i8_256}, {CDR_WHOLE, i8g32_256},
   {CDR_WHOLE, i4_256}},
};
#endif
