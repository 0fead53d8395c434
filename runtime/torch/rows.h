// Operations on a block of ROWS rows of a matrix state, vectorised over the key axis.
//
// A row is `kb` vectors; its padding holds zeros.  Templates: P vectors that S meets in a dot product (`asks`: the
// queries and the a), U vectors that are added to S (`outs`: the b and the k), each with a coefficient a row.  0 stands
// for a count known only at run time, at most MOST.
//
// Sums run in a fixed order, whatever the number of threads: the same inputs give the same bits.
#pragma once
#include <cstddef>
#include <cstring>
#include <utility>

namespace cdrmix {

#if defined(__AVX512F__)
constexpr int BYTES = 64, ROWS = 8, TILE = 2;  // 32 registers
#elif defined(__AVX__)
constexpr int BYTES = 32, ROWS = 4, TILE = 1;  // 16 registers
#elif defined(__aarch64__)
constexpr int BYTES = 16, ROWS = 8, TILE = 2;  // 32 registers
#else
constexpr int BYTES = 16, ROWS = 4, TILE = 1;
#endif
constexpr int MOST = 16;

template <typename real, int N> struct Vector {
  typedef real type __attribute__((vector_size(N * sizeof(real)), may_alias));
};
template <typename real> constexpr int LANES = BYTES / sizeof(real);
template <typename real> using vec = typename Vector<real, LANES<real>>::type;

// The lanes 2l + odd of a, then of b.
template <int odd, typename V, size_t... l> inline V every_second(const V& a, const V& b, std::index_sequence<l...>) {
  return __builtin_shufflevector(a, b, (2 * l + odd)...);
}

// to[i] = the sum of the N lanes of x[i], for count rows (a power of two); x is overwritten.
template <typename real, int N, int count> inline void sum_lanes(typename Vector<real, N>::type* x, real* to) {
  if constexpr (count > N) {  // fewer lanes than rows: in two halves
    sum_lanes<real, N, count / 2>(x, to);
    sum_lanes<real, N, count / 2>(x + count / 2, to + count / 2);
  } else if constexpr (N > count) {  // more lanes than rows: the upper half onto the lower
    typename Vector<real, N / 2>::type half[count];
    for (int i = 0; i < count; i++) {
      typename Vector<real, N / 2>::type part[2];
      std::memcpy(part, &x[i], sizeof part);
      half[i] = part[0] + part[1];
    }
    sum_lanes<real, N / 2, count>(half, to);
  } else {  // as many: neighbouring lanes add, and two rows become one vector, until all rows are one vector
    const auto lane = std::make_index_sequence<N>();
    for (int rows = count; rows > 1; rows /= 2)
      for (int i = 0; i < rows / 2; i++)
        x[i] = every_second<0>(x[2 * i], x[2 * i + 1], lane) + every_second<1>(x[2 * i], x[2 * i + 1], lane);
    std::memcpy(to, x, sizeof(real) * count);
  }
}

// out[p][i] = S[i] . asks[p]
template <typename real, int P>
inline void dots(const vec<real>* S, const vec<real>* asks, int kb, int count, real* out, int stride) {
  if constexpr (P == 0) {
    for (int p = 0; p < count; p++) dots<real, 1>(S, asks + p * kb, kb, 1, out + p * stride, stride);
  } else {
    vec<real> acc[P][ROWS] = {};
    for (int j = 0; j < kb; j++)
      for (int i = 0; i < ROWS; i++)
        for (int p = 0; p < P; p++) acc[p][i] += S[i * kb + j] * asks[p * kb + j];
    for (int p = 0; p < P; p++) sum_lanes<real, LANES<real>, ROWS>(acc[p], out + p * stride);
  }
}

// next[i] = S[i] * w + sum_u coef[u][i] outs[u]; `next` may be S
template <typename real, int U, int W>
inline void update_tile(vec<real>* next, const vec<real>* S, const vec<real>* w, const vec<real>* outs, int kb,
                        int count, const real* coef, int stride, int j) {
  const int n = U ? U : count;
  vec<real> out[U ? U : MOST][W], decay[W];
  for (int c = 0; c < W; c++) {
    decay[c] = w[j + c];
    for (int u = 0; u < n; u++) out[u][c] = outs[u * kb + j + c];
  }
  for (int i = 0; i < ROWS; i++) {
    vec<real> x[W];
    for (int c = 0; c < W; c++) x[c] = S[i * kb + j + c] * decay[c];
    for (int u = 0; u < n; u++)
      for (int c = 0; c < W; c++) x[c] += coef[u * stride + i] * out[u][c];
    for (int c = 0; c < W; c++) next[i * kb + j + c] = x[c];
  }
}

template <typename real, int U>
inline void update(vec<real>* next, const vec<real>* S, const vec<real>* w, const vec<real>* outs, int kb, int count,
                   const real* coef, int stride) {
  int j = 0;
  for (; j + TILE <= kb; j += TILE) update_tile<real, U, TILE>(next, S, w, outs, kb, count, coef, stride, j);
  for (; j < kb; j++) update_tile<real, U, 1>(next, S, w, outs, kb, count, coef, stride, j);
}

// One token back: D (of the state after it) becomes D (of the state before it), and the key vectors' gradients grow.
//   dw += D S,  douts[u] += coef_u D,  dasks[p] += coef_p S,  D = D w + sum_p coef_p asks[p]
template <typename real, int P, int U, int W>
inline void back_tile(vec<real>* D, const vec<real>* S, const vec<real>* w, const vec<real>* asks, int kb, int p_count,
                      int u_count, const real* p_coef, const real* u_coef, int stride, vec<real>* dasks,
                      vec<real>* douts, vec<real>* dw, int j) {
  const int np = P ? P : p_count, nu = U ? U : u_count;
  vec<real> ask[P ? P : MOST][W], decay[W], ga[P ? P : MOST][W], go[U ? U : MOST][W], gw[W];
  for (int c = 0; c < W; c++) {
    decay[c] = w[j + c], gw[c] = dw[j + c];
    for (int p = 0; p < np; p++) ask[p][c] = asks[p * kb + j + c], ga[p][c] = dasks[p * kb + j + c];
    for (int u = 0; u < nu; u++) go[u][c] = douts[u * kb + j + c];
  }
  for (int i = 0; i < ROWS; i++)
    for (int c = 0; c < W; c++) {
      const vec<real> d = D[i * kb + j + c], s = S[i * kb + j + c];
      vec<real> g = d * decay[c];
      gw[c] += d * s;
      for (int u = 0; u < nu; u++) go[u][c] += u_coef[u * stride + i] * d;
      for (int p = 0; p < np; p++) {
        ga[p][c] += p_coef[p * stride + i] * s;
        g += p_coef[p * stride + i] * ask[p][c];
      }
      D[i * kb + j + c] = g;
    }
  for (int c = 0; c < W; c++) {
    dw[j + c] = gw[c];
    for (int p = 0; p < np; p++) dasks[p * kb + j + c] = ga[p][c];
    for (int u = 0; u < nu; u++) douts[u * kb + j + c] = go[u][c];
  }
}

template <typename real, int P, int U>
inline void back(vec<real>* D, const vec<real>* S, const vec<real>* w, const vec<real>* asks, int kb, int p_count,
                 int u_count, const real* p_coef, const real* u_coef, int stride, vec<real>* dasks, vec<real>* douts,
                 vec<real>* dw) {
  int j = 0;
  for (; j + TILE <= kb; j += TILE)
    back_tile<real, P, U, TILE>(D, S, w, asks, kb, p_count, u_count, p_coef, u_coef, stride, dasks, douts, dw, j);
  for (; j < kb; j++)
    back_tile<real, P, U, 1>(D, S, w, asks, kb, p_count, u_count, p_coef, u_coef, stride, dasks, douts, dw, j);
}

}  // namespace cdrmix
