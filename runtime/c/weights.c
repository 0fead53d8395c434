#include "system.h"

#if !defined(CDR_NO_MMAP)
#define _DEFAULT_SOURCE 1
#define _POSIX_C_SOURCE 200809L
#endif
#include "weights.h"

#include "errors.h"
#include "fnv.h"
#include "json.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if !defined(CDR_NO_MMAP)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

enum { LONGEST_NAME = 1024, SAMPLED = 4 };
#define LARGEST_HEADER ((uint64_t)100 << 20)

/* --- a file in memory ------------------------------------------------------------------------------------------ */
#if !defined(CDR_NO_MMAP)
static int map(cdr_file *file, const char *path)
{
  struct stat about;
  int fd = open(path, O_RDONLY);
  if (fd < 0) return 0;
  if (fstat(fd, &about) == 0 && S_ISREG(about.st_mode) && about.st_size > 0 && (uintmax_t)about.st_size <= SIZE_MAX) {
    void *at = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (at != MAP_FAILED) {
      file->bytes = at;
      file->size = (size_t)about.st_size;
      file->mapped = 1;
    }
  }
  close(fd);
  return file->mapped;
}
#endif

static int slurp(cdr_file *file, const char *path)
{
  FILE *f = fopen(path, "rb");
  size_t room = 0;
  if (!f) return CDR_CANNOT_OPEN;
  if (fseek(f, 0, SEEK_END) == 0) { /* where it can be told, room for all of it at once */
    const long size = ftell(f);
    rewind(f);
    if (size > 0 && (file->bytes = malloc((size_t)size + 1))) room = (size_t)size + 1;
  }
  for (;;) {
    if (file->size == room) {
      unsigned char *more = room > SIZE_MAX / 2 ? NULL : realloc(file->bytes, room = room ? room * 2 : 1 << 16);
      if (!more) return fclose(f), cdr_weights_close(file), CDR_NO_MEMORY;
      file->bytes = more;
    }
    size_t got = fread(file->bytes + file->size, 1, room - file->size, f);
    file->size += got;
    if (got == 0) break;
  }
  int failed = ferror(f);
  unsigned char *whole = file->size ? realloc(file->bytes, file->size) : NULL;
  if (whole) file->bytes = whole; /* no more memory than the file's */
  fclose(f);
  if (failed) cdr_weights_close(file);
  return failed ? CDR_CANNOT_READ : CDR_OK;
}

int cdr_file_open(cdr_file *file, const char *path)
{
  memset(file, 0, sizeof *file);
#if !defined(CDR_NO_MMAP)
  if (map(file, path)) return CDR_OK;
#endif
  return slurp(file, path);
}

void cdr_weights_close(cdr_file *file)
{
#if !defined(CDR_NO_MMAP)
  if (file->mapped) munmap(file->bytes, file->size);
#endif
  if (!file->mapped) free(file->bytes);
  memset(file, 0, sizeof *file);
}

void cdr_weights_unread(const cdr_file *file)
{
#if !defined(CDR_NO_MMAP) && defined(MADV_DONTNEED)
  if (file->mapped) madvise(file->bytes, file->size, MADV_DONTNEED);
#else
  (void)file;
#endif
}

unsigned char *cdr_pages(size_t size)
{
#if !defined(CDR_NO_MMAP)
  const size_t whole = (size + CDR_PAGE - 1) / CDR_PAGE * CDR_PAGE;
  void *memory = NULL;
  if (posix_memalign(&memory, CDR_PAGE, whole) != 0) return NULL;
#if defined(MADV_HUGEPAGE)
  madvise(memory, whole, MADV_HUGEPAGE);
#endif
  return memory;
#else
  return malloc(size);
#endif
}

void cdr_pages_free(unsigned char *memory) { free(memory); }

/* --- types --------------------------------------------------------------------------------------------------- */
static const char *const dtypes[CDR_DTYPES] = {[CDR_F32] = "F32", [CDR_F16] = "F16", [CDR_BF16] = "BF16",
                                              [CDR_I8] = "I8",   [CDR_U8] = "U8",   [CDR_I32] = "I32"};

size_t cdr_dtype_size(cdr_dtype dtype)
{
  static const unsigned char sizes[CDR_DTYPES] = {
    [CDR_F32] = 4, [CDR_F16] = 2, [CDR_BF16] = 2, [CDR_I8] = 1, [CDR_U8] = 1, [CDR_I32] = 4,
  };
  return sizes[dtype];
}

/* --- the header ------------------------------------------------------------------------------------------------ */
typedef struct {
  cdr_span dtype;
  int shape_fits, in_blocks;
  uint64_t begin, end;
} entry;

/* Passes a shape and says whether it is that of `want` (which is NULL for a tensor that nobody wants), or of its blocks. */
static int read_shape(cdr_json *j, const cdr_tensor *want, int *fits, int *in_blocks)
{
  int first = 1, more, rank = 0;
  uint64_t size;
  if (!cdr_json_enter(j, '[')) return 0;
  *fits = 1;
  *in_blocks = want && want->blocks;
  while ((more = cdr_json_more(j, ']', &first)) > 0) {
    if (!cdr_json_whole(j, &size)) return 0;
    if (want && (rank >= want->rank || size != want->shape[rank])) *fits = 0;
    if (*in_blocks && (rank >= 4 || size != want->blocks[rank])) *in_blocks = 0;
    if (rank < INT_MAX) rank++;
  }
  if (want && rank != want->rank) *fits = 0;
  if (rank != 4 || *fits) *in_blocks = 0;
  return more == 0;
}

static int read_entry(cdr_json *j, const cdr_tensor *want, entry *e)
{
  enum { DTYPE = 1, SHAPE = 2, PLACE = 4 };
  int first = 1, more, seen = 0, here;
  cdr_span key;
  if (!cdr_json_enter(j, '{')) return 0;
  while ((more = cdr_json_more(j, '}', &first)) > 0) {
    if (!cdr_json_key(j, &key)) return 0;
    if (cdr_json_is(key, "dtype")) {
      here = DTYPE;
      if (!cdr_json_string(j, &e->dtype)) return 0;
    } else if (cdr_json_is(key, "shape")) {
      here = SHAPE;
      if (!read_shape(j, want, &e->shape_fits, &e->in_blocks)) return 0;
    } else if (cdr_json_is(key, "data_offsets")) {
      int start = 1;
      here = PLACE;
      if (!cdr_json_enter(j, '[') || cdr_json_more(j, ']', &start) != 1 || !cdr_json_whole(j, &e->begin)) return 0;
      if (cdr_json_more(j, ']', &start) != 1 || !cdr_json_whole(j, &e->end)) return 0;
      if (cdr_json_more(j, ']', &start) != 0) return 0;
    } else {
      return 0;
    }
    if (seen & here) return 0;
    seen |= here;
  }
  return more == 0 && seen == (DTYPE | SHAPE | PLACE);
}

static int position(const cdr_tensor *want, int count, const char *name)
{
  int low = 0, high = count;
  while (low < high) {
    int middle = low + (high - low) / 2, order = strcmp(want[middle].name, name);
    if (order == 0) return middle;
    if (order < 0) low = middle + 1;
    else high = middle;
  }
  return -1;
}

static int check_entry(const cdr_tensor *want, const entry *e, uint64_t room)
{
  uint64_t unit = cdr_dtype_size(want->dtype), size = unit;
  const cdr_dtype dtype = e->in_blocks && want->dtype == CDR_I8 ? CDR_U8 : want->dtype; /* 128 more there */
  if (!cdr_json_is(e->dtype, dtypes[dtype])) return CDR_TENSOR_DTYPE;
  if (!e->shape_fits && !e->in_blocks) return CDR_TENSOR_SHAPE;
  for (int i = 0; i < want->rank; i++) size *= want->shape[i]; /* the model's own sizes: no overflow */
  if (e->begin > e->end || e->end - e->begin != size || e->begin % unit) return CDR_TENSOR_RANGE;
  return e->end > room ? CDR_TENSOR_TRUNCATED : CDR_OK;
}

static int read_header(cdr_json *j, const unsigned char *data, uint64_t room, const cdr_tensor *want, int count,
                       const void **found, unsigned char *in_blocks, int *recorded, uint64_t *fingerprint)
{
  char name[LONGEST_NAME];
  int first = 1, more;
  uint64_t last = 0;
  if (!cdr_json_enter(j, '{')) return CDR_WEIGHTS_HEADER;
  while ((more = cdr_json_more(j, '}', &first)) > 0) {
    cdr_span key;
    entry e;
    size_t size = 0;
    int which = -1, code;
    if (!cdr_json_key(j, &key)) return CDR_WEIGHTS_HEADER;
    if (cdr_json_is(key, "__metadata__")) {
      cdr_json value;
      *recorded = cdr_json_find(*j, "fingerprint", &value) == 1;
      if (*recorded && !cdr_json_hexadecimal(&value, fingerprint)) return CDR_WEIGHTS_HEADER;
      if (!cdr_json_skip(j)) return CDR_WEIGHTS_HEADER;
      continue;
    }
    if (cdr_json_decode(key, name, sizeof name - 1, &size) && !memchr(name, 0, size)) {
      name[size] = 0;
      which = position(want, count, name);
    }
    if (!read_entry(j, which < 0 ? NULL : &want[which], &e))
      return which < 0 ? CDR_WEIGHTS_HEADER : cdr_error_of(CDR_TENSOR_ENTRY, which);
    if (e.end > last) last = e.end;
    if (which < 0) continue; /* a tensor of something else */
    if (found[which]) return cdr_error_of(CDR_TENSOR_TWICE, which);
    if ((code = check_entry(&want[which], &e, room)) != CDR_OK) return cdr_error_of(code, which);
    found[which] = data + e.begin;
    if (in_blocks) in_blocks[which] = (unsigned char)e.in_blocks;
  }
  if (more < 0 || !cdr_json_done(j)) return CDR_WEIGHTS_HEADER;
  for (int i = 0; i < count; i++)
    if (!found[i]) return cdr_error_of(CDR_TENSOR_MISSING, i);
  return last == room ? CDR_OK : CDR_WEIGHTS_SIZE;
}

/* Of what the tensors are and a few values of each, so that every target finds the same for the same weights; where they
   are not the f32 values, the header has it instead.  What a state begins with is made of other tensors, and only some
   targets keep it. */
static uint64_t fingerprint_of(const cdr_tensor *want, int count, const void **found)
{
  static const char made[] = ".start";
  uint64_t hash = CDR_FNV_START;
  for (int i = 0; i < count; i++) {
    size_t length = strlen(want[i].name), unit = cdr_dtype_size(want[i].dtype), tail = sizeof made - 1;
    uint64_t n = 1;
    if (length > tail && strcmp(want[i].name + length - tail, made) == 0) continue;
    for (int k = 0; k < want[i].rank; k++) n *= want[i].shape[k];
    uint64_t some = n < SAMPLED ? n : SAMPLED, facts[2] = {(uint64_t)want[i].dtype, n};
    hash = cdr_fnv(hash, want[i].name, length + 1);
    hash = cdr_fnv(hash, facts, sizeof facts);
    hash = cdr_fnv(hash, found[i], (size_t)some * unit);
    hash = cdr_fnv(hash, (const unsigned char *)found[i] + (size_t)(n - some) * unit, (size_t)some * unit);
  }
  return hash;
}

int cdr_weights_open(cdr_file *file, const char *path, const cdr_tensor *want, int count, const void **found,
                     unsigned char *in_blocks)
{
  uint64_t header = 0;
  int recorded = 0, code = cdr_file_open(file, path);
  if (code != CDR_OK) return code;
  for (int i = 0; i < count; i++) found[i] = NULL;
  if (file->size < 8) return cdr_weights_close(file), CDR_WEIGHTS_SHORT;
  for (int i = 7; i >= 0; i--) header = header << 8 | file->bytes[i];
  if (header > LARGEST_HEADER || header > file->size - 8) code = CDR_WEIGHTS_SHORT;
  else if (header % 4) code = CDR_WEIGHTS_ALIGNMENT;
  if (code == CDR_OK) {
    const unsigned char *data = file->bytes + 8 + header;
    cdr_json j = {file->bytes + 8, data};
    code = read_header(&j, data, file->size - 8 - header, want, count, found, in_blocks, &recorded,
                       &file->fingerprint);
  }
  if (code != CDR_OK) cdr_weights_close(file);
  else if (!recorded) file->fingerprint = fingerprint_of(want, count, found);
  return code;
}
