/* cdrmix-run: continues a prompt, printing text as it comes. */
#include "model.h"
#include "sample.h"
#include "tokenizer.h"
#include "utf8.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* On a GPU the choice among so many is made there, and no logits come back. */
#if defined(CDR_ON_DEVICE)
#define TOP_K 64
#define TOP_K_TEXT "64"
#else
#define TOP_K 0
#define TOP_K_TEXT "0"
#endif

static const char usage[] =
  "cdrmix-run [options] PROMPT\n"
  "Prints PROMPT and what the model of an artefact writes after it.\n"
  "  -n COUNT        tokens to write (200)\n"
  "  -t TEMPERATURE  0 takes the likeliest token (0.8)\n"
  "  -p TOP_P        keep the likeliest tokens of this probability (0.95)\n"
  "  -k TOP_K        keep so many of the likeliest tokens; 0 all (" TOP_K_TEXT ")\n"
  "  -s SEED         of the random choice (0)\n"
  "  -m DIR          the artefact's folder (.)\n"
  "  -l FILE         begin with a saved state\n"
  "  -o FILE         save the state at the end\n"
  "  --logits ID...  print the logits after these token ids, one a line\n"
  "A PROMPT of - is read from the standard input.\n";

typedef struct {
  const char *folder, *load, *save, *prompt;
  long count;
  cdr_sampling how;
  char **ids;
  int id_count;
} options;

typedef struct {
  cdr_model *model;
  cdr_tokenizer *tokenizer;
  void *state;
  float *logits;
} session;

static int fail(const char *what, const char *why)
{
  fprintf(stderr, "cdrmix-run: %s: %s\n", what, why);
  return 1;
}

/* --- options --------------------------------------------------------------------------------------------------- */
static int real(const char *text, double low, double high, double *value)
{
  char *end;
  *value = strtod(text, &end);
  return end != text && !*end && *value >= low && *value <= high;
}

static int whole(const char *text, long low, long high, long *value)
{
  char *end;
  errno = 0;
  *value = strtol(text, &end, 10);
  return end != text && !*end && !errno && *value >= low && *value <= high;
}

static int set(options *o, char letter, const char *value)
{
  long n = 0;
  int good = 1;
  switch (letter) {
  case 'n':
    return whole(value, 0, 1L << 30, &o->count);
  case 't':
    return real(value, 0, 1e6, &o->how.temperature);
  case 'p':
    return real(value, 0, 1, &o->how.top_p);
  case 'k':
    good = whole(value, 0, 1L << 30, &n);
    o->how.top_k = (int32_t)n;
    return good;
  case 's':
    good = whole(value, 0, 2147483647L, &n);
    o->how.random = (uint64_t)n;
    return good;
  case 'm':
    return o->folder = value, 1;
  case 'l':
    return o->load = value, 1;
  case 'o':
    return o->save = value, 1;
  default:
    return 0;
  }
}

static int parse(options *o, int argc, char **argv)
{
  for (int i = 1; i < argc; i++) {
    const char *a = argv[i];
    if (strcmp(a, "--logits") == 0) {
      o->ids = argv + i + 1;
      o->id_count = argc - i - 1;
      return o->id_count > 0;
    }
    if (a[0] == '-' && a[1] && !a[2]) {
      if (i + 1 == argc || !set(o, a[1], argv[++i])) return 0;
    } else if (o->prompt || (a[0] == '-' && a[1])) {
      return 0;
    } else {
      o->prompt = a;
    }
  }
  return o->prompt != NULL;
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

static void print_token(const cdr_tokenizer *t, int32_t id, cdr_utf8 *u)
{
  size_t size;
  const unsigned char *bytes = cdr_token_bytes(t, id, &size);
  char out[8];
  for (size_t i = 0; i < size; i++) fwrite(out, 1, cdr_utf8_push(u, bytes[i], out), stdout);
  fflush(stdout);
}

/* Prints the prompt and gives its ids.  A new document begins with the token that ends the one before. */
static int32_t *prompt_ids(const session *s, const options *o, size_t *count)
{
  size_t size = strlen(o->prompt), first = 0;
  char *text = strcmp(o->prompt, "-") == 0 ? read_all(stdin, &size) : NULL;
  const char *from = text ? text : o->prompt;
  int32_t *ids = malloc((size + 1) * sizeof *ids), eot = cdr_tokenizer_eot(s->tokenizer);
  if (ids) {
    if (!o->load && eot >= 0) ids[first++] = eot;
    if (cdr_encode(s->tokenizer, from, size, ids + first, count) != CDR_OK) *count = 0;
    *count += first;
    if (*count == 0) ids[(*count)++] = eot >= 0 ? eot : 0; /* nothing to go by */
    fwrite(from, 1, size, stdout);
  }
  free(text);
  return ids;
}

/* --- running --------------------------------------------------------------------------------------------------- */
/* Reads a token and chooses the next one. */
static int choose(session *s, options *o, cdr_candidate *room, int32_t token, int32_t *chosen)
{
#if defined(CDR_ON_DEVICE)
  (void)room;
  return cdr_generate(s->model, s->state, token, 1, &o->how, chosen);
#else
  int code = cdr_step(s->model, s->state, token, s->logits);
  if (code == CDR_OK) *chosen = cdr_sample(&o->how, s->logits, cdr_vocab(s->model), room);
  return code == CDR_OK && *chosen < 0 ? CDR_NOT_FINITE : code;
#endif
}

static int generate(session *s, options *o)
{
  size_t count = 0;
  int32_t *ids = prompt_ids(s, o, &count), token = 0, chosen = 0;
  cdr_candidate *room = malloc((size_t)cdr_vocab(s->model) * sizeof *room);
  cdr_utf8 u = {{0}, 0, 0};
  char rest[8];
  long n = 0;
  int code = ids && room ? CDR_OK : CDR_NO_MEMORY;
  if (code == CDR_OK && count > 1) code = cdr_prefill(s->model, s->state, ids, count - 1, NULL);
  if (code == CDR_OK) token = ids[count - 1];
  o->how.random = cdr_random_at(o->how.random, cdr_state_tokens(s->model, s->state) + 1);
  for (; code == CDR_OK && n < o->count; n++, token = chosen) {
    code = choose(s, o, room, token, &chosen);
    if (code != CDR_OK || chosen == cdr_tokenizer_eot(s->tokenizer)) break;
    print_token(s->tokenizer, chosen, &u);
  }
  if (code == CDR_OK && n == o->count) code = cdr_step(s->model, s->state, token, NULL); /* the last one is read, too */
  fwrite(rest, 1, cdr_utf8_flush(&u, rest), stdout);
  putchar('\n');
  free(ids);
  free(room);
  return code;
}

static int print_logits(session *s, const options *o)
{
  int code = CDR_OK;
  for (int i = 0; i < o->id_count && code == CDR_OK; i++) {
    long id;
    if (!whole(o->ids[i], 0, 2147483647L, &id)) return CDR_TOKEN;
    code = cdr_step(s->model, s->state, (int32_t)id, s->logits);
  }
  for (int32_t i = 0; i < cdr_vocab(s->model) && code == CDR_OK; i++) printf("%.9g\n", (double)s->logits[i]);
  return code;
}

static int run(session *s, options *o)
{
  char path[4096];
  int code;
  const char *what = path;
  if (strlen(o->folder) + 32 > sizeof path) return fail(o->folder, "the path is too long");
  sprintf(path, "%s/weights.safetensors", o->folder);
  if ((code = cdr_open(&s->model, path)) != CDR_OK) return fail(path, cdr_error_text(code));
  s->state = malloc(cdr_state_size(s->model));
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
  if (code != CDR_OK) return fail(o->folder, cdr_error_text(code));
  if (o->save && (code = cdr_state_save(s->model, s->state, o->save)) != CDR_OK)
    return fail(o->save, cdr_error_text(code));
  return 0;
}

int main(int argc, char **argv)
{
  options o = {".", NULL, NULL, NULL, 200, {0.8, 0.95, TOP_K, 0, NULL}, NULL, 0};
  session s = {NULL, NULL, NULL, NULL};
  if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
    fputs(usage, stdout);
    return 0;
  }
  if (!parse(&o, argc, argv)) {
    fputs(usage, stderr);
    return 2;
  }
  int status = run(&s, &o);
  cdr_tokenizer_close(s.tokenizer);
  if (s.state) cdr_state_free(s.model, s.state);
  cdr_close(s.model);
  free(s.state);
  free(s.logits);
  return status;
}
