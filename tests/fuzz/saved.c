/* A saved state: as it comes, and with its checksum made right.  Refused, the state is as it was; loaded, it goes on. */
#include "fuzz.h"
#include "model.h"

static cdr_model *model;
static unsigned char *state, *kept;
static size_t room;

static void begin(void)
{
  static const int32_t tokens[] = {1, 2, 3};
  must(cdr_open(&model, path_of("weights.safetensors")) == CDR_OK);
  room = cdr_state_size(model);
  state = malloc(room);
  kept = malloc(room);
  must(state && kept && cdr_state_init(model, kept) == CDR_OK);
  must(cdr_prefill(model, kept, tokens, 3, NULL) == CDR_OK);
}

static void try(const uint8_t *data, size_t size)
{
  static float logits[CDR_VOCAB];
  int32_t latest[CDR_LATEST];
  memcpy(state, kept, room);
  if (cdr_state_load(model, state, file_of("state", data, size, "")) != CDR_OK) {
    must(memcmp(state, kept, room) == 0);
    return;
  }
  const int count = cdr_state_latest(model, state, latest);
  for (int i = 0; i < count; i++) must(latest[i] >= 0 && latest[i] < CDR_VOCAB);
  const int code = cdr_prefill(model, state, NULL, 0, logits);
  must(code == CDR_OK || code == CDR_NO_TOKENS);
  for (int32_t token = 0; token < 9; token++) must(cdr_step(model, state, token, logits) == CDR_OK);
  must(cdr_state_save(model, state, path_of("again")) == CDR_OK);
  must(cdr_state_load(model, state, path_of("again")) == CDR_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  uint64_t sum = UINT64_C(0xcbf29ce484222325);
  if (!model) begin();
  try(data, size);
  if (size < 8) return 0;
  uint8_t *made = malloc(size);
  must(made != NULL);
  memcpy(made, data, size);
  for (size_t i = 0; i < size - 8; i++) sum = (sum ^ data[i]) * UINT64_C(0x100000001b3);
  for (size_t i = 0; i < 8; i++) made[size - 8 + i] = (uint8_t)(sum >> 8 * i);
  try(made, size);
  free(made);
  return 0;
}
