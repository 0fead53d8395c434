/* What the artefact says of itself: manifest.json as tables.

   Nothing in it is trusted: every index, size and offset is checked here against what it refers to, so that the rest of
   the runner need not. */
#ifndef CDR_MANIFEST_H
#define CDR_MANIFEST_H

#include "driver.h"
#include "json.h"
#include "pool.h"
#include "saved.h"
#include "weights.h"

enum { CDR_MOST_ARGUMENTS = 1024, CDR_LONGEST_PATH = 4096 };

/* A value of the program, for one token or one session: `count` numbers. */
typedef struct {
  const char *name;
  cdr_dtype dtype;
  int rank;
  const uint64_t *shape;
  uint64_t count;
} cdr_value;

typedef struct {
  const char *name;
  cdr_value x, out;
  cdr_value *weights, *states, *reads, *writes;
  int weight_count, state_count, read_count, write_count;
  int blocked;
} cdr_unit;

typedef struct {
  const char *path;
  const cdr_unit *unit;
  int *weights, *states; /* numbers of tensors, of pieces of the state */
  int last_only;
} cdr_stack_call;

/* A piece of the state as it lies on the GPU: of a history `entries` of `size` numbers each, otherwise one entry.  A
   document's beginning fills it with `start`, or with what tensor number `from` holds. */
typedef struct {
  cdr_value value;
  uint64_t entries, size;
  int history, from; /* from: -1 for none */
  float start;
  const char *start_name; /* of the tensor, or NULL */
} cdr_piece;

typedef enum { CDR_X, CDR_OUT, CDR_WEIGHT, CDR_STATE, CDR_READ, CDR_WRITE, CDR_SCRATCH, CDR_KINDS } cdr_kind;

typedef struct {
  cdr_kind kind;
  int index;
  uint64_t offset;
} cdr_argument;

typedef struct {
  int kernel;
  unsigned grid[3], block[3];
  const cdr_argument *arguments;
  int argument_count;
} cdr_launch;

/* A unit's launches for `batch` sessions and `tokens` tokens of each. */
typedef struct {
  const cdr_unit *unit;
  uint64_t batch, tokens, scratch;
  const cdr_launch *launches;
  int launch_count;
} cdr_capture;

typedef struct {
  const char *arch, *code;
  cdr_vendor vendor;
  cdr_json at;
} cdr_program;

typedef struct {
  const char *name;
  uint64_t bytes, checksum;
} cdr_listed;

typedef struct {
  cdr_pool pool;
  cdr_file file;
  const char *folder;
  uint64_t vocab;
  unsigned char identity[32];
  cdr_tensor *tensors; /* sorted by name */
  cdr_piece *pieces;   /* the state's in the order of a saved state, then `pos` */
  cdr_unit *units;
  cdr_stack_call *calls;
  uint64_t *batches, *blocks; /* of blocks, the largest first */
  cdr_program *programs;
  cdr_listed *files;
  int tensor_count, piece_count, unit_count, call_count, batch_count, block_count, program_count, file_count;
  uint64_t sample_top_k; /* what the unit `sample` keeps */
  /* of the program that was chosen */
  const char **kernels;
  cdr_capture *captures;
  int kernel_count, capture_count;
} cdr_manifest;

/* Reads the manifest of the artefact in `folder`. */
int cdr_manifest_open(cdr_manifest *m, const char *folder);
void cdr_manifest_close(cdr_manifest *m);

/* Reads the kernels and launches of one of its programs. */
int cdr_manifest_choose(cdr_manifest *m, const cdr_program *program);

/* The unit of a name, or NULL; its launches for `batch` sessions of `tokens` tokens, or NULL. */
const cdr_unit *cdr_manifest_unit(const cdr_manifest *m, const char *name);
const cdr_capture *cdr_manifest_capture(const cdr_manifest *m, const cdr_unit *unit, uint64_t batch, uint64_t tokens);

/* What the manifest lists of a file of that name, or NULL. */
const cdr_listed *cdr_manifest_file(const cdr_manifest *m, const char *name);

/* Opens a listed file whose size is right; `path` has room for CDR_LONGEST_PATH bytes and gets its path. */
int cdr_listed_open(const cdr_manifest *m, const char *name, cdr_file *file, char *path, uint64_t *checksum);

/* The bytes of a value. */
uint64_t cdr_value_bytes(const cdr_value *value);

#endif
