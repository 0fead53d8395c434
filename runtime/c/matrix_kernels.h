/* What the kernels of one instruction set give to matrix.c. */
#ifndef CDR_MATRIX_KERNELS_H
#define CDR_MATRIX_KERNELS_H

#include "matrix.h"

/* n vectors as a kernel reads them: floats [n][cols], pairs of bf16 [n][cols], or whole numbers [n][cols] with, for each
   group, its scale and what its sum is to begin with (the numbers of a matrix are 128 or 8 too large: that times the sum of x, negative).
   `cols` is padded with zeros to a whole number of groups. */
typedef struct {
  const void *values;
  const float *scale;
  const int32_t *begin;
  ptrdiff_t cols, groups;
} cdr_prepared;

typedef struct {
  float *y;
  const unsigned char *blocks, *scales;
  cdr_prepared x;
  ptrdiff_t rows, cols, n; /* cols: of the matrix, as packed */
} cdr_job;

typedef enum { CDR_FLOATS, CDR_PAIRS, CDR_WHOLE } cdr_operand;

/* Computes the blocks [from, to) of rows for every vector. */
typedef void cdr_kernel(const cdr_job *job, ptrdiff_t from, ptrdiff_t to);

/* The encodings that the model's matrices have, a bit each: kernels of others are left empty. */
#ifndef CDR_PACKED_AS
#define CDR_PACKED_AS ((1 << CDR_ENCODINGS) - 1)
#endif
#define CDR_IS_PACKED(e) (CDR_PACKED_AS >> (e) & 1)

/* The bytes of a group of a block of rows: of its numbers, and of its scales; those of i8 are for all groups. */
#define CDR_NUMBERS_OF(e) (CDR_GROUP * CDR_ROWS / ((e) == CDR_AS_I4 ? 2 : 1))
#define CDR_SCALES_OF(e) ((e) == CDR_AS_I4 ? 2 * CDR_ROWS : 4 * CDR_ROWS)
enum { CDR_SCALES_AHEAD = 384 }; /* bytes in front of which scales are asked for */

/* A kernel of tiles: `tile` for every `height` rows and all vectors, at most `most` of these at once (3 or 4); their
   number is a constant in each call. */
#define CDR_RUN(name, target, tile, how, height, most)                                           \
  static target void name(const cdr_job *j, ptrdiff_t from, ptrdiff_t to)                        \
  {                                                                                              \
    if (!CDR_IS_PACKED(how)) return;                                                             \
    for (ptrdiff_t row = from * CDR_ROWS; row < to * CDR_ROWS && row < j->rows; row += (height)) { \
      ptrdiff_t t = 0;                                                                           \
      for (; t + (most) <= j->n; t += (most)) tile(j, row, t, most, how);                        \
      if ((most) > 3 && j->n - t == 3) tile(j, row, t, 3, how);                                  \
      else if (j->n - t == 2) tile(j, row, t, 2, how);                                           \
      else if (j->n - t == 1) tile(j, row, t, 1, how);                                           \
    }                                                                                            \
  }

typedef struct {
  const char *name;
  int (*there)(void); /* whether this processor has what they need */
  struct {
    cdr_operand operand;
    cdr_kernel *run;
  } of[CDR_ENCODINGS];
} cdr_kernels;

extern const cdr_kernels cdr_kernels_plain;
#if defined(__x86_64__) && defined(__GNUC__) && !defined(CDR_PLAIN)
/* Four bytes of what other types were written to. */
typedef int32_t cdr_four __attribute__((may_alias));
extern const cdr_kernels cdr_kernels_avx2, cdr_kernels_avx512, cdr_kernels_avx512_bf16;
/* Older compilers do not know AVX-VNNI. */
#if defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11
#define CDR_AVX2_VNNI
extern const cdr_kernels cdr_kernels_avx2_vnni;
#endif
#endif
#if defined(__aarch64__) && defined(__GNUC__) && !defined(CDR_PLAIN)
extern const cdr_kernels cdr_kernels_neon;
/* Clang before 16 has the dot products' functions only where all of the file may use them. */
#if defined(__ARM_FEATURE_DOTPROD) || !defined(__clang__) || __clang_major__ >= 16
#define CDR_NEON_DOT
extern const cdr_kernels cdr_kernels_neon_dot;
#endif
#endif
#if defined(__wasm_simd128__) && !defined(CDR_PLAIN)
extern const cdr_kernels cdr_kernels_wasm;
#endif

#endif
