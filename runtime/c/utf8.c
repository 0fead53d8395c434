#include "utf8.h"

#include <string.h>

size_t cdr_utf8_flush(cdr_utf8 *u, char *out)
{
  size_t size = u->have ? 3 : 0;
  memcpy(out, "\xef\xbf\xbd", size);
  u->have = u->need = 0;
  return size;
}

/* The second byte has a narrower range after some first bytes: no overlong forms, no surrogates, nothing above U+10FFFF. */
static int continues(const cdr_utf8 *u, unsigned char byte)
{
  unsigned char low = 0x80, high = 0xbf;
  if (u->have == 1) {
    if (u->held[0] == 0xe0) low = 0xa0;
    if (u->held[0] == 0xed) high = 0x9f;
    if (u->held[0] == 0xf0) low = 0x90;
    if (u->held[0] == 0xf4) high = 0x8f;
  }
  return low <= byte && byte <= high;
}

size_t cdr_utf8_push(cdr_utf8 *u, unsigned char byte, char *out)
{
  size_t size = 0;
  if (u->have) {
    if (continues(u, byte)) {
      u->held[u->have++] = byte;
      if (u->have < u->need) return 0;
      size = u->have;
      memcpy(out, u->held, size);
      u->have = u->need = 0;
      return size;
    }
    size = cdr_utf8_flush(u, out);
  }
  if (byte < 0x80) {
    out[size] = (char)byte;
    return size + 1;
  }
  u->need = byte >= 0xc2 && byte <= 0xdf ? 2 : byte >= 0xe0 && byte <= 0xef ? 3 : byte >= 0xf0 && byte <= 0xf4 ? 4 : 0;
  u->held[0] = byte;
  u->have = 1;
  return u->need ? size : size + cdr_utf8_flush(u, out + size);
}
