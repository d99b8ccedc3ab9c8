// Convolution of 3x3 or 5x5 and stride 1 with a sample in each lane, by Winograd's algorithm along the rows.
//
// For 4 outputs of a row it takes 6 or 8 multiplications a kernel row instead of 12 or 20. In two dimensions it would
// take fewer, but for the few channels of the networks that fit, transforms and what is stored between them cost more
// than that saves. Here products stay in registers until they are outputs.
#include <optional>

#include "lane_pool.h"
#include "lane_product.h"
#include "winograd.h"

namespace nncompile {
namespace {

// Output channels, points and tiles whose products are in registers at a time. Vectors of 8 take as long to load as to
// multiply, so that each weight serves more tiles.
constexpr int kTileChannels = 4;
template <int V>
constexpr int kMostTiles = V == 8 ? 3 : 1;
template <int V, int R>
constexpr int kTilePoints = V == 8 ? 1 : Minimal<R>::kPoints / 2;

struct RowJob {
  const float* const* x;  // of each kernel row, its transformed inputs: [tile][channel][point]
  int channels;
  const float* weights;   // [points / kTilePoints][kernel row][channel][kTilePoints][KR]
  const float* bias;      // [KR], or null
  float* y;               // pixels side by side, channels `y_plane` apart
  ptrdiff_t y_plane;
  int columns;            // of y, over all tiles
  const float* residual;  // null, or as y with planes of its own
  ptrdiff_t residual_plane;
  Finish finish;
  float* spoilt;          // where a sample's outputs are not all finite: [T][KR], not 0 in its lane
};

// The outputs of tile `t`. Returns false where one of them is not finite, and then writes which samples' are.
template <int V, int R, int KR>
inline bool outputs_of_tile(const RowJob& job, int t, const Vec<V> (&products)[KR][Minimal<R>::kPoints]) {
  const int columns = std::min(kTileOutputs, job.columns - t * kTileOutputs);
  float* y = job.y + t * kTileOutputs * V;
  const float* residual = job.residual ? job.residual + t * kTileOutputs * V : nullptr;
  Vec<V> spoilt[KR], any{};
#pragma GCC unroll 4
  for (int k = 0; k < KR; ++k) {
    Vec<V> values[kTileOutputs], check{};
    Minimal<R>::output(products[k], values);
    const Vec<V> bias = broadcast<V>(job.bias ? job.bias[k] : 0.0f);
#pragma GCC unroll 4
    for (int j = 0; j < kTileOutputs; ++j) {
      if (j >= columns) break;
      Vec<V> value = values[j] + bias;
      check += value * 0.0f;
      if (residual) value += load<V>(residual + k * job.residual_plane + j * V);
      store<V>(y + k * job.y_plane + j * V, bounded<V>(job.finish.bounds, value));
    }
    spoilt[k] = check;
    any += check;
  }
  if (job.finish.curve)
    for (int k = 0; k < KR; ++k) activate_all<V>(*job.finish.curve, y + k * job.y_plane, columns);
  if (all_zero<V>(any)) return true;
  for (int k = 0; k < KR; ++k) store<V>(job.spoilt + (t * KR + k) * V, spoilt[k]);
  return false;
}

// Four outputs of a row in each of T tiles for KR channels. Returns a bit for each tile where one is not finite.
template <int V, int R, int T, int KR>
unsigned tiles_of_row(const RowJob& job) {
  constexpr int n = Minimal<R>::kPoints, at_once = kTilePoints<V, R>;
  const ptrdiff_t next = ptrdiff_t(job.channels) * n * V;
  Vec<V> products[T][KR][n];
  const float* w = job.weights;
#pragma GCC unroll 8
  for (int first = 0; first < n; first += at_once) {
    Vec<V> sum[T][KR][at_once] = {};
    // Kernel rows, then channels, as in `conv_rows.cpp`: a sample's sums are the same bits either way.
    for (int row = 0; row < R; ++row) {
      const float* x = job.x[row] + first * V;
      for (int c = 0; c < job.channels; ++c, x += n * V, w += at_once * KR)
#pragma GCC unroll 4
        for (int p = 0; p < at_once; ++p) {
          Vec<V> value[T];
#pragma GCC unroll 4
          for (int t = 0; t < T; ++t) {
            value[t] = load<V>(x + t * next + p * V);
#if defined(__AVX512F__)
            asm("" : "+v"(value[t]));  // one load for all channels
#elif defined(__AVX2__)
            asm("" : "+x"(value[t]));
#endif
          }
#pragma GCC unroll 4
          for (int k = 0; k < KR; ++k) {
            const Vec<V> weight = broadcast<V>(w[p * KR + k]);
#pragma GCC unroll 4
            for (int t = 0; t < T; ++t) sum[t][k][p] += value[t] * weight;
          }
        }
    }
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t)
#pragma GCC unroll 4
      for (int k = 0; k < KR; ++k)
#pragma GCC unroll 4
        for (int p = 0; p < at_once; ++p) products[t][k][first + p] = sum[t][k][p];
  }
  unsigned spoilt = 0;
#pragma GCC unroll 4
  for (int t = 0; t < T; ++t) spoilt |= outputs_of_tile<V, R, KR>(job, t, products[t]) ? 0 : 1u << t;
  return spoilt;
}

template <int V, int R>
class LaneRows : public LaneStep<V> {
  static constexpr int N = Minimal<R>::kPoints;

 public:
  LaneRows(const Program& program, const Work& work, const Work* pool)
      : x_(work.instruction->inputs[0]),
        y_(pool ? pool->y : work.y),
        window_(work.instruction->window),
        epilogue_(work.epilogue),
        channels_(program.shapes[size_t(x_)].c),
        out_(program.shapes[size_t(work.y)]),
        weight_(program.weight_of(*work.instruction).data),
        bias_(program.bias_of(*work.instruction)) {
    constexpr int at_once = kTilePoints<V, R>;
    const std::vector<float> u = transform_weight_rows<R>(weight_, channels_, out_.c);
    packed_.reserve(u.size());
    const int groups = group_count(out_.c, kTileChannels);
    for (int g = 0; g < groups; ++g) {
      const int start = group_start(out_.c, groups, g), end = group_start(out_.c, groups, g + 1);
      groups_.push_back({start, end - start});
      for (int first = 0; first < N; first += at_once)
        for (int line = 0; line < R * channels_; ++line)
          for (int p = first; p < first + at_once; ++p)
            for (int k = start; k < end; ++k)
              packed_.push_back(u[(size_t(p) * R * size_t(channels_) + size_t(line)) * size_t(out_.c) + size_t(k)]);
    }
    // Whole tiles: whether an output that is not needed is finite counts for the others of its tile.
    if (!pool) return;
    const int needed = pool_.emplace(program, *pool).columns();
    out_.w = std::min(out_.w, group_count(needed, kTileOutputs) * kTileOutputs);
  }

  int units() const override { return pool_ ? pool_->shape().h : out_.h; }
  size_t scratch() const override {
    return R * row_floats() + (pool_ ? LaneStrip<V>::floats(out_.c, pool_->rows(), out_.w) : 0);
  }

  void run(const LaneArena<V>& arena, int begin, int end) const override {
    const LaneView<V> x = arena.view(x_), y = arena.view(y_);
    const auto slot = [&](int row) { return arena.scratch + size_t(row % R) * row_floats(); };
    float spoilt[kMostTiles<V> * kTileChannels * V];
    RowJob job{};
    job.channels = channels_;
    job.spoilt = spoilt;
    job.finish = Finish(epilogue_.activation);
    int ready = 0;  // so many rows were transformed, or are not needed
    for (int unit = begin; unit < end; ++unit) {
      const int first = pool_ ? pool_->first_row(unit) : unit, last = pool_ ? pool_->end_row(unit) : unit + 1;
      const LaneStrip<V> strip(arena.scratch + R * row_floats(), out_.c, first, last - first, out_.w);
      const LaneView<V>& to = pool_ ? strip.view : y;
      job.y_plane = to.plane();
      for (int row = first; row < last; ++row) {
        for (ready = std::max(ready, row); ready < row + R; ++ready) transform(x, ready, slot(ready));
        const int parts = group_count(tiles(), kMostTiles<V>);
        for (int part = 0; part < parts; ++part) {
          const int t = group_start(tiles(), parts, part), count = group_start(tiles(), parts, part + 1) - t;
          const float* lines[R];
          for (int r = 0; r < R; ++r) lines[r] = slot(row + r) + t * channels_ * N * V;
          job.x = lines;
          for (const Group& group : groups_) outputs(arena, to, job, group, row, t * kTileOutputs, count);
        }
      }
      for (int k = 0; pool_ && k < out_.c; ++k)
        pool_->run(strip.view.at(k, first, 0), strip.view.pitch(), unit, y.at(k, unit, 0));
    }
    if (end == units()) clear_lane_border(y);
  }

 private:
  struct Group {
    int first, count;  // of output channels
  };

  int tiles() const { return group_count(out_.w, kTileOutputs); }
  size_t row_floats() const { return size_t(tiles()) * size_t(channels_) * N * V; }
  // A row of the padded input to [tile][channel][point].
  void transform(const LaneView<V>& x, int row, float* to) const {
    for (int t = 0; t < tiles(); ++t)
      for (int c = 0; c < channels_; ++c, to += N * V) {
        const float* from = x.at(c, row - window_.top, t * kTileOutputs - window_.left);
        Vec<V> d[N], points[N];
#pragma GCC unroll 8
        for (int i = 0; i < N; ++i) d[i] = load<V>(from + i * V);
        Minimal<R>::input(d, points);
#pragma GCC unroll 8
        for (int i = 0; i < N; ++i) store<V>(to + i * V, points[i]);
      }
  }

  // Of `tiles` tiles from a pixel on, in a group of channels.
  void outputs(const LaneArena<V>& arena, const LaneView<V>& y, RowJob& job, const Group& group, int row, int column,
               int tiles) const {
    const int first = group.first, count = group.count;
    job.weights = packed_.data() + size_t(first) * size_t(R * N) * size_t(channels_);
    job.bias = bias_ ? bias_ + first : nullptr;
    job.y = y.at(first, row, column);
    job.columns = std::min(tiles * kTileOutputs, out_.w - column);
    if (epilogue_.residual >= 0) {
      const LaneView<V> residual = arena.view(epilogue_.residual);
      job.residual = residual.at(first, row, column);
      job.residual_plane = residual.plane();
    }
    const unsigned tiles_spoilt = function(tiles, count)(job);
    if (!tiles_spoilt) return;
    for (int j = 0; j < job.columns; ++j)
      for (int t = j / kTileOutputs, k = 0; tiles_spoilt >> t & 1 && k < count; ++k)
        mend(arena, first + k, row, column + j, load<V>(job.spoilt + (t * count + k) * V),
             job.residual ? job.residual + k * job.residual_plane + j * V : nullptr, y.at(first + k, row, column + j));
  }

  using Function = unsigned (*)(const RowJob&);
  template <int T>
  static Function function_of(int channels) {
    static constexpr Function functions[] = {tiles_of_row<V, R, T, 1>, tiles_of_row<V, R, T, 2>,
                                             tiles_of_row<V, R, T, 3>, tiles_of_row<V, R, T, 4>};
    return functions[channels - 1];
  }
  static Function function(int tiles, int channels) {
    if constexpr (kMostTiles<V> == 3) {
      if (tiles == 3) return function_of<3>(channels);
      if (tiles == 2) return function_of<2>(channels);
    }
    return function_of<1>(channels);
  }

  // Infinity and NaN spread over a whole tile, and large numbers may overflow in it: such samples are computed as
  // convolution is defined.
  void mend(const LaneArena<V>& arena, int k, int row, int column, Vec<V> spoilt, const float* residual,
            float* y) const {
    const LaneView<V> x = arena.view(x_);
    Vec<V> sum = broadcast<V>(bias_ ? bias_[k] : 0.0f);
    for (int r = 0; r < R; ++r)
      for (int s = 0; s < R; ++s)
        for (int c = 0; c < channels_; ++c) {
          const float w = weight_[((size_t(k) * size_t(channels_) + size_t(c)) * R + size_t(r)) * R + size_t(s)];
          const float* pixel = x.at(c, row + r - window_.top, column + s - window_.left);
          sum = fused<V>(load<V>(pixel), broadcast<V>(w), sum);
        }
    if (residual) sum += load<V>(residual);
    store<V>(y, (spoilt != 0.0f) ? activate<V>(epilogue_.activation, sum) : load<V>(y));
  }

  int x_, y_;
  Window window_;
  Epilogue epilogue_;
  int channels_;
  Shape out_;  // as wide as is needed
  std::optional<LanePool<V>> pool_;
  const float* weight_;
  const float* bias_;
  std::vector<Group> groups_;
  std::vector<float> packed_;
};

}  // namespace

template <int V>
LaneStepPtr<V> make_lane_rows(const Program& program, const Work& work, const Work* pool) {
  if (work.instruction->window.kh == 3) return std::make_unique<LaneRows<V, 3>>(program, work, pool);
  return std::make_unique<LaneRows<V, 5>>(program, work, pool);
}
#if defined(__AVX512F__)
template LaneStepPtr<16> make_lane_rows<16>(const Program&, const Work&, const Work*);
#endif
#if defined(__AVX2__)
template LaneStepPtr<8> make_lane_rows<8>(const Program&, const Work&, const Work*);
#endif

}  // namespace nncompile
