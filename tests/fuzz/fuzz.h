/* What the fuzz targets share: the fuzzer's bytes as a file of the folder FUZZ_FOLDER.

   A target breaks where a sanitizer finds something or a promise of `must` is not kept. */
#ifndef CDR_FUZZ_H
#define CDR_FUZZ_H

#include "checksum.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline void must(int truth)
{
  if (!truth) abort();
}

static inline const char *path_of(const char *name)
{
  static char path[4096];
  must(getenv("FUZZ_FOLDER") != NULL);
  int length = snprintf(path, sizeof path, "%s/%s", getenv("FUZZ_FOLDER"), name);
  must(length > 0 && (size_t)length < sizeof path);
  return path;
}

/* Writes the file, `tail` after `data`, and gives its path, which is good until the next call. */
static inline const char *file_of(const char *name, const uint8_t *data, size_t size, const char *tail)
{
  const char *path = path_of(name);
  FILE *f = fopen(path, "wb");
  must(f && fwrite(data, 1, size, f) == size && fputs(tail, f) >= 0 && fclose(f) == 0);
  return path;
}

/* The end of a manifest whose text so far is `data`: its checksum, so that what reads a good one is reached too. */
static inline const char *seal_of(const uint8_t *data, size_t size)
{
  static cdr_checksum room;
  static char seal[64];
  while (size > 0 && (data[size - 1] == ' ' || data[size - 1] == '\n')) size--;
  const unsigned long long sum = cdr_checksum_of(&room, data, size);
  snprintf(seal, sizeof seal, "\n \"checksum\": \"%016llx\"\n}\n", sum);
  return seal;
}

#endif
