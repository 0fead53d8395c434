/* Reading the manifest's JSON: lists of unknown length, names and shapes, with a sentence for whatever is wrong. */
#ifndef CDR_READER_H
#define CDR_READER_H

#include "manifest.h"

/* No value of a model is larger than this, so that products of a few of them do not overflow. */
#define CDR_LARGEST ((uint64_t)1 << 40)

typedef struct {
  cdr_pool *pool;
  const char *where; /* the part of the manifest that is being read */
  int code;          /* the first failure */
} cdr_reader;

/* Keeps the failure "manifest.json: where: what" unless there is one already; gives 0. */
int cdr_reader_bad(cdr_reader *r, const char *what);
int cdr_reader_no_memory(cdr_reader *r);

/* The value of `key` in the object at `at`, which has to be there; or 0. */
int cdr_reader_at(cdr_reader *r, cdr_json at, const char *key, cdr_json *value);

/* A list or object: makes room for all its elements, `size` bytes each, and goes in.  Then `cdr_reader_next` goes to
   one after the other: 1, or 0 at the end and when it is malformed. */
void *cdr_reader_list(cdr_reader *r, cdr_json *j, char open, size_t size, int *count);
int cdr_reader_next(cdr_reader *r, cdr_json *j, char close, int *first);

/* The next value: a string that is kept in the pool; a whole number up to `most`; true or false. */
int cdr_reader_text(cdr_reader *r, cdr_json *j, const char **text);
int cdr_reader_key(cdr_reader *r, cdr_json *j, const char **text);
int cdr_reader_whole(cdr_reader *r, cdr_json *j, uint64_t most, uint64_t *value);
int cdr_reader_bool(cdr_reader *r, cdr_json *j, int *value);
int cdr_reader_dtype(cdr_reader *r, cdr_json *j, cdr_dtype *dtype);

/* A list of sizes, and their product. */
int cdr_reader_shape(cdr_reader *r, cdr_json *j, cdr_value *value);

/* Any number. */
int cdr_reader_real(cdr_reader *r, cdr_json *j, float *value);

/* 16 hexadecimal digits. */
int cdr_reader_checksum(cdr_reader *r, cdr_json *j, uint64_t *value);

#endif
