#include "stop.h"

#include <string.h>

/* Whether what is held from `at` on is a stop text, or begins one (`whole` 0). */
static int stands(const cdr_stops *stops, size_t at, int whole)
{
  size_t rest = stops->size - at;
  for (int i = 0; i < stops->count; i++) {
    size_t size = strlen(stops->texts[i]);
    if ((whole ? size == rest : size > rest) && memcmp(stops->texts[i], stops->held + at, rest) == 0) return 1;
  }
  return 0;
}

size_t cdr_stop_push(cdr_stops *stops, unsigned char byte, unsigned char *out)
{
  size_t at = 0;
  if (stops->count == 0) {
    *out = byte;
    return 1;
  }
  stops->held[stops->size++] = byte;
  /* the one that began first, of those that end here */
  for (; at < stops->size && !stops->found; at += !stops->found) stops->found = stands(stops, at, 1);
  for (at = stops->found ? at : 0; !stops->found && !stands(stops, at, 0); at++) {}
  memcpy(out, stops->held, at);
  stops->size = stops->found ? 0 : stops->size - at;
  memmove(stops->held, stops->held + at, stops->size);
  return at;
}
