/* What the program of a model gives to batch.c.

   A stream is what goes on from token to token: the state, and the logits after the last token.  A caller's state begins
   with one; behind it stands what tokens need on their way, of which a batch has one for all its rows. */
#ifndef CDR_STREAMS_H
#define CDR_STREAMS_H

#include <stddef.h>
#include <stdint.h>

struct cdr_model;

/* The bytes of what tokens need on their way; like those of a stream (cdr_state_memory) a multiple of 64. */
size_t cdr_temporary_size(const struct cdr_model *m);

/* Reads a token of the vocabulary in each of n streams, which are all different; `logits` are NULL or get those after
   each. */
void cdr_streams_read(const struct cdr_model *m, void *temporary, unsigned char *const *streams, const int32_t *tokens,
                      size_t n, float *logits);

#endif
