/* A streaming language model on a GPU, compiled by CDRmix.

   A state is memory of the GPU; the caller owns a small handle to it: any memory of cdr_state_size() bytes, aligned
   to 16, that stays where it is.  A copy of its bytes is no state and is refused: cdr_state_fork copies one.  Give a
   state back with cdr_state_free; cdr_close gives back what is left.  Functions that return int give 0, or a code
   for cdr_error_text.

   A model may be used by several threads at once, each with a state of its own: the calls of one model wait for each
   other (a lock a model; all of its sessions share one stream of the GPU).  To run sessions at the same time, step
   them as a batch.  After a failure of the GPU or its driver the state that ran is refused until cdr_state_init. */
#ifndef CDR_MODEL_H
#define CDR_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "errors.h"
#include "sample.h"

#define CDR_ON_DEVICE 1 /* there are cdr_generate and batches */

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cdr_model cdr_model;
typedef struct cdr_batch cdr_batch;

/* Reads the artefact that `weights_path` lies in, picks the first GPU that it holds code for (or number CDR_DEVICE
   of the environment), checks every file that is read, and uploads the weights.  The environment's CDR_DRIVER names
   another driver library than the system's.  After this only states and batches take memory of the GPU. */
int cdr_open(cdr_model **out, const char *weights_path);
void cdr_close(cdr_model *m);

int cdr_vocab(const cdr_model *m);

/* Which GPU it is and which of the artefact's programs runs there. */
const char *cdr_about(const cdr_model *m);

/* The bytes of a handle; those of the memory that a state takes, of the GPU's and of this machine's together. */
size_t cdr_state_size(const cdr_model *m);
size_t cdr_state_memory(const cdr_model *m);

/* A document's beginning; how many tokens the state has seen since. */
int cdr_state_init(const cdr_model *m, void *state);
uint64_t cdr_state_tokens(const cdr_model *m, const void *state);

/* The latest tokens that the state has seen, the oldest of them first: at most CDR_LATEST; their number. */
#define CDR_LATEST 64
int cdr_state_latest(const cdr_model *m, const void *state, int32_t *tokens);

/* Another stream that begins where `from` stands: `to` is any memory for a handle, or a state, which is overwritten. */
int cdr_state_fork(const cdr_model *m, const void *from, void *to);
void cdr_state_free(const cdr_model *m, void *state);

/* Reads one token, or several; `logits` gets the cdr_vocab() logits after the last one, or is NULL when nobody wants
   them.  No tokens (n = 0) give the logits after the last one that was read, which a state keeps, and its file, too;
   one that was taken from a batch has none until it reads a token.  A token outside the vocabulary is refused before
   anything changes. */
int cdr_step(const cdr_model *m, void *state, int32_t token, float *logits);
int cdr_prefill(const cdr_model *m, void *state, const int32_t *tokens, size_t n, float *logits);

/* Reads `token`, unless it is -1, chooses the next one, and so on until `out` has `n` tokens, the last of which is not
   read.  The
   choice is made on the GPU where the artefact can (the likeliest; or as many of the likeliest as its program
   keeps), so that only tokens come back; otherwise here. */
int cdr_generate(const cdr_model *m, void *state, int32_t token, size_t n, cdr_sampling *how, int32_t *out);

/* Several sessions in one sequence of launches.  A row holds a state from `put` on, `take` copies it out; a row that
   was never put begins a document.  A step reads a token of every row; a token of -1 lets go of what the row held.
   `logits` is NULL, or has room for cdr_vocab() numbers of each row.  Close batches before their model. */
int cdr_batch_open(cdr_batch **out, const cdr_model *m, int rows);
int cdr_batch_put(cdr_batch *batch, int row, const void *state);
int cdr_batch_take(cdr_batch *batch, int row, void *state);
int cdr_batch_step(cdr_batch *batch, const int32_t *tokens, float *logits);
int cdr_batch_generate(cdr_batch *batch, const int32_t *tokens, size_t n, cdr_sampling *how, int32_t *out);
void cdr_batch_close(cdr_batch *batch);

/* A state as a file, written whole or not at all, the same file for every target.  Another model's, another weights'
   or a damaged file is refused and the state is left as it is. */
int cdr_state_save(const cdr_model *m, const void *state, const char *path);
int cdr_state_load(const cdr_model *m, void *state, const char *path);

/* One piece of the state by its path, row by row; a history newest first with zeros for what is not there yet, and its
   `path.count`; `pos`. */
int cdr_state_read(const cdr_model *m, const void *state, const char *slot_path, float *out);

/* Compares a file of the artefact, by its name there, with what the manifest says of it. */
int cdr_check_file(const cdr_model *m, const char *name);

/* What a code means.  The text is good until the thread's next call. */
const char *cdr_error_text(int code);

#ifdef __cplusplus
}
#endif

#endif
