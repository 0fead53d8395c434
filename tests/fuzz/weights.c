/* weights.safetensors: refused, or a model that reads tokens. */
#include "fuzz.h"
#include "model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  static const int32_t tokens[] = {1, 15, 3, 0, 7};
  cdr_model *model = NULL;
  const int code = cdr_open(&model, file_of("weights.safetensors", data, size, ""));
  must(strlen(cdr_error_text(code)) > 0 && (code == CDR_OK) == (model != NULL));
  if (code != CDR_OK) return 0;
  void *state = malloc(cdr_state_size(model));
  float *logits = malloc(CDR_VOCAB * sizeof *logits);
  must(state && logits && cdr_state_init(model, state) == CDR_OK);
  must(cdr_prefill(model, state, tokens, sizeof tokens / sizeof *tokens, logits) == CDR_OK);
  free(logits);
  free(state);
  cdr_close(model);
  return 0;
}
