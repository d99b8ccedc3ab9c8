// One-dimensional transforms of Winograd's minimal filtering F(4, r), for r = 3 (6 points) and r = 5 (8 points).
//
//     y = A^T [ (G g) . (B^T d) ]        d: 4 + r - 1 inputs, g: r weights, y: 4 outputs
//
// by Toom and Cook's construction: with the points p_0 ... and infinity, row j of B^T is the polynomial
// prod_{k != j} (x - p_k), row j of G is (1, p_j, p_j^2, ...) / prod_{k != j} (p_j - p_k), and column j of A^T is
// (1, p_j, p_j^2, p_j^3). In two dimensions each is applied to the columns, then to the rows; in one, to the rows
// only, and the kernel's rows are summed as they are.
// Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016); Winograd, "Arithmetic Complexity of
// Computations" (1980).
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "vector.h"

namespace nncompile {

inline constexpr int kTileOutputs = 4;

// sum + factor * value, rounded once: the same bits in vectors of every width.
template <class T>
inline T plus(T sum, float factor, T value) {
  constexpr int lanes = sizeof(T) / sizeof(float);
  return fused<lanes>(broadcast<lanes>(factor), value, sum);
}

template <int R>
struct Minimal;

// Points 0, 3/4, -3/4, 3/2, -3/2, infinity: found by measuring. 1 and 2 for 3/4 and 3/2 take two operations less, and
// rounding errors are four times as large. All numbers below are floats as they stand.
template <>
struct Minimal<3> {
  static constexpr int kPoints = 6;
  static constexpr std::array<double, 5> points{0, 0.75, -0.75, 1.5, -1.5};
  static constexpr double kInputOperations = 12, kOutputOperations = 13;  // for each 1-D transform

  template <class T>
  static inline void input(const T (&d)[6], T (&t)[6]) {
    const T a = plus(d[4], -2.25f, d[2]), b = plus(d[3], -2.25f, d[1]);
    const T c = plus(d[4], -0.5625f, d[2]), e = plus(d[3], -0.5625f, d[1]);
    t[0] = plus(plus(d[4], -2.8125f, d[2]), 1.265625f, d[0]);
    t[1] = plus(a, 0.75f, b);
    t[2] = plus(a, -0.75f, b);
    t[3] = plus(c, 1.5f, e);
    t[4] = plus(c, -1.5f, e);
    t[5] = plus(plus(d[5], -2.8125f, d[3]), 1.265625f, d[1]);
  }
  template <class T>
  static inline void output(const T (&m)[6], T (&y)[4]) {
    const T s = m[1] + m[2], d = m[1] - m[2], s2 = m[3] + m[4], d2 = m[3] - m[4];
    y[0] = m[0] + s + s2;
    y[1] = plus(0.75f * d, 1.5f, d2);
    y[2] = plus(0.5625f * s, 2.25f, s2);
    y[3] = plus(plus(m[5], 0.421875f, d), 3.375f, d2);
  }
};

// Points 0, 1, -1, 2, -2, 1/2, -1/2, infinity.
template <>
struct Minimal<5> {
  static constexpr int kPoints = 8;
  static constexpr std::array<double, 7> points{0, 1, -1, 2, -2, 0.5, -0.5};
  static constexpr double kInputOperations = 24, kOutputOperations = 17;

  template <class T>
  static inline void input(const T (&d)[8], T (&t)[8]) {
    const T a = plus(d[2] + d[6], -4.25f, d[4]), b = plus(d[1] + d[5], -4.25f, d[3]);
    const T c = plus(plus(d[6], 0.25f, d[2]), -1.25f, d[4]), e = plus(plus(d[5], 0.25f, d[1]), -1.25f, d[3]);
    const T f = plus(plus(d[6], 4, d[2]), -5, d[4]), g = plus(plus(d[5], 4, d[1]), -5, d[3]);
    t[0] = plus(d[6] - d[0], 5.25f, d[2] - d[4]);
    t[1] = a + b;
    t[2] = a - b;
    t[3] = plus(c, 2, e);
    t[4] = plus(c, -2, e);
    t[5] = plus(f, 0.5f, g);
    t[6] = plus(f, -0.5f, g);
    t[7] = plus(d[7] - d[1], 5.25f, d[3] - d[5]);
  }
  template <class T>
  static inline void output(const T (&m)[8], T (&y)[4]) {
    const T s = m[1] + m[2], d = m[1] - m[2], s2 = m[3] + m[4], d2 = m[3] - m[4], s3 = m[5] + m[6],
            d3 = m[5] - m[6];
    y[0] = m[0] + s + s2 + s3;
    y[1] = plus(plus(d, 2, d2), 0.5f, d3);
    y[2] = plus(plus(s, 4, s2), 0.25f, s3);
    y[3] = plus(plus(d, 8, d2), 0.125f, d3) + m[7];
  }
};

// G, in double precision: weights are transformed once and rounded once.
template <int R>
std::array<std::array<double, R>, Minimal<R>::kPoints> weight_transform() {
  constexpr int n = Minimal<R>::kPoints;
  std::array<std::array<double, R>, n> g{};
  for (int j = 0; j < n - 1; ++j) {
    double scale = 1, power = 1;
    for (int k = 0; k < n - 1; ++k)
      if (k != j) scale *= Minimal<R>::points[size_t(j)] - Minimal<R>::points[size_t(k)];
    for (int i = 0; i < R; ++i, power *= Minimal<R>::points[size_t(j)]) g[size_t(j)][size_t(i)] = power / scale;
  }
  g[n - 1][R - 1] = 1;
  return g;
}

// U = G g G^T for every pair of channels: [position][input channel][output channel], from weights [k][c][r][r].
template <int R>
std::vector<float> transform_weights(const float* weights, int inputs, int outputs) {
  constexpr int n = Minimal<R>::kPoints, lanes = 8;  // output channels at once
  typedef double Doubles __attribute__((vector_size(lanes * sizeof(double))));
  const auto g = weight_transform<R>();
  std::vector<float> u(size_t(n * n) * size_t(inputs) * size_t(outputs));
  for (int first = 0; first < outputs; first += lanes)
    for (int c = 0; c < inputs; ++c) {
      const int count = std::min(lanes, outputs - first);
      Doubles w[R][R] = {}, half[n][R] = {};
      for (int lane = 0; lane < count; ++lane) {
        const float* its = weights + (size_t(first + lane) * size_t(inputs) + size_t(c)) * R * R;
        for (int i = 0; i < R; ++i)
          for (int j = 0; j < R; ++j) w[i][j][lane] = double(its[i * R + j]);
      }
      for (size_t i = 0; i < n; ++i)
        for (size_t j = 0; j < R; ++j)
          for (size_t k = 0; k < R; ++k) half[i][j] += g[i][k] * w[k][j];
      for (size_t i = 0; i < n; ++i)
        for (size_t j = 0; j < n; ++j) {
          Doubles sum{};
          for (size_t k = 0; k < R; ++k) sum += half[i][k] * g[j][k];
          float* to = u.data() + ((i * n + j) * size_t(inputs) + size_t(c)) * size_t(outputs) + size_t(first);
          for (int lane = 0; lane < count; ++lane) to[lane] = float(sum[lane]);
        }
    }
  return u;
}

// U = g G^T for every pair of channels: [point][kernel row][input channel][output channel].
template <int R>
std::vector<float> transform_weight_rows(const float* weights, int inputs, int outputs) {
  constexpr int n = Minimal<R>::kPoints;
  const auto g = weight_transform<R>();
  std::vector<float> u;
  u.reserve(size_t(n * R) * size_t(inputs) * size_t(outputs));
  for (size_t point = 0; point < n; ++point)
    for (size_t row = 0; row < R; ++row)
      for (size_t c = 0; c < size_t(inputs); ++c)
        for (size_t k = 0; k < size_t(outputs); ++k) {
          const float* its = weights + ((k * size_t(inputs) + c) * R + row) * R;
          double sum = 0;
          for (size_t i = 0; i < R; ++i) sum += g[point][i] * double(its[i]);
          u.push_back(float(sum));
        }
  return u;
}

}  // namespace nncompile
