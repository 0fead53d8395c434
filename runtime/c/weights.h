/* A safetensors file, mapped: nothing is copied, pages are read when they are used.

   Every tensor the model wants is found and checked (dtype, shape, place) before anything uses it. */
#ifndef CDR_WEIGHTS_H
#define CDR_WEIGHTS_H

#include <stddef.h>
#include <stdint.h>

/* What the numbers of a tensor are.  I32 is of values inside a program, never of the file. */
typedef enum { CDR_F32, CDR_F16, CDR_BF16, CDR_I8, CDR_U8, CDR_I32, CDR_DTYPES } cdr_dtype;

/* A tensor the model wants.  The table of them is sorted by name. */
typedef struct {
  const char *name;
  int rank;
  const uint64_t *shape;
  cdr_dtype dtype;
  const uint64_t *blocks; /* its four sizes where it lies in blocks of rows, as matrix.h has them; NULL: it never does */
} cdr_tensor;

typedef struct {
  unsigned char *bytes;
  size_t size;
  int mapped;
  uint64_t fingerprint; /* of the f32 values that the file was made from: names, sizes, a few values of each */
} cdr_file;

/* Opens `path` and sets found[i] to the data of want[i], and in_blocks[i] where it lies in blocks; `in_blocks` may be NULL
   where none ever does.  On an error nothing is left open. */
int cdr_weights_open(cdr_file *file, const char *path, const cdr_tensor *want, int count, const void **found,
                     unsigned char *in_blocks);
void cdr_weights_close(cdr_file *file);

/* Lets go of the pages that were read so far; they are read again when they are used again.  Who reads all of a file does
   so after every CDR_AT_ONCE bytes. */
#define CDR_AT_ONCE ((size_t)1 << 24)
void cdr_weights_unread(const cdr_file *file);

/* Memory for what is read all the time, in large pages where the system has some; or NULL. */
#define CDR_PAGE ((size_t)1 << 21)
unsigned char *cdr_pages(size_t size);
void cdr_pages_free(unsigned char *memory);

/* The bytes of a number. */
size_t cdr_dtype_size(cdr_dtype dtype);

/* A whole file in memory; the part of the above that is not about tensors. */
int cdr_file_open(cdr_file *file, const char *path);

#endif
