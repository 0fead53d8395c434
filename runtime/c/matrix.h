/* Products of stored matrices with vectors: y[t][i] = sum[k](W[i][k] * x[t][k]) for n vectors at once.

   A matrix is *packed* when a model is opened: its rows stand in blocks of CDR_ROWS side by side, a lane of the processor
   a row, so that a kernel reads one stream of memory in order, adds nothing up across lanes, and reads each weight once
   for all the vectors.  A block, padded with zeros to whole rows and columns, is by encoding:

     f32, f16   [cols][16]
     bf16       [cols / 2][16][2]
     i8, i8g32  [cols / 4][16][4] bytes, each the whole number + 128
     i4         [cols / 8][16][4] bytes: two whole numbers + 8, that of 4 columns on in the high half

   Its scales stand elsewhere: [16] for i8, [cols / 32][16] for the others, f32 or, for i4, f16.

   The kernels of each instruction set stand in a file of their own (`matrix_*.c`); which are used is found out when the
   first model is opened: the best that the processor has, or what CDRMIX_KERNELS names.  A row's sum is made in one
   order whatever n is and however rows are split among threads, so that a block of tokens gives the numbers of one at a
   time.  The vectors of whole numbers are rounded to such too, each group of 32 by its own scale, and their sums
   are exact; those of bf16 are rounded to bf16 where the processor multiplies pairs of them. */
#ifndef CDR_MATRIX_H
#define CDR_MATRIX_H

#include "weights.h"
#include "workers.h"

#include <stddef.h>
#include <stdint.h>

enum { CDR_ROWS = 16, CDR_GROUP = 32 };

/* How a matrix is held; the order of the kernels in their tables. */
typedef enum { CDR_AS_F32, CDR_AS_F16, CDR_AS_BF16, CDR_AS_I8, CDR_AS_I8G32, CDR_AS_I4, CDR_ENCODINGS } cdr_encoding;

/* A packed matrix [rows][cols]: its numbers, and its scales where it has some.  Those of another of a bank follow at
   cdr_packed_size and at cdr_packed_scales. */
typedef struct {
  const unsigned char *blocks, *scales;
} cdr_packed;

size_t cdr_packed_size(cdr_encoding encoding, ptrdiff_t rows, ptrdiff_t cols);
size_t cdr_packed_scales(cdr_encoding encoding, ptrdiff_t rows, ptrdiff_t cols);

/* Packs a matrix whose planes lie row by row: its numbers, and the scales where it has some. */
void cdr_pack(cdr_encoding encoding, unsigned char *blocks, unsigned char *to_scales, const void *numbers,
              const void *scales, ptrdiff_t rows, ptrdiff_t cols);

/* A tensor that is packed: the numbers of the tensors that hold its numbers and its scales (-1: it has none), and of how
   many matrices it is a bank. */
typedef struct {
  cdr_encoding encoding;
  int numbers, scales, count;
  ptrdiff_t rows, cols;
} cdr_packing;

/* The packed tensors of a model that are not read where they lie in its file, in one piece of memory. */
typedef struct {
  unsigned char *memory;
  size_t size;
} cdr_packs;

/* packed[i] becomes where the i-th of `count` tensors lies packed: in `file` where its planes lie in blocks there
   (`in_blocks`, a flag a tensor), so that only what is used is ever in memory; in memory of its own where they lie row by row, and also
   the others but for those of banks where CDRMIX_WEIGHTS is `copied`, for large pages.  What was read of the file is let
   go of on the way, so that little of it is in memory twice. */
int cdr_pack_all(cdr_packs *packs, const cdr_packing *packings, int count, const void *const *tensors,
                 const unsigned char *in_blocks, const cdr_file *file, cdr_packed *packed);
void cdr_pack_free(cdr_packs *packs);

/* The bytes of scratch that a product with at most n vectors needs. */
#define CDR_PREPARED(cols, n) ((size_t)(n) * (((size_t)(cols) + 31) / 32 * 32 * 4 + ((size_t)(cols) + 31) / 32 * 8))

/* y[t * rows + i] of n vectors x[t * cols + k], by all workers; `scratch` is CDR_PREPARED bytes at a multiple of 64. */
void cdr_product(cdr_workers *workers, cdr_encoding encoding, float *restrict y, cdr_packed W, const float *restrict x,
                 ptrdiff_t rows, ptrdiff_t cols, ptrdiff_t n, void *restrict scratch);

/* The name of the kernels in use: plain, avx2, avx512, neon and others. */
const char *cdr_kernels_name(void);

#endif
