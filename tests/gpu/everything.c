/* everything FOLDER WEIGHTS...: calls all of the runner; goes on after whatever fails.  With EVERYTHING_TURNS it does so again and again while the
   mock driver fails the first call, the second, and so on until nothing fails any more, and checks after each turn that
   nothing is left. */
#include "model.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB = 13, TOKENS = 13 };

static int quiet, failures;

static int check(int code, const char *what)
{
  const char *text = cdr_error_text(code);
  if (code == CDR_OK) return 1;
  failures++;
  if (!quiet || strstr(text, "failed")) printf("%s: %s\n", what, text);
  return 0;
}

static void batches(cdr_model *m, void *state, void *other)
{
  cdr_batch *batch;
  cdr_sampling how = {0.5, 0.9, 5, 1, NULL};
  const int32_t tokens[] = {1, 2, 3};
  int32_t chosen[12];
  float logits[3 * VOCAB];
  if (!check(cdr_batch_open(&batch, m, 3), "batch")) return;
  check(cdr_batch_put(batch, 1, state), "put");
  check(cdr_batch_step(batch, tokens, logits), "batch step");
  check(cdr_batch_step(batch, tokens, logits), "batch step");
  check(cdr_batch_generate(batch, tokens, 4, &how, chosen), "batch generate");
  check(cdr_batch_take(batch, 1, other), "take");
  cdr_batch_close(batch);
}

static void everything(const char *weights, const char *folder)
{
  cdr_model *m;
  uint64_t first[8] = {0}, second[8] = {0}, third[8] = {0};
  const unsigned char few[VOCAB] = {0, 1, 0, 0, 1};
  cdr_sampling likeliest = {0, 1, 0, 0, NULL}, there = {0.8, 0.9, 5, 2, NULL}, here = {0.8, 0.9, 0, 2, NULL};
  cdr_sampling known = {0.8, 0.9, 5, 2, few};
  int32_t ids[TOKENS], chosen[6], latest[64];
  float logits[VOCAB], slot[64];
  char path[4096];
  for (int i = 0; i < TOKENS; i++) ids[i] = i * 7 % VOCAB;
  snprintf(path, sizeof path, "%s/everything.state", folder);
  if (!check(cdr_open(&m, weights), "open")) return;
  if (cdr_state_size(m) != sizeof first) abort();
  if (check(cdr_state_init(m, first), "init")) {
    check(cdr_step(m, first, 3, logits), "step");
    check(cdr_step(m, first, 4, logits), "graph");
    check(cdr_step(m, first, 5, logits), "graph again");
    check(cdr_state_init(m, first), "init again");
    check(cdr_prefill(m, first, ids, TOKENS, logits), "prefill");
    check(cdr_prefill(m, first, ids, 2, NULL), "prefill without logits");
    check(cdr_state_fork(m, first, second), "fork");
    check(cdr_state_save(m, first, path), "save");
    check(cdr_state_load(m, third, path), "load");
    check(cdr_state_load(m, first, path), "load again");
    check(cdr_state_read(m, first, "layer.1.mix.K", slot), "read");
    check(cdr_generate(m, first, 1, 3, &likeliest, chosen), "likeliest");
    check(cdr_generate(m, first, 1, 3, &there, chosen), "choose there");
    check(cdr_generate(m, first, 1, 3, &here, chosen), "choose here");
    if (check(cdr_generate(m, first, 1, 3, &known, chosen), "choose again"))
      for (int i = 0; i < 3; i++)
        if (!few[chosen[i]]) abort();
    check(cdr_generate(m, first, -1, 3, &there, chosen), "go on there");
    check(cdr_generate(m, first, -1, 2, &here, chosen), "go on here");
    check(cdr_prefill(m, first, NULL, 0, logits), "the logits of before");
    if (cdr_state_latest(m, first, latest) != (int)cdr_state_tokens(m, first)) abort();
    batches(m, first, second);
    cdr_state_free(m, third);
  }
  cdr_close(m);
}

static int turns(const char *weights, const char *folder, void *mock, int sticky)
{
  void (*fail)(int, int, int);
  int (*live)(void);
  void *found = dlsym(mock, "mock_fail");
  memcpy(&fail, &found, sizeof fail);
  found = dlsym(mock, "mock_live");
  memcpy(&live, &found, sizeof live);
  for (int turn = 1; turn < 5000; turn++) {
    failures = 0;
    fail(turn, 719, sticky);
    everything(weights, folder);
    fail(0, 719, 0);
    if (live() != 0) {
      printf("turn %d left %d things\n", turn, live());
      return 1;
    }
    if (failures == 0 && turn > 100) {
      /* calls that give something back fail without a word: go on until no call is left to fail */
      static int silent;
      if (++silent > 40) {
        printf("turns %d\n", turn);
        return 0;
      }
    }
  }
  return 1;
}

int main(int argc, char **argv)
{
  if (argc < 3) return 2;
  if (getenv("EVERYTHING_TURNS")) {
    void *mock = dlopen(getenv("CDR_DRIVER"), RTLD_NOW);
    quiet = 1;
    return mock ? turns(argv[2], argv[1], mock, getenv("EVERYTHING_STICKY") != NULL) : 3;
  }
  for (int i = 2; i < argc; i++) {
    failures = 0;
    everything(argv[i], argv[1]);
    if (!failures) printf("done\n");
    else if (argc > 3) printf("-- %s\n", argv[i]);
  }
  return 0;
}
