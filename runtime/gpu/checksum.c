#include "checksum.h"

#include <string.h>

static const uint64_t start = UINT64_C(0xcbf29ce484222325), prime = UINT64_C(0x100000001b3);

void cdr_checksum_begin(cdr_checksum *sum)
{
  for (int i = 0; i < CDR_LANES; i++) sum->lane[i] = start;
  sum->size = 0;
  sum->held = 0;
}

static void add_row(cdr_checksum *sum, const unsigned char *row)
{
  for (int i = 0; i < CDR_LANES; i++) {
    uint64_t word;
    memcpy(&word, row + 8 * i, 8); /* the machine is little-endian: cdr_open has made sure */
    sum->lane[i] = (sum->lane[i] ^ word) * prime;
  }
}

void cdr_checksum_add(cdr_checksum *sum, const void *bytes, size_t size)
{
  const unsigned char *p = bytes;
  sum->size += size;
  while (size > 0) {
    if (sum->held == 0 && size >= CDR_ROW) {
      add_row(sum, p);
      p += CDR_ROW;
      size -= CDR_ROW;
      continue;
    }
    size_t some = CDR_ROW - sum->held < size ? CDR_ROW - sum->held : size;
    memcpy(sum->rest + sum->held, p, some);
    sum->held += some;
    p += some;
    size -= some;
    if (sum->held == CDR_ROW) {
      add_row(sum, sum->rest);
      sum->held = 0;
    }
  }
}

uint64_t cdr_checksum_end(cdr_checksum *sum)
{
  uint64_t hash = start;
  if (sum->held > 0) {
    memset(sum->rest + sum->held, 0, CDR_ROW - sum->held);
    add_row(sum, sum->rest);
  }
  for (int i = 0; i < CDR_LANES; i++) hash = (hash ^ sum->lane[i]) * prime;
  return (hash ^ sum->size) * prime;
}

uint64_t cdr_checksum_of(cdr_checksum *room, const void *bytes, size_t size)
{
  cdr_checksum_begin(room);
  cdr_checksum_add(room, bytes, size);
  return cdr_checksum_end(room);
}
