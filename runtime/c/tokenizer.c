#include "tokenizer.h"

#include "errors.h"
#include "tokenizer_parts.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

void cdr_tokenizer_close(cdr_tokenizer *t)
{
  if (!t) return;
  free(t->bytes);
  free(t->start);
  free(t->size);
  free(t->added);
  free(t->special);
  free(t->merges);
  free(t);
}

int32_t cdr_tokenizer_vocab(const cdr_tokenizer *t) { return t->vocab; }

int32_t cdr_tokenizer_eot(const cdr_tokenizer *t) { return t->eot; }

const unsigned char *cdr_token_bytes(const cdr_tokenizer *t, int32_t id, size_t *size)
{
  int known = id >= 0 && id < t->vocab;
  *size = known ? t->size[id] : 0;
  return known ? t->bytes + t->start[id] : t->bytes;
}

cdr_merge *cdr_merge_place(const cdr_tokenizer *t, uint32_t left, uint32_t right)
{
  uint64_t hash = (((uint64_t)left << 32 | right) * UINT64_C(0x9e3779b97f4a7c15)) >> 20;
  for (size_t at = (size_t)hash & t->mask;; at = (at + 1) & t->mask) {
    cdr_merge *m = &t->merges[at];
    if (m->made < 0 || (m->left == left && m->right == right)) return m;
  }
}

/* --- the pre-tokeniser, by rules of ASCII classes -------------------------------------------------------------- */
typedef enum { LETTER, DIGIT, PUNCTUATION, BLANK } class;

static class class_of(unsigned char c)
{
  if (c >= 0x80 || c == '_' || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z')) return LETTER;
  if (c >= '0' && c <= '9') return DIGIT;
  return c == ' ' || c == '\t' || c == '\r' || c == '\n' ? BLANK : PUNCTUATION;
}

static int is_line_end(unsigned char c) { return c == '\r' || c == '\n'; }

/* The bytes of a character that is a letter: a UTF-8 sequence, or a byte that belongs to none. */
static size_t letter(const unsigned char *text, size_t size)
{
  size_t n = 1;
  if (text[0] >= 0xc0)
    while (n < 4 && n < size && (text[n] & 0xc0) == 0x80) n++;
  return n;
}

size_t cdr_piece(const unsigned char *text, size_t size, size_t longest)
{
  if (size == 0) return 0;
  size_t at = text[0] == ' ' && size > 1, from;
  class kind = class_of(text[at]);
  if (kind != BLANK) {
    size_t most = kind == DIGIT ? 3 : longest;
    for (size_t n = 0; n < most && at < size && class_of(text[at]) == kind; n++)
      at += kind == LETTER ? letter(text + at, size - at) : 1;
    return at;
  }
  for (at = 0; at < size && at < longest && is_line_end(text[at]); at++) {}
  for (from = at; at < size && at - from < longest && (text[at] == ' ' || text[at] == '\t'); at++) {}
  /* the last space belongs to the visible character after it */
  return at > from && at < size && text[at - 1] == ' ' && class_of(text[at]) != BLANK ? at - 1 : at;
}

/* --- the merges of one piece ----------------------------------------------------------------------------------- */
typedef struct {
  uint32_t rank;
  int32_t at, made;
} offer;

typedef struct {
  int32_t *ids, *after, *before;
  offer *queue; /* a heap: lowest rank first, then leftmost */
  size_t count;
} workspace;

static int sooner(offer a, offer b) { return a.rank != b.rank ? a.rank < b.rank : a.at < b.at; }

static void push(workspace *w, offer o)
{
  size_t at = w->count++;
  for (; at > 0 && sooner(o, w->queue[(at - 1) / 2]); at = (at - 1) / 2) w->queue[at] = w->queue[(at - 1) / 2];
  w->queue[at] = o;
}

static offer pop(workspace *w)
{
  offer first = w->queue[0], last = w->queue[--w->count];
  size_t at = 0, child;
  for (; (child = 2 * at + 1) < w->count; at = child) {
    if (child + 1 < w->count && sooner(w->queue[child + 1], w->queue[child])) child++;
    if (!sooner(w->queue[child], last)) break;
    w->queue[at] = w->queue[child];
  }
  w->queue[at] = last;
  return first;
}

static const cdr_merge *merge_at(const cdr_tokenizer *t, const workspace *w, int32_t at)
{
  return cdr_merge_place(t, (uint32_t)w->ids[at], (uint32_t)w->ids[w->after[at]]);
}

static void propose(const cdr_tokenizer *t, workspace *w, int32_t at)
{
  const cdr_merge *m = merge_at(t, w, at);
  if (m->made >= 0) push(w, (offer){m->rank, at, m->made});
}

/* Each merge shortens the piece by one and proposes two more at most: 3 * size offers in all. */
static size_t merge_piece(const cdr_tokenizer *t, workspace *w, const unsigned char *text, size_t size, int32_t *out)
{
  int32_t n = (int32_t)size;
  size_t count = 0;
  w->count = 0;
  for (int32_t i = 0; i < n; i++) {
    w->ids[i] = t->byte[text[i]];
    w->after[i] = i + 1 < n ? i + 1 : -1;
    w->before[i] = i - 1;
  }
  for (int32_t i = 0; i + 1 < n; i++) propose(t, w, i);
  while (w->count > 0) {
    offer o = pop(w);
    int32_t right = w->after[o.at];
    if (w->ids[o.at] < 0 || right < 0 || merge_at(t, w, o.at)->made != o.made) continue; /* out of date */
    w->ids[o.at] = o.made;
    w->ids[right] = -1;
    w->after[o.at] = w->after[right];
    if (w->after[o.at] >= 0) {
      w->before[w->after[o.at]] = o.at;
      propose(t, w, o.at);
    }
    if (w->before[o.at] >= 0) propose(t, w, w->before[o.at]);
  }
  for (int32_t i = 0; i < n; i++)
    if (w->ids[i] >= 0) out[count++] = w->ids[i];
  return count;
}

/* --- texts ----------------------------------------------------------------------------------------------------- */
/* The added token that begins here, the longest one; -1: none. */
static int32_t added_at(const cdr_tokenizer *t, int special, const unsigned char *text, size_t size)
{
  if (!t->begins[text[0]]) return -1;
  for (size_t i = 0; i < t->added_count; i++) {
    int32_t id = t->added[i];
    if (t->special[id] && !special) continue;
    if (t->size[id] <= size && memcmp(t->bytes + t->start[id], text, t->size[id]) == 0) return id;
  }
  return -1;
}

/* The length of the text up to the next added token. */
static size_t ordinary(const cdr_tokenizer *t, int special, const unsigned char *text, size_t size)
{
  size_t at = 0;
  while (at < size && added_at(t, special, text + at, size - at) < 0) at++;
  return at;
}

static int make_workspace(workspace *w, size_t longest)
{
  if (longest > INT32_MAX / 64) return CDR_NO_MEMORY;
  size_t symbols = longest * sizeof(int32_t);
  char *memory = malloc(3 * symbols + 3 * longest * sizeof(offer) + 1);
  if (!memory) return CDR_NO_MEMORY;
  w->ids = (int32_t *)(void *)memory;
  w->after = w->ids + longest;
  w->before = w->after + longest;
  w->queue = (offer *)(void *)(w->before + longest);
  return CDR_OK;
}

static size_t longest_piece(const cdr_tokenizer *t, int special, const unsigned char *at, const unsigned char *end)
{
  size_t longest = 0, piece;
  while (at < end) {
    for (const unsigned char *stop = at + ordinary(t, special, at, (size_t)(end - at)); at < stop; at += piece) {
      piece = cdr_piece(at, (size_t)(stop - at), t->longest);
      if (piece > longest) longest = piece;
    }
    if (at < end) at += t->size[added_at(t, special, at, (size_t)(end - at))];
  }
  return longest;
}

static int encode(const cdr_tokenizer *t, int special, const void *text, size_t size, int32_t *ids, size_t *count)
{
  const unsigned char *at = text, *end = at + size;
  workspace w = {NULL, NULL, NULL, NULL, 0};
  *count = 0;
  if (t->merge_count && make_workspace(&w, longest_piece(t, special, at, end)) != CDR_OK) return CDR_NO_MEMORY;
  while (at < end) {
    const unsigned char *stop = at + ordinary(t, special, at, (size_t)(end - at));
    while (at < stop && !t->merge_count) ids[(*count)++] = t->byte[*at++];
    while (at < stop) {
      size_t piece = cdr_piece(at, (size_t)(stop - at), t->longest);
      *count += merge_piece(t, &w, at, piece, ids + *count);
      at += piece;
    }
    if (at < end) {
      int32_t id = added_at(t, special, at, (size_t)(end - at));
      ids[(*count)++] = id;
      at += t->size[id];
    }
  }
  free(w.ids);
  return CDR_OK;
}

int cdr_encode(const cdr_tokenizer *t, const void *text, size_t size, int32_t *ids, size_t *count)
{
  return encode(t, 0, text, size, ids, count);
}

int cdr_encode_special(const cdr_tokenizer *t, const void *text, size_t size, int32_t *ids, size_t *count)
{
  return encode(t, 1, text, size, ids, count);
}
