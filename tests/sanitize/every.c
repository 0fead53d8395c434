/* All that a program's interface does, for a tool that watches: every.c's program FOLDER THREADS.

   Prints a sum of the last logits' bits; ends with 1 where a stream by itself is not what it is among others. */
#include "model.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = 70, FEW = 5 };

static char path[4096];

static const char *in(const char *folder, const char *name)
{
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return path;
}

static void must(int truth, const char *what)
{
  if (truth) return;
  fprintf(stderr, "not so: %s\n", what);
  exit(1);
}

static int32_t token(int n) { return (int32_t)((unsigned)n * 2654435761u >> 8) % CDR_VOCAB; }

static void refusals(const cdr_model *m, void *state, const char *folder)
{
  float number;
  must(cdr_step(m, state, -1, NULL) == CDR_TOKEN && cdr_step(m, state, CDR_VOCAB, NULL) == CDR_TOKEN, "bad tokens");
  must(cdr_state_read(m, state, "nothing", &number) == CDR_NO_SLOT, "a slot that is none");
  must(cdr_state_load(m, state, in(folder, "absent")) == CDR_CANNOT_OPEN, "no file");
  must(cdr_state_load(m, state, in(folder, "weights.safetensors")) == CDR_SAVED_FOREIGN, "no state");
  must(cdr_state_read(m, state, "pos", &number) == CDR_OK && number == (float)cdr_state_tokens(m, state), "pos");
}

/* Streams of a batch that come, go and go on alone, and what each is by itself: `from` is a state, the others room. */
static void batches(const cdr_model *m, const void *from, void *alone, void *taken)
{
  enum { ROWS = 3 };
  const size_t each = CDR_VOCAB;
  cdr_batch *batch;
  float *logits = malloc(ROWS * each * sizeof *logits), *one = malloc(each * sizeof *one);
  must(logits && one && cdr_batch_open(&batch, m, ROWS) == CDR_OK, "a batch opens");
  must(cdr_batch_put(batch, 1, from) == CDR_OK && cdr_state_fork(m, from, alone) == CDR_OK, "a row is put");
  for (int i = 0; i < FEW; i++) {
    const int32_t ids[ROWS] = {token(i), token(i + 7), i < 2 ? token(i + 9) : -1};
    must(cdr_batch_step(batch, ids, logits) == CDR_OK && cdr_step(m, alone, ids[1], one) == CDR_OK, "a batch steps");
    must(memcmp(logits + each, one, each * sizeof *one) == 0, "a row is what it is alone");
  }
  must(cdr_batch_take(batch, 1, taken) == CDR_OK && cdr_batch_take(batch, ROWS, taken) != CDR_OK, "a row is taken");
  must(cdr_step(m, taken, 3, logits) == CDR_OK && cdr_step(m, alone, 3, one) == CDR_OK, "it goes on");
  must(memcmp(logits, one, each * sizeof *one) == 0, "what was taken goes on as it is alone");
  cdr_batch_close(batch);
  free(logits), free(one);
}

typedef struct {
  const cdr_model *model;
  void *state;
  float *logits;
} reader;

/* One of several threads that use a model at once. */
static void *reads(void *given)
{
  const reader *r = given;
  int32_t ids[TOKENS];
  for (int i = 0; i < TOKENS; i++) ids[i] = token(i);
  must(cdr_state_init(r->model, r->state) == CDR_OK, "a state begins");
  must(cdr_prefill(r->model, r->state, ids, TOKENS, NULL) == CDR_OK, "it reads a prompt");
  must(cdr_step(r->model, r->state, 1, r->logits) == CDR_OK, "it steps");
  return NULL;
}

int main(int count, char **given)
{
  must(count == 3, "a folder and a number of threads are given");
  cdr_model *m, *none;
  must(cdr_open(&none, in(given[1], "model.h")) != CDR_OK && !none, "no weights");
  must(cdr_open(&m, in(given[1], "weights.safetensors")) == CDR_OK, "it opens");
  must(cdr_set_threads(m, atoi(given[2])) == CDR_OK && cdr_threads(m) >= 1, "it has threads");
  const size_t size = cdr_state_size(m), bytes = CDR_VOCAB * sizeof(float);
  void *one = malloc(size), *two = malloc(size), *other = malloc(size);
  float *a = malloc(bytes), *b = malloc(bytes);
  int32_t ids[TOKENS], latest[CDR_LATEST];
  must(one && two && other && a && b, "there is memory");
  for (int i = 0; i < TOKENS; i++) ids[i] = token(i);
  must(cdr_state_init(m, one) == CDR_OK && cdr_state_init(m, two) == CDR_OK, "states begin");
  for (int i = 0; i < TOKENS; i++) must(cdr_step(m, one, ids[i], i % 3 ? NULL : a) == CDR_OK, "it steps");
  must(cdr_prefill(m, one, NULL, 0, a) == CDR_NO_TOKENS || TOKENS % 3 == 1, "logits that nobody asked for");
  must(cdr_step(m, one, 1, a) == CDR_OK, "it steps");
  must(cdr_prefill(m, two, ids, FEW, b) == CDR_OK && cdr_state_fork(m, two, other) == CDR_OK, "it forks");
  must(cdr_prefill(m, other, ids, 3, b) == CDR_OK, "a fork goes its own way");
  must(cdr_prefill(m, two, ids + FEW, TOKENS - FEW, NULL) == CDR_OK, "it reads a prompt");
  must(cdr_state_save(m, two, in(given[1], "a.state")) == CDR_OK, "it saves");
  must(cdr_state_load(m, other, in(given[1], "a.state")) == CDR_OK, "it loads");
  must(cdr_step(m, other, 1, b) == CDR_OK && memcmp(a, b, bytes) == 0, "what was loaded goes on");
  must(cdr_step(m, two, 1, b) == CDR_OK && memcmp(a, b, bytes) == 0, "a prompt is its tokens");
  must(cdr_state_latest(m, two, latest) == CDR_LATEST && latest[CDR_LATEST - 1] == 1, "the latest tokens");
  refusals(m, two, given[1]);
  batches(m, two, one, other);
  pthread_t thread;
  reader here = {m, one, a}, there = {m, other, b};
  must(pthread_create(&thread, NULL, reads, &there) == 0, "a thread begins");
  reads(&here);
  must(pthread_join(thread, NULL) == 0 && memcmp(a, b, bytes) == 0, "two threads at once read the same");
  uint32_t sum = 0, bits;
  for (size_t i = 0; i < CDR_VOCAB; i++) memcpy(&bits, a + i, sizeof bits), sum = sum * 31 + bits;
  printf("%08x\n", sum);
  cdr_state_free(m, one);
  free(one), free(two), free(other), free(a), free(b);
  cdr_close(m);
  return 0;
}
