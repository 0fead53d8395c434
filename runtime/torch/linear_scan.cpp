// The CPU kernel of elementwise states: h_t = a_t h_{t-1} + b_t, independent over batch and channels.
//
// a, b, h, dh [B, T, C], h0 [B, C]; one dtype; channels side by side in memory, a may repeat along B and T (stride 0).
// The loop is (batch, BLOCK of channels) > token > channel, the innermost vectorised; the block's last row is in L1.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <tuple>

namespace cdrmix {
namespace {

using at::Tensor;
constexpr int64_t BLOCK = 512;

// work(offset of a, offset of b, offset of h0, channels) for each block of each batch row
template <typename F> void each_block(const Tensor& a, const Tensor& b, F&& work) {
  const int64_t B = b.size(0), T = b.size(1), C = b.size(2), blocks = (C + BLOCK - 1) / BLOCK;
  at::parallel_for(0, B * blocks, 1, [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i++) {
      const int64_t row = i / blocks, c = i % blocks * BLOCK;
      work(row * a.stride(0) + c, row * T * C + c, row * C + c, std::min(BLOCK, C - c));
    }
  });
}

template <typename F> void each_dtype(const Tensor& x, F&& go) {
  if (x.scalar_type() == at::kFloat) return go(float());
  TORCH_CHECK(x.scalar_type() == at::kDouble, "linear_scan: float32 or float64, not ", x.scalar_type());
  go(double());
}

Tensor forward(const Tensor& a, const Tensor& b, const Tensor& h0) {
  auto h = at::empty_like(b);
  const int64_t T = b.size(1), C = b.size(2), step = a.stride(1);
  each_dtype(b, [&](auto zero) {
    using real = decltype(zero);
    const real *pa = a.const_data_ptr<real>(), *pb = b.const_data_ptr<real>(), *p0 = h0.const_data_ptr<real>();
    real* ph = h.template mutable_data_ptr<real>();
    each_block(a, b, [&](int64_t oa, int64_t ob, int64_t o0, int64_t n) {
      const real* before = p0 + o0;
      for (int64_t t = 0; t < T; t++) {
        const real *x = pa + oa + t * step, *y = pb + ob + t * C;
        real* __restrict now = ph + ob + t * C;
        for (int64_t c = 0; c < n; c++) now[c] = x[c] * before[c] + y[c];
        before = now;
      }
    });
  });
  return h;
}

// g_t = dh_t + a_{t+1} g_{t+1} is the gradient of b_t; that of a_t is g_t h_{t-1}, that of h0 is a_0 g_0.
std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& a, const Tensor& h, const Tensor& h0, const Tensor& dh) {
  auto da = at::empty_like(h), db = at::empty_like(h), dh0 = at::empty_like(h0);
  const int64_t T = h.size(1), C = h.size(2), step = a.stride(1);
  each_dtype(h, [&](auto zero) {
    using real = decltype(zero);
    const real *pa = a.const_data_ptr<real>(), *ph = h.const_data_ptr<real>(), *p0 = h0.const_data_ptr<real>(),
               *pd = dh.const_data_ptr<real>();
    real *ga = da.template mutable_data_ptr<real>(), *gb = db.template mutable_data_ptr<real>(),
         *g0 = dh0.template mutable_data_ptr<real>();
    each_block(a, h, [&](int64_t oa, int64_t ob, int64_t o0, int64_t n) {
      real* __restrict carried = g0 + o0;  // a_{t+1} g_{t+1}, and in the end a_0 g_0
      std::fill_n(carried, n, real(0));
      for (int64_t t = T - 1; t >= 0; t--) {
        const real *x = pa + oa + t * step, *d = pd + ob + t * C, *before = t ? ph + ob + (t - 1) * C : p0 + o0;
        real *__restrict to_a = ga + ob + t * C, *__restrict to_b = gb + ob + t * C;
        for (int64_t c = 0; c < n; c++) {
          const real g = d[c] + carried[c];
          to_b[c] = g;
          to_a[c] = g * before[c];
          carried[c] = x[c] * g;
        }
      }
    });
  });
  return {da, db, dh0};
}

}  // namespace
}  // namespace cdrmix

TORCH_LIBRARY_FRAGMENT(CDRMIX_OPS, m) {
  m.def("linear_scan(Tensor a, Tensor b, Tensor h0) -> Tensor");
  m.def("linear_scan_backward(Tensor a, Tensor h, Tensor h0, Tensor dh) -> (Tensor, Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(CDRMIX_OPS, CPU, m) {
  m.impl("linear_scan", &cdrmix::forward);
  m.impl("linear_scan_backward", &cdrmix::backward);
}
