// The inner kernel with a sample in each lane: KR output channels by P pixels, weights broadcast.
#pragma once

#include <array>
#include <vector>

#include "activation.h"

namespace nncompile {

inline constexpr int kLaneChannels = kRegisters >= 32 ? 4 : 3;
inline constexpr int kLanePixels = kRegisters >= 32 ? 6 : 4;

struct LaneJob {
  const float* x;          // [channels][...], pixels `pixel` floats apart, channels `plane`, a kernel's rows `pitch`
  ptrdiff_t pixel, plane, pitch;
  ptrdiff_t line;          // from a row of pixels to the next
  int kh, kw, channels;
  const float* weights;    // [kh][kw][channels][KR]
  const float* bias;       // [KR], or null
  float* y;                // pixels side by side, channels `y_plane` apart
  ptrdiff_t y_plane;
  const float* residual;   // null, or as y with planes of its own
  ptrdiff_t residual_plane;
  Finish finish;
};

using LaneFunction = void (*)(const LaneJob&);

// Of Q rows of P pixels: sum[k][q * P + p].
template <int V, int KR, int Q, int P>
inline void lane_sums(const LaneJob& job, const float* pixels, Vec<V> (&sum)[KR][Q * P]) {
#pragma GCC unroll 4
  for (int k = 0; k < KR; ++k)
#pragma GCC unroll 6
    for (int p = 0; p < Q * P; ++p) sum[k][p] = broadcast<V>(job.bias ? job.bias[k] : 0.0f);
  const float* w = job.weights;
  // The order of `accumulate`: a sample's sums are the same bits either way.
  // With one channel the kernel's columns are the inner loop instead.
  const bool one = job.channels == 1;
  const int columns = one ? 1 : job.kw, lines = one ? job.kw : job.channels;
  const ptrdiff_t step = one ? V : job.plane;
  for (int row = 0; row < job.kh; ++row)
    for (int column = 0; column < columns; ++column) {
      const float* x = pixels + row * job.pitch + column * V;
      for (int i = 0; i < lines; ++i, x += step, w += KR) {
        Vec<V> value[Q * P];
#pragma GCC unroll 6
        for (int p = 0; p < Q * P; ++p) {
          value[p] = load<V>(x + p / P * job.line + p % P * job.pixel);
#if defined(__AVX512F__)
          asm("" : "+v"(value[p]));  // one load for all channels: the compiler would rather load it for each
#endif
        }
#pragma GCC unroll 4
        for (int k = 0; k < KR; ++k) {
          const Vec<V> weight = broadcast<V>(w[k]);
#pragma GCC unroll 6
          for (int p = 0; p < Q * P; ++p) sum[k][p] += value[p] * weight;
        }
      }
    }
}

template <int V, int KR, int P>
void lane_tile(const LaneJob& job) {
  Vec<V> sum[KR][P];
  lane_sums<V, KR, 1, P>(job, job.x, sum);
#pragma GCC unroll 4
  for (int k = 0; k < KR; ++k)
#pragma GCC unroll 6
    for (int p = 0; p < P; ++p) {
      Vec<V> value = sum[k][p];
      if (job.residual) value += load<V>(job.residual + k * job.residual_plane + p * V);
      store<V>(job.y + k * job.y_plane + p * V, bounded<V>(job.finish.bounds, value));
    }
  if (job.finish.curve)
    for (int k = 0; k < KR; ++k) activate_all<V>(*job.finish.curve, job.y + k * job.y_plane, P);
}

// A row of `columns` outputs of the pool of 2 x 2 behind the layer, whose own outputs are never stored.
template <int V, int KR>
void pooled_row(const LaneJob& job, int columns) {
  for (int column = 0; column < columns; ++column) {
    Vec<V> sum[KR][4];
    lane_sums<V, KR, 2, 2>(job, job.x + column * 2 * job.pixel, sum);
#pragma GCC unroll 4
    for (int k = 0; k < KR; ++k) {
#pragma GCC unroll 4
      for (int p = 0; p < 4; ++p) sum[k][p] = bounded<V>(job.finish.bounds, sum[k][p]);
      store<V>(job.y + k * job.y_plane + column * V, largest<V>(sum[k][0], sum[k][1], sum[k][2], sum[k][3]));
    }
  }
}

template <int V>
inline void pooled_row(const LaneJob& job, int channels, int columns) {
  static constexpr void (*functions[])(const LaneJob&, int) = {pooled_row<V, 1>, pooled_row<V, 2>, pooled_row<V, 3>,
                                                               pooled_row<V, 4>};
  functions[channels - 1](job, columns);
}

template <int V>
class LaneTiles {
 public:
  // For 1, 2 ... kLanePixels pixels of so many channels.
  static const LaneFunction* get(int channels) { return table()[size_t(channels - 1)].data(); }

 private:
  using Table = std::array<std::array<LaneFunction, kLanePixels>, kLaneChannels>;
  template <int KR, int P>
  static void fill(Table& table) {
    table[KR - 1][P - 1] = lane_tile<V, KR, P>;
    if constexpr (P > 1)
      fill<KR, P - 1>(table);
    else if constexpr (KR > 1)
      fill<KR - 1, kLanePixels>(table);
  }
  static const Table& table() {
    static const Table made = [] {
      Table t{};
      fill<kLaneChannels, kLanePixels>(t);
      return t;
    }();
    return made;
  }
};

// `count` things in `groups` groups as equal as can be: where group `i` begins.
inline int group_start(int count, int groups, int i) { return int(int64_t(count) * i / groups); }
inline int group_count(int count, int most) { return (count + most - 1) / most; }

// A layer's weights in the order in which lane tiles read them, a group of output channels after the other.
class LaneWeights {
 public:
  // `weight(k, i)` is that of output channel k at place i of `lines`: kernel row, column, input channel.
  template <class Weight>
  LaneWeights(int channels, size_t lines, const Weight& weight) : channels_(channels), lines_(lines) {
    packed_.resize(size_t(channels) * lines);
    float* to = packed_.data();
    for (int g = 0; g < groups(); ++g)
      for (size_t i = 0; i < lines; ++i)
        for (int k = start(g); k < start(g + 1); ++k) *to++ = weight(k, i);
  }

  int groups() const { return group_count(channels_, kLaneChannels); }
  int start(int group) const { return group_start(channels_, groups(), group); }
  const float* of(int group) const { return packed_.data() + size_t(start(group)) * lines_; }

 private:
  int channels_;
  size_t lines_;
  std::vector<float> packed_;
};

// One row of pixels of one group of channels. `job` ends up behind it: a copy would wait for what was just stored.
template <int V>
inline void lane_row(LaneJob& job, int channels, int pixels) {
  const int tiles = group_count(pixels, kLanePixels);
  const LaneFunction* functions = LaneTiles<V>::get(channels);
  for (int t = 0; t < tiles; ++t) {
    const int count = group_start(pixels, tiles, t + 1) - group_start(pixels, tiles, t);
    functions[count - 1](job);
    job.x += count * job.pixel;
    job.y += count * V;
    if (job.residual) job.residual += count * V;
  }
}

}  // namespace nncompile
