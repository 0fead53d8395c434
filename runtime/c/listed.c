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
  cdr_checksum_begin(room);
  for (size_t at = 0, some; at < file->size; at += some) {
    some = file->size - at < CDR_AT_ONCE ? file->size - at : CDR_AT_ONCE;
    cdr_checksum_add(room, file->bytes + at, some);
    cdr_weights_unread(file);
  }
  const uint64_t found = cdr_checksum_end(room);
  free(room);
  return found == wanted ? CDR_OK : CDR_FILE_DAMAGED;
}

int cdr_listed_seal(const cdr_file *manifest)
{
  static const char key[] = "\"checksum\":";
  const unsigned char *bytes = manifest->bytes;
  size_t size = sizeof key - 1, at = manifest->size;
  uint64_t listed;
  while (at > 0 && (manifest->size - at < size || memcmp(bytes + at, key, size) != 0)) at--;
  if (manifest->size - at < size || memcmp(bytes + at, key, size) != 0) return CDR_MANIFEST;
  cdr_json j = {bytes + at + size, bytes + manifest->size};
  if (!cdr_json_hexadecimal(&j, &listed) || !cdr_json_enter(&j, '}') || !cdr_json_done(&j)) return CDR_FILE_DAMAGED;
  cdr_checksum *room = malloc(sizeof *room);
  if (!room) return CDR_NO_MEMORY;
  while (at > 0 && (bytes[at - 1] == ' ' || bytes[at - 1] == '\n')) at--;
  uint64_t found = cdr_checksum_of(room, bytes, at);
  free(room);
  return found == listed ? CDR_OK : CDR_FILE_DAMAGED;
}

static int find_entry(const cdr_file *manifest, const char *name, const cdr_file *file)
{
  cdr_json all = {manifest->bytes, manifest->bytes + manifest->size}, value, entry;
  uint64_t format;
  int found = cdr_json_find(all, "format", &value), seal = cdr_listed_seal(manifest);
  if (seal == CDR_NO_MEMORY) return seal;
  if (found == 0 && seal == CDR_MANIFEST) return CDR_OK; /* something else's manifest */
  if (found < 1 || !cdr_json_whole(&value, &format) || format != LISTED_FORMAT || seal != CDR_OK) return CDR_MANIFEST;
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
