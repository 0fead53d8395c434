/* Products with AVX2, FMA and F16C, and whole ones with AVX-VNNI where the processor has it: two registers are a block of
   rows. */
#include "matrix_kernels.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(CDR_PLAIN)
#include <cpuid.h>
#include <immintrin.h>

#define CDR_AVX2 __attribute__((target("avx2,fma,f16c")))
#define CDR_AVX_VNNI __attribute__((target("avx2,fma,f16c,avxvnni")))
#define CDR_TILE_2 static inline __attribute__((always_inline))
/* The compiler adds to a sum here, and not later: else it holds more products than there are registers. */
#define CDR_ADDED(sum) __asm__("" : "+x"(sum))

enum { CDR_HALF = CDR_ROWS / 2, CDR_TILE_256 = 3, CDR_AHEAD_256 = 3072 };

/* `y` are the sums of the rows from `row` on. */
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

/* Half a column of a block as floats: of the first column at `w`, or of the second. */
CDR_TILE_2 CDR_AVX2 __m256 floats_256(const unsigned char *w, const int half, const int second, const cdr_encoding e)
{
  if (e == CDR_AS_F32) return _mm256_loadu_ps((const float *)(const void *)(w + 32 * half + 64 * second));
  if (e == CDR_AS_F16) return _mm256_cvtph_ps(_mm_loadu_si128((const void *)(w + 16 * half + 32 * second)));
  const __m256i pair = _mm256_loadu_si256((const void *)(w + 32 * half));
  return _mm256_castsi256_ps(second ? _mm256_and_si256(pair, _mm256_set1_epi32((int)0xffff0000)) : _mm256_slli_epi32(pair, 16));
}

CDR_TILE_2 CDR_AVX2 void tile_floats_256(const cdr_job *j, ptrdiff_t row, ptrdiff_t t, const int n, const cdr_encoding e)
{
  const ptrdiff_t column = e == CDR_AS_F32 ? 64 : 32, step = j->x.cols;
  const float *x = (const float *)j->x.values + t * step;
  const unsigned char *w = j->blocks + row / CDR_ROWS * j->cols * column;
  __m256 s[CDR_TILE_256][2][2]; /* of each half of the block the sums of the even and of the odd columns */
  for (int i = 0; i < n; i++)
    for (int h = 0; h < 2; h++) s[i][h][0] = s[i][h][1] = _mm256_setzero_ps();
  for (ptrdiff_t k = 0; k < j->cols; k += 2, w += 2 * column) {
    for (ptrdiff_t line = 0; line < 2 * column; line += 64) _mm_prefetch((const char *)w + CDR_AHEAD_256 + line, _MM_HINT_T0);
    for (int a = 0; a < 2; a++) {
      const __m256 upper = floats_256(w, 0, a, e), lower = floats_256(w, 1, a, e);
      for (int i = 0; i < n; i++) {
        const __m256 z = _mm256_set1_ps(x[i * step + k + a]);
        s[i][0][a] = _mm256_fmadd_ps(upper, z, s[i][0][a]);
        s[i][1][a] = _mm256_fmadd_ps(lower, z, s[i][1][a]);
      }
    }
  }
  for (int i = 0; i < n; i++)
    for (int h = 0; h < 2 && row + h * CDR_HALF < j->rows; h++)
      store_256(j, row + h * CDR_HALF, t + i, _mm256_add_ps(s[i][h][0], s[i][h][1]));
}

/* A group of a block times that of n vectors.  Bytes: what is not negative of a product of two signed numbers' factors
   stands in the first, so that two products fit into 16 bits. */
CDR_TILE_2 CDR_AVX2 void add_bytes_256(__m256i s[][2], const unsigned char *v, const int8_t *x, ptrdiff_t step, const int n)
{
  const __m256i sign = _mm256_set1_epi8(-128), one = _mm256_set1_epi16(1);
  for (int i = 0; i < n; i++) s[i][0] = s[i][1] = _mm256_setzero_si256();
  for (int q = 0; q < CDR_GROUP / 4; q++, v += 4 * CDR_ROWS) {
    const __m256i upper = _mm256_xor_si256(_mm256_loadu_si256((const void *)v), sign), size = _mm256_abs_epi8(upper);
    const __m256i lower = _mm256_xor_si256(_mm256_loadu_si256((const void *)(v + 32)), sign), last = _mm256_abs_epi8(lower);
    for (int i = 0; i < n; i++) {
      const __m256i four = _mm256_set1_epi32(*(const cdr_four *)(const void *)(x + i * step + 4 * q));
      const __m256i a = _mm256_maddubs_epi16(size, _mm256_sign_epi8(four, upper));
      const __m256i b = _mm256_maddubs_epi16(last, _mm256_sign_epi8(four, lower));
      s[i][0] = _mm256_add_epi32(s[i][0], _mm256_madd_epi16(a, one));
      s[i][1] = _mm256_add_epi32(s[i][1], _mm256_madd_epi16(b, one));
      CDR_ADDED(s[i][0]);
      CDR_ADDED(s[i][1]);
    }
  }
}

/* Half a block's numbers of the four columns `q` of a group, a byte each. */
CDR_TILE_2 CDR_AVX2 __m256i nibbles_256(const unsigned char *v, const int q, const int half)
{
  const __m256i two = _mm256_loadu_si256((const void *)(v + q / 2 * 4 * CDR_ROWS + 32 * half));
  return _mm256_and_si256(q % 2 ? _mm256_srli_epi16(two, 4) : two, _mm256_set1_epi8(15));
}

/* Nibbles: the sums of a group, of 16 products up to 15 * 127, fit into 16 bits. */
CDR_TILE_2 CDR_AVX2 void add_nibbles_256(__m256i s[][2], const unsigned char *v, const int8_t *x, ptrdiff_t step, const int n)
{
  const __m256i one = _mm256_set1_epi16(1);
  for (int i = 0; i < n; i++) s[i][0] = s[i][1] = _mm256_setzero_si256();
  for (int q = 0; q < CDR_GROUP / 4; q++) {
    const __m256i upper = nibbles_256(v, q, 0), lower = nibbles_256(v, q, 1);
    for (int i = 0; i < n; i++) {
      const __m256i four = _mm256_set1_epi32(*(const cdr_four *)(const void *)(x + i * step + 4 * q));
      s[i][0] = _mm256_add_epi16(s[i][0], _mm256_maddubs_epi16(upper, four));
      s[i][1] = _mm256_add_epi16(s[i][1], _mm256_maddubs_epi16(lower, four));
      CDR_ADDED(s[i][0]);
      CDR_ADDED(s[i][1]);
    }
  }
  for (int i = 0; i < n; i++)
    for (int h = 0; h < 2; h++) s[i][h] = _mm256_madd_epi16(s[i][h], one);
}

CDR_TILE_2 CDR_AVX2 void add_256(__m256i s[][2], const unsigned char *v, const int8_t *x, ptrdiff_t step, const int n,
                                 const int nibbles)
{
  if (nibbles) add_nibbles_256(s, v, x, step, n);
  else add_bytes_256(s, v, x, step, n);
}

/* A tile of whole numbers: `add` makes the sums of a group.  What stands for a number, 128 or 8 more
   than it, is made signed first, or put right by what the vector's sums begin with. */
#define CDR_WHOLE_256(name, target, add, bytes_signed)                                                                       \
  CDR_TILE_2 target void name(const cdr_job *j, ptrdiff_t row, ptrdiff_t t, const int n, const cdr_encoding e)               \
  {                                                                                                                          \
    const int by_row = e == CDR_AS_I8, nibbles = e == CDR_AS_I4;                                                             \
    const ptrdiff_t scales = CDR_SCALES_OF(e), numbers = CDR_NUMBERS_OF(e), step = j->x.cols, block = row / CDR_ROWS;        \
    const unsigned char *w = j->blocks + block * numbers * j->x.groups;                                                      \
    const unsigned char *of_rows = j->scales + block * scales * (by_row ? 1 : j->x.groups);                                  \
    const int8_t *x = (const int8_t *)j->x.values + t * step;                                                                \
    __m256 y[CDR_TILE_256][2], scale[2];                                                                                     \
    for (int h = 0; h < 2 && by_row; h++) scale[h] = _mm256_loadu_ps((const float *)(const void *)of_rows + 8 * h);          \
    for (int i = 0; i < n; i++) y[i][0] = y[i][1] = _mm256_setzero_ps();                                                     \
    for (ptrdiff_t g = 0; g < j->x.groups; g++, w += numbers, of_rows += by_row ? 0 : scales, x += CDR_GROUP) {              \
      __m256i s[CDR_TILE_256][2];                                                                                            \
      for (int line = 0; line < (int)numbers; line += 64) _mm_prefetch((const char *)w + CDR_AHEAD_256 + line, _MM_HINT_T0); \
      if (!by_row) _mm_prefetch((const char *)of_rows + CDR_SCALES_AHEAD, _MM_HINT_T0);                                      \
      add(s, w, x, step, n, nibbles);                                                                                        \
      for (int h = 0; h < 2; h++) {                                                                                          \
        if (nibbles) scale[h] = _mm256_cvtph_ps(_mm_loadu_si128((const void *)(of_rows + 16 * h)));                          \
        else if (!by_row) scale[h] = _mm256_loadu_ps((const float *)(const void *)of_rows + 8 * h);                          \
        for (int i = 0; i < n; i++) {                                                                                        \
          const ptrdiff_t at = (t + i) * j->x.groups + g;                                                                    \
          const __m256 each = _mm256_set1_ps(j->x.scale[at]);                                                                \
          if (nibbles || !bytes_signed) s[i][h] = _mm256_add_epi32(s[i][h], _mm256_set1_epi32(j->x.begin[at]));              \
          y[i][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s[i][h]), by_row ? each : _mm256_mul_ps(each, scale[h]), y[i][h]);    \
        }                                                                                                                    \
      }                                                                                                                      \
    }                                                                                                                        \
    for (int i = 0; i < n; i++)                                                                                              \
      for (int h = 0; h < 2 && row + h * CDR_HALF < j->rows; h++)                                                            \
        store_256(j, row + h * CDR_HALF, t + i, by_row ? _mm256_mul_ps(y[i][h], scale[h]) : y[i][h]);                        \
  }

CDR_WHOLE_256(tile_whole_256, CDR_AVX2, add_256, 1)
CDR_RUN(f32_256, CDR_AVX2, tile_floats_256, CDR_AS_F32, CDR_ROWS, CDR_TILE_256)
CDR_RUN(f16_256, CDR_AVX2, tile_floats_256, CDR_AS_F16, CDR_ROWS, CDR_TILE_256)
CDR_RUN(bf16_256, CDR_AVX2, tile_floats_256, CDR_AS_BF16, CDR_ROWS, CDR_TILE_256)
CDR_RUN(i8_256, CDR_AVX2, tile_whole_256, CDR_AS_I8, CDR_ROWS, CDR_TILE_256)
CDR_RUN(i8g32_256, CDR_AVX2, tile_whole_256, CDR_AS_I8G32, CDR_ROWS, CDR_TILE_256)
CDR_RUN(i4_256, CDR_AVX2, tile_whole_256, CDR_AS_I4, CDR_ROWS, CDR_TILE_256)

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

#if defined(CDR_AVX2_VNNI)
CDR_TILE_2 CDR_AVX_VNNI void add_vnni(__m256i s[][2], const unsigned char *v, const int8_t *x, ptrdiff_t step, const int n,
                                      const int nibbles)
{
  for (int i = 0; i < n; i++) s[i][0] = s[i][1] = _mm256_setzero_si256();
  for (int q = 0; q < CDR_GROUP / 4; q++) {
    const unsigned char *at = v + 4 * CDR_ROWS * q;
    const __m256i upper = nibbles ? nibbles_256(v, q, 0) : _mm256_loadu_si256((const void *)at);
    const __m256i lower = nibbles ? nibbles_256(v, q, 1) : _mm256_loadu_si256((const void *)(at + 32));
    for (int i = 0; i < n; i++) {
      const __m256i four = _mm256_set1_epi32(*(const cdr_four *)(const void *)(x + i * step + 4 * q));
      s[i][0] = _mm256_dpbusd_avx_epi32(s[i][0], upper, four);
      s[i][1] = _mm256_dpbusd_avx_epi32(s[i][1], lower, four);
    }
  }
}

CDR_WHOLE_256(tile_whole_vnni, CDR_AVX_VNNI, add_vnni, 0)
CDR_RUN(i8_vnni, CDR_AVX_VNNI, tile_whole_vnni, CDR_AS_I8, CDR_ROWS, CDR_TILE_256)
CDR_RUN(i8g32_vnni, CDR_AVX_VNNI, tile_whole_vnni, CDR_AS_I8G32, CDR_ROWS, CDR_TILE_256)
CDR_RUN(i4_vnni, CDR_AVX_VNNI, tile_whole_vnni, CDR_AS_I4, CDR_ROWS, CDR_TILE_256)

static int there_vnni(void)
{
  unsigned int a, b, c, d;
  return there_256() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && a >> 4 & 1;
}

const cdr_kernels cdr_kernels_avx2_vnni = {
  "avx2_vnni", there_vnni,
  {{CDR_FLOATS, f32_256}, {CDR_FLOATS, f16_256}, {CDR_FLOATS, bf16_256}, {CDR_WHOLE, i8_vnni}, {CDR_WHOLE, i8g32_vnni},
   {CDR_WHOLE, i4_vnni}},
};
#endif
#endif
