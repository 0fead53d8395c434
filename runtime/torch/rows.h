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

// How the state before a token is carried into the one after it: multiplied along the key axis, along the rows too, or
// G states mixed along the key axis (and multiplied along the rows).
enum class Decay { KEY, BOTH, MIX };

// next[i] = S[i] * w * scale[i] + sum_u coef[u][i] outs[u]; `next` may be S; without `scaled` no scale
template <typename real, int U, bool scaled, int W>
inline void update_tile(vec<real>* next, const vec<real>* S, const vec<real>* w, const vec<real>* outs, int kb,
                        int count, const real* coef, int stride, const real* scale, int j) {
  const int n = U ? U : count;
  vec<real> out[U ? U : MOST][W], decay[W];
  for (int c = 0; c < W; c++) {
    decay[c] = w[j + c];
    for (int u = 0; u < n; u++) out[u][c] = outs[u * kb + j + c];
  }
  for (int i = 0; i < ROWS; i++) {
    vec<real> x[W];
    for (int c = 0; c < W; c++) x[c] = S[i * kb + j + c] * decay[c];
    if constexpr (scaled)
      for (int c = 0; c < W; c++) x[c] *= scale[i];
    for (int u = 0; u < n; u++)
      for (int c = 0; c < W; c++) x[c] += coef[u * stride + i] * out[u][c];
    for (int c = 0; c < W; c++) next[i * kb + j + c] = x[c];
  }
}

template <typename real, int U, bool scaled>
inline void update(vec<real>* next, const vec<real>* S, const vec<real>* w, const vec<real>* outs, int kb, int count,
                   const real* coef, int stride, const real* scale) {
  int j = 0;
  for (; j + TILE <= kb; j += TILE)
    update_tile<real, U, scaled, TILE>(next, S, w, outs, kb, count, coef, stride, scale, j);
  for (; j < kb; j++) update_tile<real, U, scaled, 1>(next, S, w, outs, kb, count, coef, stride, scale, j);
}

// mixed[i]_f = sum_g S[i]_g w[g, f], for G states of kg vectors side by side
template <typename real> inline void mix(vec<real>* mixed, const vec<real>* S, const vec<real>* w, int G, int kg) {
  for (int i = 0; i < ROWS; i++, S += G * kg, mixed += G * kg)
    for (int f = 0; f < G; f++)
      for (int j = 0; j < kg; j++) {
        vec<real> x = S[j] * w[f * kg + j];
        for (int g = 1; g < G; g++) x += S[g * kg + j] * w[(g * G + f) * kg + j];
        mixed[f * kg + j] = x;
      }
}

// `mix` back, with E = D * scale: dw[g, f] += E_f S_g, unmixed[i]_g = sum_f w[g, f] E_f, and
// dscale[i] = sum over the keys of D times the mixed S.
template <typename real>
inline void unmix(vec<real>* unmixed, const vec<real>* D, const vec<real>* S, const vec<real>* w, int G, int kg,
                  const real* scale, vec<real>* dw, real* dscale) {
  vec<real> rows[ROWS] = {};
  for (int i = 0; i < ROWS; i++, D += G * kg, S += G * kg, unmixed += G * kg)
    for (int g = 0; g < G; g++)
      for (int j = 0; j < kg; j++) {
        const vec<real> s = S[g * kg + j];
        vec<real> x = {};
        for (int f = 0; f < G; f++) {
          const vec<real> d = D[f * kg + j];
          x += d * w[(g * G + f) * kg + j];
          dw[(g * G + f) * kg + j] += d * scale[i] * s;
        }
        rows[i] += x * s;
        unmixed[g * kg + j] = x * scale[i];
      }
  sum_lanes<real, LANES<real>, ROWS>(rows, dscale);
}

// What one token back needs of its decay; `unmixed` only in MIX, `scale` and `rows` (the sums of D S w) only in BOTH.
template <typename real> struct Carried {
  const vec<real>*w, *unmixed;
  const real* scale;
  vec<real>*dw, *rows;
};

// One token back: D (of the state after it) becomes D (of the state before it), and the key vectors' gradients grow.
//   dw += D S,  douts[u] += coef_u D,  dasks[p] += coef_p S,  D = D w + sum_p coef_p asks[p]
template <typename real, int P, int U, Decay decay, int W>
inline void back_tile(vec<real>* D, const vec<real>* S, const Carried<real>& by, const vec<real>* asks, int kb,
                      int p_count, int u_count, const real* p_coef, const real* u_coef, int stride, vec<real>* dasks,
                      vec<real>* douts, int j) {
  const int np = P ? P : p_count, nu = U ? U : u_count;
  constexpr bool mixed = decay == Decay::MIX;
  vec<real> ask[P ? P : MOST][W], w[W], ga[P ? P : MOST][W], go[U ? U : MOST][W], gw[W];
  for (int c = 0; c < W; c++) {
    if constexpr (!mixed) w[c] = by.w[j + c], gw[c] = by.dw[j + c];
    for (int p = 0; p < np; p++) ask[p][c] = asks[p * kb + j + c], ga[p][c] = dasks[p * kb + j + c];
    for (int u = 0; u < nu; u++) go[u][c] = douts[u * kb + j + c];
  }
  for (int i = 0; i < ROWS; i++)
    for (int c = 0; c < W; c++) {
      const vec<real> d = D[i * kb + j + c], s = S[i * kb + j + c];
      vec<real> g;
      if constexpr (mixed) {
        g = by.unmixed[i * kb + j + c];
      } else if constexpr (decay == Decay::BOTH) {
        g = d * w[c];
        by.rows[i] += g * s;
        g *= by.scale[i];
        gw[c] += d * by.scale[i] * s;
      } else {
        g = d * w[c];
        gw[c] += d * s;
      }
      for (int u = 0; u < nu; u++) go[u][c] += u_coef[u * stride + i] * d;
      for (int p = 0; p < np; p++) {
        ga[p][c] += p_coef[p * stride + i] * s;
        g += p_coef[p * stride + i] * ask[p][c];
      }
      D[i * kb + j + c] = g;
    }
  for (int c = 0; c < W; c++) {
    if constexpr (!mixed) by.dw[j + c] = gw[c];
    for (int p = 0; p < np; p++) dasks[p * kb + j + c] = ga[p][c];
    for (int u = 0; u < nu; u++) douts[u * kb + j + c] = go[u][c];
  }
}

template <typename real, int P, int U, Decay decay>
inline void back(vec<real>* D, const vec<real>* S, const Carried<real>& by, const vec<real>* asks, int kb, int p_count,
                 int u_count, const real* p_coef, const real* u_coef, int stride, vec<real>* dasks, vec<real>* douts) {
  int j = 0;
  for (; j + TILE <= kb; j += TILE)
    back_tile<real, P, U, decay, TILE>(D, S, by, asks, kb, p_count, u_count, p_coef, u_coef, stride, dasks, douts, j);
  for (; j < kb; j++)
    back_tile<real, P, U, decay, 1>(D, S, by, asks, kb, p_count, u_count, p_coef, u_coef, stride, dasks, douts, j);
}

}  // namespace cdrmix
