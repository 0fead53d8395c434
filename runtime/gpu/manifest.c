#include "manifest.h"

#include "failure.h"
#include "listed.h"
#include "schedule.h"

#include <stdio.h>
#include <string.h>

enum { FORMAT = 1 };

static int check_text(cdr_reader *r, const cdr_file *file)
{
  switch (cdr_listed_seal(file)) {
  case CDR_OK:
    return 1;
  case CDR_NO_MEMORY:
    return cdr_reader_no_memory(r);
  case CDR_MANIFEST:
    return cdr_reader_bad(r, "it is cut short: its checksum is missing");
  default:
    return cdr_reader_bad(r, "it was changed: its checksum is another one, or not the last thing in it");
  }
}

/* --- the parts that are no tables ------------------------------------------------------------------------------- */
static int read_identity(cdr_manifest *m, cdr_reader *r, cdr_json j)
{
  static const char digits[] = "0123456789abcdef";
  cdr_span span;
  if (!cdr_json_string(&j, &span) || span.size != 64) return cdr_reader_bad(r, "`hash` is not 64 hexadecimal digits");
  for (size_t i = 0; i < 64; i++) {
    const char *at = span.text[i] ? strchr(digits, span.text[i]) : NULL;
    if (!at) return cdr_reader_bad(r, "`hash` is not 64 hexadecimal digits");
    m->identity[i / 2] = (unsigned char)(m->identity[i / 2] << 4 | (at - digits));
  }
  return 1;
}

static int read_files(cdr_manifest *m, cdr_reader *r, cdr_json j)
{
  int first = 1, n = 0;
  r->where = "files";
  m->files = cdr_reader_list(r, &j, '{', sizeof *m->files, &m->file_count);
  if (!m->files) return 0;
  for (; cdr_reader_next(r, &j, '}', &first); cdr_json_skip(&j)) {
    cdr_listed *file = &m->files[n++];
    cdr_json at;
    if (!cdr_reader_key(r, &j, &file->name)) return 0;
    if (!cdr_reader_at(r, j, "bytes", &at) || !cdr_reader_whole(r, &at, UINT64_MAX, &file->bytes)) return 0;
    if (!cdr_reader_at(r, j, "checksum", &at) || !cdr_reader_checksum(r, &at, &file->checksum)) return 0;
  }
  return r->code == CDR_OK;
}

static int read_programs(cdr_manifest *m, cdr_reader *r, cdr_json j)
{
  int first = 1, n = 0;
  cdr_span vendor;
  r->where = "programs";
  m->programs = cdr_reader_list(r, &j, '{', sizeof *m->programs, &m->program_count);
  if (!m->programs) return 0;
  for (; cdr_reader_next(r, &j, '}', &first); cdr_json_skip(&j)) {
    cdr_program *program = &m->programs[n++];
    cdr_json at;
    if (!cdr_reader_key(r, &j, &program->arch)) return 0;
    program->at = j;
    if (!cdr_reader_at(r, j, "code", &at) || !cdr_reader_text(r, &at, &program->code)) return 0;
    if (!cdr_manifest_file(m, program->code)) return cdr_reader_bad(r, "a program's code is not among the files");
    if (!cdr_reader_at(r, j, "vendor", &at) || !cdr_json_string(&at, &vendor))
      return cdr_reader_bad(r, "a vendor is wanted");
    program->vendor = cdr_json_is(vendor, "cuda") ? CDR_CUDA : CDR_HIP;
    if (program->vendor == CDR_HIP && !cdr_json_is(vendor, "hip")) return cdr_reader_bad(r, "an unknown vendor");
  }
  return r->code == CDR_OK;
}

static int read_all(cdr_manifest *m, cdr_reader *r)
{
  cdr_json at = {m->file.bytes, m->file.bytes + m->file.size}, value;
  uint64_t format;
  if (!cdr_reader_at(r, at, "format", &value) || !cdr_reader_whole(r, &value, UINT64_MAX, &format)) return 0;
  if (format != FORMAT) return cdr_reader_bad(r, "it is of another version of the format");
  if (!check_text(r, &m->file)) return 0;
  if (!cdr_reader_at(r, at, "vocab", &value) || !cdr_reader_whole(r, &value, INT32_MAX, &m->vocab)) return 0;
  if (m->vocab < 1) return cdr_reader_bad(r, "a model without a vocabulary does not run on a GPU");
  if (!cdr_reader_at(r, at, "hash", &value) || !read_identity(m, r, value)) return 0;
  if (!cdr_reader_at(r, at, "files", &value) || !read_files(m, r, value)) return 0;
  if (!cdr_reader_at(r, at, "programs", &value) || !read_programs(m, r, value)) return 0;
  return cdr_read_tables(m, r, at) && cdr_read_schedule(m, r, at);
}

int cdr_manifest_open(cdr_manifest *m, const char *folder)
{
  char path[CDR_LONGEST_PATH];
  memset(m, 0, sizeof *m);
  int length = snprintf(path, sizeof path, "%s/manifest.json", folder);
  if (length < 0 || (size_t)length >= sizeof path) return CDR_PATH_TOO_LONG;
  int code = cdr_file_open(&m->file, path);
  if (code != CDR_OK) return cdr_fail(code & 0xff, "%s: %s", path, cdr_error_kind(code));
  cdr_reader r = {&m->pool, "the manifest", CDR_OK};
  char *kept = cdr_pool_take(&m->pool, strlen(folder) + 1, 1);
  if (kept) m->folder = strcpy(kept, folder);
  if (!kept) cdr_reader_no_memory(&r);
  else read_all(m, &r);
  if (r.code != CDR_OK) cdr_manifest_close(m);
  return r.code;
}

void cdr_manifest_close(cdr_manifest *m)
{
  cdr_pool_free(&m->pool);
  cdr_weights_close(&m->file);
  memset(m, 0, sizeof *m);
}

int cdr_manifest_choose(cdr_manifest *m, const cdr_program *program)
{
  cdr_reader r = {&m->pool, program->arch, CDR_OK};
  cdr_read_program(m, &r, program->at);
  return r.code;
}

/* --- the artefact's other files --------------------------------------------------------------------------------- */
const cdr_listed *cdr_manifest_file(const cdr_manifest *m, const char *name)
{
  for (int i = 0; i < m->file_count; i++)
    if (strcmp(m->files[i].name, name) == 0) return &m->files[i];
  return NULL;
}

int cdr_listed_open(const cdr_manifest *m, const char *name, cdr_file *file, char *path, uint64_t *checksum)
{
  const cdr_listed *listed = cdr_manifest_file(m, name);
  memset(file, 0, sizeof *file);
  if (!listed) return cdr_fail(CDR_MANIFEST, "manifest.json: files: it does not list %s", name);
  if (strchr(name, '/') || strchr(name, '\\'))
    return cdr_fail(CDR_MANIFEST, "manifest.json: files: %s is not a name in the artefact's folder", name);
  int length = snprintf(path, CDR_LONGEST_PATH, "%s/%s", m->folder, name);
  if (length < 0 || length >= CDR_LONGEST_PATH) return CDR_PATH_TOO_LONG;
  int code = cdr_file_open(file, path);
  if (code != CDR_OK) return cdr_fail(code & 0xff, "%s: %s", path, cdr_error_kind(code));
  if (file->size != listed->bytes) {
    unsigned long long have = file->size, want = listed->bytes;
    cdr_weights_close(file);
    return cdr_fail(CDR_FILE_DAMAGED,
                    "%s has %llu bytes, the manifest says %llu: it was cut short or changed; copy the artefact again",
                    path, have, want);
  }
  *checksum = listed->checksum;
  return CDR_OK;
}
