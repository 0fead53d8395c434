/* The command line of cdrmix-run. */
#ifndef CDR_OPTIONS_H
#define CDR_OPTIONS_H

#include "tokenizer.h"

#include "sample.h"
#include "stop.h"

#include <stddef.h>
#include <stdint.h>

typedef struct {
  const char *folder, *load, *save, *prompt;
  uint64_t count, seed;
  int special, threads; /* threads: 0, the usual number */
  cdr_sampling how;
  cdr_stops stops;
  char **ids;
  int id_count;
} cdr_options;

extern const char cdr_usage[];

/* Fills `o`, with what is not given at its default; 0 when the command line cannot be read.  `texts` has a place an
   argument, for the stop texts. */
int cdr_options_read(cdr_options *o, int argc, char **argv, const char **texts);

/* A plain decimal number up to `most`: no sign but +, no blanks; 0 when it is none. */
int cdr_whole(const char *text, uint64_t most, uint64_t *value);

#endif
