#include "checksum.h"

#include "fnv.h"

#include <string.h>

void cdr_checksum_begin(cdr_checksum *sum)
{
  for (int i = 0; i < CDR_SUM_LANES; i++) sum->lane[i] = CDR_FNV_START;
  sum->size = 0;
  sum->held = 0;
}

static void add_row(cdr_checksum *sum, const unsigned char *row)
{
  for (int i = 0; i < CDR_SUM_LANES; i++) {
    uint64_t word;
    memcpy(&word, row + 8 * i, 8); /* the machine is little-endian: cdr_open has made sure */
    sum->lane[i] = (sum->lane[i] ^ word) * CDR_FNV_PRIME;
  }
}

void cdr_checksum_add(cdr_checksum *sum, const void *bytes, size_t size)
{
  const unsigned char *p = bytes;
  sum->size += size;
  while (size > 0) {
    if (sum->held == 0 && size >= CDR_SUM_ROW) {
      add_row(sum, p);
      p += CDR_SUM_ROW;
      size -= CDR_SUM_ROW;
      continue;
    }
    size_t some = CDR_SUM_ROW - sum->held < size ? CDR_SUM_ROW - sum->held : size;
    memcpy(sum->rest + sum->held, p, some);
    sum->held += some;
    p += some;
    size -= some;
    if (sum->held == CDR_SUM_ROW) {
      add_row(sum, sum->rest);
      sum->held = 0;
    }
  }
}

uint64_t cdr_checksum_end(cdr_checksum *sum)
{
  uint64_t hash = CDR_FNV_START;
  if (sum->held > 0) {
    memset(sum->rest + sum->held, 0, CDR_SUM_ROW - sum->held);
    add_row(sum, sum->rest);
  }
  for (int i = 0; i < CDR_SUM_LANES; i++) hash = (hash ^ sum->lane[i]) * CDR_FNV_PRIME;
  return (hash ^ sum->size) * CDR_FNV_PRIME;
}

uint64_t cdr_checksum_of(cdr_checksum *room, const void *bytes, size_t size)
{
  cdr_checksum_begin(room);
  cdr_checksum_add(room, bytes, size);
  return cdr_checksum_end(room);
}
