/* The streaming state: where it lies in the caller's buffer, and its file.

   The file holds the canonical layout (a history's entries newest first), so it does not depend on where a ring
   stands:  magic, version, model hash, weights' fingerprint, tokens, payload size | payload | checksum.
   The payload is every slot, then where the text stands: whether there are logits, the logits, the latest tokens.
   Numbers are little-endian. */
#ifndef CDR_SAVED_H
#define CDR_SAVED_H

#include "inline.h"

#include <stddef.h>
#include <stdint.h>

/* A history's ring: the slot of the newest entry, and how many of its `window` slots are filled. */
typedef struct {
  int32_t head, count;
} cdr_ring;

#ifndef CDR_LATEST
#define CDR_LATEST 64 /* as in model.h */
#endif

/* The buffer begins with this.  `mark` tells a buffer of this model from anything else.  `logits` is where those after
   the last token lie, in bytes from the buffer's start; 0: nobody asked for them.  Token n is latest[n % CDR_LATEST]. */
typedef struct {
  uint64_t mark, tokens, logits;
  uint64_t unused[5];
  int32_t latest[CDR_LATEST];
} cdr_head;

/* A piece of the state.  Several rows of one path are the instances of a bank, in order. */
typedef struct {
  const char *path;
  size_t at, ring; /* bytes from the buffer's start; ring is 0 for a state */
  size_t size;     /* floats of the state, or of one entry */
  int32_t window;  /* slots of the ring; 0 for a state */
} cdr_slot;

typedef struct {
  const cdr_slot *slots;
  int count;
  size_t logits; /* where a file's logits are put */
  size_t vocab;  /* and how many they are */
  unsigned char hash[32];
  uint64_t weights;
} cdr_layout;

int cdr_saved_write(const cdr_layout *layout, const void *state, const char *path);
int cdr_saved_read(const cdr_layout *layout, void *state, const char *path);

/* The latest tokens, the oldest of them first; their number. */
int cdr_latest_read(uint64_t tokens, const int32_t *latest, int32_t *out);

/* The floats of `path`, of `path.count`, or of `pos`. */
int cdr_slot_read(const cdr_layout *layout, const void *state, const char *path, float *out);

uint64_t cdr_mark(const cdr_layout *layout);

/* Makes room for this token's entry. */
CDR_INLINE void cdr_ring_advance(cdr_ring *ring, int32_t window)
{
  ring->head = ring->head > 0 ? ring->head - 1 : window - 1;
  if (ring->count < window) ring->count++;
}

#endif
