#include "json.h"

#include <string.h>

enum { DEEPEST = 64 };

static void blanks(cdr_json *j)
{
  while (j->at < j->end && (*j->at == ' ' || *j->at == '\t' || *j->at == '\n' || *j->at == '\r')) j->at++;
}

int cdr_json_peek(cdr_json *j)
{
  blanks(j);
  return j->at < j->end ? *j->at : 0;
}

static int take(cdr_json *j, char c)
{
  if (cdr_json_peek(j) != (unsigned char)c || j->at >= j->end) return 0;
  j->at++;
  return 1;
}

int cdr_json_enter(cdr_json *j, char open) { return take(j, open); }

int cdr_json_more(cdr_json *j, char close, int *first)
{
  if (take(j, close)) return 0;
  if (!*first && !take(j, ',')) return -1;
  if (cdr_json_peek(j) == (unsigned char)close) return -1;
  *first = 0;
  return j->at < j->end ? 1 : -1;
}

int cdr_json_string(cdr_json *j, cdr_span *s)
{
  if (!take(j, '"')) return 0;
  s->text = j->at;
  while (j->at < j->end && *j->at != '"') {
    if (*j->at < 0x20) return 0;
    if (*j->at == '\\' && ++j->at == j->end) return 0;
    j->at++;
  }
  if (j->at >= j->end) return 0;
  s->size = (size_t)(j->at - s->text);
  j->at++;
  return 1;
}

int cdr_json_key(cdr_json *j, cdr_span *s) { return cdr_json_string(j, s) && take(j, ':'); }

int cdr_json_whole(cdr_json *j, uint64_t *n)
{
  if (cdr_json_peek(j) < '0' || cdr_json_peek(j) > '9') return 0;
  *n = 0;
  for (; j->at < j->end && *j->at >= '0' && *j->at <= '9'; j->at++) {
    uint64_t digit = (uint64_t)(*j->at - '0');
    if (*n > (UINT64_MAX - digit) / 10) return 0;
    *n = *n * 10 + digit;
  }
  return j->at >= j->end || (*j->at != '.' && *j->at != 'e' && *j->at != 'E');
}

int cdr_json_hexadecimal(cdr_json *j, uint64_t *n)
{
  static const char digits[] = "0123456789abcdef";
  cdr_span s;
  *n = 0;
  if (!cdr_json_string(j, &s) || s.size != 16) return 0;
  for (size_t i = 0; i < s.size; i++) {
    const char *at = s.text[i] ? strchr(digits, s.text[i]) : NULL;
    if (!at) return 0;
    *n = *n << 4 | (uint64_t)(at - digits);
  }
  return 1;
}

static int word(cdr_json *j, const char *text)
{
  size_t size = strlen(text);
  blanks(j);
  if ((size_t)(j->end - j->at) < size || memcmp(j->at, text, size) != 0) return 0;
  j->at += size;
  return 1;
}

int cdr_json_null(cdr_json *j) { return word(j, "null"); }

int cdr_json_bool(cdr_json *j, int *value)
{
  *value = word(j, "true");
  return *value || word(j, "false");
}

static int number(cdr_json *j)
{
  const unsigned char *start = j->at;
  while (j->at < j->end && *j->at != 0 && strchr("+-.eE0123456789", *j->at)) j->at++;
  return j->at > start;
}

static int skip(cdr_json *j, int depth)
{
  int c = cdr_json_peek(j), first = 1, more, value;
  cdr_span s;
  if (depth > DEEPEST) return 0;
  switch (c) {
  case '"':
    return cdr_json_string(j, &s);
  case '{':
  case '[':
    j->at++;
    while ((more = cdr_json_more(j, c == '{' ? '}' : ']', &first)) > 0)
      if ((c == '{' && !cdr_json_key(j, &s)) || !skip(j, depth + 1)) return 0;
    return more == 0;
  case 't':
  case 'f':
    return cdr_json_bool(j, &value);
  case 'n':
    return cdr_json_null(j);
  default:
    return number(j);
  }
}

int cdr_json_skip(cdr_json *j) { return skip(j, 0); }

int cdr_json_find(cdr_json j, const char *key, cdr_json *value)
{
  int first = 1, more, found = 0;
  cdr_span name;
  if (!cdr_json_enter(&j, '{')) return -1;
  while ((more = cdr_json_more(&j, '}', &first)) > 0) {
    if (!cdr_json_key(&j, &name)) return -1;
    if (cdr_json_is(name, key)) {
      *value = j;
      found = 1;
    }
    if (!cdr_json_skip(&j)) return -1;
  }
  return more == 0 ? found : -1;
}

int cdr_json_done(cdr_json *j)
{
  blanks(j);
  return j->at == j->end;
}

static int hex(const unsigned char *p, uint32_t *code)
{
  *code = 0;
  for (int i = 0; i < 4; i++) {
    int c = p[i], low = c | 0x20;
    int digit = c >= '0' && c <= '9' ? c - '0' : low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
    if (digit < 0) return 0;
    *code = *code << 4 | (uint32_t)digit;
  }
  return 1;
}

static size_t utf8(uint32_t code, unsigned char *out)
{
  if (code < 0x80) return out[0] = (unsigned char)code, 1;
  if (code < 0x800) return out[0] = (unsigned char)(0xc0 | code >> 6), out[1] = (unsigned char)(0x80 | (code & 63)), 2;
  size_t n = code < 0x10000 ? 3 : 4;
  out[0] = (unsigned char)(n == 3 ? 0xe0 | code >> 12 : 0xf0 | code >> 18);
  for (size_t i = 1; i < n; i++) out[i] = (unsigned char)(0x80 | (code >> 6 * (n - 1 - i) & 63));
  return n;
}

/* The character after a backslash at *p; moves *p past it. */
static int escape(const unsigned char **p, const unsigned char *end, uint32_t *code)
{
  static const char letters[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
  const char *found = **p ? strchr(letters, **p) : NULL;
  uint32_t low;
  if (found) {
    *code = (unsigned char)values[found - letters];
    ++*p;
    return 1;
  }
  if (**p != 'u' || end - *p < 5 || !hex(*p + 1, code)) return 0;
  *p += 5;
  if (*code >= 0xd800 && *code < 0xdc00) {
    if (end - *p < 6 || (*p)[0] != '\\' || (*p)[1] != 'u' || !hex(*p + 2, &low)) return 0;
    if (low < 0xdc00 || low > 0xdfff) return 0;
    *code = 0x10000 + ((*code - 0xd800) << 10) + (low - 0xdc00);
    *p += 6;
  }
  return *code < 0xdc00 || *code > 0xdfff;
}

int cdr_json_decode(cdr_span s, char *out, size_t room, size_t *size)
{
  const unsigned char *p = s.text, *end = s.text + s.size;
  unsigned char bytes[4];
  *size = 0;
  while (p < end) {
    size_t n = 1;
    bytes[0] = *p++;
    if (bytes[0] == '\\') {
      uint32_t code;
      if (p >= end || !escape(&p, end, &code)) return 0;
      n = utf8(code, bytes);
    }
    if (room - *size < n) return 0;
    memcpy(out + *size, bytes, n);
    *size += n;
  }
  return 1;
}

int cdr_json_is(cdr_span s, const char *text)
{
  char decoded[64];
  size_t size;
  if (!cdr_json_decode(s, decoded, sizeof decoded, &size)) return 0;
  return size == strlen(text) && memcmp(decoded, text, size) == 0;
}
