#include "listed.h"

#include "checksum.h"
#include "errors.h"
#include "json.h"

#include <stdlib.h>
#include <string.h>

enum { LISTED_FORMAT = 1 };
static const char beside_name[] = "manifest.json";

/* The manifest's path is `path`'s with another name. */
static char *beside(const char *path, const char **name)
{
  const char *slash = strrchr(path, '/');
  size_t folder = slash ? (size_t)(slash - path) + 1 : 0;
  char *made = malloc(folder + sizeof beside_name);
  *name = path + folder;
  if (!made) return NULL;
  memcpy(made, path, folder);
  memcpy(made + folder, beside_name, sizeof beside_name);
  return made;
}

static int compare(cdr_json entry, const cdr_file *file)
{
  cdr_json value;
  uint64_t bytes, wanted;
  if (cdr_json_find(entry, "bytes", &value) != 1 || !cdr_json_whole(&value, &bytes)) return CDR_MANIFEST;
  if (cdr_json_find(entry, "checksum", &value) != 1 || !cdr_json_hexadecimal(&value, &wanted)) return CDR_MANIFEST;
  if (file->size != bytes) return CDR_FILE_DAMAGED;
  cdr_checksum *room = malloc(sizeof *room);
  if (!room) return CDR_NO_MEMORY;
  uint64_t found = cdr_checksum_of(room, file->bytes, file->size);
  free(room);
  return found == wanted ? CDR_OK : CDR_FILE_DAMAGED;
}

static int find_entry(const cdr_file *manifest, const char *name, const cdr_file *file)
{
  cdr_json all = {manifest->bytes, manifest->bytes + manifest->size}, value, entry;
  uint64_t format;
  int found = cdr_json_find(all, "format", &value);
  if (found == 0) return CDR_OK; /* something else's manifest */
  if (found < 0 || !cdr_json_whole(&value, &format) || format != LISTED_FORMAT) return CDR_MANIFEST;
  if (cdr_json_find(all, "files", &value) != 1 || (found = cdr_json_find(value, name, &entry)) < 0) return CDR_MANIFEST;
  return found ? compare(entry, file) : CDR_OK;
}

int cdr_listed_check(const char *path, const cdr_file *file)
{
  cdr_file manifest;
  const char *name;
  char *place = beside(path, &name);
  if (!place) return CDR_NO_MEMORY;
  int code = cdr_file_open(&manifest, place);
  free(place);
  if (code == CDR_CANNOT_OPEN) return CDR_OK;
  if (code != CDR_OK) return code;
  code = find_entry(&manifest, name, file);
  cdr_weights_close(&manifest);
  return code;
}
