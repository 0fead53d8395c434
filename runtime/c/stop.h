/* Texts before which a stream of bytes ends.  The twin of `Stops` in runtime/generation.py. */
#ifndef CDR_STOP_H
#define CDR_STOP_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  const char *const *texts; /* none is empty */
  int count;
  size_t longest;      /* of the texts */
  unsigned char *held; /* the bytes that may begin one of them; room for `longest` */
  size_t size;
  int found; /* whether one was there: the stream ends before it */
} cdr_stops;

/* Writes to `out`, which has room for `longest` bytes, what is sure to come before every stop text after one more byte
   of the stream; its size. */
size_t cdr_stop_push(cdr_stops *stops, unsigned char byte, unsigned char *out);

#ifdef __cplusplus
}
#endif

#endif
