#include "reader.h"

#include "failure.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { MOST_ELEMENTS = 1 << 24, DEEPEST_SHAPE = 16, LARGEST_POWER = 9999, MOST_DIGITS = 300 };

int cdr_reader_bad(cdr_reader *r, const char *what)
{
  if (r->code == CDR_OK) r->code = cdr_fail(CDR_MANIFEST, "manifest.json: %s: %s", r->where, what);
  return 0;
}

int cdr_reader_no_memory(cdr_reader *r)
{
  if (r->code == CDR_OK) r->code = CDR_NO_MEMORY;
  return 0;
}

int cdr_reader_at(cdr_reader *r, cdr_json at, const char *key, cdr_json *value)
{
  if (cdr_json_find(at, key, value) == 1) return 1;
  if (r->code == CDR_OK) r->code = cdr_fail(CDR_MANIFEST, "manifest.json: %s: it lacks `%s`", r->where, key);
  return 0;
}

void *cdr_reader_list(cdr_reader *r, cdr_json *j, char open, size_t size, int *count)
{
  char close = open == '[' ? ']' : '}';
  int first = 1, more;
  cdr_span key;
  *count = 0;
  if (!cdr_json_enter(j, open))
    return cdr_reader_bad(r, open == '[' ? "a list is wanted" : "an object is wanted"), NULL;
  for (cdr_json look = *j; (more = cdr_json_more(&look, close, &first)) > 0; ++*count)
    if (*count == MOST_ELEMENTS || (open == '{' && !cdr_json_key(&look, &key)) || !cdr_json_skip(&look)) break;
  if (more != 0) return cdr_reader_bad(r, "malformed JSON"), NULL;
  void *room = cdr_pool_take(r->pool, (size_t)*count, size);
  return room ? room : (cdr_reader_no_memory(r), NULL);
}

int cdr_reader_next(cdr_reader *r, cdr_json *j, char close, int *first)
{
  if (r->code != CDR_OK) return 0;
  int more = cdr_json_more(j, close, first);
  return more >= 0 ? more : cdr_reader_bad(r, "malformed JSON");
}

static int keep(cdr_reader *r, cdr_span span, const char **text)
{
  size_t size;
  char *room = cdr_pool_take(r->pool, span.size + 1, 1);
  if (!room) return cdr_reader_no_memory(r);
  if (!cdr_json_decode(span, room, span.size, &size) || memchr(room, 0, size))
    return cdr_reader_bad(r, "a string is malformed");
  *text = room;
  return 1;
}

int cdr_reader_text(cdr_reader *r, cdr_json *j, const char **text)
{
  cdr_span span;
  return cdr_json_string(j, &span) ? keep(r, span, text) : cdr_reader_bad(r, "a string is wanted");
}

int cdr_reader_key(cdr_reader *r, cdr_json *j, const char **text)
{
  cdr_span span;
  return cdr_json_key(j, &span) ? keep(r, span, text) : cdr_reader_bad(r, "a key is wanted");
}

int cdr_reader_whole(cdr_reader *r, cdr_json *j, uint64_t most, uint64_t *value)
{
  if (!cdr_json_whole(j, value)) return cdr_reader_bad(r, "a whole number is wanted");
  return *value <= most ? 1 : cdr_reader_bad(r, "a number is too large");
}

int cdr_reader_bool(cdr_reader *r, cdr_json *j, int *value)
{
  return cdr_json_bool(j, value) ? 1 : cdr_reader_bad(r, "true or false is wanted");
}

int cdr_reader_dtype(cdr_reader *r, cdr_json *j, cdr_dtype *dtype)
{
  static const char *const names[CDR_DTYPES] = {[CDR_F32] = "f32", [CDR_F16] = "f16", [CDR_BF16] = "bf16", [CDR_I8] = "i8",
                                                 [CDR_U8] = "u8", [CDR_I32] = "i32"};
  cdr_span span;
  if (!cdr_json_string(j, &span)) return cdr_reader_bad(r, "a type is wanted");
  for (int i = 0; i < CDR_DTYPES; i++) {
    if (!cdr_json_is(span, names[i])) continue;
    *dtype = (cdr_dtype)i;
    return 1;
  }
  return cdr_reader_bad(r, "an unknown type");
}

int cdr_reader_shape(cdr_reader *r, cdr_json *j, cdr_value *value)
{
  int first = 1, n = 0;
  uint64_t *shape = cdr_reader_list(r, j, '[', sizeof *shape, &value->rank);
  if (!shape) return 0;
  if (value->rank > DEEPEST_SHAPE) return cdr_reader_bad(r, "a shape has too many axes");
  value->shape = shape;
  value->count = 1;
  for (; cdr_reader_next(r, j, ']', &first); n++) {
    if (!cdr_reader_whole(r, j, CDR_LARGEST, &shape[n])) return 0;
    if (shape[n] && value->count > CDR_LARGEST / shape[n]) return cdr_reader_bad(r, "a shape is too large");
    value->count *= shape[n];
  }
  return r->code == CDR_OK;
}

/* Not by strtod, which reads what the program's locale says. */
int cdr_reader_real(cdr_reader *r, cdr_json *j, float *value)
{
  cdr_json_peek(j);
  const unsigned char *p = j->at, *end = j->end;
  int negative = p < end && *p == '-', digits = 0, places = 0, power = 0, minus = 0;
  double number = 0;
  for (p += negative; p < end && *p >= '0' && *p <= '9'; p++, digits++) number = number * 10 + (*p - '0');
  if (p < end && *p == '.')
    for (p++; p < end && *p >= '0' && *p <= '9'; p++, digits++, places++) number = number * 10 + (*p - '0');
  if (digits && p < end && (*p == 'e' || *p == 'E')) {
    p++;
    minus = p < end && *p == '-';
    if (p < end && (*p == '-' || *p == '+')) p++;
    if (p == end || *p < '0' || *p > '9') digits = 0;
    for (; p < end && *p >= '0' && *p <= '9'; p++) power = power > LARGEST_POWER ? power : power * 10 + (*p - '0');
  }
  if (!digits || digits > MOST_DIGITS) return cdr_reader_bad(r, "a number is wanted");
  number *= pow(10, (minus ? -power : power) - places);
  if (number > FLT_MAX) return cdr_reader_bad(r, "a number is too large");
  *value = (float)(negative ? -number : number);
  j->at = p;
  return 1;
}

int cdr_reader_checksum(cdr_reader *r, cdr_json *j, uint64_t *value)
{
  return cdr_json_hexadecimal(j, value) ? 1 : cdr_reader_bad(r, "a checksum of 16 digits is wanted");
}
