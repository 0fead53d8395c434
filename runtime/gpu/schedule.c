#include "schedule.h"

#include "errors.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_ROWS = 1 << 16, MOST_WINDOW = 1 << 30 };

/* --- the state and the tensors --------------------------------------------------------------------------------- */
/* A number, or the name of a tensor of f32. */
static int read_start(cdr_reader *r, cdr_json j, cdr_piece *piece)
{
  cdr_json at;
  if (cdr_json_find(j, "start", &at) != 1) return 1;
  if (cdr_json_peek(&at) == '"') return cdr_reader_text(r, &at, &piece->start_name);
  return cdr_reader_real(r, &at, &piece->start);
}

static int read_piece(cdr_reader *r, cdr_json j, cdr_piece *piece)
{
  cdr_json at;
  cdr_span kind;
  int first = 1;
  piece->value.dtype = CDR_F32;
  piece->from = -1;
  if (!cdr_reader_at(r, j, "path", &at) || !cdr_reader_text(r, &at, &piece->value.name)) return 0;
  if (!cdr_reader_at(r, j, "shape", &at) || !cdr_reader_shape(r, &at, &piece->value)) return 0;
  if (!cdr_reader_at(r, j, "kind", &at) || !cdr_json_string(&at, &kind)) return cdr_reader_bad(r, "a kind is wanted");
  piece->history = cdr_json_is(kind, "history");
  if (!piece->history && !cdr_json_is(kind, "state")) return cdr_reader_bad(r, "an unknown kind");
  if (cdr_json_find(j, "banks", &at) == 1 && (!cdr_json_enter(&at, '[') || cdr_json_more(&at, ']', &first) != 0))
    return cdr_reader_bad(r, "a bank with state does not run on a GPU");
  if (!read_start(r, j, piece)) return 0;
  if (piece->history && (piece->start != 0 || piece->start_name))
    return cdr_reader_bad(r, "a history begins as something");
  piece->entries = 1;
  piece->size = piece->value.count;
  if (!piece->history) return 1;
  if (piece->value.rank < 1 || piece->value.shape[0] >= MOST_WINDOW)
    return cdr_reader_bad(r, "a history without a window");
  piece->entries = piece->value.shape[0];
  piece->size = 1;
  for (int i = 1; i < piece->value.rank; i++) piece->size *= piece->value.shape[i];
  return 1;
}

static int read_state(cdr_manifest *m, cdr_reader *r, cdr_json j)
{
  int first = 1, count, n = 0;
  r->where = "state";
  cdr_json look = j;
  if (!cdr_reader_list(r, &look, '[', 1, &count)) return 0;
  m->pieces = cdr_pool_take(r->pool, (size_t)count + 1, sizeof *m->pieces);
  if (!m->pieces) return cdr_reader_no_memory(r);
  cdr_json_enter(&j, '[');
  for (; cdr_reader_next(r, &j, ']', &first); cdr_json_skip(&j))
    if (!read_piece(r, j, &m->pieces[n++])) return 0;
  cdr_piece *pos = &m->pieces[count];
  pos->value = (cdr_value){"pos", CDR_I32, 0, NULL, 1};
  pos->entries = pos->size = 1;
  pos->from = -1;
  m->piece_count = count + 1;
  return r->code == CDR_OK;
}

static int by_name(const void *a, const void *b)
{
  return strcmp(((const cdr_tensor *)a)->name, ((const cdr_tensor *)b)->name);
}

static int read_tensor(cdr_reader *r, cdr_json j, cdr_tensor *tensor)
{
  cdr_value value = {NULL, CDR_F32, 0, NULL, 0};
  cdr_json at;
  if (!cdr_reader_at(r, j, "path", &at) || !cdr_reader_text(r, &at, &tensor->name)) return 0;
  if (!cdr_reader_at(r, j, "shape", &at) || !cdr_reader_shape(r, &at, &value)) return 0;
  if (cdr_json_find(j, "stored", &at) == 1 && !cdr_reader_dtype(r, &at, &value.dtype)) return 0;
  if (value.dtype == CDR_I32 || (value.dtype == CDR_I8 && value.rank < 1))
    return cdr_reader_bad(r, "a tensor cannot be of its type");
  tensor->rank = value.rank;
  tensor->shape = value.shape;
  tensor->dtype = value.dtype;
  return 1;
}

/* A row's scale for each row of a tensor of i8. */
static int add_scale(cdr_reader *r, const cdr_tensor *of, cdr_tensor *scale)
{
  static const char suffix[] = ".scale";
  size_t size = strlen(of->name);
  char *name = cdr_pool_take(r->pool, size + sizeof suffix, 1);
  if (!name) return cdr_reader_no_memory(r);
  memcpy(name, of->name, size);
  memcpy(name + size, suffix, sizeof suffix);
  *scale = (cdr_tensor){name, of->rank - 1, of->shape, CDR_F32, NULL};
  return 1;
}

static int read_tensors(cdr_manifest *m, cdr_reader *r, cdr_json j)
{
  int first = 1, count, n = 0;
  cdr_json look = j;
  r->where = "tensors";
  if (!cdr_reader_list(r, &look, '[', 1, &count)) return 0;
  m->tensors = cdr_pool_take(r->pool, 2 * (size_t)count + (size_t)m->piece_count, sizeof *m->tensors);
  if (!m->tensors) return cdr_reader_no_memory(r);
  cdr_json_enter(&j, '[');
  for (; cdr_reader_next(r, &j, ']', &first); cdr_json_skip(&j)) {
    if (!read_tensor(r, j, &m->tensors[n++])) return 0;
    if (m->tensors[n - 1].dtype == CDR_I8 && !add_scale(r, &m->tensors[n - 1], &m->tensors[n])) return 0;
    n += m->tensors[n - 1].dtype == CDR_I8;
  }
  for (int i = 0; i < m->piece_count; i++) {
    const cdr_value *value = &m->pieces[i].value;
    if (m->pieces[i].start_name)
      m->tensors[n++] = (cdr_tensor){m->pieces[i].start_name, value->rank, value->shape, CDR_F32, NULL};
  }
  m->tensor_count = n;
  if (r->code != CDR_OK) return 0;
  qsort(m->tensors, (size_t)n, sizeof *m->tensors, by_name);
  for (int i = 1; i < n; i++)
    if (by_name(&m->tensors[i - 1], &m->tensors[i]) == 0) return cdr_reader_bad(r, "a tensor is listed twice");
  return 1;
}

static int find_tensor(const cdr_manifest *m, const char *name)
{
  cdr_tensor wanted = {name, 0, NULL, CDR_F32, NULL};
  const cdr_tensor *found = bsearch(&wanted, m->tensors, (size_t)m->tensor_count, sizeof *m->tensors, by_name);
  return found ? (int)(found - m->tensors) : -1;
}

int cdr_read_tables(cdr_manifest *m, cdr_reader *r, cdr_json at)
{
  cdr_json state, tensors;
  if (!cdr_reader_at(r, at, "state", &state) || !cdr_reader_at(r, at, "tensors", &tensors)) return 0;
  if (!read_state(m, r, state) || !read_tensors(m, r, tensors)) return 0;
  for (int i = 0; i < m->piece_count; i++)
    if (m->pieces[i].start_name) m->pieces[i].from = find_tensor(m, m->pieces[i].start_name);
  return 1;
}

static int find_piece(const cdr_manifest *m, const char *name)
{
  for (int i = 0; i < m->piece_count; i++)
    if (strcmp(m->pieces[i].value.name, name) == 0) return i;
  return -1;
}

static int same_shape(int rank, const uint64_t *shape, const cdr_value *value)
{
  return rank == value->rank && (rank == 0 || memcmp(shape, value->shape, (size_t)rank * sizeof *shape) == 0);
}

/* --- units ----------------------------------------------------------------------------------------------------- */
/* [[name, shape, type], …], or without types for carries. */
static int read_values(cdr_reader *r, cdr_json unit, const char *key, int typed, cdr_value **values, int *count)
{
  cdr_json j;
  int first = 1, n = 0;
  if (!cdr_reader_at(r, unit, key, &j)) return 0;
  *values = cdr_reader_list(r, &j, '[', sizeof **values, count);
  if (!*values) return 0;
  for (; cdr_reader_next(r, &j, ']', &first); n++) {
    cdr_value *value = &(*values)[n];
    int start = 1;
    if (!cdr_json_enter(&j, '[') || !cdr_reader_next(r, &j, ']', &start))
      return cdr_reader_bad(r, "a value is malformed");
    if (!cdr_reader_text(r, &j, &value->name) || !cdr_reader_next(r, &j, ']', &start))
      return cdr_reader_bad(r, "a value is malformed");
    if (!cdr_reader_shape(r, &j, value)) return 0;
    if (typed && (!cdr_reader_next(r, &j, ']', &start) || !cdr_reader_dtype(r, &j, &value->dtype)))
      return cdr_reader_bad(r, "a value has no type");
    if (cdr_reader_next(r, &j, ']', &start)) return cdr_reader_bad(r, "a value is malformed");
  }
  return r->code == CDR_OK;
}

static int read_unit(cdr_reader *r, cdr_json j, cdr_unit *unit)
{
  cdr_json at;
  unit->x.name = "x";
  unit->out.name = "out";
  if (!cdr_reader_at(r, j, "x", &at) || !cdr_reader_shape(r, &at, &unit->x)) return 0;
  if (!cdr_reader_at(r, j, "x_dtype", &at) || !cdr_reader_dtype(r, &at, &unit->x.dtype)) return 0;
  if (!cdr_reader_at(r, j, "out", &at) || !cdr_reader_shape(r, &at, &unit->out)) return 0;
  if (!cdr_reader_at(r, j, "blocked", &at) || !cdr_reader_bool(r, &at, &unit->blocked)) return 0;
  return read_values(r, j, "weights", 1, &unit->weights, &unit->weight_count) &&
         read_values(r, j, "states", 1, &unit->states, &unit->state_count) &&
         read_values(r, j, "reads", 0, &unit->reads, &unit->read_count) &&
         read_values(r, j, "writes", 0, &unit->writes, &unit->write_count);
}

static int read_units(cdr_manifest *m, cdr_reader *r, cdr_json j)
{
  int first = 1, n = 0;
  m->units = cdr_reader_list(r, &j, '{', sizeof *m->units, &m->unit_count);
  if (!m->units) return 0;
  for (; cdr_reader_next(r, &j, '}', &first); cdr_json_skip(&j)) {
    cdr_unit *unit = &m->units[n++];
    cdr_json at;
    if (!cdr_reader_key(r, &j, &unit->name) || !read_unit(r, j, unit)) return 0;
    if (strcmp(unit->name, "sample") != 0) continue;
    m->sample_top_k = 64;
    if (cdr_json_find(j, "top_k", &at) == 1 && !cdr_reader_whole(r, &at, 1 << 16, &m->sample_top_k)) return 0;
  }
  return r->code == CDR_OK;
}

const cdr_unit *cdr_manifest_unit(const cdr_manifest *m, const char *name)
{
  for (int i = 0; i < m->unit_count; i++)
    if (strcmp(m->units[i].name, name) == 0) return &m->units[i];
  return NULL;
}

/* --- calls ----------------------------------------------------------------------------------------------------- */
typedef int finder(const cdr_manifest *m, const char *name);

static int read_names(const cdr_manifest *m, cdr_reader *r, cdr_json call, const char *key, finder *find, int want,
                      int **numbers)
{
  cdr_json j;
  int first = 1, n = 0, count;
  const char *name;
  if (!cdr_reader_at(r, call, key, &j)) return 0;
  *numbers = cdr_reader_list(r, &j, '[', sizeof **numbers, &count);
  if (!*numbers) return 0;
  if (count != want) return cdr_reader_bad(r, "a call gives its unit another number of weights or states than it has");
  for (; cdr_reader_next(r, &j, ']', &first); n++) {
    if (!cdr_reader_text(r, &j, &name)) return 0;
    (*numbers)[n] = find(m, name);
    if ((*numbers)[n] < 0) return cdr_reader_bad(r, "a call names a tensor or a piece of the state that is not listed");
  }
  return r->code == CDR_OK;
}

static int check_call(const cdr_manifest *m, cdr_reader *r, const cdr_stack_call *call)
{
  const cdr_unit *unit = call->unit;
  for (int i = 0; i < unit->weight_count; i++) {
    const cdr_tensor *tensor = &m->tensors[call->weights[i]];
    if (tensor->dtype != unit->weights[i].dtype || !same_shape(tensor->rank, tensor->shape, &unit->weights[i]))
      return cdr_reader_bad(r, "a tensor has another shape or type than the unit that it is given to");
  }
  for (int i = 0; i < unit->state_count; i++) {
    const cdr_value *value = &m->pieces[call->states[i]].value;
    if (value->dtype != unit->states[i].dtype || !same_shape(value->rank, value->shape, &unit->states[i]))
      return cdr_reader_bad(r, "a piece of the state has another shape or type than the unit that it is given to");
  }
  if (call->last_only && unit->state_count + unit->write_count > 0)
    return cdr_reader_bad(r, "a call for the last token only keeps something");
  return 1;
}

static int read_calls(cdr_manifest *m, cdr_reader *r, cdr_json j)
{
  int first = 1, n = 0;
  m->calls = cdr_reader_list(r, &j, '[', sizeof *m->calls, &m->call_count);
  if (!m->calls) return 0;
  for (; cdr_reader_next(r, &j, ']', &first); cdr_json_skip(&j)) {
    cdr_stack_call *call = &m->calls[n++];
    const char *name;
    cdr_json at;
    if (!cdr_reader_at(r, j, "unit", &at) || !cdr_reader_text(r, &at, &name)) return 0;
    call->unit = cdr_manifest_unit(m, name);
    if (!call->unit) return cdr_reader_bad(r, "a call names a unit that is not there");
    if (!cdr_reader_at(r, j, "path", &at) || !cdr_reader_text(r, &at, &call->path)) return 0;
    if (!cdr_reader_at(r, j, "last_only", &at) || !cdr_reader_bool(r, &at, &call->last_only)) return 0;
    if (!read_names(m, r, j, "weights", find_tensor, call->unit->weight_count, &call->weights)) return 0;
    if (!read_names(m, r, j, "states", find_piece, call->unit->state_count, &call->states)) return 0;
    if (!check_call(m, r, call)) return 0;
  }
  return r->code == CDR_OK;
}

/* The values between the calls: tokens in, each result as the next one's input, logits out. */
static int check_stack(const cdr_manifest *m, cdr_reader *r)
{
  uint64_t given = 1;
  cdr_dtype dtype = CDR_I32;
  int last = 0;
  for (int i = 0; i < m->call_count; i++) {
    const cdr_stack_call *call = &m->calls[i];
    if (strcmp(call->unit->name, "advance") == 0) continue;
    if (call->unit->x.count != given || call->unit->x.dtype != dtype)
      return cdr_reader_bad(r, "a call does not read what the one before it makes");
    if (last && !call->last_only) return cdr_reader_bad(r, "a call after those for the last token only");
    last = call->last_only;
    given = call->unit->out.count;
    dtype = CDR_F32;
  }
  if (dtype != CDR_F32 || given != m->vocab)
    return cdr_reader_bad(r, "the calls do not end with the logits of the vocabulary");
  return 1;
}

/* --- the rest -------------------------------------------------------------------------------------------------- */
static int downwards(const void *a, const void *b)
{
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x < y) - (x > y);
}

static int read_sizes(cdr_reader *r, cdr_json at, const char *key, uint64_t **sizes, int *count)
{
  cdr_json j;
  int first = 1, n = 0;
  if (!cdr_reader_at(r, at, key, &j)) return 0;
  *sizes = cdr_reader_list(r, &j, '[', sizeof **sizes, count);
  if (!*sizes) return 0;
  for (; cdr_reader_next(r, &j, ']', &first); n++) {
    if (!cdr_reader_whole(r, &j, MOST_ROWS, &(*sizes)[n])) return 0;
    if ((*sizes)[n] < 1) return cdr_reader_bad(r, "a batch or a block of nothing");
  }
  if (r->code == CDR_OK) qsort(*sizes, (size_t)*count, sizeof **sizes, downwards);
  return r->code == CDR_OK;
}

int cdr_read_schedule(cdr_manifest *m, cdr_reader *r, cdr_json at)
{
  cdr_json schedule, units, calls;
  r->where = "schedule";
  if (!cdr_reader_at(r, at, "schedule", &schedule) || !cdr_reader_at(r, schedule, "units", &units)) return 0;
  if (!cdr_reader_at(r, schedule, "calls", &calls)) return 0;
  if (!read_sizes(r, schedule, "batches", &m->batches, &m->batch_count)) return 0;
  if (!read_sizes(r, schedule, "blocks", &m->blocks, &m->block_count)) return 0;
  r->where = "schedule.units";
  if (!read_units(m, r, units)) return 0;
  r->where = "schedule.calls";
  return read_calls(m, r, calls) && check_stack(m, r);
}
