#include "runner.h"

#include <stdlib.h>
#include <string.h>

struct cdr_batch {
  cdr_model *model;
  cdr_held *held;
  int rows;             /* that the caller asked for; the program may have more */
  unsigned char *empty; /* rows that hold nothing that anybody may take */
  int32_t *tokens;      /* of all the program's rows */
  int32_t *chosen;
};

/* The smallest batch of the artefact that has room for so many rows. */
static int shape_for(const cdr_model *m, int rows)
{
  int found = -1;
  for (int i = 0; i < m->manifest.batch_count; i++)
    if (m->shapes[i].rows >= (uint64_t)rows && (found < 0 || m->shapes[i].rows < m->shapes[found].rows)) found = i;
  return found;
}

int cdr_batch_open(cdr_batch **out, const cdr_model *given, int rows)
{
  cdr_model *m;
  int before;
  if (!out || !given) return CDR_NULL;
  *out = NULL;
  int shape = rows < 1 ? -1 : shape_for(given, rows);
  if (shape < 0)
    return cdr_fail(CDR_BATCH, "the artefact holds programs for batches of at most %llu sessions, not of %d",
                    (unsigned long long)given->manifest.batches[0], rows);
  size_t all = (size_t)given->shapes[shape].rows;
  cdr_batch *batch = calloc(1, sizeof *batch);
  if (!batch) return CDR_NO_MEMORY;
  batch->rows = rows;
  batch->empty = calloc(all, 1);
  batch->tokens = calloc(all, sizeof *batch->tokens);
  int code = batch->empty && batch->tokens ? cdr_enter(given, &m, &before) : CDR_NO_MEMORY;
  if (code == CDR_OK) {
    batch->model = m;
    code = cdr_held_make(m, shape, batch, &batch->held);
    code = cdr_leave(m, before, code);
  }
  if (code == CDR_OK) *out = batch;
  else cdr_batch_close(batch);
  return code;
}

void cdr_batch_close(cdr_batch *batch)
{
  cdr_model *m;
  int before;
  if (!batch) return;
  if (batch->held && cdr_enter(batch->model, &m, &before) == CDR_OK) {
    cdr_held_free(m, batch->held);
    cdr_leave(m, before, CDR_OK);
  }
  free(batch->empty);
  free(batch->tokens);
  free(batch->chosen);
  free(batch);
}

static int bad_row(const cdr_batch *batch, int row)
{
  return row < 0 || row >= batch->rows ? cdr_fail(CDR_BATCH, "the batch has no row %d: it has %d", row, batch->rows)
                                       : CDR_OK;
}

int cdr_batch_put(cdr_batch *batch, int row, const void *state)
{
  cdr_model *m;
  cdr_held *held;
  int before;
  if (!batch || !state) return CDR_NULL;
  int code = bad_row(batch, row);
  if (code == CDR_OK) code = cdr_enter(batch->model, &m, &before);
  if (code != CDR_OK) return code;
  code = cdr_held_find(m, state, &held);
  if (code == CDR_OK && (held->broken || batch->held->broken)) code = CDR_STATE_BROKEN;
  if (code == CDR_OK) {
    batch->empty[row] = 1;
    code = cdr_held_copy(m, held, 0, batch->held, (uint64_t)row);
    batch->empty[row] = code != CDR_OK;
  }
  return cdr_leave(m, before, code);
}

int cdr_batch_take(cdr_batch *batch, int row, void *state)
{
  cdr_model *m;
  cdr_held *held;
  int before, made;
  if (!batch || !state) return CDR_NULL;
  int code = bad_row(batch, row);
  if (code == CDR_OK && batch->empty[row]) code = cdr_fail(CDR_STATE_UNSET, "row %d of the batch holds no state", row);
  if (code == CDR_OK) code = cdr_enter(batch->model, &m, &before);
  if (code != CDR_OK) return code;
  if (batch->held->broken) code = CDR_STATE_BROKEN;
  if (code == CDR_OK) code = cdr_held_for(m, state, &held, &made);
  if (code == CDR_OK) {
    code = cdr_held_copy(m, batch->held, (uint64_t)row, held, 0);
    held->broken = code != CDR_OK;
    if (code != CDR_OK && made) {
      cdr_held_free(m, held);
      memset(state, 0, cdr_state_size(m));
    }
  }
  return cdr_leave(m, before, code);
}

/* The tokens of all rows; one that the caller lets go of reads 0. */
static int set_tokens(cdr_batch *batch, const int32_t *tokens, size_t n)
{
  for (int i = 0; i < batch->rows; i++) {
    if (tokens[i] == -1) continue;
    int code = cdr_check_tokens(batch->model, &tokens[i], 1);
    if (code == CDR_OK && batch->empty[i]) code = cdr_fail(CDR_STATE_UNSET, "row %d of the batch holds no state", i);
    if (code == CDR_OK) code = cdr_check_length(batch->held, (uint64_t)i, n);
    if (code != CDR_OK) return code;
  }
  for (int i = 0; i < batch->rows; i++) {
    batch->tokens[i] = tokens[i] == -1 ? 0 : tokens[i];
    if (tokens[i] == -1) batch->empty[i] = 1;
  }
  return CDR_OK;
}

/* Every row has read its token of now and, of those chosen after it, all but the last. */
static int finish(cdr_batch *batch, cdr_model *m, int before, int code, size_t n)
{
  size_t all = (size_t)m->shapes[batch->held->shape].rows;
  for (uint64_t row = 0; row < (uint64_t)batch->rows && code == CDR_OK; row++)
    for (size_t i = 0; i < n; i++)
      cdr_held_saw(batch->held, row, i ? batch->chosen[(i - 1) * all + row] : batch->tokens[row]);
  batch->held->broken = code != CDR_OK;
  batch->held->has_logits = 0; /* they went to the caller */
  return cdr_leave(m, before, code);
}

int cdr_batch_step(cdr_batch *batch, const int32_t *tokens, float *logits)
{
  cdr_model *m;
  int before;
  if (!batch || !tokens) return CDR_NULL;
  int code = cdr_enter(batch->model, &m, &before);
  if (code != CDR_OK) return code;
  const cdr_driver *d = &m->device.driver;
  const cdr_shape *shape = &m->shapes[batch->held->shape];
  size_t all = (size_t)shape->rows, bytes = (size_t)batch->rows * (size_t)m->manifest.vocab * sizeof *logits;
  code = batch->held->broken ? CDR_STATE_BROKEN : set_tokens(batch, tokens, 1);
  if (code != CDR_OK) return cdr_leave(m, before, code);
  memcpy(m->ids, batch->tokens, all * sizeof *m->ids);
  code = CDR_TRY(d, upload, (m->places.tokens, m->ids, all * sizeof *m->ids, m->device.stream));
  if (code == CDR_OK) code = cdr_run(m, batch->held, -1, logits != NULL);
  if (code == CDR_OK && logits) code = CDR_TRY(d, download, (m->logits, shape->logits, bytes, m->device.stream));
  int waited = cdr_device_wait(&m->device);
  if (code == CDR_OK) code = waited;
  if (code == CDR_OK && logits) memcpy(logits, m->logits, bytes);
  return finish(batch, m, before, code, 1);
}

int cdr_batch_generate(cdr_batch *batch, const int32_t *tokens, size_t n, cdr_sampling *how, int32_t *out)
{
  cdr_model *m;
  int before;
  if (!batch || !tokens || !how || (!out && n)) return CDR_NULL;
  int code = cdr_enter(batch->model, &m, &before);
  if (code != CDR_OK) return code;
  size_t all = (size_t)m->shapes[batch->held->shape].rows, rows = (size_t)batch->rows;
  code = batch->held->broken ? CDR_STATE_BROKEN : set_tokens(batch, tokens, n);
  if (code == CDR_OK && n > SIZE_MAX / all / sizeof *out) code = CDR_NO_MEMORY;
  free(batch->chosen);
  batch->chosen = code == CDR_OK ? malloc((n ? n : 1) * all * sizeof *out) : NULL;
  if (code == CDR_OK && !batch->chosen) code = CDR_NO_MEMORY;
  if (code != CDR_OK || n == 0) return cdr_leave(m, before, code);
  code = cdr_run_choices(m, batch->held, batch->tokens, n, how, batch->chosen);
  for (size_t i = 0; i < n && code == CDR_OK; i++) memcpy(out + i * rows, batch->chosen + i * all, rows * sizeof *out);
  return finish(batch, m, before, code, n);
}
