// The CPU kernels of elementwise states, independent over batch and channels:
//   linear_scan   h_t[f] = sum_g A_t[f, g] h_{t-1}[g] + b_t[f], G states that mix channel by channel, or one (G = 1)
//   maxplus_scan  p_t = max(p_{t-1} + d_t, b_t), or log(exp + exp) of the two
//
// A [B, T, G, G, C], b, h, dh [B, T, G, C], h0, initial [B, G, C]; d, b, p, dp [B, T, C], p0, initial [B, C]; reset bool
// [B, T] or none: the state before this token is `initial`, zero without one.  One dtype; channels side by side in
// memory; A, b and d may repeat along B and T (stride 0).
// The loop is (batch, BLOCK of channels) > token > channel, the innermost vectorised; the block's last row is in L1.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>

namespace cdrmix {
namespace {

using at::Tensor;
using Maybe = std::optional<Tensor>;
constexpr int64_t BLOCK = 512;

// An operand over [B, T, ...], its tokens' numbers side by side.
template <typename real> struct Sequence {
  const real* data;
  int64_t row, token;
  explicit Sequence(const Tensor& x) : data(x.const_data_ptr<real>()), row(x.stride(0)), token(x.stride(1)) {}
  const real* at(int64_t b, int64_t t, int64_t c) const { return data + b * row + t * token + c; }
};

// The state before each token of a row of the batch: `G` planes, `stride` apart, from channel c on.
template <typename real> struct Before {
  const real *h, *h0, *initial;  // h of this row; h0 and initial of this row or none
  const bool* reset;
  int64_t GC, C;
  struct Planes {
    const real* at;
    int64_t stride;
  };

  Before(const real* h, const Tensor& h0, const Maybe& initial, const Maybe& reset, int64_t b, int64_t T, int64_t c)
      : GC(h0.numel() / h0.size(0)), C(h0.size(-1)) {
    this->h = h + b * T * GC + c;
    this->h0 = h0.const_data_ptr<real>() + b * GC + c;
    this->initial = initial ? initial->const_data_ptr<real>() + b * GC + c : nullptr;
    this->reset = reset ? reset->const_data_ptr<bool>() + b * T : nullptr;
  }
  bool starts(int64_t t) const { return reset && reset[t]; }
  Planes at(int64_t t) const {
    static const real zeros[BLOCK] = {};
    if (starts(t)) return initial ? Planes{initial, C} : Planes{zeros, 0};
    return {t ? h + (t - 1) * GC : h0, C};
  }
};

// work(batch row, first channel, channels) for each block of each batch row
template <typename F> void each_block(int64_t B, int64_t C, F&& work) {
  const int64_t blocks = (C + BLOCK - 1) / BLOCK;
  at::parallel_for(0, B * blocks, 1, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i++) work(i / blocks, i % blocks * BLOCK, std::min(BLOCK, C - i % blocks * BLOCK));
  });
}

template <typename F> void each_dtype(const Tensor& x, F&& go) {
  if (x.scalar_type() == at::kFloat) return go(float());
  TORCH_CHECK(x.scalar_type() == at::kDouble, "elementwise scans: float32 or float64, not ", x.scalar_type());
  go(double());
}

// What goes back past a document's start goes to `initial`.
template <typename real> void cut(real* __restrict carried, real* __restrict to_initial, int64_t n) {
  for (int64_t c = 0; to_initial && c < n; c++) to_initial[c] += carried[c];
  std::fill_n(carried, n, real(0));
}

// --- linear_scan ---------------------------------------------------------------------------------------------------
Tensor linear(const Tensor& A, const Tensor& b, const Tensor& h0, const Maybe& reset, const Maybe& initial) {
  const int64_t B = h0.size(0), G = h0.size(1), C = h0.size(2), T = b.size(1);
  auto h = at::empty({B, T, G, C}, h0.options());
  each_dtype(h0, [&](auto zero) {
    using real = decltype(zero);
    const Sequence<real> decay(A), addend(b);
    real* out = h.template mutable_data_ptr<real>();
    each_block(B, C, [&](int64_t row, int64_t first, int64_t n) {
      const Before<real> state(out, h0, initial, reset, row, T, first);
      for (int64_t t = 0; t < T; t++) {
        const auto before = state.at(t);
        for (int64_t f = 0; f < G; f++) {
          real* __restrict now = out + ((row * T + t) * G + f) * C + first;
          const real *x = decay.at(row, t, f * G * C + first), *y = addend.at(row, t, f * C + first);
          for (int64_t c = 0; c < n; c++) now[c] = x[c] * before.at[c] + y[c];
          for (int64_t g = 1; g < G; g++) {
            const real *by = x + g * C, *from = before.at + g * before.stride;
            for (int64_t c = 0; c < n; c++) now[c] += by[c] * from[c];
          }
        }
      }
    });
  });
  return h;
}

// g_t = dh_t + A_{t+1}^T g_{t+1} is the gradient of b_t; that of A_t is g_t h_{t-1}^T, that of h0 is A_0^T g_0.
std::tuple<Tensor, Tensor, Tensor, Maybe> linear_backward(const Tensor& A, const Tensor& h, const Tensor& h0,
                                                          const Maybe& reset, const Maybe& initial, const Tensor& dh) {
  const int64_t B = h0.size(0), G = h0.size(1), C = h0.size(2), T = h.size(1);
  auto dA = at::empty({B, T, G, G, C}, h0.options()), db = at::empty_like(h), dh0 = at::zeros_like(h0);
  const Maybe dinitial = initial ? Maybe(at::zeros_like(*initial)) : Maybe();
  each_dtype(h, [&](auto zero) {
    using real = decltype(zero);
    const Sequence<real> decay(A), from(dh);
    const real* states = h.const_data_ptr<real>();
    real *ga = dA.template mutable_data_ptr<real>(), *gb = db.template mutable_data_ptr<real>(),
         *g0 = dh0.template mutable_data_ptr<real>(),
         *gi = dinitial ? dinitial->template mutable_data_ptr<real>() : nullptr;
    each_block(B, C, [&](int64_t row, int64_t first, int64_t n) {
      const Before<real> state(states, h0, initial, reset, row, T, first);
      const int64_t at0 = row * G * C + first;
      for (int64_t t = T - 1; t >= 0; t--) {
        const auto before = state.at(t);
        const int64_t o = (row * T + t) * G;
        for (int64_t f = 0; f < G; f++) {
          real* __restrict to = gb + (o + f) * C + first;
          const real *d = from.at(row, t, f * C + first), *carried = g0 + at0 + f * C;
          for (int64_t c = 0; c < n; c++) to[c] = d[c] + carried[c];
        }
        for (int64_t f = 0; f < G; f++)
          for (int64_t g = 0; g < G; g++) {
            const real *x = decay.at(row, t, (f * G + g) * C + first), *d = gb + (o + f) * C + first,
                       *met = before.at + g * before.stride;
            real *__restrict to = ga + ((o + f) * G + g) * C + first, *__restrict carried = g0 + at0 + g * C;
            for (int64_t c = 0; c < n; c++) to[c] = d[c] * met[c];
            if (f == 0)
              for (int64_t c = 0; c < n; c++) carried[c] = x[c] * d[c];
            else
              for (int64_t c = 0; c < n; c++) carried[c] += x[c] * d[c];
          }
        for (int64_t g = 0; state.starts(t) && g < G; g++)
          cut(g0 + at0 + g * C, gi ? gi + at0 + g * C : nullptr, n);
      }
    });
  });
  return {dA, db, dh0, dinitial};
}

// --- maxplus_scan --------------------------------------------------------------------------------------------------
// The larger, NaN if one is, and its weight in the gradient: ties share.
struct Max {
  template <typename real> static real join(real u, real y) { return u > y || u != u ? u : y; }
  template <typename real> static real share(real u, real y) {
    return u > y || u != u ? real(1) : u == y ? real(0.5) : real(0);
  }
};

struct LogAddExp {
  template <typename real> static real join(real u, real y) {
    return u == y && std::isinf(u) ? u : std::max(u, y) + std::log1p(std::exp(-std::abs(u - y)));
  }
  template <typename real> static real share(real u, real y) { return 1 / (1 + std::exp(y - u)); }
};

template <typename F> void each_kind(const Tensor& x, bool soft, F&& go) {
  each_dtype(x, [&](auto zero) { soft ? go(zero, LogAddExp()) : go(zero, Max()); });
}

Tensor maxplus(const Tensor& d, const Tensor& b, const Tensor& p0, const Maybe& reset, const Maybe& initial,
               bool soft) {
  const int64_t B = p0.size(0), C = p0.size(1), T = b.size(1);
  auto p = at::empty({B, T, C}, p0.options());
  each_kind(p0, soft, [&](auto zero, auto kind) {
    using real = decltype(zero);
    const Sequence<real> decay(d), other(b);
    real* out = p.template mutable_data_ptr<real>();
    each_block(B, C, [&](int64_t row, int64_t first, int64_t n) {
      const Before<real> state(out, p0, initial, reset, row, T, first);
      for (int64_t t = 0; t < T; t++) {
        const real *x = decay.at(row, t, first), *y = other.at(row, t, first), *before = state.at(t).at;
        real* __restrict now = out + (row * T + t) * C + first;
        for (int64_t c = 0; c < n; c++) now[c] = kind.join(before[c] + x[c], y[c]);
      }
    });
  });
  return p;
}

std::tuple<Tensor, Tensor, Tensor, Maybe> maxplus_backward(const Tensor& d, const Tensor& b, const Tensor& p,
                                                           const Tensor& p0, const Maybe& reset, const Maybe& initial,
                                                           bool soft, const Tensor& dp) {
  const int64_t B = p0.size(0), C = p0.size(1), T = p.size(1);
  auto dd = at::empty_like(p), db = at::empty_like(p), dp0 = at::zeros_like(p0);
  const Maybe dinitial = initial ? Maybe(at::zeros_like(*initial)) : Maybe();
  each_kind(p, soft, [&](auto zero, auto kind) {
    using real = decltype(zero);
    const Sequence<real> decay(d), other(b), from(dp);
    const real* states = p.const_data_ptr<real>();
    real *gd = dd.template mutable_data_ptr<real>(), *gb = db.template mutable_data_ptr<real>(),
         *g0 = dp0.template mutable_data_ptr<real>(),
         *gi = dinitial ? dinitial->template mutable_data_ptr<real>() : nullptr;
    each_block(B, C, [&](int64_t row, int64_t first, int64_t n) {
      const Before<real> state(states, p0, initial, reset, row, T, first);
      real* __restrict carried = g0 + row * C + first;
      for (int64_t t = T - 1; t >= 0; t--) {
        const real *x = decay.at(row, t, first), *y = other.at(row, t, first), *before = state.at(t).at,
                   *g = from.at(row, t, first);
        real *__restrict to_d = gd + (row * T + t) * C + first, *__restrict to_b = gb + (row * T + t) * C + first;
        for (int64_t c = 0; c < n; c++) {
          const real whole = g[c] + carried[c], u = before[c] + x[c];
          to_d[c] = carried[c] = whole * kind.share(u, y[c]);
          to_b[c] = whole * kind.share(y[c], u);
        }
        if (state.starts(t)) cut(carried, gi ? gi + row * C + first : nullptr, n);
      }
    });
  });
  return {dd, db, dp0, dinitial};
}

}  // namespace
}  // namespace cdrmix

TORCH_LIBRARY_FRAGMENT(CDRMIX_OPS, m) {
  m.def("linear_scan(Tensor A, Tensor b, Tensor h0, Tensor? reset, Tensor? initial) -> Tensor");
  m.def(
      "linear_scan_backward(Tensor A, Tensor h, Tensor h0, Tensor? reset, Tensor? initial, Tensor dh)"
      " -> (Tensor, Tensor, Tensor, Tensor?)");
  m.def("maxplus_scan(Tensor d, Tensor b, Tensor p0, Tensor? reset, Tensor? initial, bool soft) -> Tensor");
  m.def(
      "maxplus_scan_backward(Tensor d, Tensor b, Tensor p, Tensor p0, Tensor? reset, Tensor? initial, bool soft,"
      " Tensor dp) -> (Tensor, Tensor, Tensor, Tensor?)");
}
TORCH_LIBRARY_IMPL(CDRMIX_OPS, CPU, m) {
  m.impl("linear_scan", &cdrmix::linear);
  m.impl("linear_scan_backward", &cdrmix::linear_backward);
  m.impl("maxplus_scan", &cdrmix::maxplus);
  m.impl("maxplus_scan_backward", &cdrmix::maxplus_backward);
}
