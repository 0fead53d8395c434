// The CPU kernel of diagonal and delta states: S' = (S (diag(w) + sum_r a_r b_r^T)) * wv + sum_m v_m k_m^T; y_n = S q_n,
// S before the token, which is `initial` (zero without one) where `reset`.  Products only: any w and wv, nothing divides.
//
// q [B, T, H, n, K], w [B, T, H, 1 | K] or [B, T, H, G, G, K/G] (source, target: G states side by side on the key axis)
// or none, k [B, T, H, m, K], v [B, T, H, m, V], a, b [B, T, H, r, K], wv [B, T, H, V] or none (one number a row of S),
// S0, initial [B, H, V, K], reset bool [B, T]; contiguous, one dtype.  x [B, T, H, r, V] = S a, and `kept`, the states
// before each CHUNK tokens, are what the backward needs.
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
using Maybe = std::optional<Tensor>;
constexpr int CHUNK = 16;
constexpr int GROUP_ELEMENTS = 2048;  // of the state, a group of rows: with its replay it stays in a 512 kB cache

struct Sizes {
  int B, T, H, n, r, m, K, V;
  int w;  // numbers of a token's decay: 0, 1, K, or G*K
  int G;  // states that mix, or 1
  bool scaled;
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

template <typename real> struct Pointers {
  const real *q, *w, *k, *v, *a, *b, *wv, *initial;
  const bool* reset;
};

// A thread's scratch: one chunk of tokens, gathered and padded to whole vectors, so that tokens lie side by side.
template <typename real> struct Scratch {
  Sizes z;
  int kg, kb, wb, Vp, P, U, group;  // vectors of one state's keys, of all, of a token's decay
  Buffer<real> asks, outs, w, dasks, douts, dw, S, D, replay, first, dfirst, mixed, ones;
  std::vector<real> p_coef, u_coef, grad;    // [CHUNK][P | U][Vp]
  std::vector<real> x, scale, dscale, sums;  // [CHUNK][r][Vp], [CHUNK][Vp], [ROWS]

  Scratch(const Sizes& z, const Pointers<real>& in, bool backward) : z(z) {
    kg = (z.K / z.G + LANES<real> - 1) / LANES<real>;
    kb = kg * z.G, wb = kb * z.G;
    Vp = (z.V + ROWS - 1) / ROWS * ROWS;
    P = z.n + z.r, U = z.r + z.m;
    const size_t state = size_t(Vp) * kb;
    group = std::min(Vp, std::max(GROUP_ELEMENTS / (kb * LANES<real>) / ROWS * ROWS, ROWS));
    const size_t row = size_t(CHUNK) * kb;  // a vector of the key axis for each token
    asks.resize(P * row), outs.resize(U * row), w.resize(row * z.G), S.resize(state);
    p_coef.assign(size_t(CHUNK) * P * Vp, 0), u_coef.assign(size_t(CHUNK) * U * Vp, 0);
    scale.assign(size_t(CHUNK) * Vp, 1);
    if (in.reset) first.resize(state);
    if (z.G > 1) {
      mixed.resize(size_t(ROWS) * kb), ones.resize(kb);
      std::fill_n(reinterpret_cast<real*>(ones + 0), size_t(kb) * LANES<real>, real(1));
    }
    if (!backward) return;
    dasks.resize(P * row), douts.resize(U * row), dw.resize(row * z.G);
    D.resize(state), replay.resize(group * row), grad.assign(u_coef.size(), 0), sums.assign(ROWS, 0);
    if (in.initial) dfirst.resize(state);
    if (z.scaled) x.assign(size_t(CHUNK) * z.r * Vp, 0), dscale.assign(scale.size(), 0);
  }

  vec<real>* asks_at(int t) { return asks + size_t(t) * P * kb; }
  vec<real>* outs_at(int t) { return outs + size_t(t) * U * kb; }
  vec<real>* w_at(int t) { return w + size_t(t) * wb; }

  // `count` key vectors of G states each, and back; a row's padding was zeroed once and is never written
  void put(vec<real>* to, const real* from, int count = 1) const {
    const int size = z.K / z.G;
    for (int g = 0; g < count * z.G; g++) std::memcpy(to + g * kg, from + size_t(g) * size, sizeof(real) * size);
  }
  void take(real* to, const vec<real>* from, int count = 1) const {
    const int size = z.K / z.G;
    for (int g = 0; g < count * z.G; g++) std::memcpy(to + size_t(g) * size, from + g * kg, sizeof(real) * size);
  }
  void load(Buffer<real>& to, const real* state) const { put(to + 0, state, z.V); }
  void store(Buffer<real>& from, real* state) const { take(state, from + 0, z.V); }

  void gather(int bh, int t0, int t1, const Pointers<real>& in) {
    for (int t = t0; t < t1; t++) {
      const int64_t o = z.token(bh, t);
      vec<real>*ask = asks_at(t - t0), *out = outs_at(t - t0);
      put(ask, in.q + o * z.n * z.K, z.n), put(ask + z.n * kb, in.a + o * z.r * z.K, z.r);
      put(out, in.b + o * z.r * z.K, z.r), put(out + z.r * kb, in.k + o * z.m * z.K, z.m);
      real* decay = reinterpret_cast<real*>(w_at(t - t0));
      if (z.w == z.K * z.G) put(w_at(t - t0), in.w + o * z.w, z.G);
      else std::fill_n(decay, z.K, z.w ? in.w[o] : real(1));
      if (z.scaled) std::memcpy(&scale[size_t(t - t0) * Vp], in.wv + o * z.V, sizeof(real) * z.V);
      real* coef = &u_coef[(size_t(t - t0) * U + z.r) * Vp];
      for (int u = 0; u < z.m; u++) std::memcpy(coef + u * Vp, in.v + (o * z.m + u) * z.V, sizeof(real) * z.V);
    }
  }

  // The coefficients of the b: x times the rows' decay.
  void low_rank(real* add, const real* read, int t, int i) const {
    for (int r = 0; r < z.r; r++)
      for (int j = i; j < i + ROWS; j++) add[r * Vp + j] = read[r * Vp + j] * (z.scaled ? scale[t * Vp + j] : real(1));
  }

  template <int U, Decay decay> void advance(vec<real>* next, const vec<real>* S, int t, int i) {
    const vec<real>* by = w_at(t);
    if constexpr (decay == Decay::MIX) {
      mix<real>(mixed + 0, S, by, z.G, kg);
      S = mixed + 0, by = ones + 0;
    }
    update<real, U, decay != Decay::KEY>(next, S, by, outs_at(t), kb, this->U, &u_coef[size_t(t) * this->U * Vp + i],
                                         Vp, &scale[size_t(t) * Vp + i]);
  }
};

template <typename real, int P, int U, Decay decay>
void forward_head(Scratch<real>& c, int bh, const Pointers<real>& in, const real* S0, real* y, real* x, real* kept,
                  real* last) {
  const Sizes& z = c.z;
  const int kb = c.kb, Vp = c.Vp;
  const size_t state = size_t(z.V) * z.K;
  const bool* reset = in.reset ? in.reset + int64_t(bh / z.H) * z.T : nullptr;
  c.load(c.S, S0 + bh * state);
  if (in.initial) c.load(c.first, in.initial + bh * state);
  for (int t0 = 0; t0 < z.T; t0 += CHUNK) {
    const int t1 = std::min(z.T, t0 + CHUNK);
    if (kept) c.store(c.S, kept + (size_t(bh) * z.chunks() + t0 / CHUNK) * state);
    c.gather(bh, t0, t1, in);
    for (int g = 0; g < Vp; g += c.group)
      for (int t = 0; t < t1 - t0; t++) {
        real *read = &c.p_coef[size_t(t) * c.P * Vp], *add = &c.u_coef[size_t(t) * c.U * Vp];
        for (int i = g; i < std::min(Vp, g + c.group); i += ROWS) {
          vec<real>* S = c.S + size_t(i) * kb;
          if (reset && reset[t0 + t]) std::memcpy(S, c.first + size_t(i) * kb, size_t(ROWS) * kb * BYTES);
          dots<real, P>(S, c.asks_at(t), kb, c.P, read + i, Vp);
          c.low_rank(add, read + z.n * Vp, t, i);
          c.template advance<U, decay>(S, S, t, i);
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
  real *q, *w, *k, *v, *a, *b, *wv, *S0, *initial;
};

// One token back, ROWS rows: D of the state after it becomes that of the state before it.
template <typename real, int P, int U, Decay decay>
void back_rows(Scratch<real>& c, vec<real>* D, const vec<real>* S, int t, int i) {
  const Sizes& z = c.z;
  const int Vp = c.Vp;
  const real* scale = &c.scale[size_t(t) * Vp + i];
  real *read = &c.p_coef[size_t(t) * c.P * Vp + i], *grad = &c.grad[size_t(t) * c.U * Vp + i];
  dots<real, U>(D, c.outs_at(t), c.kb, c.U, grad, Vp);  // of x * scale and of v
  for (int r = 0; r < z.r; r++)
    for (int j = 0; j < ROWS; j++) read[(z.n + r) * Vp + j] = grad[r * Vp + j] * scale[j];
  vec<real> rows[ROWS] = {};
  Carried<real> by{c.w_at(t), nullptr, scale, c.dw + size_t(t) * c.wb, rows};
  if constexpr (decay == Decay::MIX) {
    unmix<real>(c.mixed + 0, D, S, by.w, z.G, c.kg, scale, by.dw, c.sums.data());
    by.unmixed = c.mixed + 0;
  }
  back<real, P, U, decay>(D, S, by, c.asks_at(t), c.kb, c.P, c.U, read, &c.u_coef[size_t(t) * c.U * Vp + i], Vp,
                          c.dasks + size_t(t) * c.P * c.kb, c.douts + size_t(t) * c.U * c.kb);
  if constexpr (decay == Decay::BOTH) sum_lanes<real, LANES<real>, ROWS>(rows, c.sums.data());
  if (!z.scaled) return;
  for (int j = 0; j < ROWS; j++) {
    real total = c.sums[j];
    for (int r = 0; r < z.r; r++) total += c.x[(size_t(t) * z.r + r) * Vp + i + j] * grad[r * Vp + j];
    c.dscale[size_t(t) * Vp + i + j] = total;
  }
}

template <typename real, int P, int U, Decay decay>
void backward_head(Scratch<real>& c, int bh, const Pointers<real>& in, const real* x, const real* kept, const real* dy,
                   const real* dlast, const Gradients<real>& out) {
  const Sizes& z = c.z;
  const int kb = c.kb, Vp = c.Vp;
  const size_t state = size_t(z.V) * z.K, block = size_t(ROWS) * kb;
  const bool* reset = in.reset ? in.reset + int64_t(bh / z.H) * z.T : nullptr;
  c.load(c.D, dlast + bh * state);
  if (in.initial) c.load(c.first, in.initial + bh * state), c.dfirst.clear();
  for (int t0 = (z.chunks() - 1) * CHUNK; t0 >= 0; t0 -= CHUNK) {
    const int t1 = std::min(z.T, t0 + CHUNK), tokens = t1 - t0;
    auto starts = [&](int t) { return reset && reset[t0 + t]; };
    c.load(c.S, kept + (size_t(bh) * z.chunks() + t0 / CHUNK) * state);
    c.gather(bh, t0, t1, in);
    for (int t = 0; t < tokens; t++) {
      const int64_t o = z.token(bh, t0 + t);
      for (int p = 0; p < z.n; p++)
        std::memcpy(&c.p_coef[(size_t(t) * c.P + p) * Vp], dy + (o * z.n + p) * z.V, sizeof(real) * z.V);
      for (int u = 0; u < z.r; u++) {
        real *add = &c.u_coef[(size_t(t) * c.U + u) * Vp], *plain = z.scaled ? &c.x[(size_t(t) * z.r + u) * Vp] : add;
        std::memcpy(plain, x + (o * z.r + u) * z.V, sizeof(real) * z.V);
        if (z.scaled)
          for (int i = 0; i < z.V; i++) add[i] = plain[i] * c.scale[size_t(t) * Vp + i];
      }
    }
    for (auto* g : {&c.dasks, &c.douts, &c.dw}) g->clear();
    for (int g = 0; g < Vp; g += c.group) {
      const int rows = std::min(Vp, g + c.group) - g;
      const size_t step = size_t(c.group) * kb;
      for (int t = 0; t < tokens; t++)  // each state before its token
        for (int i = 0; i < rows; i += ROWS) {
          vec<real>* S = c.replay + (t * step + size_t(i) * kb);
          if (starts(t)) std::memcpy(S, c.first + size_t(g + i) * kb, block * BYTES);
          else if (t == 0) std::memcpy(S, c.S + size_t(g + i) * kb, block * BYTES);
          else c.template advance<U, decay>(S, S - step, t - 1, g + i);
        }
      for (int t = tokens - 1; t >= 0; t--)
        for (int i = 0; i < rows; i += ROWS) {
          vec<real>* D = c.D + size_t(g + i) * kb;
          back_rows<real, P, U, decay>(c, D, c.replay + (t * step + size_t(i) * kb), t, g + i);
          if (!starts(t)) continue;
          for (size_t j = 0; in.initial && j < block; j++) (c.dfirst + size_t(g + i) * kb)[j] += D[j];
          std::memset(D, 0, block * BYTES);
        }
    }
    for (int t = 0; t < tokens; t++) {
      const int64_t o = z.token(bh, t0 + t);
      const vec<real>*ask = c.dasks + size_t(t) * c.P * kb, *add = c.douts + size_t(t) * c.U * kb;
      const vec<real>* dw = c.dw + size_t(t) * c.wb;
      c.take(out.q + o * z.n * z.K, ask, z.n), c.take(out.a + o * z.r * z.K, ask + z.n * kb, z.r);
      c.take(out.b + o * z.r * z.K, add, z.r), c.take(out.k + o * z.m * z.K, add + z.r * kb, z.m);
      for (int u = 0; u < z.m; u++)
        std::memcpy(out.v + (o * z.m + u) * z.V, &c.grad[(size_t(t) * c.U + z.r + u) * Vp], sizeof(real) * z.V);
      if (z.scaled) std::memcpy(out.wv + o * z.V, &c.dscale[size_t(t) * Vp], sizeof(real) * z.V);
      if (z.w == z.K * z.G) {
        c.take(out.w + o * z.w, dw, z.G);
      } else if (z.w) {
        vec<real> total = {};
        for (int j = 0; j < kb; j++) total += dw[j];
        sum_lanes<real, LANES<real>, 1>(&total, out.w + o);
      }
    }
  }
  c.store(c.D, out.S0 + bh * state);
  if (in.initial) c.store(c.dfirst, out.initial + bh * state);
}

template <typename real, int P, int U, Decay decay> struct Kernel {
  static constexpr auto forward = forward_head<real, P, U, decay>;
  static constexpr auto backward = backward_head<real, P, U, decay>;
};

// The usual counts of queries, ranks and addends in registers; anything else counts at run time.
template <typename real, typename F> void choose(const Sizes& z, F&& go) {
  const int P = z.n + z.r, U = z.r + z.m;
  constexpr auto KEY = Decay::KEY, BOTH = Decay::BOTH, MIX = Decay::MIX;
  if (z.G > 1) {
    if constexpr (sizeof(real) == 4)
      if (P == 2 && U == 2) return go(Kernel<real, 2, 2, MIX>());
    return go(Kernel<real, 0, 0, MIX>());
  }
  if (z.scaled) {
    if constexpr (sizeof(real) == 4) {
      if (P == 1 && U == 1) return go(Kernel<real, 1, 1, BOTH>());
      if (P == 2 && U == 2) return go(Kernel<real, 2, 2, BOTH>());
    }
    return go(Kernel<real, 0, 0, BOTH>());
  }
  if constexpr (sizeof(real) == 4) {
    if (P == 1 && U == 1) return go(Kernel<real, 1, 1, KEY>());
    if (P == 1 && U == 2) return go(Kernel<real, 1, 2, KEY>());
    if (P == 2 && U == 1) return go(Kernel<real, 2, 1, KEY>());
    if (P == 2 && U == 2) return go(Kernel<real, 2, 2, KEY>());
    if (P == 2 && U == 3) return go(Kernel<real, 2, 3, KEY>());
    if (P == 3 && U == 2) return go(Kernel<real, 3, 2, KEY>());
    if (P == 3 && U == 3) return go(Kernel<real, 3, 3, KEY>());
    if (P == 3 && U == 4) return go(Kernel<real, 3, 4, KEY>());
  }
  go(Kernel<real, 0, 0, KEY>());
}

Sizes sizes(const Tensor& q, const Maybe& w, const Tensor& k, const Tensor& v, const Tensor& a, const Maybe& wv) {
  const int G = w && w->dim() == 6 ? int(w->size(3)) : 1, K = int(q.size(4));
  const Sizes z{int(q.size(0)), int(q.size(1)), int(q.size(2)), int(q.size(3)),
                int(a.size(3)), int(k.size(3)), K,              int(v.size(4)),
                !w ? 0 : G > 1 ? G * K : int(w->size(-1)), G, wv.has_value()};
  TORCH_CHECK(z.n + z.r <= MOST && z.r + z.m <= MOST, "chunk_scan: too many queries, ranks or addends");
  return z;
}

template <typename real> const real* data(const Maybe& x) { return x ? x->const_data_ptr<real>() : nullptr; }

template <typename real>
Pointers<real> pointers(const Tensor& q, const Maybe& w, const Tensor& k, const Tensor& v, const Tensor& a,
                        const Tensor& b, const Maybe& wv, const Maybe& reset, const Maybe& initial) {
  return {data<real>(q), data<real>(w),  data<real>(k),       data<real>(v),    data<real>(a),
          data<real>(b), data<real>(wv), data<real>(initial), data<bool>(reset)};
}

template <typename F> void each_dtype(const Tensor& q, F&& go) {
  if (q.scalar_type() == at::kFloat) return go(float());
  TORCH_CHECK(q.scalar_type() == at::kDouble, "chunk_scan: float32 or float64, not ", q.scalar_type());
  go(double());
}

std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const Tensor& q, const Maybe& w, const Tensor& k, const Tensor& v,
                                                   const Tensor& a, const Tensor& b, const Maybe& wv, const Tensor& S0,
                                                   const Maybe& reset, const Maybe& initial, bool keep) {
  const Sizes z = sizes(q, w, k, v, a, wv);
  auto y = at::empty({z.B, z.T, z.H, z.n, z.V}, q.options()), x = at::empty({z.B, z.T, z.H, z.r, z.V}, q.options());
  auto last = at::empty_like(S0);
  auto kept = at::empty({z.B, z.H, keep ? z.chunks() : 0, z.V, z.K}, q.options());
  each_dtype(q, [&](auto zero) {
    using real = decltype(zero);
    const auto in = pointers<real>(q, w, k, v, a, b, wv, reset, initial);
    const auto *first = S0.const_data_ptr<real>();
    auto *py = y.template mutable_data_ptr<real>(), *px = x.template mutable_data_ptr<real>();
    auto *pk = keep ? kept.template mutable_data_ptr<real>() : nullptr, *pl = last.template mutable_data_ptr<real>();
    choose<real>(z, [&](auto kernel) {
      at::parallel_for(0, int64_t(z.B) * z.H, 1, [&](int64_t from, int64_t to) {
        Scratch<real> scratch(z, in, false);
        for (int64_t bh = from; bh < to; bh++) kernel.forward(scratch, int(bh), in, first, py, px, pk, pl);
      });
    });
  });
  return {y, last, x, kept};
}

std::tuple<Tensor, Maybe, Tensor, Tensor, Tensor, Tensor, Maybe, Tensor, Maybe> backward(
    const Tensor& q, const Maybe& w, const Tensor& k, const Tensor& v, const Tensor& a, const Tensor& b,
    const Maybe& wv, const Maybe& reset, const Maybe& initial, const Tensor& x, const Tensor& kept, const Tensor& dy,
    const Tensor& dlast) {
  const Sizes z = sizes(q, w, k, v, a, wv);
  auto like = [](const Maybe& t) { return t ? Maybe(at::empty_like(*t)) : Maybe(); };
  auto dq = at::empty_like(q), dk = at::empty_like(k), dv = at::empty_like(v);
  auto da = at::empty_like(a), db = at::empty_like(b), dS0 = at::empty_like(dlast);
  Maybe dw = like(w), dwv = like(wv), dinitial = like(initial);
  each_dtype(q, [&](auto zero) {
    using real = decltype(zero);
    const auto in = pointers<real>(q, w, k, v, a, b, wv, reset, initial);
    auto to = [](const Maybe& t) { return t ? t->template mutable_data_ptr<real>() : nullptr; };
    const Gradients<real> out{to(dq), to(dw), to(dk), to(dv), to(da), to(db), to(dwv), to(dS0), to(dinitial)};
    const auto *px = x.const_data_ptr<real>(), *pk = kept.const_data_ptr<real>(), *py = dy.const_data_ptr<real>(),
               *pl = dlast.const_data_ptr<real>();
    choose<real>(z, [&](auto kernel) {
      at::parallel_for(0, int64_t(z.B) * z.H, 1, [&](int64_t from, int64_t to) {
        Scratch<real> scratch(z, in, true);
        for (int64_t bh = from; bh < to; bh++) kernel.backward(scratch, int(bh), in, px, pk, py, pl, out);
      });
    });
  });
  return {dq, dw, dk, dv, da, db, dwv, dS0, dinitial};
}

}  // namespace
}  // namespace cdrmix

TORCH_LIBRARY_FRAGMENT(CDRMIX_OPS, m) {
  m.def(
      "chunk_scan(Tensor q, Tensor? w, Tensor k, Tensor v, Tensor a, Tensor b, Tensor? wv, Tensor S0, Tensor? reset,"
      " Tensor? initial, bool keep) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "chunk_scan_backward(Tensor q, Tensor? w, Tensor k, Tensor v, Tensor a, Tensor b, Tensor? wv, Tensor? reset,"
      " Tensor? initial, Tensor x, Tensor kept, Tensor dy, Tensor dlast)"
      " -> (Tensor, Tensor?, Tensor, Tensor, Tensor, Tensor, Tensor?, Tensor, Tensor?)");
}
TORCH_LIBRARY_IMPL(CDRMIX_OPS, CPU, m) {
  m.impl("chunk_scan", &cdrmix::forward);
  m.impl("chunk_scan_backward", &cdrmix::backward);
}
