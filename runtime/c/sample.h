/* Choose the next token from logits.  The twin of runtime/sampling.py: the same choice from the same numbers. */
#ifndef CDR_SAMPLE_H
#define CDR_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  double temperature;         /* 0: the largest logit */
  double top_p;               /* 1: all tokens */
  int32_t top_k;              /* 0: all tokens */
  uint64_t random;            /* the generator's state: see cdr_random_at */
  const unsigned char *known; /* whether a token may be chosen, a byte each; NULL: every one may */
} cdr_sampling;

typedef struct {
  double p;
  int32_t id;
} cdr_candidate;

/* The generator's state for the choice that follows `tokens` tokens.  It depends on nothing else, so a text goes on the
   same wherever it was cut. */
uint64_t cdr_random_at(uint64_t seed, uint64_t tokens);

/* The generator's next number, in [0, 1). */
double cdr_draw(uint64_t *random);

/* `room` has a place a token of the vocabulary.  -1 when nothing can be chosen: a logit is NaN, or the largest is not
   finite. */
int32_t cdr_sample(cdr_sampling *how, const float *logits, int32_t vocab, cdr_candidate *room);

#ifdef __cplusplus
}
#endif

#endif
