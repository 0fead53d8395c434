/* The model as the runner's files share it. */
#ifndef CDR_RUNNER_H
#define CDR_RUNNER_H

#include "device.h"
#include "failure.h"
#include "manifest.h"
#include "model.h"
#include "plan.h"
#include "saved.h"

#include <pthread.h>

enum {
  CDR_WINDOW = 4096, /* tokens that wait in pinned memory at once */
  CDR_IDLE = 4       /* states that were given back and are kept for the next ones */
};

/* The launches of a plan with one state's addresses, as a graph from the second run on. */
typedef struct {
  void *graph;
  int runs;
} cdr_replay;

/* What the GPU holds of one state, or of a batch of them. */
typedef struct cdr_held {
  struct cdr_held *next;
  const void *owner; /* the handle's address */
  uint64_t serial;
  int shape; /* which of the manifest's batches */
  cdr_pointer memory;
  uint64_t *tokens; /* that each row has seen */
  int32_t *latest;  /* of each row, as cdr_head has them */
  float *logits;    /* of a single state, after its last token */
  int has_logits;
  int broken;
  cdr_replay *replays; /* of a step, of each block; each without its last parts and with them */
} cdr_held;

/* What the plans of a batch size need. */
typedef struct {
  uint64_t rows, bytes; /* of a state */
  uint64_t *offsets;    /* of its pieces */
  cdr_plan step, argmax, sample;
  cdr_pointer logits;
} cdr_shape;

struct cdr_model {
  pthread_mutex_t lock;
  cdr_manifest manifest;
  cdr_device device;
  const char *program;
  char about[512];
  void *module;
  cdr_places places;
  cdr_pointer weights, work, start; /* start: a state at a document's beginning, 0 if that is all zeros */
  cdr_shape *shapes;                /* one of the manifest's batches each */
  cdr_plan *blocks;                 /* one of its blocks each */
  int single;                       /* the shape of one session */
  cdr_layout layout;                /* of a state in the machine's memory, as files hold it */
  cdr_slot *slots;
  size_t host_bytes;
  uint64_t mark, serial;
  cdr_held *held, *idle; /* idle: memory and graphs that the next state takes over */
  int32_t *ids;          /* pinned */
  float *logits, *draws; /* pinned */
  cdr_candidate *room;   /* to choose among all tokens here */
  int no_graphs;
  cdr_pointer values[CDR_MOST_ARGUMENTS];
  void *arguments[CDR_MOST_ARGUMENTS];
};

/* Locks the model and makes its GPU current; undoes that and gives `code`, or the failure to undo it. */
int cdr_enter(const cdr_model *given, cdr_model **m, int *before);
int cdr_leave(cdr_model *m, int before, int code);

/* Puts the weights on the GPU. */
int cdr_upload(cdr_model *m, const char *weights_path);

/* The states: found by handle, made, given back; the address of a piece; a row's beginning; a token that a row read. */
int cdr_held_find(const cdr_model *m, const void *state, cdr_held **held);
int cdr_held_make(cdr_model *m, int shape, const void *owner, cdr_held **held);
void cdr_held_free(cdr_model *m, cdr_held *held);
cdr_pointer cdr_held_piece(const cdr_model *m, const cdr_held *held, int piece, uint64_t row);
int cdr_held_begin(cdr_model *m, cdr_held *held, uint64_t row);
void cdr_held_saw(cdr_held *held, uint64_t row, int32_t token);
int cdr_held_copy(cdr_model *m, const cdr_held *from, uint64_t from_row, cdr_held *to, uint64_t to_row);

/* A state for a handle: the one it has, or a new one. */
int cdr_held_for(cdr_model *m, void *state, cdr_held **held, int *made);

/* Gives the GPU back what the idle ones hold. */
void cdr_idle_free(cdr_model *m);

/* Block number `block`, or for -1 one token of every row, from the tokens on the GPU to the logits there. */
int cdr_run(cdr_model *m, cdr_held *held, int block, int logits);

/* The parts of a plan. */
int cdr_run_parts(cdr_model *m, const cdr_plan *plan, int first, int end, cdr_pointer state);

/* The steps of cdr_generate for every row of `held`, whose tokens of now are `tokens`; NULL goes on from the logits of a
   single state.  `out` has n tokens of each row, one token of every row after the other. */
int cdr_run_choices(cdr_model *m, cdr_held *held, const int32_t *tokens, size_t n, cdr_sampling *how, int32_t *out);

/* Tokens that the model has, and room for them in each document. */
int cdr_check_tokens(const cdr_model *m, const int32_t *tokens, size_t n);
int cdr_check_length(const cdr_held *held, uint64_t row, size_t n);

#endif
