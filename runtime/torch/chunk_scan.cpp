// The CPU kernel of diagonal and delta states: S' = S (diag(w) + sum_r a_r b_r^T) + sum_m v_m k_m^T; y_n = S q_n, S
// before the token.  Products only: any w, nothing divides.
//
// q [B, T, H, n, K], w [B, T, H, 1 | K] or none, k [B, T, H, m, K], v [B, T, H, m, V], a, b [B, T, H, r, K],
// S0 [B, H, V, K]; contiguous, one dtype.  x [B, T, H, r, V] = S a, and `kept`, the states at the start of each CHUNK
// tokens, are what the backward needs.
//
// The rows of S do not meet within a token, so the loop is (batch, head) > CHUNK tokens > GROUP of rows > token, the
// group's rows staying in the nearest cache.  Backward replays the group's CHUNK states from the kept one, with x in
// place of the dot products, and walks back through them.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "rows.h"

namespace cdrmix {
namespace {

using at::Tensor;
constexpr int CHUNK = 16;
constexpr int GROUP_ELEMENTS = 2048;  // of the state, a group of rows: with its replay it stays in a 512 kB cache

struct Sizes {
  int B, T, H, n, r, m, K, V, w;  // w: 0 none, 1 scalar, K
  int chunks() const { return (T + CHUNK - 1) / CHUNK; }
  int64_t token(int bh, int t) const { return (int64_t(bh / H) * T + t) * H + bh % H; }
};

// Whole vectors, aligned and zeroed.
template <typename real> class Buffer {
  struct alignas(BYTES) Slot {
    real lanes[LANES<real>] = {};
  };
  std::vector<Slot> slots;

 public:
  void resize(size_t vectors) { slots.resize(vectors); }
  void clear() { std::fill(slots.begin(), slots.end(), Slot()); }
  vec<real>* operator+(size_t i) { return reinterpret_cast<vec<real>*>(slots.data()) + i; }
};

// A thread's scratch: one chunk of tokens, gathered and padded to whole vectors, so that tokens lie side by side.
template <typename real> struct Scratch {
  Sizes z;
  int kb, Vp, P, U, group;
  Buffer<real> asks, outs, w, dasks, douts, dw, S, D, replay;
  std::vector<real> p_coef, u_coef, grad;  // [CHUNK][P | U][Vp]

  Scratch(const Sizes& z, bool backward) : z(z) {
    kb = (z.K + LANES<real> - 1) / LANES<real>;
    Vp = (z.V + ROWS - 1) / ROWS * ROWS;
    P = z.n + z.r, U = z.r + z.m;
    const size_t state = size_t(Vp) * kb;
    group = std::min(Vp, std::max(GROUP_ELEMENTS / (kb * LANES<real>) / ROWS * ROWS, ROWS));
    const size_t row = size_t(CHUNK) * kb;  // a vector of the key axis for each token
    asks.resize(P * row), outs.resize(U * row), w.resize(row), S.resize(state);
    p_coef.assign(size_t(CHUNK) * P * Vp, 0), u_coef.assign(size_t(CHUNK) * U * Vp, 0);
    if (!backward) return;
    dasks.resize(P * row), douts.resize(U * row), dw.resize(row);
    D.resize(state), replay.resize(group * row), grad.assign(u_coef.size(), 0);
  }

  vec<real>* asks_at(int t) { return asks + size_t(t) * P * kb; }
  vec<real>* outs_at(int t) { return outs + size_t(t) * U * kb; }
  vec<real>* w_at(int t) { return w + size_t(t) * kb; }

  // a row's padding was zeroed once and is never written
  void put(vec<real>* to, const real* from, int size) const { std::memcpy(to, from, sizeof(real) * size); }

  void load(Buffer<real>& to, const real* state) const {
    for (int i = 0; i < z.V; i++) put(to + size_t(i) * kb, state + size_t(i) * z.K, z.K);
  }
  void store(Buffer<real>& from, real* state) const {
    for (int i = 0; i < z.V; i++) std::memcpy(state + size_t(i) * z.K, from + size_t(i) * kb, sizeof(real) * z.K);
  }

  void gather(int bh, int t0, int t1, const real* q, const real* wt, const real* k, const real* v, const real* a,
              const real* b) {
    for (int t = t0; t < t1; t++) {
      const int64_t o = z.token(bh, t);
      vec<real>*ask = asks_at(t - t0), *out = outs_at(t - t0);
      for (int p = 0; p < z.n; p++) put(ask + p * kb, q + (o * z.n + p) * z.K, z.K);
      for (int p = 0; p < z.r; p++) put(ask + (z.n + p) * kb, a + (o * z.r + p) * z.K, z.K);
      for (int u = 0; u < z.r; u++) put(out + u * kb, b + (o * z.r + u) * z.K, z.K);
      for (int u = 0; u < z.m; u++) put(out + (z.r + u) * kb, k + (o * z.m + u) * z.K, z.K);
      real* decay = reinterpret_cast<real*>(w_at(t - t0));
      if (z.w > 1 || z.K == 1) {
        if (z.w) std::memcpy(decay, wt + o * z.w, sizeof(real) * z.K);
        else decay[0] = 1;
      } else {
        std::fill_n(decay, z.K, z.w ? wt[o] : real(1));
      }
      real* coef = &u_coef[(size_t(t - t0) * U + z.r) * Vp];
      for (int u = 0; u < z.m; u++) std::memcpy(coef + u * Vp, v + (o * z.m + u) * z.V, sizeof(real) * z.V);
    }
  }
};

template <typename real> struct Pointers {
  const real *q, *w, *k, *v, *a, *b;
};

template <typename real, int P, int U>
void forward_head(Scratch<real>& c, int bh, const Pointers<real>& in, const real* S0, real* y, real* x, real* kept,
                  real* last) {
  const Sizes& z = c.z;
  const int kb = c.kb, Vp = c.Vp;
  const size_t state = size_t(z.V) * z.K;
  c.load(c.S, S0 + bh * state);
  for (int t0 = 0; t0 < z.T; t0 += CHUNK) {
    const int t1 = std::min(z.T, t0 + CHUNK);
    if (kept) c.store(c.S, kept + (size_t(bh) * z.chunks() + t0 / CHUNK) * state);
    c.gather(bh, t0, t1, in.q, in.w, in.k, in.v, in.a, in.b);
    for (int g = 0; g < Vp; g += c.group)
      for (int t = 0; t < t1 - t0; t++) {
        real *read = &c.p_coef[size_t(t) * c.P * Vp], *add = &c.u_coef[size_t(t) * c.U * Vp];
        for (int i = g; i < std::min(Vp, g + c.group); i += ROWS) {
          vec<real>* S = c.S + size_t(i) * kb;
          dots<real, P>(S, c.asks_at(t), kb, c.P, read + i, Vp);
          for (int r = 0; r < z.r; r++) std::memcpy(add + r * Vp + i, read + (z.n + r) * Vp + i, sizeof(real) * ROWS);
          update<real, U>(S, S, c.w_at(t), c.outs_at(t), kb, c.U, add + i, Vp);
        }
      }
    for (int t = t0; t < t1; t++) {
      const int64_t o = z.token(bh, t);
      const real* read = &c.p_coef[size_t(t - t0) * c.P * Vp];
      for (int p = 0; p < z.n; p++) std::memcpy(y + (o * z.n + p) * z.V, read + p * Vp, sizeof(real) * z.V);
      for (int p = 0; p < z.r; p++) std::memcpy(x + (o * z.r + p) * z.V, read + (z.n + p) * Vp, sizeof(real) * z.V);
    }
  }
  c.store(c.S, last + bh * state);
}

template <typename real> struct Gradients {
  real *q, *w, *k, *v, *a, *b, *S0;
};

template <typename real, int P, int U>
void backward_head(Scratch<real>& c, int bh, const Pointers<real>& in, const real* x, const real* kept, const real* dy,
                   const real* dlast, const Gradients<real>& out) {
  const Sizes& z = c.z;
  const int kb = c.kb, Vp = c.Vp;
  const size_t state = size_t(z.V) * z.K;
  c.load(c.D, dlast + bh * state);
  for (int t0 = (z.chunks() - 1) * CHUNK; t0 >= 0; t0 -= CHUNK) {
    const int t1 = std::min(z.T, t0 + CHUNK), tokens = t1 - t0;
    c.load(c.S, kept + (size_t(bh) * z.chunks() + t0 / CHUNK) * state);
    c.gather(bh, t0, t1, in.q, in.w, in.k, in.v, in.a, in.b);
    for (int t = 0; t < tokens; t++) {
      const int64_t o = z.token(bh, t0 + t);
      for (int p = 0; p < z.n; p++)
        std::memcpy(&c.p_coef[(size_t(t) * c.P + p) * Vp], dy + (o * z.n + p) * z.V, sizeof(real) * z.V);
      for (int u = 0; u < z.r; u++)
        std::memcpy(&c.u_coef[(size_t(t) * c.U + u) * Vp], x + (o * z.r + u) * z.V, sizeof(real) * z.V);
    }
    for (auto* g : {&c.dasks, &c.douts, &c.dw}) g->clear();
    for (int g = 0; g < Vp; g += c.group) {
      const int rows = std::min(Vp, g + c.group) - g;
      const size_t step = size_t(c.group) * kb;
      std::memcpy(c.replay + 0, c.S + size_t(g) * kb, size_t(rows) * kb * BYTES);
      for (int t = 0; t + 1 < tokens; t++)
        for (int i = 0; i < rows; i += ROWS)
          update<real, U>(c.replay + ((t + 1) * step + size_t(i) * kb), c.replay + (t * step + size_t(i) * kb),
                          c.w_at(t), c.outs_at(t), kb, c.U, &c.u_coef[size_t(t) * c.U * Vp + g + i], Vp);
      for (int t = tokens - 1; t >= 0; t--)
        for (int i = 0; i < rows; i += ROWS) {
          vec<real>* D = c.D + size_t(g + i) * kb;
          real *read = &c.p_coef[size_t(t) * c.P * Vp + g + i], *grad = &c.grad[size_t(t) * c.U * Vp + g + i];
          dots<real, U>(D, c.outs_at(t), kb, c.U, grad, Vp);  // of x and of v
          for (int r = 0; r < z.r; r++) std::memcpy(read + (z.n + r) * Vp, grad + r * Vp, sizeof(real) * ROWS);
          back<real, P, U>(D, c.replay + (t * step + size_t(i) * kb), c.w_at(t), c.asks_at(t), kb, c.P, c.U, read,
                           &c.u_coef[size_t(t) * c.U * Vp + g + i], Vp, c.dasks + size_t(t) * c.P * kb,
                           c.douts + size_t(t) * c.U * kb, c.dw + size_t(t) * kb);
        }
    }
    for (int t = 0; t < tokens; t++) {
      const int64_t o = z.token(bh, t0 + t);
      const vec<real>*ask = c.dasks + size_t(t) * c.P * kb, *add = c.douts + size_t(t) * c.U * kb;
      const size_t size = sizeof(real) * z.K;
      for (int p = 0; p < z.n; p++) std::memcpy(out.q + (o * z.n + p) * z.K, ask + p * kb, size);
      for (int p = 0; p < z.r; p++) std::memcpy(out.a + (o * z.r + p) * z.K, ask + (z.n + p) * kb, size);
      for (int u = 0; u < z.r; u++) std::memcpy(out.b + (o * z.r + u) * z.K, add + u * kb, size);
      for (int u = 0; u < z.m; u++) {
        std::memcpy(out.k + (o * z.m + u) * z.K, add + (z.r + u) * kb, size);
        std::memcpy(out.v + (o * z.m + u) * z.V, &c.grad[(size_t(t) * c.U + z.r + u) * Vp], sizeof(real) * z.V);
      }
      if (z.w == z.K) {
        std::memcpy(out.w + o * z.K, c.dw + size_t(t) * kb, size);
      } else if (z.w) {
        vec<real> total = {};
        for (int j = 0; j < kb; j++) total += (c.dw + size_t(t) * kb)[j];
        sum_lanes<real, LANES<real>, 1>(&total, out.w + o);
      }
    }
  }
  c.store(c.D, out.S0 + bh * state);
}

template <typename real, int P, int U> struct Kernel {
  static constexpr auto forward = forward_head<real, P, U>;
  static constexpr auto backward = backward_head<real, P, U>;
};

// One or two queries, rank 0 to 2, one or two addends in registers; anything else counts at run time.
template <typename real, typename F> void choose(int P, int U, F&& go) {
  if constexpr (sizeof(real) == 4) {
    if (P == 1 && U == 1) return go(Kernel<real, 1, 1>());
    if (P == 1 && U == 2) return go(Kernel<real, 1, 2>());
    if (P == 2 && U == 1) return go(Kernel<real, 2, 1>());
    if (P == 2 && U == 2) return go(Kernel<real, 2, 2>());
    if (P == 2 && U == 3) return go(Kernel<real, 2, 3>());
    if (P == 3 && U == 2) return go(Kernel<real, 3, 2>());
    if (P == 3 && U == 3) return go(Kernel<real, 3, 3>());
    if (P == 3 && U == 4) return go(Kernel<real, 3, 4>());
  }
  go(Kernel<real, 0, 0>());
}

Sizes sizes(const Tensor& q, const std::optional<Tensor>& w, const Tensor& k, const Tensor& v, const Tensor& a) {
  return {int(q.size(0)), int(q.size(1)), int(q.size(2)), int(q.size(3)), int(a.size(3)),
          int(k.size(3)), int(q.size(4)), int(v.size(4)), w ? int(w->size(3)) : 0};
}

template <typename real>
Pointers<real> pointers(const Tensor& q, const std::optional<Tensor>& w, const Tensor& k, const Tensor& v,
                        const Tensor& a, const Tensor& b) {
  return {q.const_data_ptr<real>(), w ? w->const_data_ptr<real>() : nullptr, k.const_data_ptr<real>(),
          v.const_data_ptr<real>(), a.const_data_ptr<real>(), b.const_data_ptr<real>()};
}

template <typename F> void each_dtype(const Tensor& q, F&& go) {
  if (q.scalar_type() == at::kFloat) return go(float());
  TORCH_CHECK(q.scalar_type() == at::kDouble, "chunk_scan: float32 or float64, not ", q.scalar_type());
  go(double());
}

std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const Tensor& q, const std::optional<Tensor>& w, const Tensor& k,
                                                   const Tensor& v, const Tensor& a, const Tensor& b, const Tensor& S0,
                                                   bool keep) {
  const Sizes z = sizes(q, w, k, v, a);
  TORCH_CHECK(z.n + z.r <= MOST && z.r + z.m <= MOST, "chunk_scan: too many queries, ranks or addends");
  auto y = at::empty({z.B, z.T, z.H, z.n, z.V}, q.options()), x = at::empty({z.B, z.T, z.H, z.r, z.V}, q.options());
  auto last = at::empty_like(S0);
  auto kept = at::empty({z.B, z.H, keep ? z.chunks() : 0, z.V, z.K}, q.options());
  each_dtype(q, [&](auto zero) {
    using real = decltype(zero);
    const auto in = pointers<real>(q, w, k, v, a, b);
    const auto *first = S0.const_data_ptr<real>();
    auto *py = y.template mutable_data_ptr<real>(), *px = x.template mutable_data_ptr<real>();
    auto *pk = keep ? kept.template mutable_data_ptr<real>() : nullptr, *pl = last.template mutable_data_ptr<real>();
    choose<real>(z.n + z.r, z.r + z.m, [&](auto kernel) {
      at::parallel_for(0, int64_t(z.B) * z.H, 1, [&](int64_t from, int64_t to) {
        Scratch<real> scratch(z, false);
        for (int64_t bh = from; bh < to; bh++) kernel.forward(scratch, int(bh), in, first, py, px, pk, pl);
      });
    });
  });
  return {y, last, x, kept};
}

std::tuple<Tensor, std::optional<Tensor>, Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& q, const std::optional<Tensor>& w, const Tensor& k, const Tensor& v, const Tensor& a, const Tensor& b,
    const Tensor& x, const Tensor& kept, const Tensor& dy, const Tensor& dlast) {
  const Sizes z = sizes(q, w, k, v, a);
  auto dq = at::empty_like(q), dk = at::empty_like(k), dv = at::empty_like(v);
  auto da = at::empty_like(a), db = at::empty_like(b), dS0 = at::empty_like(dlast);
  std::optional<Tensor> dw;
  if (w) dw = at::empty_like(*w);
  each_dtype(q, [&](auto zero) {
    using real = decltype(zero);
    const auto in = pointers<real>(q, w, k, v, a, b);
    auto data = [](Tensor& t) { return t.template mutable_data_ptr<real>(); };
    const Gradients<real> out{data(dq), w ? data(*dw) : nullptr, data(dk), data(dv), data(da), data(db), data(dS0)};
    const auto *px = x.const_data_ptr<real>(), *pk = kept.const_data_ptr<real>(), *py = dy.const_data_ptr<real>(),
               *pl = dlast.const_data_ptr<real>();
    choose<real>(z.n + z.r, z.r + z.m, [&](auto kernel) {
      at::parallel_for(0, int64_t(z.B) * z.H, 1, [&](int64_t from, int64_t to) {
        Scratch<real> scratch(z, true);
        for (int64_t bh = from; bh < to; bh++) kernel.backward(scratch, int(bh), in, px, pk, py, pl, out);
      });
    });
  });
  return {dq, dw, dk, dv, da, db, dS0};
}

}  // namespace
}  // namespace cdrmix

TORCH_LIBRARY_FRAGMENT(CDRMIX_OPS, m) {
  m.def(
      "chunk_scan(Tensor q, Tensor? w, Tensor k, Tensor v, Tensor a, Tensor b, Tensor S0, bool keep)"
      " -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "chunk_scan_backward(Tensor q, Tensor? w, Tensor k, Tensor v, Tensor a, Tensor b, Tensor x, Tensor kept,"
      " Tensor dy, Tensor dlast) -> (Tensor, Tensor?, Tensor, Tensor, Tensor, Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(CDRMIX_OPS, CPU, m) {
  m.impl("chunk_scan", &cdrmix::forward);
  m.impl("chunk_scan_backward", &cdrmix::backward);
}
