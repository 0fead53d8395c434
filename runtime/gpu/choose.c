#include "runner.h"

#include <float.h>
#include <string.h>

/* --- on the GPU --------------------------------------------------------------------------------------------------- */
/* Whether the likeliest is taken: at no temperature, or at one that is none to the GPU. */
static int cold(const cdr_sampling *how) { return how->temperature < (double)FLT_MIN; }

/* The plan that chooses as `how` says, or NULL: then the choice is made from the logits here. */
static const cdr_plan *plan_for(const cdr_model *m, const cdr_shape *shape, const cdr_sampling *how)
{
  const cdr_plan *plan = cold(how) ? &shape->argmax : &shape->sample;
  if (!cold(how) && (how->top_k < 1 || (uint64_t)how->top_k != m->manifest.sample_top_k)) return NULL;
  return plan->part_count ? plan : NULL;
}

static int put_settings(cdr_model *m, uint64_t rows, const cdr_sampling *how)
{
  const cdr_driver *d = &m->device.driver;
  float *settings = m->draws + CDR_WINDOW;
  size_t bytes = (size_t)rows * sizeof *settings;
  for (uint64_t i = 0; i < rows; i++) {
    settings[i] = how->temperature < (double)FLT_MAX ? (float)how->temperature : FLT_MAX;
    settings[rows + i] = (float)how->top_p;
  }
  int code = CDR_TRY(d, upload, (m->places.choice[CDR_TEMPERATURE], settings, bytes, m->device.stream));
  return code != CDR_OK ? code
                        : CDR_TRY(d, upload, (m->places.choice[CDR_TOP_P], settings + rows, bytes, m->device.stream));
}

/* One token of every row: read unless the logits are there, and the next one put where it is read from. */
static int run_choice(cdr_model *m, cdr_held *held, const cdr_plan *plan, int there, float *draws, int32_t *ids,
                      cdr_sampling *how)
{
  const cdr_driver *d = &m->device.driver;
  uint64_t rows = m->shapes[held->shape].rows;
  int code = there ? CDR_OK : cdr_run(m, held, -1, 1);
  if (code == CDR_OK && !cold(how)) {
    for (uint64_t i = 0; i < rows; i++) draws[i] = (float)(cdr_draw(&how->random) * (1 - 0x1p-24)); /* 1 is not in it */
    code = CDR_TRY(d, upload, (m->places.choice[CDR_RANDOM], draws, (size_t)rows * sizeof *draws, m->device.stream));
  }
  if (code == CDR_OK) code = cdr_run_parts(m, plan, 0, plan->part_count, 0);
  return code != CDR_OK ? code
                        : CDR_TRY(d, download, (ids, m->places.tokens, (size_t)rows * sizeof *ids, m->device.stream));
}

static int download_logits(cdr_model *m, const cdr_shape *shape)
{
  size_t bytes = (size_t)(shape->rows * m->manifest.vocab) * sizeof *m->logits;
  return CDR_TRY(&m->device.driver, download, (m->logits, shape->logits, bytes, m->device.stream));
}

/* The GPU gives -1 where nothing can be chosen. */
static int check_chosen(const cdr_model *m, size_t count)
{
  for (size_t i = 0; i < count; i++)
    if (m->ids[i] == -1) return CDR_NOT_FINITE;
  return cdr_check_tokens(m, m->ids, count);
}

/* Rows that chose what may not be chosen choose again here, of what may. */
static int choose_again(cdr_model *m, const cdr_shape *shape, cdr_sampling *how)
{
  const cdr_driver *d = &m->device.driver;
  size_t rows = (size_t)shape->rows, vocab = (size_t)m->manifest.vocab, wrong = 0;
  for (size_t row = 0; row < rows; row++) wrong += !how->known[m->ids[row]];
  if (wrong == 0) return CDR_OK;
  int code = download_logits(m, shape);
  int waited = cdr_device_wait(&m->device);
  if (code == CDR_OK) code = waited;
  for (size_t row = 0; row < rows && code == CDR_OK; row++) {
    if (!how->known[m->ids[row]]) m->ids[row] = cdr_sample(how, m->logits + row * vocab, (int32_t)vocab, m->room);
    if (m->ids[row] < 0) code = CDR_NOT_FINITE;
  }
  return code != CDR_OK ? code
                        : CDR_TRY(d, upload, (m->places.tokens, m->ids, rows * sizeof *m->ids, m->device.stream));
}

static int choose_there(cdr_model *m, cdr_held *held, const cdr_plan *plan, int there, size_t n, cdr_sampling *how,
                        int32_t *out)
{
  const cdr_shape *shape = &m->shapes[held->shape];
  size_t rows = (size_t)shape->rows, at_once = how->known ? 1 : CDR_WINDOW / rows, some;
  int code = cold(how) ? CDR_OK : put_settings(m, rows, how);
  for (size_t done = 0; done < n && code == CDR_OK; done += some) {
    some = n - done < at_once ? n - done : at_once;
    for (size_t i = 0; i < some && code == CDR_OK; i++)
      code = run_choice(m, held, plan, there && done + i == 0, m->draws + i * rows, m->ids + i * rows, how);
    int waited = cdr_device_wait(&m->device);
    if (code == CDR_OK) code = waited;
    if (code == CDR_OK) code = check_chosen(m, some * rows);
    if (code == CDR_OK && how->known) code = choose_again(m, shape, how);
    if (code == CDR_OK) memcpy(out + done * rows, m->ids, some * rows * sizeof *out);
  }
  return code;
}

/* --- here -------------------------------------------------------------------------------------------------------- */
static int choose_here(cdr_model *m, cdr_held *held, int there, size_t n, cdr_sampling *how, int32_t *out)
{
  const cdr_driver *d = &m->device.driver;
  const cdr_shape *shape = &m->shapes[held->shape];
  size_t rows = (size_t)shape->rows, vocab = (size_t)m->manifest.vocab, bytes = rows * sizeof *out;
  int code = CDR_OK;
  for (size_t i = 0; i < n && code == CDR_OK; i++) {
    if (i > 0) code = CDR_TRY(d, upload, (m->places.tokens, m->ids, bytes, m->device.stream));
    if (code == CDR_OK && !(there && i == 0)) code = cdr_run(m, held, -1, 1);
    if (code == CDR_OK)
      code = CDR_TRY(d, download, (m->logits, shape->logits, rows * vocab * sizeof *m->logits, m->device.stream));
    int waited = cdr_device_wait(&m->device);
    if (code == CDR_OK) code = waited;
    for (size_t row = 0; row < rows && code == CDR_OK; row++) {
      m->ids[row] = out[i * rows + row] = cdr_sample(how, m->logits + row * vocab, (int32_t)vocab, m->room);
      if (m->ids[row] < 0) code = CDR_NOT_FINITE;
    }
  }
  return code;
}

/* --- both -------------------------------------------------------------------------------------------------------- */
int cdr_run_choices(cdr_model *m, cdr_held *held, const int32_t *tokens, size_t n, cdr_sampling *how, int32_t *out)
{
  const cdr_shape *shape = &m->shapes[held->shape];
  const cdr_plan *plan = plan_for(m, shape, how);
  size_t rows = (size_t)shape->rows, bytes = rows * sizeof *tokens;
  size_t size = (size_t)m->manifest.vocab * sizeof *m->logits;
  int there = tokens == NULL, code;
  if (there) memcpy(m->logits, held->logits, size);
  else memcpy(m->ids + CDR_WINDOW, tokens, bytes);
  code = there ? CDR_TRY(&m->device.driver, upload, (shape->logits, m->logits, size, m->device.stream))
               : CDR_TRY(&m->device.driver, upload, (m->places.tokens, m->ids + CDR_WINDOW, bytes, m->device.stream));
  if (code == CDR_OK)
    code = plan ? choose_there(m, held, plan, there, n, how, out) : choose_here(m, held, there, n, how, out);
  if (code == CDR_OK && held->logits) code = download_logits(m, shape);
  int waited = cdr_device_wait(&m->device);
  return code != CDR_OK ? code : waited;
}

int cdr_generate(const cdr_model *given, void *state, int32_t token, size_t n, cdr_sampling *how, int32_t *out)
{
  cdr_model *m;
  cdr_held *held;
  int before;
  if (!given || !state || !how || (!out && n)) return CDR_NULL;
  int code = token == -1 ? CDR_OK : cdr_check_tokens(given, &token, 1);
  if (code == CDR_OK) code = cdr_enter(given, &m, &before);
  if (code != CDR_OK) return code;
  code = cdr_held_find(m, state, &held);
  if (code == CDR_OK && held->broken) code = CDR_STATE_BROKEN;
  if (code == CDR_OK) code = cdr_check_length(held, 0, n);
  if (code == CDR_OK && token == -1 && !held->has_logits) code = CDR_NO_TOKENS;
  if (code != CDR_OK || n == 0) return cdr_leave(m, before, code);
  code = cdr_run_choices(m, held, token == -1 ? NULL : &token, n, how, out);
  if (code == CDR_OK && token != -1) cdr_held_saw(held, 0, token);
  for (size_t i = 0; i + 1 < n && code == CDR_OK; i++) cdr_held_saw(held, 0, out[i]);
  held->broken = code != CDR_OK;
  held->has_logits = code == CDR_OK;
  if (code == CDR_OK) memcpy(held->logits, m->logits, (size_t)m->manifest.vocab * sizeof *m->logits);
  return cdr_leave(m, before, code);
}
