/* Text to token ids and back, from a tokenizer.json: byte-level BPE, for any bytes. */
#ifndef CDR_TOKENIZER_H
#define CDR_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cdr_tokenizer cdr_tokenizer;

/* Reads `path`; 0, or a code of errors.h, and *out is NULL.  Several threads may use a tokenizer at once: nothing changes
   it.  Closing NULL does nothing. */
int cdr_tokenizer_open(cdr_tokenizer **out, const char *path);
void cdr_tokenizer_close(cdr_tokenizer *t);

/* One more than the largest id; the end-of-text token's id, or -1. */
int32_t cdr_tokenizer_vocab(const cdr_tokenizer *t);
int32_t cdr_tokenizer_eot(const cdr_tokenizer *t);

/* Writes the ids of `text` and their number.  `ids` has room for `size` of them: a text never has more ids than bytes.
   A special token's own text is text as any other to the first, and its id to the second.  0 or CDR_NO_MEMORY. */
int cdr_encode(const cdr_tokenizer *t, const void *text, size_t size, int32_t *ids, size_t *count);
int cdr_encode_special(const cdr_tokenizer *t, const void *text, size_t size, int32_t *ids, size_t *count);

/* The bytes of a token, not ended by 0; none for an id that is not a token's. */
const unsigned char *cdr_token_bytes(const cdr_tokenizer *t, int32_t id, size_t *size);

/* The length of the first piece the pre-tokeniser cuts from a text (0 only for an empty one); a run in it is at most
   `longest` characters. */
size_t cdr_piece(const unsigned char *text, size_t size, size_t longest);

#ifdef __cplusplus
}
#endif

#endif
