/* What runs for a batch or a block: launches and copies with their arguments resolved, as flat lists.

   Everything has its place when a plan is made; only the state's address, and which token of a block a unit is at that
   runs token by token, are added as it runs. */
#ifndef CDR_PLAN_H
#define CDR_PLAN_H

#include "device.h"
#include "manifest.h"

/* An address: `at` + `stride` for every token + the state's address where `held`. */
typedef struct {
  cdr_pointer at;
  uint64_t stride;
  int held;
} cdr_reference;

/* A launch; or, without a function, a copy of `bytes` from the first reference to the second. */
typedef struct {
  void *function;
  const cdr_launch *launch;
  const char *name;
  int first, count;
  uint64_t bytes;
} cdr_operation;

/* Operations that run `times` times, for one token after the other. */
typedef struct {
  int first, count, times;
} cdr_part;

typedef struct {
  uint64_t batch, tokens;
  cdr_reference *references;
  cdr_operation *operations;
  cdr_part *parts;
  int reference_count, operation_count, part_count;
  int reference_room, operation_room, part_room;
  int state_parts; /* the parts after these only make the logits */
} cdr_plan;

typedef struct {
  const char *name;
  uint64_t count;
  cdr_pointer place[2], bounce[2]; /* two places: a unit may read one value and write the next */
  int current;
} cdr_carry;

enum { CDR_TEMPERATURE, CDR_TOP_P, CDR_RANDOM, CDR_CHOICES };

/* Where everything lies on the GPU. */
typedef struct {
  cdr_pointer line[2], tokens, bounce_x, bounce_out, scratch;
  cdr_pointer choice[CDR_CHOICES]; /* temperature, top_p and the random number of each session */
  cdr_pointer *weights;            /* a tensor each */
  cdr_carry *carries;
  int carry_count;
  void **functions; /* a kernel each */
  uint64_t bytes;   /* of it all, weights and states apart */
} cdr_places;

/* Reads the sizes of everything from the manifest: sets offsets from 0, and `bytes`. */
int cdr_places_measure(cdr_places *places, cdr_manifest *m);

/* Moves them to where the memory is. */
void cdr_places_move(cdr_places *places, cdr_pointer memory);

/* The plan for `batch` sessions of `tokens` tokens, into the offsets of a state of that batch. */
int cdr_plan_stack(cdr_plan *plan, cdr_places *places, const cdr_manifest *m, uint64_t batch, uint64_t tokens,
                   const uint64_t *state_offsets, cdr_pointer *logits);

/* The plan of one unit from the logits to the next token (`argmax`, `sample`); empty when the artefact lacks it. */
int cdr_plan_choice(cdr_plan *plan, cdr_places *places, const cdr_manifest *m, const char *unit, uint64_t batch,
                    cdr_pointer logits);

/* A size that grows, and stays at more than any memory has instead of overflowing. */
uint64_t cdr_grown(uint64_t size, uint64_t bytes, uint64_t times);

void cdr_plan_free(cdr_plan *plan);

#endif
