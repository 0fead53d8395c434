/* What a tokenizer is made of; for tokenizer.c, which encodes, and tokenizer_file.c, which loads. */
#ifndef CDR_TOKENIZER_PARTS_H
#define CDR_TOKENIZER_PARTS_H

#include "tokenizer.h"

typedef struct {
  uint32_t left, right, rank;
  int32_t made; /* -1: an empty place */
} cdr_merge;

struct cdr_tokenizer {
  unsigned char *bytes;      /* of all tokens, one after the other */
  size_t *start;             /* token id: bytes start[id] … start[id] + size[id] */
  uint32_t *size;
  int32_t vocab, eot;
  int32_t byte[256];
  size_t longest;            /* characters of a run in one piece; SIZE_MAX: any number */
  cdr_merge *merges;             /* a hash table of mask + 1 places */
  size_t mask, merge_count;
  int32_t *added;            /* ids of the added tokens, longest text first */
  unsigned char *special;    /* by id: whether a text only has it where that is asked for */
  size_t added_count;
  unsigned char begins[256]; /* whether some added token begins with the byte */
};

/* The merge of a pair, or the empty place where it would stand. */
cdr_merge *cdr_merge_place(const cdr_tokenizer *t, uint32_t left, uint32_t right);

#endif
