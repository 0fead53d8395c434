// The CPU kernel of a causal convolution a channel: y_t = sum_{w < W} F_w x_{t-w}.
//
// x, y, dy [B, T, C]; F [W, C]; `before` [B, W-1, C], the entries before x, the most recent first, or none; `age` int64
// [B, T] or none: entries from more than that many tokens ago are another document's.  One dtype, contiguous.
// The loop is BLOCK of channels > batch > token > tap > channel: one thread sums a channel's gradient of F, in one order.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

namespace cdrmix {
namespace {

using at::Tensor;
using Maybe = std::optional<Tensor>;
constexpr int64_t BLOCK = 128, STRETCH = 64;  // channels; tokens whose part of F's gradient is summed by itself

// work(tap, is the entry in x, its offset) for the taps of a token that meet an entry
template <typename F> void each_tap(const Tensor& x, int64_t W, bool before, const Maybe& age, int64_t b, int64_t t,
                                    F&& work) {
  const int64_t T = x.size(1), C = x.size(2);
  int64_t taps = before ? W : std::min(W, t + 1);
  if (age) taps = std::min(taps, age->const_data_ptr<int64_t>()[b * T + t] + 1);
  for (int64_t w = 0; w < taps; w++) {
    if (w <= t) work(w, true, (b * T + t - w) * C);
    else work(w, false, (b * (W - 1) + w - t - 1) * C);
  }
}

template <typename F> void each_block(int64_t C, F&& work) {
  at::parallel_for(0, (C + BLOCK - 1) / BLOCK, 1, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i++) work(i * BLOCK, std::min(BLOCK, C - i * BLOCK));
  });
}

template <typename F> void each_dtype(const Tensor& x, F&& go) {
  if (x.scalar_type() == at::kFloat) return go(float());
  TORCH_CHECK(x.scalar_type() == at::kDouble, "convolve: float32 or float64, not ", x.scalar_type());
  go(double());
}

template <typename real> const real* data(const Maybe& x) { return x ? x->const_data_ptr<real>() : nullptr; }

Tensor forward(const Tensor& x, const Tensor& F, const Maybe& before, const Maybe& age) {
  const int64_t B = x.size(0), T = x.size(1), C = x.size(2), W = F.size(0);
  auto y = at::empty_like(x);
  each_dtype(x, [&](auto zero) {
    using real = decltype(zero);
    const real *px = x.const_data_ptr<real>(), *pf = F.const_data_ptr<real>(), *old = data<real>(before);
    real* py = y.template mutable_data_ptr<real>();
    each_block(C, [&](int64_t first, int64_t n) {
      for (int64_t b = 0; b < B; b++)
        for (int64_t t = 0; t < T; t++) {
          real* __restrict to = py + (b * T + t) * C + first;
          std::fill_n(to, n, real(0));
          each_tap(x, W, old, age, b, t, [&](int64_t w, bool now, int64_t at) {
            const real *from = (now ? px : old) + at + first, *by = pf + w * C + first;
            for (int64_t c = 0; c < n; c++) to[c] += by[c] * from[c];
          });
        }
    });
  });
  return y;
}

std::tuple<Tensor, Tensor, Maybe> backward(const Tensor& x, const Tensor& F, const Maybe& before, const Maybe& age,
                                           const Tensor& dy) {
  const int64_t B = x.size(0), T = x.size(1), C = x.size(2), W = F.size(0);
  auto dx = at::zeros_like(x), dF = at::zeros_like(F);
  const Maybe dbefore = before ? Maybe(at::zeros_like(*before)) : Maybe();
  each_dtype(x, [&](auto zero) {
    using real = decltype(zero);
    const real *px = x.const_data_ptr<real>(), *pf = F.const_data_ptr<real>(), *old = data<real>(before),
               *py = dy.const_data_ptr<real>();
    real *gx = dx.template mutable_data_ptr<real>(), *gf = dF.template mutable_data_ptr<real>(),
         *go = dbefore ? dbefore->template mutable_data_ptr<real>() : nullptr;
    each_block(C, [&](int64_t first, int64_t n) {
      std::vector<real> part(W * n);
      for (int64_t b = 0; b < B; b++)
        for (int64_t t = 0; t < T; t++) {
          const real* g = py + (b * T + t) * C + first;
          each_tap(x, W, old, age, b, t, [&](int64_t w, bool now, int64_t at) {
            const real *from = (now ? px : old) + at + first, *by = pf + w * C + first;
            real *__restrict to = (now ? gx : go) + at + first, *__restrict tap = part.data() + w * n;
            for (int64_t c = 0; c < n; c++) {
              to[c] += by[c] * g[c];
              tap[c] += from[c] * g[c];
            }
          });
          if ((t + 1) % STRETCH && t + 1 < T) continue;
          for (int64_t w = 0; w < W; w++)
            for (int64_t c = 0; c < n; c++) gf[w * C + first + c] += part[w * n + c];
          std::fill(part.begin(), part.end(), real(0));
        }
    });
  });
  return {dx, dF, dbefore};
}

}  // namespace
}  // namespace cdrmix

TORCH_LIBRARY_FRAGMENT(CDRMIX_OPS, m) {
  m.def("convolve(Tensor x, Tensor F, Tensor? before, Tensor? age) -> Tensor");
  m.def("convolve_backward(Tensor x, Tensor F, Tensor? before, Tensor? age, Tensor dy) -> (Tensor, Tensor, Tensor?)");
}
TORCH_LIBRARY_IMPL(CDRMIX_OPS, CPU, m) {
  m.impl("convolve", &cdrmix::forward);
  m.impl("convolve_backward", &cdrmix::backward);
}
