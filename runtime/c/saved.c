#define _POSIX_C_SOURCE 200809L
#include "saved.h"

#include "errors.h"
#include "fnv.h"
#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#if !defined(O_BINARY)
#define O_BINARY 0
#endif

enum { VERSION = 2, HEADER = 72, CHUNK = 16384 };
#define MOST_TOKENS ((uint64_t)INT64_MAX / 2) /* their places are signed, and more follow */
static const char magic[8] = {'C', 'D', 'R', 'S', 'T', 'A', 'T', 'E'};

uint64_t cdr_mark(const cdr_layout *layout)
{
  uint64_t mark = cdr_fnv(CDR_FNV_START, layout->hash, sizeof layout->hash);
  return cdr_fnv(mark, &layout->weights, sizeof layout->weights) | 1;
}

static const unsigned char *place(const void *state, size_t at) { return (const unsigned char *)state + at; }

static const cdr_ring *ring_of(const cdr_slot *slot, const void *state)
{
  return (const cdr_ring *)(const void *)place(state, slot->ring);
}

/* How many entries from before the next token there are. */
static int32_t kept(const cdr_slot *slot, const void *state)
{
  int32_t count = ring_of(slot, state)->count;
  return count < slot->window ? count : slot->window - 1;
}

static size_t entry_at(const cdr_slot *slot, const void *state, int32_t age)
{
  int64_t position = ((int64_t)ring_of(slot, state)->head + age) % slot->window;
  return slot->at + (size_t)position * slot->size * sizeof(float);
}

static size_t saved_size(const cdr_slot *slot)
{
  size_t bytes = slot->size * sizeof(float);
  return slot->window ? 4 + (size_t)(slot->window - 1) * bytes : bytes;
}

/* --- reading one slot ------------------------------------------------------------------------------------------ */
static float *copy_slot(const cdr_slot *slot, const void *state, float *out)
{
  if (!slot->window) {
    memcpy(out, place(state, slot->at), slot->size * sizeof(float));
    return out + slot->size;
  }
  for (int32_t age = 0; age < slot->window - 1; age++, out += slot->size) {
    if (age < kept(slot, state)) memcpy(out, place(state, entry_at(slot, state, age)), slot->size * sizeof(float));
    else memset(out, 0, slot->size * sizeof(float));
  }
  return out;
}

int cdr_slot_read(const cdr_layout *layout, const void *state, const char *path, float *out)
{
  static const char suffix[] = ".count";
  size_t size = strlen(path), tail = sizeof suffix - 1;
  int counts = size > tail && strcmp(path + size - tail, suffix) == 0, found = 0;
  if (strcmp(path, "pos") == 0) {
    *out = (float)((const cdr_head *)state)->tokens;
    return CDR_OK;
  }
  for (int i = 0; i < layout->count; i++) {
    const cdr_slot *slot = &layout->slots[i];
    if (strcmp(slot->path, path) == 0) {
      out = copy_slot(slot, state, out);
      found = 1;
    } else if (counts && slot->window && strlen(slot->path) == size - tail && !memcmp(slot->path, path, size - tail)) {
      *out++ = (float)kept(slot, state);
      found = 1;
    }
  }
  return found ? CDR_OK : CDR_NO_SLOT;
}

int cdr_latest_read(uint64_t tokens, const int32_t *latest, int32_t *out)
{
  int count = tokens < CDR_LATEST ? (int)tokens : CDR_LATEST;
  for (int i = 0; i < count; i++) out[i] = latest[(tokens - (uint64_t)(count - i)) % CDR_LATEST];
  return count;
}

/* --- a file, buffered and summed ------------------------------------------------------------------------------- */
typedef struct {
  int fd, failed;
  size_t used, filled;
  uint64_t sum;
  unsigned char chunk[CHUNK];
} stream;

static void begin(stream *s, int fd)
{
  s->fd = fd;
  s->failed = 0;
  s->used = s->filled = 0;
  s->sum = CDR_FNV_START;
}

static void flush(stream *s)
{
  for (size_t done = 0; done < s->used && !s->failed;) {
    ssize_t n = write(s->fd, s->chunk + done, s->used - done);
    if (n > 0) done += (size_t)n;
    else if (n == 0 || errno != EINTR) s->failed = 1;
  }
  s->used = 0;
}

static void put(stream *s, const void *bytes, size_t size)
{
  const unsigned char *p = bytes;
  s->sum = cdr_fnv(s->sum, bytes, size);
  while (size > 0) {
    size_t some = CHUNK - s->used < size ? CHUNK - s->used : size;
    memcpy(s->chunk + s->used, p, some);
    s->used += some;
    p += some;
    size -= some;
    if (s->used == CHUNK) flush(s);
  }
}

static void put_number(stream *s, uint64_t n, size_t size)
{
  unsigned char bytes[8];
  for (size_t i = 0; i < size; i++) bytes[i] = (unsigned char)(n >> 8 * i);
  put(s, bytes, size);
}

static void get(stream *s, void *bytes, size_t size)
{
  unsigned char *p = bytes, *start = bytes;
  size_t whole = size;
  while (size > 0 && !s->failed) {
    if (s->used == s->filled) {
      ssize_t n = read(s->fd, s->chunk, CHUNK);
      if (n < 0 && errno == EINTR) continue;
      s->used = 0;
      s->filled = n > 0 ? (size_t)n : 0;
      s->failed = n <= 0;
      continue;
    }
    size_t some = s->filled - s->used < size ? s->filled - s->used : size;
    memcpy(p, s->chunk + s->used, some);
    s->used += some;
    p += some;
    size -= some;
  }
  if (s->failed) memset(start, 0, whole);
  else s->sum = cdr_fnv(s->sum, start, whole);
}

static uint64_t get_number(stream *s, size_t size)
{
  unsigned char bytes[8];
  uint64_t n = 0;
  get(s, bytes, size);
  for (size_t i = size; i-- > 0;) n = n << 8 | bytes[i];
  return n;
}

/* --- saving ---------------------------------------------------------------------------------------------------- */
static uint64_t payload(const cdr_layout *layout)
{
  uint64_t size = 4 + layout->vocab * sizeof(float) + CDR_LATEST * 4;
  for (int i = 0; i < layout->count; i++) size += saved_size(&layout->slots[i]);
  return size;
}

static void put_zeros(stream *s, size_t floats)
{
  static const float zeros[256];
  for (size_t some; floats > 0; floats -= some) {
    some = floats < 256 ? floats : 256;
    put(s, zeros, some * sizeof(float));
  }
}

static void put_all(stream *s, const cdr_layout *layout, const void *state)
{
  const cdr_head *head = state;
  put(s, magic, sizeof magic);
  put_number(s, VERSION, 8);
  put(s, layout->hash, sizeof layout->hash);
  put_number(s, layout->weights, 8);
  put_number(s, head->tokens, 8);
  put_number(s, payload(layout), 8);
  for (int i = 0; i < layout->count; i++) {
    const cdr_slot *slot = &layout->slots[i];
    int32_t there = slot->window ? kept(slot, state) : 1;
    if (slot->window) put_number(s, (uint64_t)there, 4);
    for (int32_t age = 0; age < there; age++)
      put(s, place(state, slot->window ? entry_at(slot, state, age) : slot->at), slot->size * sizeof(float));
    if (slot->window) put_zeros(s, (size_t)(slot->window - 1 - there) * slot->size);
  }
  put_number(s, head->logits != 0, 4);
  if (head->logits) put(s, place(state, (size_t)head->logits), layout->vocab * sizeof(float));
  else put_zeros(s, layout->vocab);
  for (uint64_t i = 0; i < CDR_LATEST; i++) put_number(s, i < head->tokens ? (uint64_t)head->latest[i] : 0, 4);
  put_number(s, s->sum, 8);
  flush(s);
}

int cdr_saved_write(const cdr_layout *layout, const void *state, const char *path)
{
  cdr_output output;
  stream s;
  int code = cdr_output_open(&output, path);
  if (code != CDR_OK) return code;
  begin(&s, output.fd);
  put_all(&s, layout, state);
  return cdr_output_close(&output, s.failed);
}

/* --- loading --------------------------------------------------------------------------------------------------- */
static int get_header(stream *s, const cdr_layout *layout, uint64_t *tokens)
{
  unsigned char bytes[32];
  get(s, bytes, sizeof magic);
  if (s->failed || memcmp(bytes, magic, sizeof magic) != 0) return CDR_SAVED_FOREIGN;
  uint64_t version = get_number(s, 8);
  if (s->failed) return CDR_SAVED_TRUNCATED;
  if (version != VERSION) return CDR_SAVED_VERSION;
  get(s, bytes, sizeof layout->hash);
  uint64_t weights = get_number(s, 8);
  *tokens = get_number(s, 8);
  uint64_t size = get_number(s, 8);
  if (s->failed) return CDR_SAVED_TRUNCATED;
  if (memcmp(bytes, layout->hash, sizeof layout->hash) != 0 || size != payload(layout)) return CDR_SAVED_MODEL;
  return weights != layout->weights ? CDR_SAVED_WEIGHTS : CDR_OK;
}

static void get_floats(stream *s, void *state, size_t at, size_t floats)
{
  float passed[256];
  if (state) get(s, (unsigned char *)state + at, floats * sizeof(float));
  for (size_t some; !state && floats > 0; floats -= some) {
    some = floats < 256 ? floats : 256;
    get(s, passed, some * sizeof(float));
  }
}

/* Where the text stands. */
static int get_text(stream *s, const cdr_layout *layout, void *state)
{
  cdr_head *head = state;
  uint64_t there = get_number(s, 4);
  int good = there <= 1;
  get_floats(s, state, layout->logits, layout->vocab);
  if (state) head->logits = there ? layout->logits : 0;
  for (int i = 0; i < CDR_LATEST; i++) {
    uint64_t token = get_number(s, 4);
    good &= token < layout->vocab || token == 0;
    if (state) head->latest[i] = (int32_t)token;
  }
  return good;
}

/* Passes the payload, and puts it into `state` unless that is NULL. */
static int get_all(stream *s, const cdr_layout *layout, void *state, uint64_t tokens)
{
  for (int i = 0; i < layout->count; i++) {
    const cdr_slot *slot = &layout->slots[i];
    uint64_t count = slot->window ? get_number(s, 4) : 0;
    size_t floats = (saved_size(slot) - (slot->window ? 4 : 0)) / sizeof(float);
    if (slot->window && (count > (uint64_t)slot->window - 1 || count > tokens)) return CDR_SAVED_DAMAGED;
    if (state && slot->window) {
      cdr_ring *ring = (cdr_ring *)(void *)((unsigned char *)state + slot->ring);
      ring->head = 0;
      ring->count = (int32_t)count;
    }
    get_floats(s, state, slot->at, floats);
  }
  int good = get_text(s, layout, state);
  uint64_t sum = s->sum, stored = get_number(s, 8);
  if (s->failed) return CDR_SAVED_TRUNCATED;
  return good && sum == stored && tokens <= MOST_TOKENS ? CDR_OK : CDR_SAVED_DAMAGED;
}

static int get_file(stream *s, const cdr_layout *layout, void *state, uint64_t *tokens)
{
  int code = get_header(s, layout, tokens);
  return code == CDR_OK ? get_all(s, layout, state, *tokens) : code;
}

int cdr_saved_read(const cdr_layout *layout, void *state, const char *path)
{
  stream s;
  uint64_t tokens = 0;
  off_t end = (off_t)(HEADER + payload(layout) + 8);
  int fd = open(path, O_RDONLY | O_BINARY), code;
  if (fd < 0) return CDR_CANNOT_OPEN;
  begin(&s, fd);
  code = get_file(&s, layout, NULL, &tokens);
  if (code == CDR_OK && lseek(fd, 0, SEEK_END) != end) code = CDR_SAVED_TRUNCATED;
  if (code == CDR_OK && lseek(fd, 0, SEEK_SET) != 0) code = CDR_CANNOT_READ;
  if (code == CDR_OK) {
    begin(&s, fd);
    code = get_file(&s, layout, state, &tokens) == CDR_OK ? CDR_OK : CDR_SAVED_CHANGED;
    ((cdr_head *)state)->tokens = tokens;
    ((cdr_head *)state)->mark = cdr_mark(layout);
  }
  close(fd);
  return code;
}
