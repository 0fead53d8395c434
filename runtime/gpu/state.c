#include "runner.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* What the caller owns.  `place` is its own address: a copy elsewhere is no state. */
typedef struct {
  uint64_t mark, serial;
  const void *place;
  cdr_held *held;
  uint64_t unused[4];
} cdr_handle;

/* --- what the GPU holds ------------------------------------------------------------------------------------------ */
cdr_pointer cdr_held_piece(const cdr_model *m, const cdr_held *held, int piece, uint64_t row)
{
  return held->memory + m->shapes[held->shape].offsets[piece] + row * cdr_value_bytes(&m->manifest.pieces[piece].value);
}

static size_t replays(const cdr_model *m) { return 2 * ((size_t)m->manifest.block_count + 1); }

/* Gives everything back, whatever the driver says of it. */
static void destroy(cdr_model *m, cdr_held *held)
{
  for (size_t i = 0; held->replays && i < replays(m); i++)
    if (held->replays[i].graph) m->device.driver.graph_made_free(held->replays[i].graph);
  cdr_device_give(&m->device, &held->memory);
  free(held->replays);
  free(held->tokens);
  free(held->latest);
  free(held->logits);
  free(held);
}

void cdr_idle_free(cdr_model *m)
{
  while (m->idle) {
    cdr_held *next = m->idle->next;
    destroy(m, m->idle);
    m->idle = next;
  }
}

static cdr_held *take_idle(cdr_model *m, int shape)
{
  cdr_held **at = &m->idle;
  while (*at && (*at)->shape != shape) at = &(*at)->next;
  cdr_held *found = *at;
  if (found) *at = found->next;
  return found;
}

static int make(cdr_model *m, int shape, cdr_held **held)
{
  cdr_held *made = *held = calloc(1, sizeof *made);
  if (!made) return CDR_NO_MEMORY;
  made->shape = shape;
  made->tokens = calloc((size_t)m->shapes[shape].rows, sizeof *made->tokens);
  made->latest = calloc((size_t)m->shapes[shape].rows * CDR_LATEST, sizeof *made->latest);
  made->logits = shape == m->single ? calloc((size_t)m->manifest.vocab, sizeof *made->logits) : NULL;
  made->replays = calloc(replays(m), sizeof *made->replays);
  if (!made->tokens || !made->latest || !made->replays) return CDR_NO_MEMORY;
  if (shape == m->single && !made->logits) return CDR_NO_MEMORY;
  int code = cdr_device_take(&m->device, &made->memory, m->shapes[shape].bytes, "a state");
  if (code == CDR_OK || !m->idle) return code;
  cdr_idle_free(m);
  return cdr_device_take(&m->device, &made->memory, m->shapes[shape].bytes, "a state");
}

int cdr_held_make(cdr_model *m, int shape, const void *owner, cdr_held **held)
{
  cdr_held *made = take_idle(m, shape);
  int used = made != NULL, code = used ? CDR_OK : make(m, shape, &made);
  *held = NULL;
  /* new memory is all zeros */
  for (uint64_t row = 0; (used || m->start) && row < m->shapes[shape].rows && code == CDR_OK; row++)
    code = cdr_held_begin(m, made, row);
  if (code != CDR_OK) {
    if (made) destroy(m, made);
    return code;
  }
  made->owner = owner;
  made->serial = ++m->serial;
  made->next = m->held;
  m->held = made;
  *held = made;
  return CDR_OK;
}

void cdr_held_free(cdr_model *m, cdr_held *held)
{
  cdr_held **at = &m->held;
  int kept = 0;
  while (*at && *at != held) at = &(*at)->next;
  if (*at) *at = held->next;
  for (const cdr_held *one = m->idle; one; one = one->next) kept++;
  if (held->broken || kept >= CDR_IDLE) {
    destroy(m, held);
    return;
  }
  held->owner = NULL;
  held->next = m->idle;
  m->idle = held;
}

int cdr_held_begin(cdr_model *m, cdr_held *held, uint64_t row)
{
  const cdr_driver *d = &m->device.driver;
  const cdr_shape *single = &m->shapes[m->single];
  int code = CDR_OK;
  for (int i = 0; i < m->manifest.piece_count && code == CDR_OK; i++) {
    size_t bytes = (size_t)cdr_value_bytes(&m->manifest.pieces[i].value);
    cdr_pointer to = cdr_held_piece(m, held, i, row);
    if (bytes == 0) continue;
    if (m->start) code = CDR_TRY(d, copy, (to, m->start + single->offsets[i], bytes, m->device.stream));
    else code = CDR_TRY(d, clear, (to, 0, bytes, m->device.stream));
  }
  held->tokens[row] = 0;
  held->has_logits = 0;
  return code;
}

void cdr_held_saw(cdr_held *held, uint64_t row, int32_t token)
{
  held->latest[row * CDR_LATEST + held->tokens[row]++ % CDR_LATEST] = token;
}

int cdr_held_copy(cdr_model *m, const cdr_held *from, uint64_t from_row, cdr_held *to, uint64_t to_row)
{
  int code = CDR_OK;
  for (int i = 0; i < m->manifest.piece_count && code == CDR_OK; i++) {
    size_t bytes = (size_t)cdr_value_bytes(&m->manifest.pieces[i].value);
    cdr_pointer source = cdr_held_piece(m, from, i, from_row);
    if (bytes)
      code = CDR_TRY(&m->device.driver, copy, (cdr_held_piece(m, to, i, to_row), source, bytes, m->device.stream));
  }
  to->tokens[to_row] = from->tokens[from_row];
  memcpy(to->latest + to_row * CDR_LATEST, from->latest + from_row * CDR_LATEST, CDR_LATEST * sizeof *to->latest);
  to->has_logits = from->has_logits && to->logits;
  if (to->has_logits) memcpy(to->logits, from->logits, (size_t)m->manifest.vocab * sizeof *to->logits);
  return code;
}

/* --- handles ----------------------------------------------------------------------------------------------------- */
int cdr_held_find(const cdr_model *m, const void *state, cdr_held **held)
{
  const cdr_handle *handle = state;
  *held = NULL;
  if (handle->mark != m->mark) return CDR_STATE_UNSET;
  if (handle->place != state) return CDR_STATE_COPIED;
  for (cdr_held *at = m->held; at; at = at->next)
    if (at == handle->held && at->owner == state && at->serial == handle->serial) return *held = at, CDR_OK;
  return CDR_STATE_UNSET;
}

int cdr_held_for(cdr_model *m, void *state, cdr_held **held, int *made)
{
  cdr_handle *handle = state;
  *made = cdr_held_find(m, state, held) != CDR_OK;
  if (!*made) return CDR_OK;
  int code = cdr_held_make(m, m->single, state, held);
  if (code != CDR_OK) return code;
  memset(handle, 0, sizeof *handle);
  handle->mark = m->mark;
  handle->serial = (*held)->serial;
  handle->place = state;
  handle->held = *held;
  return CDR_OK;
}

size_t cdr_state_size(const cdr_model *m) { return (void)m, sizeof(cdr_handle); }

size_t cdr_state_memory(const cdr_model *m)
{
  if (!m) return 0;
  const size_t here = sizeof(cdr_held) + CDR_LATEST * sizeof(int32_t) + (size_t)m->manifest.vocab * sizeof(float);
  return here + (size_t)m->shapes[m->single].bytes;
}

int cdr_state_init(const cdr_model *given, void *state)
{
  cdr_model *m;
  cdr_held *held;
  int before, made;
  if (!given || !state) return CDR_NULL;
  int code = cdr_enter(given, &m, &before);
  if (code != CDR_OK) return code;
  code = cdr_held_for(m, state, &held, &made);
  if (code == CDR_OK && !made) {
    code = cdr_held_begin(m, held, 0);
    held->broken = code != CDR_OK;
  }
  return cdr_leave(m, before, code);
}

void cdr_state_free(const cdr_model *given, void *state)
{
  cdr_model *m;
  cdr_held *held;
  int before;
  if (!given || !state || cdr_enter(given, &m, &before) != CDR_OK) return;
  if (cdr_held_find(m, state, &held) == CDR_OK) {
    cdr_held_free(m, held);
    memset(state, 0, sizeof(cdr_handle));
  }
  cdr_leave(m, before, CDR_OK);
}

uint64_t cdr_state_tokens(const cdr_model *given, const void *state)
{
  cdr_held *held;
  if (!given || !state) return 0;
  cdr_model *m = (cdr_model *)(uintptr_t)given;
  pthread_mutex_lock(&m->lock);
  uint64_t tokens = cdr_held_find(m, state, &held) == CDR_OK ? held->tokens[0] : 0;
  pthread_mutex_unlock(&m->lock);
  return tokens;
}

int cdr_state_latest(const cdr_model *given, const void *state, int32_t *tokens)
{
  cdr_held *held;
  if (!given || !state || !tokens) return 0;
  cdr_model *m = (cdr_model *)(uintptr_t)given;
  pthread_mutex_lock(&m->lock);
  int found = cdr_held_find(m, state, &held) == CDR_OK;
  int count = found ? cdr_latest_read(held->tokens[0], held->latest, tokens) : 0;
  pthread_mutex_unlock(&m->lock);
  return count;
}

int cdr_state_fork(const cdr_model *given, const void *from, void *to)
{
  cdr_model *m;
  cdr_held *source, *held;
  int before, made;
  if (!given || !from || !to) return CDR_NULL;
  int code = cdr_enter(given, &m, &before);
  if (code != CDR_OK) return code;
  code = cdr_held_find(m, from, &source);
  if (code == CDR_OK && source->broken) code = CDR_STATE_BROKEN;
  if (code != CDR_OK || from == to) return cdr_leave(m, before, code);
  code = cdr_held_for(m, to, &held, &made);
  if (code == CDR_OK) {
    code = cdr_held_copy(m, source, 0, held, 0);
    held->broken = code != CDR_OK;
    if (code != CDR_OK && made) {
      cdr_held_free(m, held);
      memset(to, 0, sizeof(cdr_handle));
    }
  }
  return cdr_leave(m, before, code);
}

/* --- in the machine's memory, as files hold it -------------------------------------------------------------------- */
/* One piece between the GPU and `host`, which is laid out as m->layout says.  A history is a ring on the GPU: token n's
   entry lies at n % entries; files hold it newest first. */
static int move_piece(cdr_model *m, const cdr_held *held, int number, unsigned char *host, int up)
{
  const cdr_driver *d = &m->device.driver;
  const cdr_piece *piece = &m->manifest.pieces[number];
  const cdr_slot *slot = &m->slots[number];
  uint64_t tokens = held->tokens[0], entries = piece->entries, entry = piece->size * sizeof(float),
           bytes = entries * entry;
  uint64_t kept = tokens < entries ? tokens : entries;
  cdr_pointer there = cdr_held_piece(m, held, number, 0);
  unsigned char *here = host + slot->at, *ring = here;
  if (piece->history) {
    cdr_ring *counts = (cdr_ring *)(void *)(host + slot->ring);
    counts->head = 0;
    counts->count = (int32_t)kept;
    ring = bytes ? calloc(1, (size_t)bytes) : NULL;
    if (bytes && !ring) return CDR_NO_MEMORY;
  }
  if (bytes == 0) return CDR_OK;
  for (uint64_t age = 0; up && piece->history && age < kept; age++)
    memcpy(ring + (tokens - 1 - age) % entries * entry, here + age * entry, (size_t)entry);
  int code = up ? CDR_TRY(d, upload, (there, ring, (size_t)bytes, m->device.stream))
                : CDR_TRY(d, download, (ring, there, (size_t)bytes, m->device.stream));
  int waited = cdr_device_wait(&m->device);
  if (code == CDR_OK) code = waited;
  for (uint64_t age = 0; !up && code == CDR_OK && piece->history && age < kept; age++)
    memcpy(here + age * entry, ring + (tokens - 1 - age) % entries * entry, (size_t)entry);
  if (ring != here) free(ring);
  return code;
}

/* One without its pieces, or with nothing of a state. */
static unsigned char *host_state(const cdr_model *m, const cdr_held *held)
{
  unsigned char *host = calloc(1, m->host_bytes);
  cdr_head *head = (cdr_head *)(void *)host;
  if (!host) return NULL;
  head->mark = m->mark;
  if (!held) return host;
  head->tokens = held->tokens[0];
  head->logits = held->has_logits ? m->layout.logits : 0;
  memcpy(head->latest, held->latest, sizeof head->latest);
  if (held->has_logits) memcpy(host + m->layout.logits, held->logits, (size_t)m->manifest.vocab * sizeof *held->logits);
  return host;
}

int cdr_state_save(const cdr_model *given, const void *state, const char *path)
{
  cdr_model *m;
  cdr_held *held;
  int before;
  unsigned char *host = NULL;
  if (!given || !state || !path) return CDR_NULL;
  int code = cdr_enter(given, &m, &before);
  if (code != CDR_OK) return code;
  code = cdr_held_find(m, state, &held);
  if (code == CDR_OK && held->broken) code = CDR_STATE_BROKEN;
  if (code == CDR_OK && !(host = host_state(m, held))) code = CDR_NO_MEMORY;
  for (int i = 0; i < m->layout.count && code == CDR_OK; i++) code = move_piece(m, held, i, host, 0);
  code = cdr_leave(m, before, code);
  if (code == CDR_OK) code = cdr_saved_write(&m->layout, host, path);
  free(host);
  return code;
}

/* Every history has as many entries as the tokens say. */
static int check_counts(const cdr_model *m, const unsigned char *host)
{
  uint64_t tokens = ((const cdr_head *)(const void *)host)->tokens;
  if (tokens > INT32_MAX) return CDR_SAVED_DAMAGED;
  for (int i = 0; i < m->layout.count; i++) {
    uint64_t entries = m->manifest.pieces[i].entries;
    const cdr_ring *ring = (const cdr_ring *)(const void *)(host + m->slots[i].ring);
    if (m->slots[i].window && (uint64_t)ring->count != (tokens < entries ? tokens : entries)) return CDR_SAVED_DAMAGED;
  }
  return CDR_OK;
}

static int load_host(cdr_model *m, cdr_held *held, unsigned char *host)
{
  const cdr_driver *d = &m->device.driver;
  const cdr_head *head = (const cdr_head *)(const void *)host;
  int32_t pos = (int32_t)head->tokens;
  int code = CDR_OK, last = m->manifest.piece_count - 1;
  held->tokens[0] = head->tokens;
  held->has_logits = head->logits != 0;
  memcpy(held->latest, head->latest, sizeof head->latest);
  memcpy(held->logits, host + m->layout.logits, (size_t)m->manifest.vocab * sizeof *held->logits);
  for (int i = 0; i < m->layout.count && code == CDR_OK; i++) code = move_piece(m, held, i, host, 1);
  if (code == CDR_OK) code = CDR_TRY(d, upload, (cdr_held_piece(m, held, last, 0), &pos, sizeof pos, m->device.stream));
  int waited = cdr_device_wait(&m->device);
  if (code == CDR_OK) code = waited;
  held->broken = code != CDR_OK;
  return code;
}

int cdr_state_load(const cdr_model *given, void *state, const char *path)
{
  cdr_model *m;
  cdr_held *held;
  int before, made;
  if (!given || !state || !path) return CDR_NULL;
  unsigned char *host = host_state(given, NULL);
  if (!host) return CDR_NO_MEMORY;
  int code = cdr_saved_read(&given->layout, host, path);
  if (code == CDR_OK) code = check_counts(given, host);
  if (code == CDR_OK) code = cdr_enter(given, &m, &before);
  if (code != CDR_OK) {
    free(host);
    return code;
  }
  code = cdr_held_for(m, state, &held, &made);
  if (code == CDR_OK) {
    code = load_host(m, held, host);
    if (code != CDR_OK && made) {
      cdr_held_free(m, held);
      memset(state, 0, sizeof(cdr_handle));
    }
  }
  code = cdr_leave(m, before, code);
  free(host);
  return code;
}

/* Whether `path` is the piece's, or its `.count`. */
static int names(const cdr_slot *slot, const char *path)
{
  size_t size = strlen(slot->path);
  return strncmp(slot->path, path, size) == 0 && (!path[size] || (slot->window && strcmp(path + size, ".count") == 0));
}

int cdr_state_read(const cdr_model *given, const void *state, const char *path, float *out)
{
  cdr_model *m;
  cdr_held *held;
  int before;
  unsigned char *host = NULL;
  if (!given || !state || !path || !out) return CDR_NULL;
  int code = cdr_enter(given, &m, &before);
  if (code != CDR_OK) return code;
  code = cdr_held_find(m, state, &held);
  if (code == CDR_OK && held->broken) code = CDR_STATE_BROKEN;
  if (code == CDR_OK && !(host = host_state(m, held))) code = CDR_NO_MEMORY;
  for (int i = 0; i < m->layout.count && code == CDR_OK; i++)
    if (names(&m->slots[i], path)) code = move_piece(m, held, i, host, 0);
  code = cdr_leave(m, before, code);
  if (code == CDR_OK) code = cdr_slot_read(&m->layout, host, path, out);
  free(host);
  return code;
}
