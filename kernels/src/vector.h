// Vectors of floats through the compiler's own vector extension: one source for every instruction set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace nncompile {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
inline constexpr int kRegisters = 32;
#elif defined(__AVX2__)
inline constexpr int kLanes = 8;
inline constexpr int kRegisters = 16;
#else
inline constexpr int kLanes = 4;
inline constexpr int kRegisters = 16;
#endif

template <int N>
struct Lanes {
  typedef float Float __attribute__((vector_size(N * 4)));
  typedef int32_t Int __attribute__((vector_size(N * 4)));
};

template <int N>
using Vec = typename Lanes<N>::Float;
template <int N>
using IntVec = typename Lanes<N>::Int;

template <int N>
inline Vec<N> load(const float* from) {
  Vec<N> value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <int N>
inline void store(float* to, Vec<N> value) {
  std::memcpy(to, &value, sizeof value);
}

// The first `count` lanes only.
template <int N>
inline void store_some(float* to, Vec<N> value, int count) {
  float lanes[N];
  std::memcpy(lanes, &value, sizeof value);
  for (int i = 0; i < count; ++i) to[i] = lanes[i];
}

template <int N>
inline Vec<N> load_some(const float* from, int count) {
  float lanes[N] = {};
  for (int i = 0; i < count; ++i) lanes[i] = from[i];
  return load<N>(lanes);
}

template <int N>
inline Vec<N> broadcast(float value) {
  return value - Vec<N>{};  // not `+`: -0 + 0 is 0, so the compiler would have to add
}

// a * b + c, rounded once where the machine can. Where two loops must agree to the bit it is written out, since the
// compiler joins what multiplications and additions it likes in each.
template <int N>
inline Vec<N> fused(Vec<N> a, Vec<N> b, Vec<N> c) {
#if defined(__AVX512F__)
  if constexpr (N == 16) return _mm512_fmadd_ps(a, b, c);
#endif
#if defined(__AVX2__)
  if constexpr (N == 8) return _mm256_fmadd_ps(a, b, c);
  if constexpr (N == 4) return _mm_fmadd_ps(a, b, c);
#endif
#if defined(__FP_FAST_FMAF)
  Vec<N> result;
  for (int i = 0; i < N; ++i) result[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return result;
#else
  return a * b + c;
#endif
}

// Whether no lane is NaN or anything but zero.
template <int N>
inline bool all_zero(Vec<N> x) {
#if defined(__AVX512F__)
  if constexpr (N == 16) return _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_NEQ_UQ) == 0;
#endif
#if defined(__AVX2__)
  if constexpr (N == 8) return _mm256_movemask_ps(_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_NEQ_UQ)) == 0;
  if constexpr (N == 4) return _mm_movemask_ps(_mm_cmp_ps(x, _mm_setzero_ps(), _CMP_NEQ_UQ)) == 0;
#endif
  for (int i = 0; i < N; ++i)
    if (!(x[i] == 0.0f)) return false;
  return true;
}

// a > b ? a : b, and so `b` where either is NaN or both are zeros: what x86's instruction answers.
template <int N>
inline Vec<N> greater(Vec<N> a, Vec<N> b) {
#if defined(__AVX512F__)
  if constexpr (N == 16) return _mm512_maskz_max_ps(__mmask16(-1), a, b);
#endif
#if defined(__AVX2__)
  if constexpr (N == 8) return _mm256_max_ps(a, b);
  if constexpr (N == 4) return _mm_max_ps(a, b);
#endif
  return (a > b) ? a : b;
}

template <int N>
inline Vec<N> lesser(Vec<N> a, Vec<N> b) {
#if defined(__AVX512F__)
  if constexpr (N == 16) return _mm512_maskz_min_ps(__mmask16(-1), a, b);
#endif
#if defined(__AVX2__)
  if constexpr (N == 8) return _mm256_min_ps(a, b);
  if constexpr (N == 4) return _mm_min_ps(a, b);
#endif
  return (a < b) ? a : b;
}

// A lane that is NaN on either side stays NaN, as in PyTorch.
template <int N>
inline Vec<N> larger(Vec<N> a, Vec<N> b) {
  return (b != b) ? b : greater<N>(b, a);
}

template <int N>
inline Vec<N> largest(Vec<N> a, Vec<N> b, Vec<N> c, Vec<N> d) {
  return larger<N>(larger<N>(a, b), larger<N>(c, d));
}

// The larger of `low` and x, and x where that is NaN.
template <int N>
inline Vec<N> at_least(Vec<N> x, float low) {
  return greater<N>(broadcast<N>(low), x);
}

template <int N>
inline Vec<N> at_most(Vec<N> x, float high) {
  return lesser<N>(broadcast<N>(high), x);
}

}  // namespace nncompile
