// The same as stream.c in C++, with owners that give everything back, and two streams that share their beginning.
//
//   c++ stream.cpp $(pkg-config --cflags --libs cdrmix-NAME) -o stream
//   ./stream "$(pkg-config --variable=model cdrmix-NAME)" "def " 200
#include <model.h>
#include <tokenizer.h>

#include <cstdlib>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

static void check(int code, const std::string &doing)
{
  if (code != CDR_OK) throw std::runtime_error(doing + ": " + cdr_error_text(code));
}

struct Artefact {
  std::unique_ptr<cdr_model, decltype(&cdr_close)> model{nullptr, cdr_close};
  std::unique_ptr<cdr_tokenizer, decltype(&cdr_tokenizer_close)> tokenizer{nullptr, cdr_tokenizer_close};

  explicit Artefact(const std::string &folder)
  {
    cdr_model *m = nullptr;
    check(cdr_open(&m, (folder + "/weights.safetensors").c_str()), folder);
    model.reset(m);
    cdr_tokenizer *t = nullptr;
    check(cdr_tokenizer_open(&t, (folder + "/tokenizer.json").c_str()), folder);
    tokenizer.reset(t);
  }

  std::string_view text(int32_t token) const
  {
    std::size_t size = 0;
    const unsigned char *bytes = cdr_token_bytes(tokenizer.get(), token, &size);
    return {reinterpret_cast<const char *>(bytes), size};
  }
};

class Stream {
public:
  explicit Stream(const Artefact &of) : of_(of), state_(new_state(of)), logits_(std::size_t(cdr_vocab(of.model.get())))
  {
    check(cdr_state_init(model(), state_.get()), "starting");
  }

  // another stream that begins where this one stands
  Stream(const Stream &other) : of_(other.of_), state_(new_state(other.of_)), logits_(other.logits_)
  {
    check(cdr_state_fork(model(), other.state_.get(), state_.get()), "copying a state");
  }
  Stream &operator=(const Stream &) = delete;
  ~Stream() { cdr_state_free(model(), state_.get()); }

  void read(std::string_view text)
  {
    std::vector<int32_t> ids(text.size() + 1);
    const int32_t end = cdr_tokenizer_eot(of_.tokenizer.get());
    std::size_t begun = 0, count = 0;
    if (end >= 0 && cdr_state_tokens(model(), state_.get()) == 0) ids[begun++] = end;
    check(cdr_encode(of_.tokenizer.get(), text.data(), text.size(), ids.data() + begun, &count), "reading text");
    check(cdr_prefill(model(), state_.get(), ids.data(), begun + count, logits_.data()), "running the model");
  }

  // up to `count` tokens' text, as it comes
  template <typename Show> void write(long count, std::uint64_t seed, Show show)
  {
    std::vector<unsigned char> known(logits_.size());
    for (std::size_t id = 0; id < known.size(); id++) known[id] = !of_.text(int32_t(id)).empty();
    std::vector<cdr_candidate> candidates(logits_.size());
    cdr_sampling how{0.8, 0.95, 0, cdr_random_at(seed, cdr_state_tokens(model(), state_.get())), known.data()};
    for (long n = 0; n < count; n++) {
      const int32_t token = cdr_sample(&how, logits_.data(), int32_t(logits_.size()), candidates.data());
      if (token < 0) check(CDR_NOT_FINITE, "choosing a token");
      if (token == cdr_tokenizer_eot(of_.tokenizer.get())) break;
      show(of_.text(token));
      check(cdr_step(model(), state_.get(), token, logits_.data()), "running the model");
    }
  }

private:
  struct Free {
    void operator()(void *memory) const { std::free(memory); }
  };

  static std::unique_ptr<void, Free> new_state(const Artefact &of)
  {
    std::unique_ptr<void, Free> made(std::malloc(cdr_state_size(of.model.get())));
    if (!made) throw std::bad_alloc();
    return made;
  }

  cdr_model *model() const { return of_.model.get(); }

  const Artefact &of_;
  std::unique_ptr<void, Free> state_;
  std::vector<float> logits_;
};

int main(int argc, char **argv)
try {
  if (argc < 3) return std::cerr << "usage: stream DIR PROMPT [COUNT]\n", 2;
  const std::string prompt = argv[2];
  const long count = argc > 3 ? std::atol(argv[3]) : 200;
  const Artefact artefact(argv[1]);
  Stream first(artefact);
  first.read(prompt);
  Stream second(first); // the prompt is read once for both
  for (auto [stream, seed] : {std::pair(&first, 0), std::pair(&second, 1)}) {
    std::cout << prompt;
    stream->write(count, std::uint64_t(seed), [](std::string_view text) { std::cout << text << std::flush; });
    std::cout << '\n';
  }
  return 0;
} catch (const std::exception &e) {
  return std::cerr << e.what() << '\n', 1;
}
