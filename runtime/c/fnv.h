/* FNV-1a, 64 bits: finds accidents, not attacks. */
#ifndef CDR_FNV_H
#define CDR_FNV_H

#include "inline.h"

#include <stddef.h>
#include <stdint.h>

#define CDR_FNV_START UINT64_C(0xcbf29ce484222325)
#define CDR_FNV_PRIME UINT64_C(0x100000001b3)

CDR_INLINE uint64_t cdr_fnv(uint64_t hash, const void *bytes, size_t size)
{
  const unsigned char *p = bytes;
  for (size_t i = 0; i < size; i++) hash = (hash ^ p[i]) * CDR_FNV_PRIME;
  return hash;
}

#endif
