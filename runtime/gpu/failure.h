/* Error codes that carry a sentence of their own: what failed, where, and what the driver said of it.

   The low byte of a code is its kind (errors.h); the rest tells one failure of a thread from the next. */
#ifndef CDR_FAILURE_H
#define CDR_FAILURE_H

#include "errors.h"

#if defined(__GNUC__)
#define CDR_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define CDR_PRINTF(text, first)
#endif

/* Keeps the sentence for this thread and returns the code. */
int cdr_fail(int kind, const char *format, ...) CDR_PRINTF(2, 3);

/* The sentence of a code if it is this thread's latest failure, otherwise the text of its kind. */
const char *cdr_failure_text(int code);

#endif
