// The one inner kernel: a tile of P pixels by KV vectors of output channels, summed in registers.
//
// A convolution, a linear layer and the products of Winograd's algorithm all are
//     y[p][k] = sum over rows r and i of x[p * pixel + r * pitch + i] * w[r][i][k]
// with the channels innermost (NHWC): for a kernel row, columns and channels are one contiguous run.
#pragma once

#include "vector.h"

namespace nncompile {

// `pixel` and `pitch` are in floats; w holds `rows * run` lines of KV * V floats.
template <int V, int KV, int P>
inline void accumulate(Vec<V> (&sum)[P][KV], const float* x, ptrdiff_t pixel, ptrdiff_t pitch, int rows, int run,
                       const float* w) {
  // A pointer for every three pixels: one alone would leave a multiplication or a spilled pointer to each load.
  constexpr int kPointers = (P + 2) / 3;
  for (int r = 0; r < rows; ++r, x += pitch) {
    const float* from[kPointers];
#pragma GCC unroll 5
    for (int q = 0; q < kPointers; ++q) from[q] = x + 3 * q * pixel;
    for (int i = 0; i < run; ++i, w += KV * V) {
      Vec<V> line[KV];
#pragma GCC unroll 8
      for (int k = 0; k < KV; ++k) line[k] = load<V>(w + k * V);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
        const Vec<V> value = broadcast<V>(from[p / 3][p % 3 * pixel]);
#pragma GCC unroll 8
        for (int k = 0; k < KV; ++k) sum[p][k] += value * line[k];
      }
#pragma GCC unroll 5
      for (int q = 0; q < kPointers; ++q) ++from[q];
    }
  }
}

// The most pixels that a tile of KV vectors keeps in registers beside its weights.
constexpr int max_pixels(int vectors) {
  if (kRegisters == 16 && vectors >= 3) return 12 / vectors;
  const int room = (kRegisters - 2 - vectors) / vectors;
  return room > 14 ? 14 : room;
}

}  // namespace nncompile
