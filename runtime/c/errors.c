#include "errors.h"

static const char *const texts[CDR_LAST_ERROR] = {
  [CDR_OK] = "no error",
  [CDR_BIG_ENDIAN] = "this machine is big-endian; the weights are little-endian",
  [CDR_NO_MEMORY] = "out of memory",
  [CDR_NULL] = "a required pointer is NULL",
  [CDR_TOKEN] = "a token is outside the vocabulary",
  [CDR_NO_TOKENS] = "no tokens were given, and the state holds no logits to go on from",
  [CDR_NO_SLOT] = "the model has no state of that path",
  [CDR_STATE_UNSET] = "the state buffer was not made by cdr_state_init or cdr_state_load of this model",
  [CDR_CANNOT_OPEN] = "the file cannot be opened",
  [CDR_CANNOT_READ] = "the file cannot be read",
  [CDR_CANNOT_WRITE] = "the file cannot be written",
  [CDR_PATH_TOO_LONG] = "the path is too long",
  [CDR_WEIGHTS_SHORT] = "not a safetensors file: it ends before its header does",
  [CDR_WEIGHTS_HEADER] = "not a safetensors file: its header is malformed",
  [CDR_WEIGHTS_ALIGNMENT] = "the weights' data does not begin at a multiple of four bytes",
  [CDR_WEIGHTS_SIZE] = "the weights' data is longer than its tensors",
  [CDR_TENSOR_MISSING] = "the weights lack a tensor",
  [CDR_TENSOR_TWICE] = "the weights have a tensor twice",
  [CDR_TENSOR_ENTRY] = "the header's entry of a tensor is malformed",
  [CDR_TENSOR_DTYPE] = "a tensor's numbers are of another type than the model's",
  [CDR_TENSOR_SHAPE] = "a tensor's shape is not the model's",
  [CDR_TENSOR_RANGE] = "a tensor's place in the file does not fit its shape",
  [CDR_TENSOR_TRUNCATED] = "the weights end before a tensor does",
  [CDR_SAVED_FOREIGN] = "not a saved state",
  [CDR_SAVED_VERSION] = "the state was saved by another version of cdrmix, in another format; save it again",
  [CDR_SAVED_MODEL] = "the state was saved by another model",
  [CDR_SAVED_WEIGHTS] = "the state was saved with other weights",
  [CDR_SAVED_TRUNCATED] = "the saved state has the wrong length",
  [CDR_SAVED_DAMAGED] = "the saved state is damaged: its checksum or a count is wrong",
  [CDR_SAVED_CHANGED] = "the file changed while it was read; the state begins anew",
  [CDR_TOKENIZER_JSON] = "the tokenizer is malformed JSON, or lacks a part",
  [CDR_TOKENIZER_KIND] = "the tokenizer is not a plain byte-level BPE",
  [CDR_TOKENIZER_SPLIT] = "the tokenizer's pre-tokeniser is another one",
  [CDR_TOKENIZER_TOKEN] = "a token of the tokenizer is not byte-level, or its id is wrong",
  [CDR_TOKENIZER_BYTES] = "the tokenizer's vocabulary lacks a byte",
  [CDR_TOKENIZER_MERGE] = "a merge of the tokenizer makes or takes a token that is not in the vocabulary",
  [CDR_MANIFEST] = "the manifest is malformed, was changed, or is of another version of cdrmix",
  [CDR_FILE_DAMAGED] = "its bytes are not those that manifest.json lists: it was cut short or changed",
  [CDR_DRIVER_MISSING] = "the GPU's driver library cannot be loaded",
  [CDR_DEVICE_MISSING] = "there is no GPU",
  [CDR_CODE_MISSING] = "the artefact holds no code for this GPU",
  [CDR_DRIVER_OLD] = "the GPU's driver is too old",
  [CDR_DRIVER_CALL] = "a call of the GPU's driver failed",
  [CDR_DEVICE_MEMORY] = "the GPU has too little memory",
  [CDR_STATE_COPIED] = "the state is a copy of another's bytes; a state on a GPU is copied by cdr_state_fork",
  [CDR_STATE_BROKEN] = "the GPU failed while this state ran; begin it anew",
  [CDR_DOCUMENT_LONG] = "a document on a GPU has at most 2147483647 tokens",
  [CDR_BATCH] = "the artefact holds no program for a batch of this size, or it has no such row",
  [CDR_NOT_A_FILE] = "a folder, a disk, a socket, or where the standard output goes: it cannot be replaced by a file",
  [CDR_NOT_FINITE] = "nothing can be chosen: the logits hold NaN or infinity, as the weights or the state do",
  [CDR_THREADS] = "the number of threads, or CDRMIX_THREADS, is none from 1 to 64",
  [CDR_ROW_EMPTY] = "the row of the batch holds no state: put one there first",
  [CDR_TENSOR_BLOCKS] = "of a tensor and its scales one lies in blocks of rows and the other does not",
};

const char *cdr_error_kind(int code)
{
  int kind = code & 0xff;
  return code < 0 || kind >= CDR_LAST_ERROR ? "unknown error" : texts[kind];
}

int cdr_error_of(int kind, int tensor) { return kind | (tensor + 1) << 8; }

int cdr_error_tensor(int code) { return code < 0 ? -1 : (code >> 8) - 1; }
