/* A file's checksum: finds accidents, as fast as memory is read.

   64-bit FNV-1a over little-endian words of eight bytes, in CDR_SUM_LANES lanes side by side (word n belongs to lane
   n % CDR_SUM_LANES), the end filled up with zeros to a whole row; then FNV-1a over the lanes and the length. */
#ifndef CDR_CHECKSUM_H
#define CDR_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

enum { CDR_SUM_LANES = 1024, CDR_SUM_ROW = 8 * CDR_SUM_LANES };

typedef struct {
  uint64_t lane[CDR_SUM_LANES], size;
  size_t held;
  unsigned char rest[CDR_SUM_ROW];
} cdr_checksum;

void cdr_checksum_begin(cdr_checksum *sum);
void cdr_checksum_add(cdr_checksum *sum, const void *bytes, size_t size);
uint64_t cdr_checksum_end(cdr_checksum *sum);

/* The same of bytes that are all there. */
uint64_t cdr_checksum_of(cdr_checksum *room, const void *bytes, size_t size);

#endif
