#define _POSIX_C_SOURCE 200809L
#include "checksum.h"
#include "runner.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int cdr_enter(const cdr_model *given, cdr_model **m, int *before)
{
  *m = (cdr_model *)(uintptr_t)given; /* const for the caller: what changes is behind the lock */
  pthread_mutex_lock(&(*m)->lock);
  int code = cdr_device_enter(&(*m)->device, before);
  if (code != CDR_OK) pthread_mutex_unlock(&(*m)->lock);
  return code;
}

int cdr_leave(cdr_model *m, int before, int code)
{
  int left = cdr_device_leave(&m->device, before);
  pthread_mutex_unlock(&m->lock);
  return code != CDR_OK ? code : left;
}

/* --- which GPU and which program ---------------------------------------------------------------------------------- */
static int holds(const cdr_manifest *manifest, cdr_vendor vendor)
{
  for (int i = 0; i < manifest->program_count; i++)
    if (manifest->programs[i].vendor == vendor) return 1;
  return 0;
}

static int open_driver(cdr_model *m)
{
  int code = CDR_OK, tried = 0;
  for (int vendor = 0; vendor < CDR_VENDORS; vendor++) {
    if (!holds(&m->manifest, (cdr_vendor)vendor)) continue;
    code = cdr_driver_open(&m->device.driver, (cdr_vendor)vendor);
    tried = 1;
    if (code == CDR_OK) return code;
  }
  return tried ? code : cdr_fail(CDR_CODE_MISSING, "the artefact holds code for no GPU");
}

static const cdr_program *best_program(const cdr_model *m)
{
  const cdr_program *found = NULL;
  int best = 0;
  for (int i = 0; i < m->manifest.program_count; i++) {
    const cdr_program *program = &m->manifest.programs[i];
    int fit = cdr_device_fit(&m->device, program->vendor, program->arch);
    if (fit > best) best = fit, found = program;
  }
  return found;
}

static int nothing_fits(const cdr_model *m)
{
  char held[512] = "";
  for (int i = 0; i < m->manifest.program_count; i++) {
    size_t size = strlen(held);
    snprintf(held + size, sizeof held - size, "%s%s", i ? ", " : "", m->manifest.programs[i].arch);
  }
  return cdr_fail(CDR_CODE_MISSING,
                  "the artefact holds no code for %s (%s): it holds %s; compile the spec with --arch %s",
                  m->device.arch, m->device.name, held, m->device.arch);
}

/* GPU number CDR_DEVICE, or the first one that something fits. */
static int choose(cdr_model *m, const cdr_program **program)
{
  const char *named = getenv("CDR_DEVICE");
  int count, code = cdr_device_count(&m->device, &count), first = 0;
  if (code != CDR_OK) return code;
  if (named && *named) {
    char *end;
    errno = 0;
    long number = strtol(named, &end, 10);
    if (*end || errno || number < 0 || number >= count)
      return cdr_fail(CDR_DEVICE_MISSING, "CDR_DEVICE is %.40s, and the driver finds %d GPU%s", named, count,
                      count == 1 ? "" : "s");
    first = (int)number;
    count = first + 1;
  }
  for (int i = first; i < count; i++) {
    code = cdr_device_look(&m->device, i);
    if (code != CDR_OK) return code;
    if ((*program = best_program(m)) != NULL) return CDR_OK;
  }
  return nothing_fits(m);
}

/* --- code --------------------------------------------------------------------------------------------------------- */
static int check_load(cdr_model *m, const cdr_program *program, int result)
{
  enum { NO_BINARY = 209, BAD_PTX = 218, NO_COMPILER = 221, NEW_PTX = 222 };
  int version = 0;
  int code = cdr_driver_check(&m->device.driver, CDR_CALL_module_load, result, program->code);
  if (strcmp(program->arch, "ptx") != 0 ||
      (result != NO_BINARY && result != BAD_PTX && result != NO_COMPILER && result != NEW_PTX))
    return code;
  if (!m->device.driver.version || m->device.driver.version(&version) != 0) version = 0;
  return cdr_fail(CDR_DRIVER_OLD,
                  "the driver (CUDA %d.%d) cannot compile %s for %s (%s): it is too old; install a newer one, or "
                  "compile the spec with --arch %s",
                  version / 1000, version % 1000 / 10, program->code, m->device.arch, m->device.name, m->device.arch);
}

static int changed(const char *path)
{
  return cdr_fail(CDR_FILE_DAMAGED, "%s was changed: its checksum is not the manifest's; copy the artefact again", path);
}

static int load_code(cdr_model *m, const cdr_program *program)
{
  char path[CDR_LONGEST_PATH];
  cdr_file file;
  uint64_t listed;
  int code = cdr_listed_open(&m->manifest, program->code, &file, path, &listed);
  if (code != CDR_OK) return code;
  cdr_checksum *sum = malloc(sizeof *sum);
  char *text = calloc(1, file.size + 1); /* PTX ends with a zero */
  if (!sum || !text) code = CDR_NO_MEMORY;
  if (code == CDR_OK) {
    memcpy(text, file.bytes, file.size);
    if (cdr_checksum_of(sum, text, file.size) != listed) code = changed(path);
  }
  if (code == CDR_OK) code = check_load(m, program, m->device.driver.module_load(&m->module, text));
  if (code != CDR_OK) m->module = NULL;
  cdr_weights_close(&file);
  free(sum);
  free(text);
  for (int i = 0; i < m->manifest.kernel_count && code == CDR_OK; i++) {
    int result = m->device.driver.module_function(&m->places.functions[i], m->module, m->manifest.kernels[i]);
    code = cdr_driver_check(&m->device.driver, CDR_CALL_module_function, result, m->manifest.kernels[i]);
  }
  return code;
}

/* --- sizes and plans ---------------------------------------------------------------------------------------------- */
static int measure_shapes(cdr_model *m)
{
  cdr_manifest *manifest = &m->manifest;
  m->single = -1;
  m->shapes = cdr_pool_take(&manifest->pool, (size_t)manifest->batch_count, sizeof *m->shapes);
  m->blocks = cdr_pool_take(&manifest->pool, (size_t)manifest->block_count, sizeof *m->blocks);
  if (!m->shapes || !m->blocks) return CDR_NO_MEMORY;
  for (int i = 0; i < manifest->batch_count; i++) {
    cdr_shape *shape = &m->shapes[i];
    shape->rows = manifest->batches[i];
    if (shape->rows == 1) m->single = i;
    shape->offsets = cdr_pool_take(&manifest->pool, (size_t)manifest->piece_count, sizeof *shape->offsets);
    if (!shape->offsets) return CDR_NO_MEMORY;
    for (int k = 0; k < manifest->piece_count; k++) {
      shape->offsets[k] = shape->bytes;
      shape->bytes = cdr_grown(shape->bytes, cdr_value_bytes(&manifest->pieces[k].value), shape->rows);
    }
  }
  if (!manifest->batch_count) return cdr_fail(CDR_MANIFEST, "manifest.json: schedule: it has no batch of one session");
  /* the largest first */
  if (manifest->batches[0] > CDR_WINDOW || (manifest->block_count && manifest->blocks[0] > CDR_WINDOW))
    return cdr_fail(CDR_MANIFEST, "manifest.json: schedule: a batch or a block is too large");
  return m->single >= 0 ? CDR_OK : cdr_fail(CDR_MANIFEST, "manifest.json: schedule: it has no batch of one session");
}

/* Where a state's pieces lie in the machine's memory: as the cpu target holds them, so that files are the same. */
static int lay_out(cdr_model *m)
{
  int count = m->manifest.piece_count - 1; /* without pos */
  uint64_t end = sizeof(cdr_head);
  m->slots = cdr_pool_take(&m->manifest.pool, (size_t)count, sizeof *m->slots);
  if (!m->slots) return CDR_NO_MEMORY;
  for (int i = 0; i < count; i++) {
    const cdr_piece *piece = &m->manifest.pieces[i];
    cdr_slot *slot = &m->slots[i];
    slot->path = piece->value.name;
    slot->size = (size_t)piece->size;
    slot->window = piece->history ? (int32_t)piece->entries + 1 : 0;
    slot->at = (size_t)end;
    end = cdr_grown(end, piece->size * sizeof(float), piece->entries + (piece->history != 0));
    if (piece->history) slot->ring = (size_t)end;
    end = cdr_grown(end, sizeof(cdr_ring), 1);
  }
  m->layout.logits = (size_t)end;
  m->layout.vocab = (size_t)m->manifest.vocab;
  m->host_bytes = (size_t)cdr_grown(end, m->manifest.vocab, sizeof(float));
  m->layout.slots = m->slots;
  m->layout.count = count;
  memcpy(m->layout.hash, m->manifest.identity, sizeof m->layout.hash);
  return CDR_OK;
}

static int make_plans(cdr_model *m)
{
  cdr_places *places = &m->places;
  int code = CDR_OK;
  for (int i = 0; i < m->manifest.batch_count && code == CDR_OK; i++) {
    cdr_shape *s = &m->shapes[i];
    code = cdr_plan_stack(&s->step, places, &m->manifest, s->rows, 1, s->offsets, &s->logits);
    if (code == CDR_OK) code = cdr_plan_choice(&s->argmax, places, &m->manifest, "argmax", s->rows, s->logits);
    if (code == CDR_OK) code = cdr_plan_choice(&s->sample, places, &m->manifest, "sample", s->rows, s->logits);
  }
  for (int i = 0; i < m->manifest.block_count && code == CDR_OK; i++) {
    cdr_pointer logits;
    code = cdr_plan_stack(&m->blocks[i], places, &m->manifest, 1, m->manifest.blocks[i], m->shapes[m->single].offsets,
                          &logits);
    if (code == CDR_OK && logits != m->shapes[m->single].logits)
      code = cdr_fail(CDR_MANIFEST, "manifest.json: a block's logits are elsewhere");
  }
  return code;
}

static int take_memory(cdr_model *m)
{
  cdr_pool *pool = &m->manifest.pool;
  m->places.weights = cdr_pool_take(pool, (size_t)m->manifest.tensor_count, sizeof *m->places.weights);
  m->places.functions = cdr_pool_take(pool, (size_t)m->manifest.kernel_count, sizeof *m->places.functions);
  m->room = cdr_pool_take(pool, (size_t)m->manifest.vocab, sizeof *m->room);
  if (!m->places.weights || !m->places.functions || !m->room) return CDR_NO_MEMORY;
  uint64_t rows = m->manifest.batches[0];
  void *ids, *logits, *draws;
  int code = cdr_device_take(&m->device, &m->work, m->places.bytes, "the values between kernels");
  if (code == CDR_OK) code = cdr_pinned_take(&m->device, &ids, (CDR_WINDOW + rows) * sizeof *m->ids, "tokens");
  if (code == CDR_OK) m->ids = ids;
  if (code == CDR_OK)
    code = cdr_pinned_take(&m->device, &logits, rows * m->manifest.vocab * sizeof *m->logits, "logits");
  if (code == CDR_OK) m->logits = logits;
  if (code == CDR_OK)
    code = cdr_pinned_take(&m->device, &draws, (CDR_WINDOW + 2 * rows) * sizeof *m->draws, "random numbers");
  if (code == CDR_OK) m->draws = draws;
  if (code == CDR_OK) cdr_places_move(&m->places, m->work);
  return code;
}

/* --- opening ------------------------------------------------------------------------------------------------------ */
static int start(cdr_model *m, const cdr_program *program, const char *weights_path)
{
  cdr_model *same;
  int before, code = cdr_enter(m, &same, &before);
  if (code != CDR_OK) return code;
  code = take_memory(m);
  if (code == CDR_OK) code = load_code(m, program);
  if (code == CDR_OK) code = cdr_upload(m, weights_path);
  if (code == CDR_OK) code = make_plans(m);
  cdr_weights_close(&m->manifest.file); /* everything of it is in tables now */
  if (code == CDR_OK) code = cdr_device_wait(&m->device);
  return cdr_leave(m, before, code);
}

static int open_all(cdr_model *m, const char *folder, const char *weights_path)
{
  const cdr_program *program = NULL;
  int code = cdr_manifest_open(&m->manifest, folder);
  if (code == CDR_OK) code = open_driver(m);
  if (code == CDR_OK) code = choose(m, &program);
  if (code == CDR_OK) code = cdr_manifest_choose(&m->manifest, program);
  /* the sizes are known before anything is taken of the GPU */
  if (code == CDR_OK) code = measure_shapes(m);
  if (code == CDR_OK) code = lay_out(m);
  if (code == CDR_OK) code = cdr_places_measure(&m->places, &m->manifest);
  if (code == CDR_OK) code = cdr_device_start(&m->device);
  if (code != CDR_OK) return code;
  m->program = program->arch;
  m->no_graphs = !cdr_driver_has_graphs(&m->device.driver);
  snprintf(m->about, sizeof m->about, "%s (%s), code for %s", m->device.name, m->device.arch, program->arch);
  return start(m, program, weights_path);
}

int cdr_open(cdr_model **out, const char *weights_path)
{
  const uint16_t one = 1;
  char folder[CDR_LONGEST_PATH] = ".";
  if (!out || !weights_path) return CDR_NULL;
  *out = NULL;
  if (*(const unsigned char *)&one != 1) return CDR_BIG_ENDIAN;
  const char *slash = strrchr(weights_path, '/');
  size_t size = slash ? (size_t)(slash - weights_path) + (slash == weights_path) : 0;
  if (size >= sizeof folder) return CDR_PATH_TOO_LONG;
  if (slash) {
    memcpy(folder, weights_path, size);
    folder[size] = 0;
  }
  cdr_model *m = calloc(1, sizeof *m);
  if (!m) return CDR_NO_MEMORY;
  if (pthread_mutex_init(&m->lock, NULL) != 0) {
    free(m);
    return CDR_NO_MEMORY;
  }
  for (int i = 0; i < CDR_MOST_ARGUMENTS; i++) m->arguments[i] = &m->values[i];
  int code = open_all(m, folder, weights_path);
  m->mark = cdr_mark(&m->layout);
  if (code == CDR_OK) *out = m;
  else cdr_close(m);
  return code;
}

static void free_plans(cdr_model *m)
{
  for (int i = 0; m->shapes && i < m->manifest.batch_count; i++) {
    cdr_plan_free(&m->shapes[i].step);
    cdr_plan_free(&m->shapes[i].argmax);
    cdr_plan_free(&m->shapes[i].sample);
  }
  for (int i = 0; m->blocks && i < m->manifest.block_count; i++) cdr_plan_free(&m->blocks[i]);
}

/* Every kind of memory is given back, whatever the driver says of it. */
static void give_back(cdr_model *m)
{
  void *ids = m->ids, *logits = m->logits, *draws = m->draws;
  int before;
  if (!m->device.stream) return;
  int entered = cdr_device_enter(&m->device, &before) == CDR_OK;
  while (m->held) cdr_held_free(m, m->held);
  cdr_idle_free(m);
  cdr_device_give(&m->device, &m->start);
  cdr_device_give(&m->device, &m->weights);
  cdr_device_give(&m->device, &m->work);
  cdr_pinned_give(&m->device, &ids);
  cdr_pinned_give(&m->device, &logits);
  cdr_pinned_give(&m->device, &draws);
  if (m->module) m->device.driver.module_free(m->module);
  if (entered) cdr_device_leave(&m->device, before);
}

void cdr_close(cdr_model *m)
{
  if (!m) return;
  give_back(m);
  free_plans(m);
  cdr_device_close(&m->device);
  cdr_manifest_close(&m->manifest);
  pthread_mutex_destroy(&m->lock);
  free(m);
}

int cdr_check_file(const cdr_model *m, const char *name)
{
  char path[CDR_LONGEST_PATH];
  cdr_file file;
  uint64_t listed;
  if (!m || !name) return CDR_NULL;
  int code = cdr_listed_open(&m->manifest, name, &file, path, &listed);
  if (code != CDR_OK) return code;
  cdr_checksum *sum = malloc(sizeof *sum);
  if (!sum) code = CDR_NO_MEMORY;
  else if (cdr_checksum_of(sum, file.bytes, file.size) != listed) code = changed(path);
  cdr_weights_close(&file);
  free(sum);
  return code;
}

int cdr_vocab(const cdr_model *m) { return m ? (int)m->manifest.vocab : 0; }

const char *cdr_about(const cdr_model *m) { return m ? m->about : ""; }

const char *cdr_error_text(int code) { return cdr_failure_text(code); }
