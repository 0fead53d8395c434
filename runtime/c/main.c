/* cdrmix-run: continues a prompt, printing text as it comes.  The twin of runtime/generation.py. */
#define _POSIX_C_SOURCE 200809L
#include "model.h"
#include "options.h"
#include "sample.h"
#include "stop.h"
#include "system.h"
#include "tokenizer.h"
#include "utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(_WIN32)
#include <io.h>
#endif

enum { DONE, FAILED, MISUSED };

typedef struct {
  cdr_model *model;
  cdr_tokenizer *tokenizer;
  void *state;
  float *logits;
} session;

/* What writing goes through.  `before` is the state before the token in which a stop text may begin, `since` the tokens
   from that one on, `begun` the bytes of text before it. */
typedef struct {
  session *s;
  const cdr_options *o;
  cdr_sampling how;
  cdr_stops stops;
  cdr_utf8 u;
  cdr_candidate *room;
  unsigned char *known, *sure;
  void *before;
  int32_t *since;
  size_t since_count, begun, written;
} writer;

static int fail(const char *what, const char *why)
{
  fprintf(stderr, "cdrmix-run: %s: %s\n", what, why);
  return FAILED;
}

/* --- input and output ------------------------------------------------------------------------------------------ */
static char *read_all(FILE *f, size_t *size)
{
  size_t room = 1 << 16, got;
  char *text = malloc(room);
  for (*size = 0; text && (got = fread(text + *size, 1, room - *size, f)) > 0;) {
    *size += got;
    if (*size == room) {
      char *more = realloc(text, room *= 2);
      if (!more) free(text);
      text = more;
    }
  }
  return text;
}

static int flush(void) { return fflush(stdout) == 0 && !ferror(stdout) ? CDR_OK : CDR_CANNOT_WRITE; }

/* The characters that are whole after some more bytes of the text. */
static int show(writer *w, const void *text, size_t size)
{
  const unsigned char *bytes = text;
  char out[8];
  for (size_t i = 0; i < size; i++) fwrite(out, 1, cdr_utf8_push(&w->u, bytes[i], out), stdout);
  return flush();
}

/* Holds what a loaded text has of a character that is not whole yet. */
static void begin_text(writer *w)
{
  int32_t latest[CDR_LATEST];
  int count = cdr_state_latest(w->s->model, w->s->state, latest);
  char out[8];
  size_t size;
  for (int i = 0; i < count; i++) {
    const unsigned char *bytes = cdr_token_bytes(w->s->tokenizer, latest[i], &size);
    for (size_t k = 0; k < size; k++) cdr_utf8_push(&w->u, bytes[k], out);
  }
}

/* The rest of it goes on with the state, where that is saved. */
static int end_text(writer *w)
{
  char rest[8];
  if (!w->o->save) fwrite(rest, 1, cdr_utf8_flush(&w->u, rest), stdout);
  putchar('\n');
  return flush();
}

/* --- reading --------------------------------------------------------------------------------------------------- */
/* Reads a text.  A new document begins with the token that ends the one before; with `special`, inside a text, too. */
static int read_text(session *s, const void *text, size_t size, int special)
{
  size_t count = 0, first = 0;
  int32_t *ids = malloc((size + 1) * sizeof *ids), eot = cdr_tokenizer_eot(s->tokenizer);
  if (!ids) return CDR_NO_MEMORY;
  if (cdr_state_tokens(s->model, s->state) == 0 && eot >= 0) ids[first++] = eot;
  int code = (special ? cdr_encode_special : cdr_encode)(s->tokenizer, text, size, ids + first, &count);
  count += first;
  first = 0;
  for (size_t i = 0; special && i < count; i++)
    if (ids[i] == eot) first = i;
  if (code == CDR_OK && special && count && ids[first] == eot) code = cdr_state_init(s->model, s->state);
  if (code == CDR_OK) code = cdr_prefill(s->model, s->state, ids + first, count - first, s->logits);
  free(ids);
  return code;
}

static int read_prompt(writer *w)
{
  size_t size = strlen(w->o->prompt);
  int piped = strcmp(w->o->prompt, "-") == 0;
  char *text = piped ? read_all(stdin, &size) : NULL;
  int code = piped && !text ? CDR_NO_MEMORY : piped && ferror(stdin) ? CDR_CANNOT_READ : CDR_OK;
  if (code == CDR_OK) code = read_text(w->s, text ? text : w->o->prompt, size, w->o->special);
  if (code == CDR_OK) code = show(w, text ? text : w->o->prompt, size);
  free(text);
  return code;
}

/* --- writing --------------------------------------------------------------------------------------------------- */
/* Reads a token, unless it is -1, and chooses the next one. */
static int choose(writer *w, int32_t token, int32_t *chosen)
{
  session *s = w->s;
#if defined(CDR_ON_DEVICE)
  return cdr_generate(s->model, s->state, token, 1, &w->how, chosen);
#else
  int code = cdr_prefill(s->model, s->state, &token, token >= 0, s->logits);
  if (code == CDR_OK) *chosen = cdr_sample(&w->how, s->logits, cdr_vocab(s->model), w->room);
  return code == CDR_OK && *chosen < 0 ? CDR_NOT_FINITE : code;
#endif
}

/* Back to the state that `from` is, and over the `size` bytes of text that followed it. */
static int rewind_to(writer *w, const void *from, const int32_t *tokens, size_t count, size_t size)
{
  session *s = w->s;
  size_t length;
  int code = from == s->state ? CDR_OK : cdr_state_fork(s->model, from, s->state);
  for (size_t i = 0; i < count && code == CDR_OK; i++, size -= length) {
    const unsigned char *text = cdr_token_bytes(s->tokenizer, tokens[i], &length);
    if (length > size) return size ? read_text(s, text, size, 0) : code; /* the stop text begins inside a token */
    code = cdr_step(s->model, s->state, tokens[i], s->logits);
  }
  return code;
}

/* Shows the text of a token that was chosen and not yet read. */
static int take(writer *w, int32_t token)
{
  size_t size, read = w->written + w->stops.size;
  const unsigned char *text = cdr_token_bytes(w->s->tokenizer, token, &size);
  int code = CDR_OK;
  for (size_t i = 0; i < size && !w->stops.found && code == CDR_OK; i++) {
    size_t sure = cdr_stop_push(&w->stops, text[i], w->sure);
    w->written += sure;
    code = show(w, w->sure, sure);
  }
  if (code != CDR_OK || w->stops.count == 0 || !w->o->save) return code;
  if (w->stops.found) {
    int inside = w->since_count == 0;
    w->since[w->since_count++] = token;
    return rewind_to(w, inside ? w->s->state : w->before, w->since, w->since_count,
                     w->written - (inside ? read : w->begun));
  }
  if (w->stops.size <= size) w->since_count = 0;
  if (w->stops.size == 0) return code;
  if (w->since_count == 0) {
    code = cdr_state_fork(w->s->model, w->s->state, w->before);
    w->begun = read;
  }
  w->since[w->since_count++] = token;
  return code;
}

static int write_text(writer *w)
{
  session *s = w->s;
  int32_t token = -1, chosen = -1;
  int code = CDR_OK, ended = 0;
  w->how.random = cdr_random_at(w->o->seed, cdr_state_tokens(s->model, s->state));
  for (uint64_t n = 0; n < w->o->count && !ended && code == CDR_OK; n++) {
    code = choose(w, token, &chosen);
    token = -1;
    ended = chosen == cdr_tokenizer_eot(s->tokenizer);
    if (code != CDR_OK || ended) break;
    code = take(w, chosen);
    ended = w->stops.found;
    token = ended ? -1 : chosen;
  }
  if (code == CDR_OK && !w->stops.found) code = show(w, w->stops.held, w->stops.size);
  /* the last one is read, too */
  return code == CDR_OK && token >= 0 ? cdr_step(s->model, s->state, token, s->logits) : code;
}

/* The tokens that have a text are chosen from; NULL where all have one. */
static void find_known(writer *w)
{
  size_t size;
  int all = 1;
  for (int32_t id = 0; id < cdr_vocab(w->s->model); id++) {
    cdr_token_bytes(w->s->tokenizer, id, &size);
    w->known[id] = size > 0;
    all &= size > 0;
  }
  w->how.known = all ? NULL : w->known;
}

static int generate(session *s, const cdr_options *o)
{
  size_t vocab = (size_t)cdr_vocab(s->model), longest = o->stops.longest + 1;
  writer w = {0};
  w.s = s;
  w.o = o;
  w.how = o->how;
  w.stops = o->stops;
  w.room = malloc(vocab * sizeof *w.room);
  w.known = malloc(vocab);
  w.sure = malloc(longest);
  w.stops.held = malloc(longest);
  w.since = malloc((longest + 1) * sizeof *w.since);
  w.before = calloc(1, cdr_state_size(s->model));
  int code = w.room && w.known && w.sure && w.stops.held && w.since && w.before ? CDR_OK : CDR_NO_MEMORY;
  if (code == CDR_OK) {
    find_known(&w);
    begin_text(&w);
    code = read_prompt(&w);
  }
  if (code == CDR_OK) code = write_text(&w);
  if (code == CDR_OK) code = end_text(&w);
  if (w.before) cdr_state_free(s->model, w.before);
  free(w.room);
  free(w.known);
  free(w.sure);
  free(w.stops.held);
  free(w.since);
  free(w.before);
  return code;
}

static int print_logits(session *s, const cdr_options *o)
{
  int code = CDR_OK;
  for (int i = 0; i < o->id_count && code == CDR_OK; i++) {
    uint64_t id;
    if (!cdr_whole(o->ids[i], INT32_MAX, &id)) return CDR_TOKEN;
    code = cdr_step(s->model, s->state, (int32_t)id, s->logits);
  }
  for (int32_t i = 0; i < cdr_vocab(s->model) && code == CDR_OK; i++) printf("%.9g\n", (double)s->logits[i]);
  return code == CDR_OK ? flush() : code;
}

/* --- the program ----------------------------------------------------------------------------------------------- */
static int ended(const cdr_options *o, int code)
{
  switch (code & 0xff) {
  case CDR_OK:
    return DONE;
  case CDR_CANNOT_WRITE:
    return fail("the standard output", strerror(errno));
  case CDR_CANNOT_READ:
    return fail("the standard input", strerror(errno));
  default:
    return fail(o->folder, cdr_error_text(code));
  }
}

static int run(session *s, const cdr_options *o)
{
  char path[4096];
  int code;
  const char *what = path;
  if (strlen(o->folder) + 32 > sizeof path) return fail(o->folder, "the path is too long");
  sprintf(path, "%s/weights.safetensors", o->folder);
  if ((code = cdr_open(&s->model, path)) != CDR_OK) return fail(path, cdr_error_text(code));
#if !defined(CDR_ON_DEVICE)
  if ((code = cdr_set_threads(s->model, o->threads)) != CDR_OK) return fail("threads", cdr_error_text(code));
#endif
  s->state = calloc(1, cdr_state_size(s->model));
  s->logits = malloc((size_t)cdr_vocab(s->model) * sizeof *s->logits);
  if (!s->state || !s->logits) return fail(o->folder, "out of memory");
  code = cdr_state_init(s->model, s->state);
  if (code == CDR_OK && o->load) what = o->load, code = cdr_state_load(s->model, s->state, o->load);
  if (code != CDR_OK) return fail(what, cdr_error_text(code));
  if (o->ids) {
    code = print_logits(s, o);
  } else {
    sprintf(path, "%s/tokenizer.json", o->folder);
#if defined(CDR_ON_DEVICE)
    if ((code = cdr_check_file(s->model, "tokenizer.json")) != CDR_OK) return fail(path, cdr_error_text(code));
#endif
    if ((code = cdr_tokenizer_open(&s->tokenizer, path)) != CDR_OK) return fail(path, cdr_error_text(code));
    if (cdr_tokenizer_vocab(s->tokenizer) > cdr_vocab(s->model)) return fail(path, "it has more tokens than the model");
    code = generate(s, o);
  }
  if (code != CDR_OK) return ended(o, code);
  if (o->save && (code = cdr_state_save(s->model, s->state, o->save)) != CDR_OK)
    return fail(o->save, cdr_error_text(code));
  return DONE;
}

/* Nothing that is opened takes the number of a standard stream that is closed; bytes are what they are. */
static int guard_streams(void)
{
#if defined(_WIN32)
  return _setmode(0, _O_BINARY) >= 0 && _setmode(1, _O_BINARY) >= 0;
#elif defined(CDR_NO_POSIX)
  return 1;
#else
  int closed = fcntl(STDOUT_FILENO, F_GETFD) < 0;
  for (int fd = 0; fd < 3; fd++)
    if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) != fd) return 0;
  return !closed;
#endif
}

int main(int argc, char **argv)
{
  cdr_options o;
  session s = {NULL, NULL, NULL, NULL};
  if (!guard_streams()) return fail("the standard output", strerror(EBADF));
  if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
    fputs(cdr_usage, stdout);
    return flush() == CDR_OK ? DONE : fail("the standard output", strerror(errno));
  }
  const char **texts = malloc((size_t)(argc + 1) * sizeof *texts);
  if (!texts || !cdr_options_read(&o, argc, argv, texts)) {
    free(texts);
    fputs(cdr_usage, stderr);
    return MISUSED;
  }
  int status = run(&s, &o);
  cdr_tokenizer_close(s.tokenizer);
  if (s.state) cdr_state_free(s.model, s.state);
  cdr_close(s.model);
  free(s.state);
  free(s.logits);
  free(texts);
  return status;
}
