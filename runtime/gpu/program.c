#include "schedule.h"

#include "errors.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

enum { MOST_THREADS = 1024, MOST_BLOCKS = 65535, MOST_TOKENS = 1 << 16 };

static const char *const kinds[CDR_KINDS] = {"x", "out", "w", "s", "r", "c", "tmp"};

uint64_t cdr_value_bytes(const cdr_value *value) { return value->count * cdr_dtype_size(value->dtype); }

/* The bytes that an argument of a kind points into; 0 when there is no such thing. */
static uint64_t room_of(const cdr_capture *capture, const cdr_argument *argument)
{
  const cdr_unit *unit = capture->unit;
  uint64_t tokens = capture->batch * capture->tokens;
  int i = argument->index;
  switch (argument->kind) {
  case CDR_X:
    return i == 0 ? tokens * cdr_value_bytes(&unit->x) : 0;
  case CDR_OUT:
    return i == 0 ? tokens * cdr_value_bytes(&unit->out) : 0;
  case CDR_WEIGHT:
    return i < unit->weight_count ? cdr_value_bytes(&unit->weights[i]) : 0;
  case CDR_STATE:
    return i < unit->state_count ? capture->batch * cdr_value_bytes(&unit->states[i]) : 0;
  case CDR_READ:
    return i < unit->read_count ? tokens * cdr_value_bytes(&unit->reads[i]) : 0;
  case CDR_WRITE:
    return i < unit->write_count ? tokens * cdr_value_bytes(&unit->writes[i]) : 0;
  default:
    return i == 0 ? capture->scratch : 0;
  }
}

/* [kind, index, offset] */
static int read_argument(cdr_reader *r, cdr_json *j, const cdr_capture *capture, cdr_argument *argument)
{
  int first = 1, kind = 0;
  uint64_t index;
  cdr_span name;
  if (!cdr_json_enter(j, '[') || !cdr_reader_next(r, j, ']', &first) || !cdr_json_string(j, &name))
    return cdr_reader_bad(r, "an argument is malformed");
  while (kind < CDR_KINDS && !cdr_json_is(name, kinds[kind])) kind++;
  if (kind == CDR_KINDS) return cdr_reader_bad(r, "an argument of an unknown kind");
  argument->kind = (cdr_kind)kind;
  if (!cdr_reader_next(r, j, ']', &first) || !cdr_reader_whole(r, j, INT_MAX, &index))
    return cdr_reader_bad(r, "an argument is malformed");
  argument->index = (int)index;
  if (!cdr_reader_next(r, j, ']', &first) || !cdr_reader_whole(r, j, CDR_LARGEST, &argument->offset))
    return cdr_reader_bad(r, "an argument is malformed");
  if (cdr_reader_next(r, j, ']', &first)) return cdr_reader_bad(r, "an argument is malformed");
  if (argument->offset >= room_of(capture, argument))
    return cdr_reader_bad(r, "an argument points outside of what it names");
  return r->code == CDR_OK;
}

static int read_sizes(cdr_reader *r, cdr_json at, const char *key, uint64_t most, unsigned *sizes)
{
  cdr_json j;
  int first = 1;
  uint64_t size;
  if (!cdr_reader_at(r, at, key, &j)) return 0;
  if (!cdr_json_enter(&j, '[')) return cdr_reader_bad(r, "three sizes are wanted");
  for (int i = 0; i < 3; i++) {
    if (!cdr_reader_next(r, &j, ']', &first) ||
        !cdr_reader_whole(r, &j, i == 0 && most > MOST_THREADS ? INT_MAX : most, &size))
      return cdr_reader_bad(r, "three sizes are wanted");
    if (size < 1) return cdr_reader_bad(r, "a launch of nothing");
    sizes[i] = (unsigned)size;
  }
  return cdr_reader_next(r, &j, ']', &first) ? cdr_reader_bad(r, "three sizes are wanted") : r->code == CDR_OK;
}

static int read_launch(const cdr_manifest *m, cdr_reader *r, cdr_json j, const cdr_capture *capture, cdr_launch *launch)
{
  cdr_json at;
  uint64_t kernel;
  int first = 1, n = 0;
  if (!cdr_reader_at(r, j, "kernel", &at) || !cdr_reader_whole(r, &at, INT_MAX, &kernel)) return 0;
  if (kernel >= (uint64_t)m->kernel_count) return cdr_reader_bad(r, "a launch of a kernel that is not listed");
  launch->kernel = (int)kernel;
  if (!read_sizes(r, j, "grid", MOST_BLOCKS, launch->grid) || !read_sizes(r, j, "block", MOST_THREADS, launch->block))
    return 0;
  if (launch->block[0] * launch->block[1] * launch->block[2] > MOST_THREADS)
    return cdr_reader_bad(r, "a block of too many threads");
  if (!cdr_reader_at(r, j, "args", &at)) return 0;
  cdr_argument *arguments = cdr_reader_list(r, &at, '[', sizeof *arguments, &launch->argument_count);
  if (!arguments) return 0;
  if (launch->argument_count > CDR_MOST_ARGUMENTS) return cdr_reader_bad(r, "a launch has too many arguments");
  while (cdr_reader_next(r, &at, ']', &first))
    if (!read_argument(r, &at, capture, &arguments[n++])) return 0;
  launch->arguments = arguments;
  return r->code == CDR_OK;
}

/* "unit@BxT" */
static int read_name(const cdr_manifest *m, cdr_reader *r, const char *text, cdr_capture *capture)
{
  const char *at = strrchr(text, '@');
  unsigned batch, tokens;
  int end = 0;
  for (int i = 0; at && i < m->unit_count; i++)
    if (strlen(m->units[i].name) == (size_t)(at - text) && memcmp(m->units[i].name, text, (size_t)(at - text)) == 0)
      capture->unit = &m->units[i];
  if (!capture->unit) return cdr_reader_bad(r, "launches of a unit that is not there");
  if (sscanf(at, "@%5ux%5u%n", &batch, &tokens, &end) != 2 || at[end] || batch < 1 || tokens < 1 ||
      batch > MOST_TOKENS || tokens > MOST_TOKENS)
    return cdr_reader_bad(r, "a unit's launches are not named unit@BxT");
  if ((uint64_t)batch * tokens > MOST_TOKENS) return cdr_reader_bad(r, "a unit's launches are for too many tokens");
  capture->batch = batch;
  capture->tokens = tokens;
  return 1;
}

static int read_capture(const cdr_manifest *m, cdr_reader *r, cdr_json j, cdr_capture *capture)
{
  cdr_json at;
  int first = 1, n = 0;
  if (!cdr_reader_at(r, j, "scratch", &at) || !cdr_reader_whole(r, &at, CDR_LARGEST, &capture->scratch)) return 0;
  if (!cdr_reader_at(r, j, "launches", &at)) return 0;
  cdr_launch *launches = cdr_reader_list(r, &at, '[', sizeof *launches, &capture->launch_count);
  if (!launches) return 0;
  for (; cdr_reader_next(r, &at, ']', &first); cdr_json_skip(&at))
    if (!read_launch(m, r, at, capture, &launches[n++])) return 0;
  capture->launches = launches;
  return r->code == CDR_OK;
}

static int read_kernels(cdr_manifest *m, cdr_reader *r, cdr_json j)
{
  int first = 1, n = 0;
  r->where = "kernels";
  m->kernels = cdr_reader_list(r, &j, '[', sizeof *m->kernels, &m->kernel_count);
  if (!m->kernels) return 0;
  for (; cdr_reader_next(r, &j, ']', &first); cdr_json_skip(&j)) {
    cdr_json at;
    if (!cdr_reader_at(r, j, "name", &at) || !cdr_reader_text(r, &at, &m->kernels[n++])) return 0;
  }
  return r->code == CDR_OK;
}

int cdr_read_program(cdr_manifest *m, cdr_reader *r, cdr_json at)
{
  cdr_json kernels, units;
  int first = 1, n = 0;
  r->where = "a program";
  if (!cdr_reader_at(r, at, "kernels", &kernels) || !cdr_reader_at(r, at, "units", &units)) return 0;
  if (!read_kernels(m, r, kernels)) return 0;
  r->where = "a program's units";
  m->captures = cdr_reader_list(r, &units, '{', sizeof *m->captures, &m->capture_count);
  if (!m->captures) return 0;
  for (; cdr_reader_next(r, &units, '}', &first); cdr_json_skip(&units)) {
    const char *name;
    if (!cdr_reader_key(r, &units, &name)) return 0;
    r->where = name;
    if (!read_name(m, r, name, &m->captures[n]) || !read_capture(m, r, units, &m->captures[n])) return 0;
    n++;
  }
  return r->code == CDR_OK;
}

const cdr_capture *cdr_manifest_capture(const cdr_manifest *m, const cdr_unit *unit, uint64_t batch, uint64_t tokens)
{
  for (int i = 0; i < m->capture_count; i++) {
    const cdr_capture *c = &m->captures[i];
    if (c->unit == unit && c->batch == batch && c->tokens == tokens) return c;
  }
  return NULL;
}
