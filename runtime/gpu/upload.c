#include "checksum.h"
#include "runner.h"

#include <stdlib.h>
#include <string.h>

#if !defined(CDR_STAGE)
#define CDR_STAGE (8 << 20) /* bytes of pinned memory that a part of the file goes through */
#endif
enum { STAGES = 2 };

/* A tensor's place in the file and on the GPU. */
typedef struct {
  uint64_t begin, end;
  cdr_pointer to;
} segment;

static int by_begin(const void *a, const void *b)
{
  const segment *x = a, *y = b;
  return (x->begin > y->begin) - (x->begin < y->begin);
}

static uint64_t tensor_bytes(const cdr_tensor *tensor)
{
  uint64_t bytes = cdr_dtype_size(tensor->dtype);
  for (int i = 0; i < tensor->rank; i++) bytes *= tensor->shape[i];
  return bytes;
}

/* The parts of the chunk at `at` that belong to tensors. */
static int send(cdr_model *m, const unsigned char *stage, uint64_t at, uint64_t size, const segment *segments,
                int count, int *first)
{
  int code = CDR_OK;
  while (*first < count && segments[*first].end <= at) ++*first;
  for (int i = *first; i < count && segments[i].begin < at + size && code == CDR_OK; i++) {
    uint64_t begin = segments[i].begin > at ? segments[i].begin : at;
    uint64_t end = segments[i].end < at + size ? segments[i].end : at + size;
    if (begin >= end) continue;
    code = CDR_TRY(
      &m->device.driver, upload,
      (segments[i].to + (begin - segments[i].begin), stage + (begin - at), (size_t)(end - begin), m->device.stream));
  }
  return code;
}

/* The whole file through pinned memory, so that the checksum is of what the GPU gets. */
static int stream_file(cdr_model *m, const cdr_file *file, unsigned char *stages, cdr_checksum *sum,
                       const segment *segments, int count)
{
  int code = CDR_OK, first = 0, turn = 0;
  cdr_checksum_begin(sum);
  for (uint64_t at = 0; at < file->size && code == CDR_OK; at += CDR_STAGE, turn = (turn + 1) % STAGES) {
    size_t size = file->size - at < CDR_STAGE ? (size_t)(file->size - at) : CDR_STAGE;
    unsigned char *stage = stages + (size_t)turn * CDR_STAGE;
    if (turn == 0 && at > 0) code = cdr_device_wait(&m->device);
    if (code != CDR_OK) break;
    memcpy(stage, file->bytes + at, size);
    cdr_checksum_add(sum, stage, size);
    code = send(m, stage, at, size, segments, count, &first);
  }
  int waited = cdr_device_wait(&m->device); /* also after a failure: the pinned memory is given back */
  return code != CDR_OK ? code : waited;
}

static int all_segments(cdr_model *m, cdr_file *file, const void **found, segment *segments)
{
  uint64_t bytes = 0;
  int count = m->manifest.tensor_count;
  for (int i = 0; i < count; i++) {
    uint64_t size = tensor_bytes(&m->manifest.tensors[i]);
    segments[i].begin = (uint64_t)((const unsigned char *)found[i] - file->bytes);
    segments[i].end = segments[i].begin + size;
    segments[i].to = m->places.weights[i] = bytes;
    bytes = cdr_grown(bytes, size, 1);
  }
  int code = cdr_device_take(&m->device, &m->weights, cdr_grown(bytes, 1, 1), "the weights");
  for (int i = 0; i < count && code == CDR_OK; i++) segments[i].to = m->places.weights[i] += m->weights;
  qsort(segments, (size_t)count, sizeof *segments, by_begin);
  return code;
}

/* A state at a document's beginning, when that is not all zeros. */
static int upload_start(cdr_model *m, const void **found)
{
  const cdr_shape *shape = &m->shapes[m->single];
  int begins = 0, code;
  for (int i = 0; i < m->manifest.piece_count; i++)
    begins |= m->manifest.pieces[i].start != 0 || m->manifest.pieces[i].from >= 0;
  if (!begins) return CDR_OK;
  unsigned char *image = shape->bytes > SIZE_MAX / 2 ? NULL : calloc(1, (size_t)shape->bytes);
  if (!image) return CDR_NO_MEMORY;
  for (int i = 0; i < m->manifest.piece_count; i++) {
    const cdr_piece *piece = &m->manifest.pieces[i];
    unsigned char *to = image + shape->offsets[i];
    if (piece->from >= 0) memcpy(to, found[piece->from], (size_t)cdr_value_bytes(&piece->value));
    for (uint64_t k = 0; piece->start != 0 && k < piece->value.count; k++)
      memcpy(to + k * sizeof piece->start, &piece->start, sizeof piece->start);
  }
  code = cdr_device_take(&m->device, &m->start, shape->bytes, "a state's beginning");
  if (code == CDR_OK)
    code = CDR_TRY(&m->device.driver, upload, (m->start, image, (size_t)shape->bytes, m->device.stream));
  int waited = cdr_device_wait(&m->device);
  free(image);
  return code != CDR_OK ? code : waited;
}

static int upload_all(cdr_model *m, cdr_file *file, const void **found, const char *path, uint64_t listed)
{
  segment *segments = calloc((size_t)m->manifest.tensor_count + 1, sizeof *segments);
  cdr_checksum *sum = malloc(sizeof *sum);
  void *stages = NULL;
  int code = segments && sum ? all_segments(m, file, found, segments) : CDR_NO_MEMORY;
  if (code == CDR_OK)
    code = cdr_pinned_take(&m->device, &stages,
                           file->size < (uint64_t)CDR_STAGE ? file->size : (uint64_t)CDR_STAGE * STAGES,
                           "staging the weights");
  if (code == CDR_OK) code = stream_file(m, file, stages, sum, segments, m->manifest.tensor_count);
  if (code == CDR_OK && cdr_checksum_end(sum) != listed)
    code = cdr_fail(CDR_FILE_DAMAGED, "%s was changed: its checksum is not the manifest's; copy the artefact again",
                    path);
  if (code == CDR_OK) code = upload_start(m, found);
  cdr_pinned_give(&m->device, &stages);
  free(segments);
  free(sum);
  return code;
}

static int refused(const cdr_model *m, const char *path, int code)
{
  static const char *const names[CDR_DTYPES] = {[CDR_F32] = "F32", [CDR_F16] = "F16", [CDR_BF16] = "BF16", [CDR_I8] = "I8",
                                                 [CDR_U8] = "U8", [CDR_I32] = "I32"};
  int tensor = cdr_error_tensor(code), kind = code & 0xff;
  if (tensor < 0) return cdr_fail(kind, "%s: %s", path, cdr_error_kind(code));
  const cdr_tensor *t = &m->manifest.tensors[tensor];
  if (kind == CDR_TENSOR_DTYPE)
    return cdr_fail(kind, "%s: tensor %s: it is not %s, as the program wants it", path, t->name, names[t->dtype]);
  return cdr_fail(kind, "%s: tensor %s: %s", path, t->name, cdr_error_kind(code));
}

int cdr_upload(cdr_model *m, const char *weights_path)
{
  const char *slash = strrchr(weights_path, '/');
  char path[CDR_LONGEST_PATH];
  cdr_file file;
  uint64_t listed;
  int code = cdr_listed_open(&m->manifest, slash ? slash + 1 : weights_path, &file, path, &listed);
  if (code != CDR_OK) return code;
  cdr_weights_close(&file);
  const void **found = calloc((size_t)m->manifest.tensor_count + 1, sizeof *found);
  if (!found) return CDR_NO_MEMORY;
  code = cdr_weights_open(&file, path, m->manifest.tensors, m->manifest.tensor_count, found, NULL);
  if (code != CDR_OK) {
    free(found);
    return refused(m, path, code);
  }
  m->layout.weights = file.fingerprint;
  code = upload_all(m, &file, found, path, listed);
  cdr_weights_close(&file);
  free(found);
  return code;
}
