#include "plan.h"

#include "failure.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 256, VECTOR = 32 }; /* kernels for AMD are told that every argument is a multiple of 32 */
#define TOO_MUCH ((uint64_t)1 << 60)
static const char *const choices[CDR_CHOICES] = {"temperature", "top_p", "u"};

/* --- places ----------------------------------------------------------------------------------------------------- */
static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

uint64_t cdr_grown(uint64_t size, uint64_t bytes, uint64_t times)
{
  if (times && bytes > TOO_MUCH / times) return TOO_MUCH;
  uint64_t more = (bytes * times + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  return more > TOO_MUCH - size ? TOO_MUCH : size + more;
}

static cdr_pointer place(uint64_t *end, uint64_t bytes, uint64_t times)
{
  cdr_pointer at = *end;
  *end = cdr_grown(*end, bytes, times);
  return at;
}

static cdr_carry *find_carry(const cdr_places *places, const char *name)
{
  for (int i = 0; i < places->carry_count; i++)
    if (strcmp(places->carries[i].name, name) == 0) return &places->carries[i];
  return NULL;
}

static int add_carries(cdr_places *places, const cdr_value *values, int count)
{
  for (int i = 0; i < count; i++) {
    const cdr_carry *known = find_carry(places, values[i].name);
    if (known && known->count != values[i].count)
      return cdr_fail(CDR_MANIFEST, "manifest.json: the carry %s has two sizes", values[i].name);
    if (known) continue;
    places->carries[places->carry_count].name = values[i].name;
    places->carries[places->carry_count++].count = values[i].count;
  }
  return CDR_OK;
}

static int measure_carries(cdr_places *places, cdr_manifest *m, uint64_t rows, uint64_t *end)
{
  size_t most = 0;
  for (int i = 0; i < m->unit_count; i++) most += (size_t)m->units[i].read_count + (size_t)m->units[i].write_count;
  places->carries = cdr_pool_take(&m->pool, most, sizeof *places->carries);
  if (!places->carries) return CDR_NO_MEMORY;
  for (int i = 0; i < m->call_count; i++) {
    const cdr_unit *unit = m->calls[i].unit;
    int code = add_carries(places, unit->writes, unit->write_count);
    if (code == CDR_OK) code = add_carries(places, unit->reads, unit->read_count);
    if (code != CDR_OK) return code;
  }
  for (int i = 0; i < places->carry_count; i++) {
    cdr_carry *carry = &places->carries[i];
    for (int k = 0; k < 2; k++) {
      carry->place[k] = place(end, carry->count * sizeof(float), rows);
      carry->bounce[k] = place(end, carry->count * sizeof(float), 1);
    }
  }
  return CDR_OK;
}

int cdr_places_measure(cdr_places *places, cdr_manifest *m)
{
  uint64_t sessions = m->batch_count ? m->batches[0] : 1, rows = larger(sessions, m->block_count ? m->blocks[0] : 1);
  uint64_t line = 0, single = 0, scratch = 0, end = 0;
  memset(places, 0, sizeof *places);
  for (int i = 0; i < m->call_count; i++) {
    const cdr_unit *unit = m->calls[i].unit;
    uint64_t most = larger(cdr_value_bytes(&unit->x), cdr_value_bytes(&unit->out));
    line = larger(line, cdr_grown(0, most, m->calls[i].last_only ? sessions : rows));
    single = larger(single, most);
  }
  for (int i = 0; i < m->capture_count; i++) scratch = larger(scratch, m->captures[i].scratch);
  for (int k = 0; k < 2; k++) places->line[k] = place(&end, line, 1);
  for (int k = 0; k < CDR_CHOICES; k++) places->choice[k] = place(&end, sizeof(float), sessions);
  places->tokens = place(&end, sizeof(int32_t), rows);
  places->bounce_x = place(&end, single, 1);
  places->bounce_out = place(&end, single, 1);
  places->scratch = place(&end, scratch, 1);
  int code = measure_carries(places, m, rows, &end);
  places->bytes = end + ALIGNMENT; /* never nothing */
  return code;
}

void cdr_places_move(cdr_places *places, cdr_pointer memory)
{
  for (int k = 0; k < 2; k++) places->line[k] += memory;
  for (int k = 0; k < CDR_CHOICES; k++) places->choice[k] += memory;
  places->tokens += memory;
  places->bounce_x += memory;
  places->bounce_out += memory;
  places->scratch += memory;
  for (int i = 0; i < places->carry_count; i++) {
    for (int k = 0; k < 2; k++) {
      places->carries[i].place[k] += memory;
      places->carries[i].bounce[k] += memory;
    }
  }
}

/* --- lists ------------------------------------------------------------------------------------------------------ */
static void *add(void **list, int *count, int *room, size_t size)
{
  if (*count == *room) {
    int more = *room ? *room * 2 : 64;
    void *grown = *count > 1 << 28 ? NULL : realloc(*list, (size_t)more * size);
    if (!grown) return NULL;
    *list = grown;
    *room = more;
  }
  return memset((char *)*list + (size_t)(*count)++ * size, 0, size);
}

static int add_reference(cdr_plan *p, cdr_reference reference)
{
  void *list = p->references;
  cdr_reference *made = add(&list, &p->reference_count, &p->reference_room, sizeof *made);
  p->references = list;
  if (made) *made = reference;
  return made ? CDR_OK : CDR_NO_MEMORY;
}

static cdr_operation *add_operation(cdr_plan *p)
{
  void *list = p->operations;
  cdr_operation *made = add(&list, &p->operation_count, &p->operation_room, sizeof *made);
  p->operations = list;
  if (made) made->first = p->reference_count;
  return made;
}

static cdr_part *add_part(cdr_plan *p, int times)
{
  void *list = p->parts;
  cdr_part *made = add(&list, &p->part_count, &p->part_room, sizeof *made);
  p->parts = list;
  if (made) *made = (cdr_part){p->operation_count, 0, times};
  return made;
}

void cdr_plan_free(cdr_plan *p)
{
  free(p->references);
  free(p->operations);
  free(p->parts);
  memset(p, 0, sizeof *p);
}

static int add_copy(cdr_plan *p, cdr_reference from, cdr_reference to, uint64_t bytes)
{
  if (bytes == 0) return CDR_OK;
  cdr_operation *made = add_operation(p);
  if (!made) return CDR_NO_MEMORY;
  made->bytes = bytes;
  made->count = 2;
  int code = add_reference(p, from);
  return code == CDR_OK ? add_reference(p, to) : code;
}

/* --- one call --------------------------------------------------------------------------------------------------- */
/* What a unit's arguments point to. */
typedef struct {
  cdr_reference x, out;
  const cdr_pointer *weights; /* of all tensors, and which of them the call has */
  const int *weight_numbers;
  const uint64_t *states; /* likewise */
  const int *state_numbers;
  cdr_reference *reads, *writes;
  cdr_pointer scratch;
} cdr_binding;

static cdr_reference resolve(const cdr_binding *b, const cdr_argument *a)
{
  cdr_reference found = {0, 0, 0};
  switch (a->kind) {
  case CDR_X:
    found = b->x;
    break;
  case CDR_OUT:
    found = b->out;
    break;
  case CDR_WEIGHT:
    found.at = b->weights[b->weight_numbers[a->index]];
    break;
  case CDR_STATE:
    found.at = b->states[b->state_numbers[a->index]];
    found.held = 1;
    break;
  case CDR_READ:
    found = b->reads[a->index];
    break;
  case CDR_WRITE:
    found = b->writes[a->index];
    break;
  default:
    found.at = b->scratch;
  }
  found.at += a->offset;
  return found;
}

static int add_launches(cdr_plan *p, const cdr_places *places, const cdr_manifest *m, const cdr_capture *capture,
                        const cdr_binding *b)
{
  int code = CDR_OK;
  for (int i = 0; i < capture->launch_count; i++) {
    const cdr_launch *launch = &capture->launches[i];
    cdr_operation *made = add_operation(p);
    if (!made) return CDR_NO_MEMORY;
    made->function = places->functions[launch->kernel];
    made->name = m->kernels[launch->kernel];
    made->launch = launch;
    made->count = launch->argument_count;
    for (int k = 0; k < launch->argument_count && code == CDR_OK; k++)
      code = add_reference(p, resolve(b, &launch->arguments[k]));
  }
  return code;
}

/* A row of a value that starts at no multiple of what kernels load at once is copied to where it does. */
static int bounce_in(cdr_plan *p, cdr_reference *row, cdr_pointer bounce, uint64_t bytes)
{
  if (row->at % VECTOR == 0 && row->stride % VECTOR == 0) return CDR_OK;
  cdr_reference there = {bounce, 0, 0};
  int code = add_copy(p, *row, there, bytes);
  *row = there;
  return code;
}

static cdr_reference bounced(cdr_reference row, cdr_pointer bounce)
{
  return row.at % VECTOR == 0 && row.stride % VECTOR == 0 ? row : (cdr_reference){bounce, 0, 0};
}

static int bounce_out(cdr_plan *p, cdr_reference row, cdr_reference from, uint64_t bytes)
{
  return from.at == row.at && from.stride == row.stride ? CDR_OK : add_copy(p, from, row, bytes);
}

/* The stack as it is planned: which line holds the current value, and how many tokens of it there are. */
typedef struct {
  int line, begun, last_only;
} cdr_progress;

/* A row of a value of `tokens` tokens: all of it, the last token's, or one token's after the other. */
static cdr_reference row_of(cdr_pointer at, uint64_t bytes, uint64_t tokens, int times, int last)
{
  return (cdr_reference){at + (last ? (tokens - 1) * bytes : 0), times > 1 ? bytes : 0, 0};
}

static int add_call(cdr_plan *p, cdr_places *places, const cdr_manifest *m, const cdr_stack_call *call,
                    const uint64_t *offsets, cdr_progress *progress)
{
  const cdr_unit *unit = call->unit;
  int advance = strcmp(unit->name, "advance") == 0, alone = p->tokens > 1 && (call->last_only || !unit->blocked);
  int times = alone && !call->last_only ? (int)p->tokens : 1, from_block = call->last_only && !progress->last_only;
  const cdr_capture *capture = cdr_manifest_capture(m, unit, p->batch, alone ? 1 : p->tokens);
  if (!capture)
    return cdr_fail(CDR_MANIFEST, "manifest.json: the program lacks %s for %llu x %llu tokens", unit->name,
                    (unsigned long long)p->batch, (unsigned long long)(alone ? 1 : p->tokens));
  size_t carries = (size_t)unit->read_count + (size_t)unit->write_count;
  cdr_reference *rows = calloc(carries + 1, sizeof *rows);
  cdr_part *part = rows ? add_part(p, times) : NULL;
  if (!part) {
    free(rows);
    return CDR_NO_MEMORY;
  }
  int number = p->part_count - 1, code = CDR_OK;
  uint64_t in = cdr_value_bytes(&unit->x), out = cdr_value_bytes(&unit->out);
  cdr_pointer source = unit->x.dtype == CDR_I32 || !progress->begun ? places->tokens : places->line[progress->line];
  cdr_reference to = row_of(places->line[!progress->line], out, p->tokens, times, 0);
  cdr_binding b = {row_of(source, in, p->tokens, times, from_block),
                   bounced(to, places->bounce_out),
                   places->weights,
                   call->weights,
                   offsets,
                   call->states,
                   rows,
                   rows + unit->read_count,
                   places->scratch};
  code = bounce_in(p, &b.x, places->bounce_x, in);
  for (int i = 0; i < unit->read_count && code == CDR_OK; i++) {
    const cdr_carry *carry = find_carry(places, unit->reads[i].name);
    uint64_t bytes = carry->count * sizeof(float);
    b.reads[i] = row_of(carry->place[carry->current], bytes, p->tokens, times, call->last_only);
    code = bounce_in(p, &b.reads[i], carry->bounce[0], bytes);
  }
  for (int i = 0; i < unit->write_count; i++) {
    const cdr_carry *carry = find_carry(places, unit->writes[i].name);
    b.writes[i] = bounced(row_of(carry->place[!carry->current], carry->count * sizeof(float), p->tokens, times, 0),
                          carry->bounce[1]);
  }
  if (code == CDR_OK) code = add_launches(p, places, m, capture, &b);
  if (code == CDR_OK) code = bounce_out(p, to, b.out, out);
  for (int i = 0; i < unit->write_count && code == CDR_OK; i++) {
    cdr_carry *carry = find_carry(places, unit->writes[i].name);
    uint64_t bytes = carry->count * sizeof(float);
    carry->current = !carry->current;
    code = bounce_out(p, row_of(carry->place[carry->current], bytes, p->tokens, times, 0), b.writes[i], bytes);
  }
  p->parts[number].count = p->operation_count - p->parts[number].first;
  if (!advance) {
    progress->line = !progress->line;
    progress->begun = 1;
    progress->last_only = call->last_only;
  }
  free(rows);
  return code;
}

/* --- the stack -------------------------------------------------------------------------------------------------- */
int cdr_plan_stack(cdr_plan *p, cdr_places *places, const cdr_manifest *m, uint64_t batch, uint64_t tokens,
                   const uint64_t *offsets, cdr_pointer *logits)
{
  cdr_progress progress = {0, 0, 0};
  int code = CDR_OK;
  memset(p, 0, sizeof *p);
  p->batch = batch;
  p->tokens = tokens;
  for (int i = 0; i < places->carry_count; i++) places->carries[i].current = 0;
  for (int last = 0; last < 2 && code == CDR_OK; last++) {
    for (int i = 0; i < m->call_count && code == CDR_OK; i++)
      if (m->calls[i].last_only == last) code = add_call(p, places, m, &m->calls[i], offsets, &progress);
    if (!last) p->state_parts = p->part_count;
  }
  if (logits) *logits = places->line[progress.line];
  if (code != CDR_OK) cdr_plan_free(p);
  return code;
}

int cdr_plan_choice(cdr_plan *p, cdr_places *places, const cdr_manifest *m, const char *name, uint64_t batch,
                    cdr_pointer logits)
{
  const cdr_unit *unit = cdr_manifest_unit(m, name);
  const cdr_capture *capture = unit ? cdr_manifest_capture(m, unit, batch, 1) : NULL;
  cdr_reference rows[3];
  memset(p, 0, sizeof *p);
  if (!capture) return CDR_OK;
  if (unit->x.count != m->vocab || unit->x.dtype != CDR_F32 || unit->out.count != 1 || unit->weight_count ||
      unit->state_count || unit->write_count || unit->read_count > 3)
    return cdr_fail(CDR_MANIFEST, "manifest.json: the unit %s does not make a token of the logits", name);
  p->batch = batch;
  p->tokens = 1;
  for (int i = 0; i < unit->read_count; i++) {
    int which = 0;
    while (which < CDR_CHOICES && strcmp(unit->reads[i].name, choices[which]) != 0) which++;
    if (which == CDR_CHOICES || unit->reads[i].count != 1)
      return cdr_fail(CDR_MANIFEST, "manifest.json: the unit %s reads what is no part of a choice", name);
    rows[i] = (cdr_reference){places->choice[which], 0, 0};
  }
  cdr_binding b = {{logits, 0, 0}, {places->tokens, 0, 0}, NULL, NULL, NULL, NULL, rows, NULL, places->scratch};
  cdr_part *part = add_part(p, 1);
  int code = part ? add_launches(p, places, m, capture, &b) : CDR_NO_MEMORY;
  if (code == CDR_OK) p->parts[0].count = p->operation_count;
  else cdr_plan_free(p);
  return code;
}
