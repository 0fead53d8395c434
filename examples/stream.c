/* Streams text from an artefact of target `cpu`: a prompt is read, then token by token the model goes on.

     make -C DIR install PREFIX=/usr/local
     cc stream.c $(pkg-config --cflags --libs cdrmix-NAME) -o stream       # NAME is the model's
     ./stream "$(pkg-config --variable=model cdrmix-NAME)" "def " 200

   or, with nothing installed: cc -O3 -march=native -pthread -IDIR stream.c DIR/model.c DIR/tokenizer.c -lm -o stream */
#include <model.h>
#include <tokenizer.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(int code, const char *doing)
{
  if (code == CDR_OK) return;
  fprintf(stderr, "%s: %s\n", doing, cdr_error_text(code));
  exit(1);
}

static void *room(size_t count, size_t size)
{
  void *found = calloc(count, size);
  check(found ? CDR_OK : CDR_NO_MEMORY, "starting");
  return found;
}

int main(int argc, char **argv)
{
  if (argc < 3) return fprintf(stderr, "usage: stream DIR PROMPT [COUNT]\n"), 2;
  const char *prompt = argv[2];
  long count = argc > 3 ? atol(argv[3]) : 200;
  char path[4096];

  cdr_model *model;
  snprintf(path, sizeof path, "%s/weights.safetensors", argv[1]);
  check(cdr_open(&model, path), path);
  cdr_tokenizer *tokenizer;
  snprintf(path, sizeof path, "%s/tokenizer.json", argv[1]);
  check(cdr_tokenizer_open(&tokenizer, path), path);

  /* everything that is needed is allocated here, once */
  const int vocab = cdr_vocab(model);
  void *state = room(1, cdr_state_size(model)); /* the caller's memory: one for each stream */
  float *logits = room((size_t)vocab, sizeof *logits);
  cdr_candidate *candidates = room((size_t)vocab, sizeof *candidates);
  unsigned char *known = room((size_t)vocab, 1);
  int32_t *ids = room(strlen(prompt) + 1, sizeof *ids);
  size_t size, read, begun = 0;
  for (int32_t id = 0; id < vocab; id++) {
    cdr_token_bytes(tokenizer, id, &size);
    known[id] = size > 0; /* the model may have more tokens than have a text */
  }

  /* a document begins with the end of the one before it, as in training */
  const int32_t end = cdr_tokenizer_eot(tokenizer);
  check(cdr_state_init(model, state), "starting");
  if (end >= 0) ids[begun++] = end;
  check(cdr_encode(tokenizer, prompt, strlen(prompt), ids + begun, &read), "reading the prompt");
  check(cdr_prefill(model, state, ids, begun + read, logits), "reading the prompt");
  fputs(prompt, stdout);

  cdr_sampling how = {0.8, 0.95, 0, 0, known}; /* temperature, top-p, top-k, random numbers, which tokens */
  how.random = cdr_random_at(0, cdr_state_tokens(model, state));
  for (long n = 0; n < count; n++) {
    const int32_t token = cdr_sample(&how, logits, vocab, candidates);
    if (token < 0) check(CDR_NOT_FINITE, "choosing a token");
    if (token == end) break;
    const unsigned char *text = cdr_token_bytes(tokenizer, token, &size);
    fwrite(text, 1, size, stdout);
    fflush(stdout);
    check(cdr_step(model, state, token, logits), "running the model");
  }
  putchar('\n');

  cdr_state_free(model, state);
  cdr_tokenizer_close(tokenizer);
  cdr_close(model);
  free(state);
  free(logits);
  free(candidates);
  free(known);
  free(ids);
  return 0;
}
