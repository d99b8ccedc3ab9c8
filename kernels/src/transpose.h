// A square of N x N floats in registers, turned over.
#pragma once

#include "vector.h"

namespace nncompile {

// Interleaves the lanes of two vectors: a0 b0 a1 b1 ... of their lower or upper halves.
template <int N, bool upper>
inline Vec<N> interleave(Vec<N> a, Vec<N> b) {
  IntVec<N> order{};
  for (int i = 0; i < N; ++i) order[i] = (i % 2 ? N : 0) + i / 2 + (upper ? N / 2 : 0);
  return __builtin_shuffle(a, b, order);
}

// Rows become columns: log2(N) rounds, each of which interleaves rows i and i + N / 2.
template <int N>
inline void transpose(Vec<N> (&rows)[N]) {
  for (int round = 1; round < N; round *= 2) {
    Vec<N> next[N];
#pragma GCC unroll 8
    for (int i = 0; i < N / 2; ++i) {
      next[2 * i] = interleave<N, false>(rows[i], rows[i + N / 2]);
      next[2 * i + 1] = interleave<N, true>(rows[i], rows[i + N / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) rows[i] = next[i];
  }
}

}  // namespace nncompile
