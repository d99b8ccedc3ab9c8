#include "tile.h"

namespace nncompile {
namespace {

// The activations that are more than bounds, in a loop of their own: unrolled they would be all of the code.
template <int V>
[[gnu::noinline]] void curve_all(const Activation& activation, Vec<V>* values, int count) {
  activating<V>(activation, [=](const auto& activated) {
    for (int i = 0; i < count; ++i) values[i] = activated(values[i]);
  });
}

template <int V, int KV, int P>
inline void curve(const Activation& activation, Vec<V> (&sum)[P][KV]) {
  Vec<V> values[P * KV];
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
    for (int k = 0; k < KV; ++k) values[p * KV + k] = sum[p][k];
  curve_all<V>(activation, values, P * KV);
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
    for (int k = 0; k < KV; ++k) sum[p][k] = values[p * KV + k];
}

template <int V, int KV, int P>
void tile(const TileJob& job, const TileData& data) {
  Vec<V> sum[P][KV];
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
    for (int k = 0; k < KV; ++k) sum[p][k] = load<V>(data.bias + k * V);
  const size_t band = size_t(job.lines) * KV * V;
  for (int b = 0; b < job.bands; ++b)
    accumulate<V, KV, P>(sum, data.x + b * job.band, job.pixel, job.pitch, job.rows, job.run,
                         data.weights + size_t(b) * band);
  if (data.residual)
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
      for (int k = 0; k < KV; ++k) {
        const float* from = data.residual + p * job.residual_pixel + data.start[k];
        sum[p][k] += data.channels ? load_some<V>(from, data.channels) : load<V>(from);
      }
  if (job.finish.curve) curve<V, KV, P>(*job.finish.curve, sum);
  if (job.finish.bounds.any())
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
      for (int k = 0; k < KV; ++k) sum[p][k] = bounded<V>(job.finish.bounds, sum[p][k]);
  if constexpr (KV == 1)
    if (data.channels && (data.row_end || data.alone)) {
      // One vector, wider than the channels: what it stores behind them the next pixel overwrites, where one follows.
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
        float* to = data.y + data.start[0] + p * job.y_pixel;
        if (data.alone || (P - p) * data.channels < V)
          store_some<V>(to, sum[p][0], data.channels);
        else
          store<V>(to, sum[p][0]);
      }
      return;
    }
  if (job.columns) {
    float* to = data.y;
    int column = data.column;
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
      for (int k = 0; k < KV; ++k) store<V>(to + data.start[k], sum[p][k]);
      to += job.y_pixel;
      if (++column == job.columns) {
        column = 0;
        to += job.y_break;
      }
    }
    return;
  }
#pragma GCC unroll 8
  for (int k = 0; k < KV; ++k) {
    float* to = data.y + data.start[k];
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) store<V>(to + p * job.y_pixel, sum[p][k]);
  }
}

// The tile functions of one vector width: [vectors - 1][pixels - 1].
template <int V>
class Tiles {
 public:
  static const TileFunction* get(int vectors) { return table()[size_t(vectors - 1)].data(); }

 private:
  using Table = std::array<std::array<TileFunction, 14>, kMaxVectors>;

  template <int KV, int P>
  static void fill(Table& table) {
    table[KV - 1][P - 1] = tile<V, KV, P>;
    if constexpr (P > 1) fill<KV, P - 1>(table);
  }

  static const Table& table() {
    static const Table made = [] {
      Table t{};
      fill<1, max_pixels(1)>(t);
      fill<2, max_pixels(2)>(t);
      fill<3, max_pixels(3)>(t);
      fill<4, max_pixels(4)>(t);
      return t;
    }();
    return made;
  }
};

}  // namespace

const TileFunction* find_tiles(int width, int vectors) {
  switch (width) {
#if defined(__AVX512F__)
    case 16:
      return Tiles<16>::get(vectors);
#endif
#if defined(__AVX2__)
    case 8:
      return Tiles<8>::get(vectors);
#endif
    default:
      return Tiles<4>::get(vectors);
  }
}

}  // namespace nncompile
