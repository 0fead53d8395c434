/* The manifest that the GPU runner reads, and the launches of each of its programs. */
#include "fuzz.h"
#include "failure.h"
#include "manifest.h"

static void try(const uint8_t *data, size_t size, const char *tail)
{
  cdr_manifest manifest;
  file_of("manifest.json", data, size, tail);
  int code = cdr_manifest_open(&manifest, getenv("FUZZ_FOLDER"));
  must(strlen(cdr_failure_text(code)) > 0);
  for (int i = 0; code == CDR_OK && i < manifest.program_count && i < 8; i++)
    must(cdr_manifest_choose(&manifest, &manifest.programs[i]) >= 0);
  if (code == CDR_OK) cdr_manifest_close(&manifest);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  try(data, size, "");
  try(data, size, seal_of(data, size));
  return 0;
}
