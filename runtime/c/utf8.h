/* Bytes as they come to whole characters: what is not yet complete is held back, invalid bytes become U+FFFD. */
#ifndef CDR_UTF8_H
#define CDR_UTF8_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  unsigned char held[4];
  unsigned int have, need;
} cdr_utf8; /* begins as {{0}, 0, 0} */

/* Writes what is complete after one more byte (at most 7 bytes) and returns its size. */
size_t cdr_utf8_push(cdr_utf8 *u, unsigned char byte, char *out);

/* What was held back at the end: U+FFFD, or nothing. */
size_t cdr_utf8_flush(cdr_utf8 *u, char *out);

#ifdef __cplusplus
}
#endif

#endif
