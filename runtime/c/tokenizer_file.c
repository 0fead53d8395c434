#include "errors.h"
#include "fnv.h"
#include "json.h"
#include "listed.h"
#include "tokenizer_parts.h"
#include "weights.h"

#include <stdlib.h>
#include <string.h>

enum { LARGEST_ID = 1 << 24, SPARSEST = 64 /* ids a token */, SHOWN = 0x144 };
static const char end_of_text[] = "<|endoftext|>";

/* The pre-tokenisers that cdr_piece is, with runs of 64 characters at most and of any number;
   `runtime/pretokenizer.py` explains them. */
static const struct {
  size_t longest;
  const char *pattern;
} pieces[] = {
  {64, " ?[^\\x00-@\\[-^`{-\\x7f]{1,64}| ?[0-9]{1,3}| ?[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f!-/:-@\\[-^`{-\\x7f]{1,64}"
       "|[\\r\\n]{1,64}[ \\t]{0,64}(?= [^ \\t\\r\\n])|[\\r\\n]{1,64}[ \\t]{0,64}"
       "|[ \\t]{1,64}(?= [^ \\t\\r\\n])|[ \\t]{1,64}"},
  {SIZE_MAX, " ?[^\\x00-@\\[-^`{-\\x7f]+| ?[0-9]{1,3}| ?[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f!-/:-@\\[-^`{-\\x7f]+"
             "|[\\r\\n]+[ \\t]*(?= [^ \\t\\r\\n])|[\\r\\n]+[ \\t]*|[ \\t]+(?= [^ \\t\\r\\n])|[ \\t]+"},
};

typedef struct {
  cdr_tokenizer *t;
  cdr_json vocab, merges, added;
  int32_t *table; /* token ids by the hash of their bytes; -1: an empty place */
  size_t mask, used;
  char *text;     /* one decoded string */
  size_t room;
  int byte_of[SHOWN];
  int special; /* whether the added token of now is */
} loader;

/* The character that stands for each byte in a byte-level vocabulary (Radford et al. 2019, GPT-2's encoder). */
static void show_bytes(int *byte_of)
{
  int hidden = 256;
  for (int c = 0; c < SHOWN; c++) byte_of[c] = -1;
  for (int b = 0; b < 256; b++) {
    int shown = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    byte_of[shown ? b : hidden++] = b;
  }
}

static int decode(loader *l, cdr_span s, size_t *size)
{
  if (s.size > l->room) {
    char *more = realloc(l->text, s.size * 2);
    if (!more) return CDR_NO_MEMORY;
    l->text = more;
    l->room = s.size * 2;
  }
  return cdr_json_decode(s, l->text, l->room, size) ? CDR_OK : CDR_TOKENIZER_JSON;
}

/* Turns the byte-level text in l->text to the bytes it stands for, in place. */
static int to_bytes(loader *l, size_t *size)
{
  unsigned char *text = (unsigned char *)l->text;
  size_t n = 0;
  for (size_t i = 0; i < *size; i++) {
    unsigned int c = text[i];
    if (c >= 0x80) {
      if (c < 0xc2 || c > 0xdf || i + 1 == *size || (text[i + 1] & 0xc0) != 0x80) return CDR_TOKENIZER_TOKEN;
      c = (c & 31) << 6 | (text[++i] & 63);
    }
    if (c >= SHOWN || l->byte_of[c] < 0) return CDR_TOKENIZER_TOKEN;
    text[n++] = (unsigned char)l->byte_of[c];
  }
  *size = n;
  return CDR_OK;
}

static int32_t *lookup(const loader *l, const void *bytes, size_t size)
{
  for (size_t at = (size_t)cdr_fnv(CDR_FNV_START, bytes, size) & l->mask;; at = (at + 1) & l->mask) {
    int32_t id = l->table[at];
    if (id < 0 || (l->t->size[id] == size && memcmp(l->t->bytes + l->t->start[id], bytes, size) == 0))
      return &l->table[at];
  }
}

static int add_token(loader *l, uint64_t id, size_t size, int named)
{
  cdr_tokenizer *t = l->t;
  if (t->size[id] || !size) return CDR_TOKENIZER_TOKEN;
  if (named && *lookup(l, l->text, size) >= 0) return CDR_TOKENIZER_TOKEN;
  memcpy(t->bytes + l->used, l->text, size);
  if (named) *lookup(l, l->text, size) = (int32_t)id;
  t->start[id] = l->used;
  t->size[id] = (uint32_t)size;
  l->used += size;
  return CDR_OK;
}

/* Whether a key is there and is anything but null, false or an empty string. */
static int is_set(cdr_json object, const char *key)
{
  cdr_json value;
  cdr_span s;
  int set;
  if (cdr_json_find(object, key, &value) != 1 || cdr_json_null(&value)) return 0;
  if (cdr_json_bool(&value, &set)) return set;
  return !cdr_json_string(&value, &s) || s.size > 0;
}

static int is_string(cdr_json object, const char *key, const char *text)
{
  cdr_json value;
  cdr_span s;
  return cdr_json_find(object, key, &value) == 1 && cdr_json_string(&value, &s) && cdr_json_is(s, text);
}

/* The added tokens: `each` for every one's decoded text and id. */
static int walk_added(loader *l, int (*each)(loader *, uint64_t, size_t))
{
  static const char *const options[] = {"single_word", "lstrip", "rstrip"};
  cdr_json j = l->added;
  int first = 1, more, code;
  if (!j.at || cdr_json_null(&j)) return CDR_OK;
  if (!cdr_json_enter(&j, '[')) return CDR_TOKENIZER_JSON;
  while ((more = cdr_json_more(&j, ']', &first)) > 0) {
    cdr_json value;
    cdr_span content;
    uint64_t id;
    size_t size;
    for (int i = 0; i < 3; i++)
      if (is_set(j, options[i])) return CDR_TOKENIZER_KIND;
    if (cdr_json_find(j, "id", &value) != 1 || !cdr_json_whole(&value, &id) || id >= LARGEST_ID) return CDR_TOKENIZER_JSON;
    if (cdr_json_find(j, "content", &value) != 1 || !cdr_json_string(&value, &content)) return CDR_TOKENIZER_JSON;
    l->special = cdr_json_find(j, "special", &value) != 1 || is_set(j, "special");
    if ((code = decode(l, content, &size)) != CDR_OK || (code = each(l, id, size)) != CDR_OK) return code;
    if (!cdr_json_skip(&j)) return CDR_TOKENIZER_JSON;
  }
  return more == 0 ? CDR_OK : CDR_TOKENIZER_JSON;
}

static int measure_added(loader *l, uint64_t id, size_t size)
{
  if ((int64_t)id >= l->t->vocab) l->t->vocab = (int32_t)id + 1;
  l->used += size;
  l->t->added_count++;
  return CDR_OK;
}

static int is_added(const loader *l, size_t size)
{
  const cdr_tokenizer *t = l->t;
  for (size_t i = 0; i < t->added_count; i++) {
    int32_t id = t->added[i];
    if (t->size[id] == size && memcmp(t->bytes + t->start[id], l->text, size) == 0) return 1;
  }
  return 0;
}

static int add_added(loader *l, uint64_t id, size_t size)
{
  cdr_tokenizer *t = l->t;
  int code = is_added(l, size) ? CDR_TOKENIZER_TOKEN : add_token(l, id, size, 0);
  if (code != CDR_OK) return code;
  size_t at = t->added_count++;
  for (; at > 0 && t->size[t->added[at - 1]] < size; at--) t->added[at] = t->added[at - 1];
  t->added[at] = (int32_t)id;
  t->special[id] = (unsigned char)l->special;
  t->begins[(unsigned char)l->text[0]] = 1;
  if (size == sizeof end_of_text - 1 && memcmp(l->text, end_of_text, size) == 0) t->eot = (int32_t)id;
  return CDR_OK;
}

/* The vocabulary: measured when `fill` is 0 (`count` tokens), else taken in. */
static int walk_vocab(loader *l, int fill, size_t *count)
{
  cdr_json j = l->vocab;
  int first = 1, more, code;
  if (!cdr_json_enter(&j, '{')) return CDR_TOKENIZER_JSON;
  while ((more = cdr_json_more(&j, '}', &first)) > 0) {
    cdr_span key;
    uint64_t id;
    size_t size;
    if (!cdr_json_key(&j, &key) || !cdr_json_whole(&j, &id) || id >= LARGEST_ID) return CDR_TOKENIZER_JSON;
    if (!fill) {
      if ((int64_t)id >= l->t->vocab) l->t->vocab = (int32_t)id + 1;
      l->used += key.size;
      ++*count;
      continue;
    }
    if ((code = decode(l, key, &size)) != CDR_OK) return code;
    if (is_added(l, size)) continue;
    if ((code = to_bytes(l, &size)) != CDR_OK || (code = add_token(l, id, size, 1)) != CDR_OK) return code;
  }
  return more == 0 ? CDR_OK : CDR_TOKENIZER_JSON;
}

static int add_merge(loader *l, size_t rank, size_t left_size, size_t size)
{
  int32_t left = *lookup(l, l->text, left_size), right = *lookup(l, l->text + left_size, size - left_size);
  int32_t made = *lookup(l, l->text, size);
  if (left < 0 || right < 0 || made < 0) return CDR_TOKENIZER_MERGE;
  cdr_merge *m = cdr_merge_place(l->t, (uint32_t)left, (uint32_t)right);
  m->left = (uint32_t)left;
  m->right = (uint32_t)right;
  m->rank = (uint32_t)rank;
  m->made = made;
  return CDR_OK;
}

/* A merge is "a b" or ["a", "b"]; its two halves come to stand one after the other in l->text. */
static int read_merge(loader *l, cdr_json *j, size_t rank)
{
  cdr_span a, b;
  size_t size, left, right;
  int code, first = 1;
  if (cdr_json_peek(j) == '"') {
    if (!cdr_json_string(j, &a)) return CDR_TOKENIZER_JSON;
    b.text = memchr(a.text, ' ', a.size);
    if (!b.text) return CDR_TOKENIZER_MERGE;
    b.size = a.size - (size_t)(b.text - a.text) - 1;
    a.size = (size_t)(b.text++ - a.text);
  } else {
    if (!cdr_json_enter(j, '[') || cdr_json_more(j, ']', &first) != 1 || !cdr_json_string(j, &a)) return CDR_TOKENIZER_JSON;
    if (cdr_json_more(j, ']', &first) != 1 || !cdr_json_string(j, &b)) return CDR_TOKENIZER_JSON;
    if (cdr_json_more(j, ']', &first) != 0) return CDR_TOKENIZER_JSON;
  }
  if ((code = decode(l, b, &size)) != CDR_OK || (code = to_bytes(l, &size)) != CDR_OK) return code;
  int32_t id = *lookup(l, l->text, size);
  if (id < 0) return CDR_TOKENIZER_MERGE;
  right = size;
  cdr_span both = {a.text, a.size + right * 6 + 6}; /* room for the right half behind the left one */
  if (l->room < both.size) {
    char *more = realloc(l->text, both.size);
    if (!more) return CDR_NO_MEMORY;
    l->text = more;
    l->room = both.size;
  }
  if ((code = decode(l, a, &left)) != CDR_OK || (code = to_bytes(l, &left)) != CDR_OK) return code;
  memcpy(l->text + left, l->t->bytes + l->t->start[id], right);
  return add_merge(l, rank, left, left + right);
}

static int walk_merges(loader *l, int fill)
{
  cdr_json j = l->merges;
  int first = 1, more, code;
  size_t count = 0;
  if (!cdr_json_enter(&j, '[')) return CDR_TOKENIZER_JSON;
  for (; (more = cdr_json_more(&j, ']', &first)) > 0; count++) {
    if (!fill && !cdr_json_skip(&j)) return CDR_TOKENIZER_JSON;
    if (fill && (code = read_merge(l, &j, count)) != CDR_OK) return code;
  }
  l->t->merge_count = count;
  return more == 0 && count < INT32_MAX / 4 ? CDR_OK : CDR_TOKENIZER_JSON;
}

/* --- what kind of tokenizer it is ------------------------------------------------------------------------------ */
static int splits_alike(loader *l, cdr_json pre)
{
  cdr_json j, split, value;
  cdr_span s;
  size_t size;
  int first = 1, set;
  if (!is_string(pre, "type", "Sequence") || cdr_json_find(pre, "pretokenizers", &j) != 1) return 0;
  if (!cdr_json_enter(&j, '[') || cdr_json_more(&j, ']', &first) != 1) return 0;
  split = j;
  if (!is_string(split, "type", "Split") || !is_string(split, "behavior", "Isolated")) return 0;
  if (cdr_json_find(split, "invert", &value) != 1 || !cdr_json_bool(&value, &set) || set) return 0;
  if (cdr_json_find(split, "pattern", &value) != 1 || cdr_json_find(value, "Regex", &value) != 1) return 0;
  if (!cdr_json_string(&value, &s) || decode(l, s, &size) != CDR_OK) return 0;
  l->t->longest = 0;
  for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
    if (size == strlen(pieces[i].pattern) && memcmp(l->text, pieces[i].pattern, size) == 0)
      l->t->longest = pieces[i].longest;
  if (!l->t->longest) return 0;
  if (!cdr_json_skip(&j) || cdr_json_more(&j, ']', &first) != 1 || !is_string(j, "type", "ByteLevel")) return 0;
  if (cdr_json_find(j, "add_prefix_space", &value) != 1 || !cdr_json_bool(&value, &set) || set) return 0;
  if (cdr_json_find(j, "use_regex", &value) != 1 || !cdr_json_bool(&value, &set) || set) return 0;
  return cdr_json_skip(&j) && cdr_json_more(&j, ']', &first) == 0;
}

static int check_kind(loader *l, cdr_json file, cdr_json model)
{
  static const char *const unset[] = {"dropout",       "unk_token",     "continuing_subword_prefix", "end_of_word_suffix",
                                      "byte_fallback", "ignore_merges", NULL};
  cdr_json value;
  if (is_set(file, "version") && !is_string(file, "version", "1.0")) return CDR_TOKENIZER_KIND;
  if (cdr_json_find(model, "type", &value) == 1 && !is_string(model, "type", "BPE")) return CDR_TOKENIZER_KIND;
  for (int i = 0; unset[i]; i++)
    if (is_set(model, unset[i])) return CDR_TOKENIZER_KIND;
  if (is_set(file, "normalizer")) return CDR_TOKENIZER_KIND;
  if (is_set(file, "post_processor")) {
    cdr_json_find(file, "post_processor", &value);
    if (!is_string(value, "type", "ByteLevel")) return CDR_TOKENIZER_KIND;
  }
  if (l->t->merge_count && (cdr_json_find(file, "pre_tokenizer", &value) != 1 || !splits_alike(l, value)))
    return CDR_TOKENIZER_SPLIT;
  return CDR_OK;
}

static int allocate(loader *l, size_t vocab_count)
{
  cdr_tokenizer *t = l->t;
  size_t ids = (size_t)t->vocab + 1;
  if (ids / SPARSEST > vocab_count + t->added_count) return CDR_TOKENIZER_TOKEN;
  for (l->mask = 1023; l->mask < vocab_count * 2; l->mask = l->mask * 2 + 1) {}
  for (t->mask = 1023; t->mask < t->merge_count * 2; t->mask = t->mask * 2 + 1) {}
  t->bytes = malloc(l->used + 1);
  t->start = calloc(ids, sizeof *t->start);
  t->size = calloc(ids, sizeof *t->size);
  t->added = calloc(t->added_count + 1, sizeof *t->added);
  t->special = calloc(ids, 1);
  l->table = malloc((l->mask + 1) * sizeof *l->table);
  t->merges = malloc((t->mask + 1) * sizeof *t->merges);
  if (!t->bytes || !t->start || !t->size || !t->added || !t->special || !l->table || !t->merges)
    return CDR_NO_MEMORY;
  memset(l->table, 0xff, (l->mask + 1) * sizeof *l->table);
  for (size_t i = 0; i <= t->mask; i++) t->merges[i].made = -1;
  l->used = 0;
  t->added_count = 0;
  t->eot = -1;
  return CDR_OK;
}

static int load(loader *l, cdr_json file)
{
  cdr_json all = file, model;
  size_t vocab_count = 0;
  int code;
  if (!cdr_json_skip(&all) || !cdr_json_done(&all)) return CDR_TOKENIZER_JSON;
  if (cdr_json_find(file, "model", &model) != 1 || cdr_json_find(model, "vocab", &l->vocab) != 1) return CDR_TOKENIZER_JSON;
  if (cdr_json_find(model, "merges", &l->merges) != 1) return CDR_TOKENIZER_JSON;
  if (cdr_json_find(file, "added_tokens", &l->added) != 1) l->added.at = NULL;
  if ((code = walk_added(l, measure_added)) != CDR_OK || (code = walk_vocab(l, 0, &vocab_count)) != CDR_OK) return code;
  if ((code = walk_merges(l, 0)) != CDR_OK || (code = check_kind(l, file, model)) != CDR_OK) return code;
  if ((code = allocate(l, vocab_count)) != CDR_OK || (code = walk_added(l, add_added)) != CDR_OK) return code;
  if ((code = walk_vocab(l, 1, &vocab_count)) != CDR_OK) return code;
  for (int b = 0; b < 256; b++) {
    unsigned char byte = (unsigned char)b;
    if ((l->t->byte[b] = *lookup(l, &byte, 1)) < 0) return CDR_TOKENIZER_BYTES;
  }
  return walk_merges(l, 1);
}

int cdr_tokenizer_open(cdr_tokenizer **out, const char *path)
{
  cdr_file file;
  loader l;
  int code = cdr_file_open(&file, path);
  *out = NULL;
  if (code != CDR_OK) return code;
  memset(&l, 0, sizeof l);
  l.t = calloc(1, sizeof *l.t);
  code = CDR_NO_MEMORY;
  if (l.t) {
    cdr_json all = {file.bytes, file.bytes + file.size};
    show_bytes(l.byte_of);
    code = cdr_listed_check(path, &file);
    if (code == CDR_OK) code = load(&l, all);
  }
  free(l.table);
  free(l.text);
  cdr_weights_close(&file);
  if (code == CDR_OK) *out = l.t;
  else cdr_tokenizer_close(l.t);
  return code;
}
