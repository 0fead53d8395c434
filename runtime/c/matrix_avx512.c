/* Products with AVX-512 and VNNI, and with BF16 where the processor has it: a register is a block of rows. */
#include "matrix_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(CDR_PLAIN)
#include <immintrin.h>

#define CDR_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#define CDR_AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")))
#define CDR_TILE static inline __attribute__((always_inline))

enum { CDR_TILE_512 = 6, CDR_AHEAD_512 = 3072 };

/* Calls `tile` for the vectors from 0 to n, as many at once as registers hold; the count is a constant in each call. */
#define CDR_TILES(tile, ...)                                             \
  for (ptrdiff_t b = from; b < to; b++) {                                \
    ptrdiff_t t = 0;                                                     \
    for (; t + 6 <= j->n; t += 6) tile(j, b, t, 6, __VA_ARGS__);         \
    switch (j->n - t) {                                                  \
    case 1: tile(j, b, t, 1, __VA_ARGS__); break;                        \
    case 2: tile(j, b, t, 2, __VA_ARGS__); break;                        \
    case 3: tile(j, b, t, 3, __VA_ARGS__); break;                        \
    case 4: tile(j, b, t, 4, __VA_ARGS__); break;                        \
    case 5: tile(j, b, t, 5, __VA_ARGS__); break;                        \
    default: break;                                                      \
    }                                                                    \
  }

CDR_TILE CDR_AVX512 void store_512(const cdr_job *j, ptrdiff_t b, ptrdiff_t t, __m512 y)
{
  const ptrdiff_t left = j->rows - b * CDR_ROWS;
  float *at = j->y + t * j->rows + b * CDR_ROWS;
  if (left >= CDR_ROWS) _mm512_storeu_ps(at, y);
  else _mm512_mask_storeu_ps(at, (__mmask16)((1u << left) - 1), y);
}

CDR_TILE CDR_AVX512 __m512 fold_512(const __m512 s[4])
{
  return _mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3]));
}

CDR_TILE CDR_AVX512 void tile_floats_512(const cdr_job *j, ptrdiff_t b, ptrdiff_t t, const int n, const cdr_encoding e)
{
  const ptrdiff_t column = e == CDR_AS_F32 ? 64 : 32, step = j->x.cols;
  const float *x = (const float *)j->x.values + t * step;
  const unsigned char *w = j->blocks + b * j->cols * column;
  const __m512i high = _mm512_set1_epi32((int)0xffff0000);
  __m512 s[CDR_TILE_512][4];
  for (int i = 0; i < n; i++)
    for (int a = 0; a < 4; a++) s[i][a] = _mm512_setzero_ps();
  for (ptrdiff_t k = 0; k < j->cols; k += 4, w += 4 * column) {
    __m512 v[4];
    for (int line = 0; line < 4 * (int)column; line += 64) _mm_prefetch((const char *)w + CDR_AHEAD_512 + line, _MM_HINT_T0);
    for (int a = 0; a < 4; a++) {
      if (e == CDR_AS_F32) v[a] = _mm512_loadu_ps(w + 64 * a);
      else if (e == CDR_AS_F16) v[a] = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(w + 32 * a)));
      else {
        const __m512i pair = _mm512_loadu_si512(w + 64 * (a / 2));
        v[a] = _mm512_castsi512_ps(a % 2 ? _mm512_and_si512(pair, high) : _mm512_slli_epi32(pair, 16));
      }
    }
    for (int i = 0; i < n; i++)
      for (int a = 0; a < 4; a++) s[i][a] = _mm512_fmadd_ps(v[a], _mm512_set1_ps(x[i * step + k + a]), s[i][a]);
  }
  for (int i = 0; i < n; i++) store_512(j, b, t + i, fold_512(s[i]));
}

CDR_TILE CDR_AVX512_BF16 void tile_pairs_512(const cdr_job *j, ptrdiff_t b, ptrdiff_t t, const int n, const int none)
{
  (void)none;
  const ptrdiff_t step = j->x.cols / 2; /* in pairs */
  const cdr_four *x = (const cdr_four *)j->x.values + t * step;
  const unsigned char *w = j->blocks + b * j->cols * 32;
  __m512 s[CDR_TILE_512][2];
  for (int i = 0; i < n; i++) s[i][0] = s[i][1] = _mm512_setzero_ps();
  for (ptrdiff_t k = 0; k < step; k += 2, w += 128) {
    const __m512i v = _mm512_loadu_si512(w), u = _mm512_loadu_si512(w + 64);
    _mm_prefetch((const char *)w + CDR_AHEAD_512, _MM_HINT_T0);
    _mm_prefetch((const char *)w + CDR_AHEAD_512 + 64, _MM_HINT_T0);
    for (int i = 0; i < n; i++) {
      s[i][0] = _mm512_dpbf16_ps(s[i][0], (__m512bh)v, (__m512bh)_mm512_set1_epi32(x[i * step + k]));
      s[i][1] = _mm512_dpbf16_ps(s[i][1], (__m512bh)u, (__m512bh)_mm512_set1_epi32(x[i * step + k + 1]));
    }
  }
  for (int i = 0; i < n; i++) store_512(j, b, t + i, _mm512_add_ps(s[i][0], s[i][1]));
}

CDR_TILE CDR_AVX512 void tile_whole_512(const cdr_job *j, ptrdiff_t b, ptrdiff_t t, const int n, const cdr_encoding e)
{
  const int by_row = e == CDR_AS_I8, nibbles = e == CDR_AS_I4;
  const ptrdiff_t scales = nibbles ? 32 : 64, numbers = CDR_GROUP * CDR_ROWS / (nibbles ? 2 : 1);
  const ptrdiff_t group = numbers + (by_row ? 0 : scales), step = j->x.cols / 4; /* in fours */
  const cdr_four *x = (const cdr_four *)j->x.values + t * step;
  const float *by = j->x.scale + t * j->x.groups;
  const int32_t *begin = j->x.begin + t * j->x.groups;
  const unsigned char *w = j->blocks + b * (group * j->x.groups + (by_row ? scales : 0));
  const __m512i low = _mm512_set1_epi8(15);
  __m512 y[CDR_TILE_512], scale = _mm512_setzero_ps();
  if (by_row) scale = _mm512_loadu_ps(w), w += scales;
  for (int i = 0; i < n; i++) y[i] = _mm512_setzero_ps();
  for (ptrdiff_t g = 0; g < j->x.groups; g++, x += CDR_GROUP / 4, w += group) {
    __m512i s[CDR_TILE_512], other[CDR_TILE_512];
    const unsigned char *v = by_row ? w : w + scales;
    if (nibbles) scale = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)w));
    else if (!by_row) scale = _mm512_loadu_ps(w);
    for (int line = 0; line < (int)group; line += 64) _mm_prefetch((const char *)w + CDR_AHEAD_512 + line, _MM_HINT_T0);
    for (int i = 0; i < n; i++) {
      s[i] = _mm512_set1_epi32(begin[i * j->x.groups + g]);
      other[i] = _mm512_setzero_si512();
    }
    for (int q = 0; q < CDR_GROUP / 4; q += 2) {
      __m512i a = _mm512_loadu_si512(v + (nibbles ? 32 : 64) * q), c;
      if (nibbles) c = _mm512_and_si512(_mm512_srli_epi16(a, 4), low), a = _mm512_and_si512(a, low);
      else c = _mm512_loadu_si512(v + 64 * q + 64);
      for (int i = 0; i < n; i++) {
        s[i] = _mm512_dpbusd_epi32(s[i], a, _mm512_set1_epi32(x[i * step + q]));
        other[i] = _mm512_dpbusd_epi32(other[i], c, _mm512_set1_epi32(x[i * step + q + 1]));
      }
    }
    for (int i = 0; i < n; i++) {
      const __m512 each = _mm512_set1_ps(by[i * j->x.groups + g]);
      y[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(s[i], other[i])),
                             by_row ? each : _mm512_mul_ps(each, scale), y[i]);
    }
  }
  for (int i = 0; i < n; i++) store_512(j, b, t + i, by_row ? _mm512_mul_ps(y[i], scale) : y[i]);
}

#define CDR_RUN_512(name, target, tile, ...) \
  static target void name(const cdr_job *j, ptrdiff_t from, ptrdiff_t to) { CDR_TILES(tile, __VA_ARGS__) }
CDR_RUN_512(f32_512, CDR_AVX512, tile_floats_512, CDR_AS_F32)
CDR_RUN_512(f16_512, CDR_AVX512, tile_floats_512, CDR_AS_F16)
CDR_RUN_512(bf16_512, CDR_AVX512, tile_floats_512, CDR_AS_BF16)
CDR_RUN_512(pairs_512, CDR_AVX512_BF16, tile_pairs_512, 0)
CDR_RUN_512(i8_512, CDR_AVX512, tile_whole_512, CDR_AS_I8)
CDR_RUN_512(i8g32_512, CDR_AVX512, tile_whole_512, CDR_AS_I8G32)
CDR_RUN_512(i4_512, CDR_AVX512, tile_whole_512, CDR_AS_I4)

static int there_512(void)
{
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
}
static int there_512_bf16(void) { return there_512() && __builtin_cpu_supports("avx512bf16"); }

const cdr_kernels cdr_kernels_avx512 = {
  "avx512", there_512,
  {{CDR_FLOATS, f32_512}, {CDR_FLOATS, f16_512}, {CDR_FLOATS, bf16_512}, {CDR_WHOLE, i8_512}, {CDR_WHOLE, i8g32_512},
   {CDR_WHOLE, i4_512}},
};
const cdr_kernels cdr_kernels_avx512_bf16 = {
  "avx512_bf16", there_512_bf16,
  {{CDR_FLOATS, f32_512}, {CDR_FLOATS, f16_512}, {CDR_PAIRS, pairs_512}, {CDR_WHOLE, i8_512}, {CDR_WHOLE, i8g32_512},
   {CDR_WHOLE, i4_512}},
};
#endif
