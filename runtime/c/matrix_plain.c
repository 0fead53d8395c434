/* Products in plain C: the same bits on every machine, where products and sums are not contracted. */
#include "encodings.h"
#include "matrix_kernels.h"

static int always(void) { return 1; }

static float number_at(cdr_encoding e, const unsigned char *w, ptrdiff_t lane)
{
  uint16_t half;
  float whole;
  if (e == CDR_AS_F32) return memcpy(&whole, w + 4 * lane, 4), whole;
  memcpy(&half, w + 2 * lane, 2);
  return e == CDR_AS_F16 ? cdr_widen_f16(half) : cdr_widen_bf16(half);
}

/* Four sums a row, of every fourth column. */
CDR_INLINE void plain_floats(const cdr_job *j, ptrdiff_t from, ptrdiff_t to, const cdr_encoding e)
{
  const ptrdiff_t each = e == CDR_AS_BF16 ? 2 : 1, column = (e == CDR_AS_F32 ? 4 : 2) * CDR_ROWS;
  for (ptrdiff_t b = from; b < to; b++)
    for (ptrdiff_t t = 0; t < j->n; t++) {
      const float *x = (const float *)j->x.values + t * j->x.cols;
      const unsigned char *w = j->blocks + b * j->cols * column;
      float s[4][CDR_ROWS] = {{0}};
      for (ptrdiff_t k = 0; k < j->cols; k += 4, w += 4 * column)
        for (ptrdiff_t a = 0; a < 4; a++) {
          const unsigned char *at = w + a / each * each * column + 2 * (a % each);
          for (ptrdiff_t r = 0; r < CDR_ROWS; r++) s[a][r] += number_at(e, at, r * each) * x[k + a];
        }
      for (ptrdiff_t r = 0; r < CDR_ROWS && b * CDR_ROWS + r < j->rows; r++)
        j->y[t * j->rows + b * CDR_ROWS + r] = (s[0][r] + s[1][r]) + (s[2][r] + s[3][r]);
    }
}

/* The number of a row and a column in a group, as it is held. */
CDR_INLINE int32_t whole_at(const cdr_encoding e, const unsigned char *group, ptrdiff_t row, ptrdiff_t k)
{
  if (e != CDR_AS_I4) return group[(k / 4 * CDR_ROWS + row) * 4 + k % 4];
  return group[(k / 8 * CDR_ROWS + row) * 4 + k % 4] >> (k / 4 % 2 * 4) & 15;
}

CDR_INLINE void plain_whole(const cdr_job *j, ptrdiff_t from, ptrdiff_t to, const cdr_encoding e)
{
  const int by_row = e == CDR_AS_I8;
  const ptrdiff_t scales = CDR_SCALES_OF(e), numbers = CDR_NUMBERS_OF(e);
  for (ptrdiff_t b = from; b < to; b++)
    for (ptrdiff_t t = 0; t < j->n; t++) {
      const int8_t *x = (const int8_t *)j->x.values + t * j->x.cols;
      const unsigned char *w = j->blocks + b * numbers * j->x.groups;
      const unsigned char *of_rows = j->scales + b * scales * (by_row ? 1 : j->x.groups);
      float y[CDR_ROWS] = {0}, scale[CDR_ROWS] = {0};
      for (ptrdiff_t g = 0; g < j->x.groups; g++, x += CDR_GROUP, w += numbers) {
        int32_t s[CDR_ROWS];
        for (ptrdiff_t r = 0; r < CDR_ROWS; r++)
          scale[r] = number_at(e == CDR_AS_I4 ? CDR_AS_F16 : CDR_AS_F32, of_rows + (by_row ? 0 : g * scales), r);
        for (ptrdiff_t r = 0; r < CDR_ROWS; r++) {
          s[r] = j->x.begin[t * j->x.groups + g];
          for (ptrdiff_t k = 0; k < CDR_GROUP; k++) s[r] += whole_at(e, w, r, k) * x[k];
        }
        const float by = j->x.scale[t * j->x.groups + g];
        for (ptrdiff_t r = 0; r < CDR_ROWS; r++) y[r] += (float)s[r] * (by_row ? by : by * scale[r]);
      }
      for (ptrdiff_t r = 0; r < CDR_ROWS && b * CDR_ROWS + r < j->rows; r++)
        j->y[t * j->rows + b * CDR_ROWS + r] = by_row ? y[r] * scale[r] : y[r];
    }
}

#define CDR_RUN_PLAIN(name, run, e)                                \
  static void name(const cdr_job *j, ptrdiff_t from, ptrdiff_t to) \
  {                                                                \
    if (CDR_IS_PACKED(e)) run(j, from, to, e);                     \
  }
CDR_RUN_PLAIN(plain_f32, plain_floats, CDR_AS_F32)
CDR_RUN_PLAIN(plain_f16, plain_floats, CDR_AS_F16)
CDR_RUN_PLAIN(plain_bf16, plain_floats, CDR_AS_BF16)
CDR_RUN_PLAIN(plain_i8, plain_whole, CDR_AS_I8)
CDR_RUN_PLAIN(plain_i8g32, plain_whole, CDR_AS_I8G32)
CDR_RUN_PLAIN(plain_i4, plain_whole, CDR_AS_I4)

const cdr_kernels cdr_kernels_plain = {
  "plain", always,
  {{CDR_FLOATS, plain_f32}, {CDR_FLOATS, plain_f16}, {CDR_FLOATS, plain_bf16}, {CDR_WHOLE, plain_i8}, {CDR_WHOLE, plain_i8g32},
   {CDR_WHOLE, plain_i4}},
};
