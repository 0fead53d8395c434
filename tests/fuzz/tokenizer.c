/* tokenizer.json: refused, or a tokenizer that encodes any text into tokens that spell it. */
#include "errors.h"
#include "fuzz.h"
#include "tokenizer.h"

static const char text[] = "The number 12345 is  two\r\n\r\n\tlines <|endoftext|> \xc3\xa9\xe6\x97\xa5 \xff\xc3 the end ";

typedef int encoder(const cdr_tokenizer *t, const void *text, size_t size, int32_t *ids, size_t *count);

static void spell(const cdr_tokenizer *t, encoder *encode)
{
  int32_t ids[sizeof text];
  size_t count = 0, at = 0, size;
  must(encode(t, text, sizeof text - 1, ids, &count) == CDR_OK && count < sizeof text);
  for (size_t i = 0; i < count; i++) {
    must(ids[i] >= 0 && ids[i] < cdr_tokenizer_vocab(t));
    const unsigned char *bytes = cdr_token_bytes(t, ids[i], &size);
    must(size > 0 && size <= sizeof text - 1 - at && memcmp(text + at, bytes, size) == 0);
    at += size;
  }
  must(at == sizeof text - 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  cdr_tokenizer *t = NULL;
  const int code = cdr_tokenizer_open(&t, file_of("tokenizer.json", data, size, ""));
  must((code == CDR_OK) == (t != NULL));
  if (code != CDR_OK) return 0;
  spell(t, cdr_encode);
  spell(t, cdr_encode_special);
  must(cdr_tokenizer_eot(t) < cdr_tokenizer_vocab(t));
  cdr_tokenizer_close(t);
  return 0;
}
