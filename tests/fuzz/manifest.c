/* manifest.json beside good weights: as it comes, and with a right checksum behind it. */
#include "errors.h"
#include "fuzz.h"
#include "listed.h"

static cdr_file weights;

static void try(const uint8_t *data, size_t size, const char *tail)
{
  file_of("manifest.json", data, size, tail);
  const int code = cdr_listed_check(path_of("weights.safetensors"), &weights);
  must(code == CDR_OK || code == CDR_MANIFEST || code == CDR_FILE_DAMAGED);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  if (!weights.bytes) must(cdr_file_open(&weights, path_of("weights.safetensors")) == CDR_OK);
  try(data, size, "");
  try(data, size, seal_of(data, size));
  return 0;
}
