/* Products with AVX-512 and VNNI, and with BF16 where the processor has it: a register is a block of rows. */
#include "matrix_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(CDR_PLAIN)
#include <immintrin.h>

#define CDR_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#define CDR_AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")))
#define CDR_TILE static inline __attribute__((always_inline))

enum { CDR_TILE_512 = 6, CDR_AHEAD_512 = 3072 };

CDR_TILE CDR_AVX512 void store_512(const cdr_job *j, ptrdiff_t b, ptrdiff_t t, __m512 y)
{
  const ptrdiff_t left = j->rows - b * CDR_ROWS;
  float *at = j->y + t * j->rows + b * CDR_ROWS;
  if (left >= CDR_ROWS) _mm512_storeu_ps(at, y);
  else _mm512_mask_storeu_ps(at, (__mmask16)((1u << left) - 1), y);
}

/* A vector of a weight is read for all n, a number of a vector for all `high` blocks.  Of each sum there are two, of the
   even columns and of the odd ones. */
CDR_TILE CDR_AVX512 void tile_floats_512(const cdr_job *j, ptrdiff_t b, ptrdiff_t t, const int high, const int n,
                                         const cdr_encoding e)
{
  const ptrdiff_t column = e == CDR_AS_F32 ? 64 : 32, step = j->x.cols, next = j->cols * column;
  const float *x = (const float *)j->x.values + t * step;
  const unsigned char *w = j->blocks + b * next;
  const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
  __m512 s[CDR_TILE_512][2][2];
  for (int i = 0; i < n; i++)
    for (int h = 0; h < high; h++) s[i][h][0] = s[i][h][1] = _mm512_setzero_ps();
  for (ptrdiff_t k = 0; k < j->cols; k += 2, w += 2 * column)
    for (int a = 0; a < 2; a++) {
      __m512 v[2];
      for (int h = 0; h < high; h++) {
        const unsigned char *at = w + h * next;
        if (e == CDR_AS_F32 || a == 0) _mm_prefetch((const char *)at + CDR_AHEAD_512 + 64 * a, _MM_HINT_T0);
        if (e == CDR_AS_F32) v[h] = _mm512_loadu_ps(at + 64 * a);
        else if (e == CDR_AS_F16) v[h] = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(at + 32 * a)));
        else {
          const __m512i pair = _mm512_loadu_si512(at);
          v[h] = _mm512_castsi512_ps(a ? _mm512_and_si512(pair, upper) : _mm512_slli_epi32(pair, 16));
        }
      }
      for (int i = 0; i < n; i++) {
        const __m512 z = _mm512_set1_ps(x[i * step + k + a]);
        for (int h = 0; h < high; h++) s[i][h][a] = _mm512_fmadd_ps(v[h], z, s[i][h][a]);
      }
    }
  for (int i = 0; i < n; i++)
    for (int h = 0; h < high; h++) store_512(j, b + h, t + i, _mm512_add_ps(s[i][h][0], s[i][h][1]));
}

CDR_TILE CDR_AVX512_BF16 void tile_pairs_512(const cdr_job *j, ptrdiff_t b, ptrdiff_t t, const int high, const int n,
                                             const cdr_encoding e)
{
  (void)e;
  const ptrdiff_t step = j->x.cols / 2, next = j->cols * 32; /* step: in pairs */
  const cdr_four *x = (const cdr_four *)j->x.values + t * step;
  const unsigned char *w = j->blocks + b * next;
  __m512 s[CDR_TILE_512][2][2];
  for (int i = 0; i < n; i++)
    for (int h = 0; h < high; h++) s[i][h][0] = s[i][h][1] = _mm512_setzero_ps();
  for (ptrdiff_t k = 0; k < step; k += 2, w += 128)
    for (int a = 0; a < 2; a++) {
      __m512i v[2];
      for (int h = 0; h < high; h++) {
        v[h] = _mm512_loadu_si512(w + h * next + 64 * a);
        _mm_prefetch((const char *)w + h * next + CDR_AHEAD_512 + 64 * a, _MM_HINT_T0);
      }
      for (int i = 0; i < n; i++) {
        const __m512i z = _mm512_set1_epi32(x[i * step + k + a]);
        for (int h = 0; h < high; h++) s[i][h][a] = _mm512_dpbf16_ps(s[i][h][a], (__m512bh)v[h], (__m512bh)z);
      }
    }
  for (int i = 0; i < n; i++)
    for (int h = 0; h < high; h++) store_512(j, b + h, t + i, _mm512_add_ps(s[i][h][0], s[i][h][1]));
}

/* Of one block there are two sums, of the even and of the odd fours of columns; they are whole numbers, and exact. */
CDR_TILE CDR_AVX512 void tile_whole_512(const cdr_job *j, ptrdiff_t b, ptrdiff_t t, const int high, const int n,
                                        const cdr_encoding e)
{
  const int by_row = e == CDR_AS_I8, nibbles = e == CDR_AS_I4, odd = high == 1;
  const ptrdiff_t scales = CDR_SCALES_OF(e), numbers = CDR_NUMBERS_OF(e), step = j->x.cols / 4; /* step: in fours */
  const ptrdiff_t next = numbers * j->x.groups, next_scales = scales * (by_row ? 1 : j->x.groups);
  const cdr_four *x = (const cdr_four *)j->x.values + t * step;
  const float *by = j->x.scale + t * j->x.groups;
  const int32_t *begin = j->x.begin + t * j->x.groups;
  const unsigned char *w = j->blocks + b * next, *of_rows = j->scales + b * next_scales;
  const __m512i low = _mm512_set1_epi8(15);
  __m512 y[CDR_TILE_512][2];
  for (int i = 0; i < n; i++)
    for (int h = 0; h < high; h++) y[i][h] = _mm512_setzero_ps();
  for (ptrdiff_t g = 0; g < j->x.groups; g++, x += CDR_GROUP / 4, w += numbers, of_rows += by_row ? 0 : scales) {
    __m512i s[CDR_TILE_512][2];
    for (int line = 0; line < high * (int)numbers; line += 64)
      _mm_prefetch((const char *)w + (line < (int)numbers ? 0 : next - numbers) + CDR_AHEAD_512 + line, _MM_HINT_T0);
    for (int h = 0; h < high && !by_row; h++)
      _mm_prefetch((const char *)of_rows + h * next_scales + CDR_SCALES_AHEAD, _MM_HINT_T0);
    for (int i = 0; i < n; i++) {
      s[i][0] = _mm512_set1_epi32(begin[i * j->x.groups + g]);
      s[i][1] = odd ? _mm512_setzero_si512() : s[i][0];
    }
    for (int q = 0; q < CDR_GROUP / 4; q += 2) {
      __m512i a[2], c[2];
      for (int h = 0; h < high; h++) {
        a[h] = _mm512_loadu_si512(w + h * next + (nibbles ? 32 : 64) * q);
        if (nibbles) c[h] = _mm512_and_si512(_mm512_srli_epi16(a[h], 4), low), a[h] = _mm512_and_si512(a[h], low);
        else c[h] = _mm512_loadu_si512(w + h * next + 64 * q + 64);
      }
      for (int i = 0; i < n; i++) {
        const __m512i even = _mm512_set1_epi32(x[i * step + q]), other = _mm512_set1_epi32(x[i * step + q + 1]);
        for (int h = 0; h < high; h++) s[i][h] = _mm512_dpbusd_epi32(s[i][h], a[h], even);
        for (int h = 0; h < high; h++) s[i][h + odd] = _mm512_dpbusd_epi32(s[i][h + odd], c[h], other);
      }
    }
    for (int h = 0; h < high; h++) {
      __m512 scale = _mm512_setzero_ps();
      if (nibbles) scale = _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(of_rows + h * next_scales)));
      else if (!by_row) scale = _mm512_loadu_ps(of_rows + h * next_scales);
      for (int i = 0; i < n; i++) {
        const __m512 each = _mm512_set1_ps(by[i * j->x.groups + g]);
        const __m512i sum = odd ? _mm512_add_epi32(s[i][0], s[i][1]) : s[i][h];
        y[i][h] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), by_row ? each : _mm512_mul_ps(each, scale), y[i][h]);
      }
    }
  }
  for (int h = 0; h < high; h++) {
    const __m512 scale = by_row ? _mm512_loadu_ps(of_rows + h * next_scales) : _mm512_setzero_ps();
    for (int i = 0; i < n; i++) store_512(j, b + h, t + i, by_row ? _mm512_mul_ps(y[i][h], scale) : y[i][h]);
  }
}

/* Two blocks of rows at once, for all vectors in parts of equal size, at most as many as registers hold; one where memory
   is the limit, with a vector at a time.  The numbers of both are constants in each call of a tile. */
#define CDR_RUN_512(name, target, tile, how)                                           \
  static target void name(const cdr_job *j, ptrdiff_t from, ptrdiff_t to)              \
  {                                                                                    \
    if (!CDR_IS_PACKED(how)) return;                                                   \
    for (; j->n > 1 && from + 2 <= to; from += 2)                                      \
      for (ptrdiff_t t = 0, parts = (j->n + 5) / 6, n; t < j->n; t += n, parts--)      \
        switch (n = (j->n - t) / parts) {                                              \
        case 1: tile(j, from, t, 2, 1, how); break;                                    \
        case 2: tile(j, from, t, 2, 2, how); break;                                    \
        case 3: tile(j, from, t, 2, 3, how); break;                                    \
        case 4: tile(j, from, t, 2, 4, how); break;                                    \
        case 5: tile(j, from, t, 2, 5, how); break;                                    \
        default: tile(j, from, t, 2, 6, how);                                          \
        }                                                                              \
    for (; from < to; from++)                                                          \
      for (ptrdiff_t t = 0; t < j->n; t++) tile(j, from, t, 1, 1, how);                \
  }
CDR_RUN_512(f32_512, CDR_AVX512, tile_floats_512, CDR_AS_F32)
CDR_RUN_512(f16_512, CDR_AVX512, tile_floats_512, CDR_AS_F16)
CDR_RUN_512(bf16_512, CDR_AVX512, tile_floats_512, CDR_AS_BF16)
CDR_RUN_512(pairs_512, CDR_AVX512_BF16, tile_pairs_512, CDR_AS_BF16)
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
