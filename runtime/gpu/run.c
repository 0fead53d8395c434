#include "runner.h"

#include <limits.h>
#include <string.h>

/* a step is worth a graph at once, a block when there are several: making one takes longer than its launches */
enum { NOT_SUPPORTED = 801, THIS_THREAD = 1, STEPS_BEFORE = 1, BLOCKS_BEFORE = 4 };

/* --- plans ------------------------------------------------------------------------------------------------------- */
static cdr_pointer address(const cdr_reference *r, cdr_pointer state, uint64_t token)
{
  return r->at + token * r->stride + (r->held ? state : 0);
}

static int run_one(cdr_model *m, const cdr_plan *plan, const cdr_operation *o, cdr_pointer state, uint64_t token)
{
  const cdr_driver *d = &m->device.driver;
  const cdr_reference *r = plan->references + o->first;
  if (!o->function)
    return CDR_TRY(d, copy,
                   (address(r + 1, state, token), address(r, state, token), (size_t)o->bytes, m->device.stream));
  for (int i = 0; i < o->count; i++) m->values[i] = address(r + i, state, token);
  const unsigned *g = o->launch->grid, *b = o->launch->block;
  int result = d->launch(o->function, g[0], g[1], g[2], b[0], b[1], b[2], 0, m->device.stream, m->arguments, NULL);
  return cdr_driver_check(d, CDR_CALL_launch, result, o->name);
}

int cdr_run_parts(cdr_model *m, const cdr_plan *plan, int first, int end, cdr_pointer state)
{
  int code = CDR_OK;
  for (int p = first; p < end; p++) {
    const cdr_part *part = &plan->parts[p];
    for (int token = 0; token < part->times; token++)
      for (int i = 0; i < part->count; i++) {
        code = run_one(m, plan, &plan->operations[part->first + i], state, (uint64_t)token);
        if (code != CDR_OK) return code;
      }
  }
  return code;
}

/* --- graphs ------------------------------------------------------------------------------------------------------ */
/* The launches as one graph.  No failure where the driver has no graphs: then none is made, now or later. */
static int make_graph(cdr_model *m, const cdr_plan *plan, int parts, cdr_pointer state, cdr_replay *replay)
{
  const cdr_driver *d = &m->device.driver;
  void *graph = NULL, *made = NULL;
  int result = d->capture_begin(m->device.stream, THIS_THREAD);
  if (result == NOT_SUPPORTED) return m->no_graphs = 1, CDR_OK;
  int code = cdr_driver_check(d, CDR_CALL_capture_begin, result, NULL);
  if (code != CDR_OK) return code;
  code = cdr_run_parts(m, plan, 0, parts, state);
  result = d->capture_end(m->device.stream, &graph);
  if (code == CDR_OK) code = cdr_driver_check(d, CDR_CALL_capture_end, result, NULL);
  if (code == CDR_OK) {
    result = d->graph_make(&made, graph, 0);
    if (result == NOT_SUPPORTED) m->no_graphs = 1;
    else code = cdr_driver_check(d, CDR_CALL_graph_make, result, NULL);
    if (result == 0) replay->graph = made;
  }
  if (graph) {
    result = d->graph_free(graph);
    if (code == CDR_OK) code = cdr_driver_check(d, CDR_CALL_graph_free, result, NULL);
  }
  return code;
}

int cdr_run(cdr_model *m, cdr_held *held, int block, int logits)
{
  const cdr_plan *plan = block < 0 ? &m->shapes[held->shape].step : &m->blocks[block];
  cdr_replay *replay = &held->replays[2 * (block + 1) + (logits != 0)];
  int parts = logits ? plan->part_count : plan->state_parts;
  if (!replay->graph && replay->runs >= (block < 0 ? STEPS_BEFORE : BLOCKS_BEFORE) && !m->no_graphs) {
    int code = make_graph(m, plan, parts, held->memory, replay);
    if (code != CDR_OK) return code;
  }
  if (replay->graph) return CDR_TRY(&m->device.driver, graph_launch, (replay->graph, m->device.stream));
  if (replay->runs < BLOCKS_BEFORE) replay->runs++;
  return cdr_run_parts(m, plan, 0, parts, held->memory);
}

/* --- tokens ------------------------------------------------------------------------------------------------------ */
int cdr_check_tokens(const cdr_model *m, const int32_t *tokens, size_t n)
{
  for (size_t i = 0; i < n; i++)
    if (tokens[i] < 0 || (uint64_t)tokens[i] >= m->manifest.vocab) return CDR_TOKEN;
  return CDR_OK;
}

int cdr_check_length(const cdr_held *held, uint64_t row, size_t n)
{
  return n > INT32_MAX - held->tokens[row] ? CDR_DOCUMENT_LONG : CDR_OK;
}

/* The largest block that fits: its number, or -1 for a single token. */
static int block_for(const cdr_model *m, size_t left)
{
  for (int i = 0; i < m->manifest.block_count; i++)
    if (m->manifest.blocks[i] <= left) return i;
  return -1;
}

/* One block, or one token, of `left`; the logits when it is the last. */
static int run_some(cdr_model *m, cdr_held *held, const int32_t *ids, size_t left, int logits, size_t *read)
{
  int number = block_for(m, left), code;
  size_t count = number < 0 ? 1 : (size_t)m->manifest.blocks[number];
  *read = count;
  logits = logits && count == left;
  code = CDR_TRY(&m->device.driver, upload, (m->places.tokens, ids, count * sizeof *ids, m->device.stream));
  return code != CDR_OK ? code : cdr_run(m, held, number, logits);
}

/* The logits after the last of them end in m->logits, when they are wanted. */
static int run_all(cdr_model *m, cdr_held *held, const int32_t *tokens, size_t n, const float *logits)
{
  const cdr_driver *d = &m->device.driver;
  size_t bytes = (size_t)m->manifest.vocab * sizeof *logits, waiting = 0, some = 0;
  int code = CDR_OK;
  for (size_t done = 0; done < n && code == CDR_OK; done += some, waiting += some) {
    int number = block_for(m, n - done);
    size_t next = number < 0 ? 1 : (size_t)m->manifest.blocks[number];
    if (waiting + next > CDR_WINDOW) {
      code = cdr_device_wait(&m->device);
      waiting = 0;
    }
    if (code != CDR_OK) break;
    memcpy(m->ids + waiting, tokens + done, next * sizeof *tokens);
    code = run_some(m, held, m->ids + waiting, n - done, logits != NULL, &some);
  }
  if (code == CDR_OK && logits)
    code = CDR_TRY(d, download, (m->logits, m->shapes[m->single].logits, bytes, m->device.stream));
  int waited = cdr_device_wait(&m->device); /* also after a failure: nothing runs on behind the caller's back */
  return code != CDR_OK ? code : waited;
}

int cdr_prefill(const cdr_model *given, void *state, const int32_t *tokens, size_t n, float *logits)
{
  cdr_model *m;
  cdr_held *held;
  int before;
  if (!given || !state || (!tokens && n)) return CDR_NULL;
  int code = cdr_check_tokens(given, tokens, n);
  if (code == CDR_OK) code = cdr_enter(given, &m, &before);
  if (code != CDR_OK) return code;
  code = cdr_held_find(m, state, &held);
  if (code == CDR_OK && held->broken) code = CDR_STATE_BROKEN;
  if (code == CDR_OK) code = cdr_check_length(held, 0, n);
  if (code == CDR_OK && n == 0 && !held->has_logits) code = CDR_NO_TOKENS;
  if (code != CDR_OK) return cdr_leave(m, before, code);
  if (n > 0) {
    code = run_all(m, held, tokens, n, logits);
    for (size_t i = 0; i < n && code == CDR_OK; i++) cdr_held_saw(held, 0, tokens[i]);
    held->broken = code != CDR_OK;
    held->has_logits = code == CDR_OK && logits;
    if (held->has_logits) memcpy(held->logits, m->logits, (size_t)m->manifest.vocab * sizeof *logits);
  }
  if (code == CDR_OK && logits) memcpy(logits, held->logits, (size_t)m->manifest.vocab * sizeof *logits);
  return cdr_leave(m, before, code);
}

int cdr_step(const cdr_model *m, void *state, int32_t token, float *logits)
{
  return cdr_prefill(m, state, &token, 1, logits);
}
