#include "model.h"

#include "streams.h"

#include <stdlib.h>
#include <string.h>

#if CDR_VOCAB
struct cdr_batch {
  const cdr_model *model;
  int rows;
  unsigned char *memory, *temporary, *streams; /* `memory` is what was allocated, the others stand in it */
  unsigned char *empty;                        /* rows that hold nothing that anybody may take */
  unsigned char **read;                        /* the streams of a step, and their tokens */
  int32_t *tokens;
};

static unsigned char *stream_of(const cdr_batch *b, int row)
{
  return b->streams + (size_t)row * cdr_state_memory(b->model);
}

int cdr_batch_open(cdr_batch **out, const cdr_model *m, int rows)
{
  enum { LINE = 64 };
  if (!out || !m) return CDR_NULL;
  *out = NULL;
  if (rows < 1) return CDR_BATCH;
  const size_t n = (size_t)rows, each = cdr_state_memory(m), shared = cdr_temporary_size(m);
  if (n > (SIZE_MAX - shared - LINE) / each) return CDR_NO_MEMORY;
  cdr_batch *b = calloc(1, sizeof *b);
  if (!b) return CDR_NO_MEMORY;
  b->model = m;
  b->rows = rows;
  b->memory = malloc(shared + n * each + LINE);
  b->empty = calloc(n, 1);
  b->read = calloc(n, sizeof *b->read);
  b->tokens = calloc(n, sizeof *b->tokens);
  if (!b->memory || !b->empty || !b->read || !b->tokens) {
    cdr_batch_close(b);
    return CDR_NO_MEMORY;
  }
  b->temporary = b->memory + (LINE - (uintptr_t)b->memory % LINE) % LINE;
  b->streams = b->temporary + shared;
  for (int row = 0; row < rows; row++) cdr_state_init(m, stream_of(b, row)); /* which sets no more than the stream */
  *out = b;
  return CDR_OK;
}

void cdr_batch_close(cdr_batch *b)
{
  if (!b) return;
  free(b->memory);
  free(b->empty);
  free(b->read);
  free(b->tokens);
  free(b);
}

int cdr_batch_put(cdr_batch *b, int row, const void *state)
{
  if (!b || !state) return CDR_NULL;
  if (row < 0 || row >= b->rows) return CDR_BATCH;
  const int code = cdr_state_fork(b->model, state, stream_of(b, row));
  if (code == CDR_OK) b->empty[row] = 0;
  return code;
}

int cdr_batch_take(cdr_batch *b, int row, void *state)
{
  if (!b || !state) return CDR_NULL;
  if (row < 0 || row >= b->rows) return CDR_BATCH;
  return b->empty[row] ? CDR_ROW_EMPTY : cdr_state_fork(b->model, stream_of(b, row), state);
}

int cdr_batch_step(cdr_batch *b, const int32_t *tokens, float *logits)
{
  if (!b || !tokens) return CDR_NULL;
  const size_t vocab = CDR_VOCAB;
  size_t n = 0;
  for (int row = 0; row < b->rows; row++) {
    if (tokens[row] == -1) continue;
    if (tokens[row] < 0 || tokens[row] >= CDR_VOCAB) return CDR_TOKEN;
    if (b->empty[row]) return CDR_ROW_EMPTY;
    b->read[n] = stream_of(b, row);
    b->tokens[n++] = tokens[row];
  }
  cdr_streams_read(b->model, b->temporary, b->read, b->tokens, n, logits);
  for (int row = b->rows - 1; row >= 0; row--) {
    if (tokens[row] == -1) b->empty[row] = 1;
    if (!logits) continue;
    float *own = logits + (size_t)row * vocab; /* those of the rows that read stand together, in front */
    if (tokens[row] == -1) memset(own, 0, vocab * sizeof *own);
    else if (--n != (size_t)row) memcpy(own, logits + n * vocab, vocab * sizeof *own);
  }
  return CDR_OK;
}
#endif
