/* What the functions of an artefact return: 0, or a code whose text cdr_error_text gives.

   The low byte is the kind.  The rest, when not 0, is the number of a tensor plus one. */
#ifndef CDR_ERRORS_H
#define CDR_ERRORS_H

enum {
  CDR_OK = 0,
  /* the machine and the arguments */
  CDR_BIG_ENDIAN,
  CDR_NO_MEMORY,
  CDR_NULL,
  CDR_TOKEN,
  CDR_NO_TOKENS,
  CDR_NO_SLOT,
  CDR_STATE_UNSET,
  /* files */
  CDR_CANNOT_OPEN,
  CDR_CANNOT_READ,
  CDR_CANNOT_WRITE,
  CDR_PATH_TOO_LONG,
  /* weights.safetensors */
  CDR_WEIGHTS_SHORT,
  CDR_WEIGHTS_HEADER,
  CDR_WEIGHTS_ALIGNMENT,
  CDR_WEIGHTS_SIZE,
  CDR_TENSOR_MISSING,
  CDR_TENSOR_TWICE,
  CDR_TENSOR_ENTRY,
  CDR_TENSOR_DTYPE,
  CDR_TENSOR_SHAPE,
  CDR_TENSOR_RANGE,
  CDR_TENSOR_TRUNCATED,
  /* saved states */
  CDR_SAVED_FOREIGN,
  CDR_SAVED_VERSION,
  CDR_SAVED_MODEL,
  CDR_SAVED_WEIGHTS,
  CDR_SAVED_TRUNCATED,
  CDR_SAVED_DAMAGED,
  CDR_SAVED_CHANGED,
  /* tokenizer.json */
  CDR_TOKENIZER_JSON,
  CDR_TOKENIZER_KIND,
  CDR_TOKENIZER_SPLIT,
  CDR_TOKENIZER_TOKEN,
  CDR_TOKENIZER_BYTES,
  CDR_TOKENIZER_MERGE,
  /* GPUs */
  CDR_MANIFEST,
  CDR_FILE_DAMAGED,
  CDR_DRIVER_MISSING,
  CDR_DEVICE_MISSING,
  CDR_CODE_MISSING,
  CDR_DRIVER_OLD,
  CDR_DRIVER_CALL,
  CDR_DEVICE_MEMORY,
  CDR_STATE_COPIED,
  CDR_STATE_BROKEN,
  CDR_DOCUMENT_LONG,
  CDR_BATCH,
  /* files, again */
  CDR_NOT_A_FILE,
  /* choosing */
  CDR_NOT_FINITE,
  /* threads and batches */
  CDR_THREADS,
  CDR_ROW_EMPTY,
  /* weights.safetensors, again */
  CDR_TENSOR_BLOCKS,
  CDR_LAST_ERROR
};

#ifdef __cplusplus
extern "C" {
#endif

/* The text of a code's kind. */
const char *cdr_error_kind(int code);

/* `kind` for tensor number `tensor`, and the way back (-1: none). */
int cdr_error_of(int kind, int tensor);
int cdr_error_tensor(int code);

#ifdef __cplusplus
}
#endif

#endif
