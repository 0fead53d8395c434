#include "failure.h"

#include <stdarg.h>
#include <stdio.h>

enum { LONGEST = 1024, SERIALS = 1 << 22 };

#if defined(__GNUC__)
#define CDR_THREAD __thread
#else
#define CDR_THREAD
#endif

static CDR_THREAD char sentence[LONGEST];
static CDR_THREAD int serial;

int cdr_fail(int kind, const char *format, ...)
{
  va_list values;
  va_start(values, format);
  vsnprintf(sentence, sizeof sentence, format, values);
  va_end(values);
  serial = serial % (SERIALS - 1) + 1;
  return kind | serial << 8;
}

const char *cdr_failure_text(int code)
{
  return code > 0 && serial && code >> 8 == serial ? sentence : cdr_error_kind(code);
}
