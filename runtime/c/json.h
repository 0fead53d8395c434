/* A reader of JSON in memory: no allocation, no copy, nothing trusted.

   A cursor moves over the text; every function returns 0 (or -1 where said) on malformed input and never reads past
   `end`.  Nesting is capped. */
#ifndef CDR_JSON_H
#define CDR_JSON_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
  const unsigned char *at, *end;
} cdr_json;

/* A string as it stands in the text, without its quotes. */
typedef struct {
  const unsigned char *text;
  size_t size;
} cdr_span;

/* Enters an array or object ('[' or '{'). */
int cdr_json_enter(cdr_json *j, char open);

/* Goes to the next element before `close`: 1 there is one, 0 it is closed, -1 malformed.  `*first` starts at 1. */
int cdr_json_more(cdr_json *j, char close, int *first);

/* A string; a key and its colon; a whole number; 16 hexadecimal digits in quotes; true or false. */
int cdr_json_string(cdr_json *j, cdr_span *s);
int cdr_json_key(cdr_json *j, cdr_span *s);
int cdr_json_whole(cdr_json *j, uint64_t *n);
int cdr_json_hexadecimal(cdr_json *j, uint64_t *n);
int cdr_json_bool(cdr_json *j, int *value);

/* Passes null if it comes next. */
int cdr_json_null(cdr_json *j);

/* The character the next value begins with, 0 at the end. */
int cdr_json_peek(cdr_json *j);

/* Passes any value. */
int cdr_json_skip(cdr_json *j);

/* Puts `value` at the value of `key` in the object that comes next at `j` (the last one, if there are several).
   1 found, 0 not, -1 malformed. */
int cdr_json_find(cdr_json j, const char *key, cdr_json *value);

/* 1 when only blanks are left. */
int cdr_json_done(cdr_json *j);

/* The string's UTF-8; at most s.size bytes.  0 when an escape is malformed or `room` is too small. */
int cdr_json_decode(cdr_span s, char *out, size_t room, size_t *size);

/* Whether the string is `text`. */
int cdr_json_is(cdr_span s, const char *text);

#endif
