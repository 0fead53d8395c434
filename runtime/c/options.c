#define _POSIX_C_SOURCE 200809L
#include "options.h"

#include "model.h"

#include <float.h>
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

const char cdr_usage[] =
  "cdrmix-run [options] PROMPT\n"
  "Prints PROMPT and what the model of an artefact writes after it.\n"
  "  -n COUNT        tokens to write (200)\n"
  "  -t TEMPERATURE  0 takes the likeliest token (0.8)\n"
  "  -p TOP_P        keep the likeliest tokens of this probability (0.95)\n"
  "  -k TOP_K        keep so many of the likeliest tokens; 0 all (" TOP_K_TEXT ")\n"
  "  -s SEED         of the random choice (0)\n"
#if !defined(CDR_ON_DEVICE)
  "  -j THREADS      as many as CDRMIX_THREADS says, or as there are processors\n"
#endif
  "  -m DIR          the artefact's folder (.)\n"
  "  -l FILE         begin with a saved state\n"
  "  -o FILE         save the state at the end\n"
  "  --stop TEXT     end before this text; may be given several times\n"
  "  --special       special tokens in PROMPT, such as <|endoftext|>, are such\n"
  "  --logits ID...  print the logits after these token ids, one a line\n"
  "A PROMPT of - is read from the standard input; one that begins with - comes after --.\n"
  "Exit codes: 0 done, 1 something failed, 2 a command line that cannot be read.\n";

static int digits(const char **at)
{
  const char *from = *at;
  while (**at >= '0' && **at <= '9') ++*at;
  return *at > from;
}

/* Plain decimals: no blanks, no hexadecimals, no names. */
static int real(const char *text, double low, double high, double *value)
{
  const char *at = text + (*text == '-' || *text == '+');
  int front = digits(&at), back = *at == '.' && (at++, digits(&at));
  if (!front && !back) return 0;
  if (*at == 'e' || *at == 'E') {
    at++;
    at += *at == '-' || *at == '+';
    if (!digits(&at)) return 0;
  }
  *value = strtod(text, NULL);
  return !*at && *value >= low && *value <= high;
}

int cdr_whole(const char *text, uint64_t most, uint64_t *value)
{
  const char *from = text + (*text == '+'), *at = from;
  if (!digits(&at) || *at) return 0;
  *value = 0;
  for (at = from; *at; at++) {
    uint64_t digit = (uint64_t)(*at - '0');
    if (*value > (most - digit) / 10) return 0;
    *value = *value * 10 + digit;
  }
  return 1;
}

static int set(cdr_options *o, char letter, const char *value)
{
  uint64_t n = 0;
  int good = 1;
  switch (letter) {
  case 'n':
    return cdr_whole(value, INT32_MAX, &o->count);
  case 't':
    return real(value, 0, DBL_MAX, &o->how.temperature);
  case 'p':
    return real(value, 0, 1, &o->how.top_p) && o->how.top_p > 0;
  case 'k':
    good = cdr_whole(value, INT32_MAX, &n);
    o->how.top_k = (int32_t)n;
    return good;
  case 's':
    return cdr_whole(value, UINT64_MAX, &o->seed);
#if !defined(CDR_ON_DEVICE)
  case 'j':
    good = cdr_whole(value, 64, &n) && n > 0;
    o->threads = (int)n;
    return good;
#endif
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

static int add_stop(cdr_options *o, const char **texts, const char *text)
{
  texts[o->stops.count++] = text;
  o->stops.texts = texts;
  if (strlen(text) > o->stops.longest) o->stops.longest = strlen(text);
  return *text != 0;
}

int cdr_options_read(cdr_options *o, int argc, char **argv, const char **texts)
{
  int plain = 0;
  memset(o, 0, sizeof *o);
  o->folder = ".";
  o->count = 200;
  o->how.temperature = 0.8;
  o->how.top_p = 0.95;
  o->how.top_k = TOP_K;
  for (int i = 1; i < argc; i++) {
    const char *a = argv[i];
    int option = !plain && a[0] == '-' && a[1];
    if (option && strcmp(a, "--logits") == 0) {
      o->ids = argv + i + 1;
      o->id_count = argc - i - 1;
      return o->id_count > 0;
    }
    if (option && strcmp(a, "--") == 0) plain = 1;
    else if (option && strcmp(a, "--special") == 0) o->special = 1;
    else if (option && strcmp(a, "--stop") == 0) {
      if (++i == argc || !add_stop(o, texts, argv[i])) return 0;
    } else if (option) {
      if (a[2] || i + 1 == argc || !set(o, a[1], argv[++i])) return 0;
    } else if (o->prompt) {
      return 0;
    } else {
      o->prompt = a;
    }
  }
  return o->prompt != NULL;
}
