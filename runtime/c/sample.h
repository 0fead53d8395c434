/* Choose the next token from logits. */
#ifndef CDR_SAMPLE_H
#define CDR_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
  double temperature; /* 0: the largest logit */
  double top_p;       /* 1: all tokens */
  int32_t top_k;      /* 0: all tokens */
  uint64_t random;    /* the seed, then the generator's state */
} cdr_sampling;

typedef struct {
  double p;
  int32_t id;
} cdr_candidate;

/* The generator's next number, in [0, 1). */
double cdr_draw(uint64_t *random);

/* `room` has a place a token of the vocabulary. */
int32_t cdr_sample(cdr_sampling *how, const float *logits, int32_t vocab, cdr_candidate *room);

#endif
