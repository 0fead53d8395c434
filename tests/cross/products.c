/* Answers products of packed matrices until its input ends: six int64 (encoding, rows, cols, vectors, bytes of numbers, bytes
   of scales), then numbers, scales and vectors; out come the float32 of the product.  First of all, the kernels' name. */
#include "matrix.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *take(size_t size)
{
  unsigned char *room = aligned_alloc(64, (size + 64) / 64 * 64);
  if (!room || fread(room, 1, size, stdin) != size) exit(1);
  return room;
}

int main(void)
{
  int64_t head[6];
  printf("%s\n", cdr_kernels_name());
  fflush(stdout);
  while (fread(head, sizeof *head, 6, stdin) == 6) {
    const cdr_encoding e = (cdr_encoding)head[0];
    const ptrdiff_t rows = (ptrdiff_t)head[1], cols = (ptrdiff_t)head[2], n = (ptrdiff_t)head[3];
    void *numbers = take((size_t)head[4]), *scales = take((size_t)head[5]);
    float *x = take((size_t)(n * cols) * sizeof *x), *y = calloc((size_t)(n * rows), sizeof *y);
    unsigned char *blocks = aligned_alloc(64, (cdr_packed_size(e, rows, cols) + 63) / 64 * 64);
    unsigned char *to_scales = aligned_alloc(64, (cdr_packed_scales(e, rows, cols) + 64) / 64 * 64);
    void *scratch = aligned_alloc(64, (CDR_PREPARED(cols, n) + 63) / 64 * 64);
    if (!y || !blocks || !to_scales || !scratch) return 1;
    cdr_pack(e, blocks, to_scales, numbers, scales, rows, cols);
    cdr_product(NULL, e, y, (cdr_packed){blocks, to_scales}, x, rows, cols, n, scratch);
    fwrite(y, sizeof *y, (size_t)(n * rows), stdout);
    fflush(stdout);
    free(numbers), free(scales), free(x), free(y), free(blocks), free(to_scales), free(scratch);
  }
  return 0;
}
