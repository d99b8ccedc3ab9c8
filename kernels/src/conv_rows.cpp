// Convolution of 3x3 or 5x5 and stride 1 by Winograd's algorithm along the rows: what `lane_rows.cpp` computes, for one
// sample with its channels in the lanes, and to the same bits.
#include <array>
#include <utility>

#include "layers.h"
#include "tile.h"
#include "transpose.h"
#include "winograd.h"

namespace nncompile {
namespace {

// Transformed inputs lie as [row][tile][channel][kLine], of which the last may be unused.
constexpr int kLine = 8;
// Points and tiles whose products are in registers at a time.
template <int R>
constexpr int kPointsAtOnce = kRegisters >= 32 ? Minimal<R>::kPoints : Minimal<R>::kPoints / 2;
template <int R>
constexpr int kMostTiles = (kRegisters - 4) / kPointsAtOnce<R>;

// Out of line: in every tile it would be most of the code.
template <int V>
[[gnu::noinline]] Vec<V> curve(const Activation& activation, Vec<V> value) {
  return activate<V>(activation, value);
}

struct RowJob {
  const float* const* x;   // of each kernel row, the first tile's transformed inputs
  int channels;            // of x
  const float* weights;    // [kernel row][channel][point][V]
  const float* bias;       // [V]
  float* y;
  ptrdiff_t pixel;         // of y, in floats: how many channels it has
  const float* residual;   // null, or laid out as y
  int columns;             // of y, from here to the end of the row
  Finish finish;
  float* spoilt;           // where outputs are not all finite: [T][V], not 0 in a tile's lane
};

// Outputs of T tiles of a row in V channels. Returns false where one of them is not finite.
template <int V, int R, int T>
bool tiles_of_row(const RowJob& job) {
  constexpr int n = Minimal<R>::kPoints, at_once = kPointsAtOnce<R>;
  Vec<V> products[T][n];
#pragma GCC unroll 2
  for (int first = 0; first < n; first += at_once) {
    Vec<V> sum[T][at_once] = {};
    const float* w = job.weights + first * V;
    // Kernel rows, then channels, as in `lane_rows.cpp`.
    for (int row = 0; row < R; ++row) {
      const float* x[T];
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) x[t] = job.x[row] + t * job.channels * kLine + first;
      for (int c = 0; c < job.channels; ++c, w += n * V) {
#pragma GCC unroll 8
        for (int p = 0; p < at_once; ++p) {
          Vec<V> weight = load<V>(w + p * V);
#if defined(__AVX512F__)
          asm("" : "+v"(weight));  // one load for all tiles
#endif
#pragma GCC unroll 4
          for (int t = 0; t < T; ++t) sum[t][p] += broadcast<V>(x[t][p]) * weight;
        }
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t) x[t] += kLine;
      }
    }
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t)
#pragma GCC unroll 8
      for (int p = 0; p < at_once; ++p) products[t][first + p] = sum[t][p];
  }
  const Vec<V> bias = load<V>(job.bias);
  Vec<V> spoilt[T], any{};
  float* y = job.y;
  const float* residual = job.residual;
  int left = job.columns;
#pragma GCC unroll 4
  for (int t = 0; t < T; ++t) {
    Vec<V> values[kTileOutputs], check{};
    Minimal<R>::output(products[t], values);
#pragma GCC unroll 4
    for (int j = 0; j < kTileOutputs; ++j, --left, y += job.pixel) {
      if (left <= 0) break;
      Vec<V> value = values[j] + bias;
      check += value * 0.0f;
      if (residual) {
        value += load<V>(residual);
        residual += job.pixel;
      }
      value = job.finish.curve ? curve<V>(*job.finish.curve, value) : bounded<V>(job.finish.bounds, value);
      // What a vector wider than the channels stores behind them the next pixel overwrites, where one follows.
      if (left * job.pixel < V)
        store_some<V>(y, value, int(job.pixel));
      else
        store<V>(y, value);
    }
    spoilt[t] = check;
    any += check;
  }
  if (all_zero<V>(any)) return true;
  for (int t = 0; t < T; ++t) store<V>(job.spoilt + t * V, spoilt[t]);
  return false;
}

template <int R>
using RowFunctions = std::array<bool (*)(const RowJob&), kMostTiles<R>>;

template <int V, int R, int... T>
constexpr RowFunctions<R> functions_of(std::integer_sequence<int, T...>) {
  return {tiles_of_row<V, R, T + 1>...};
}

// The functions for 1 to kMostTiles tiles in vectors of `width` lanes.
template <int R>
RowFunctions<R> functions_of([[maybe_unused]] int width) {
  const std::make_integer_sequence<int, kMostTiles<R>> counts;
#if defined(__AVX512F__)
  if (width == 16) return functions_of<16, R>(counts);
#endif
#if defined(__AVX2__)
  if (width == 8) return functions_of<8, R>(counts);
#endif
  return functions_of<4, R>(counts);
}

template <int R>
class Rows : public Step {
  static constexpr int N = Minimal<R>::kPoints;

 public:
  Rows(const Program& program, const Instruction& conv, int y, const Epilogue& epilogue)
      : x_(conv.inputs[0]),
        y_(y),
        window_(conv.window),
        epilogue_(epilogue),
        in_(program.shapes[size_t(x_)]),
        out_(program.shapes[size_t(y)]),
        width_(vector_width(out_.c)),
        functions_(functions_of<R>(width_)),
        weight_(program.weight_of(conv).data),
        bias_(program.bias_of(conv), size_t(out_.c)) {
    const std::vector<float> u = transform_weight_rows<R>(weight_, in_.c, out_.c);
    const size_t lines = size_t(R) * size_t(in_.c);
    packed_ = AlignedFloats(size_t(vectors()) * lines * size_t(N * width_));
    float* to = packed_.data();
    for (int v = 0; v < vectors(); ++v)
      for (size_t line = 0; line < lines; ++line)
        for (size_t point = 0; point < N; ++point)
          for (int k = start(v); k < start(v) + width_; ++k)
            *to++ = k < out_.c ? u[(point * lines + line) * size_t(out_.c) + size_t(k)] : 0.0f;
  }

  int units() const override { return out_.h; }
  double cost() const override { return 2.0 * double(out_.size()) * R * R * in_.c / 2; }
  size_t scratch() const override { return AlignedFloats::with_slack(R * row_floats()); }

  void run(const Frame& frame, int sample, int, int begin, int end) const override {
    const auto slot = [&](int row) { return frame.scratch + size_t(row % R) * row_floats(); };
    for (int row = begin; row < begin + R - 1; ++row) transform(frame, sample, row, slot(row));
    for (int row = begin; row < end; ++row) {
      transform(frame, sample, row + R - 1, slot(row + R - 1));
      const int most = kMostTiles<R>, groups = (tiles() + most - 1) / most;
      for (int g = 0; g < groups; ++g) {
        const int first = tiles() * g / groups, count = tiles() * (g + 1) / groups - first;
        const float* lines[R];
        for (int r = 0; r < R; ++r) lines[r] = slot(row + r) + first * in_.c * kLine;
        outputs(frame, {sample, row, first * kTileOutputs}, lines, count);
      }
    }
    if (end == units()) clear_border(frame.place(y_), frame.data(y_, sample), 0, out_.h);
  }

 private:
  struct Pixel {
    int sample, row, column;
  };

  int tiles() const { return (out_.w + kTileOutputs - 1) / kTileOutputs; }
  size_t row_floats() const { return size_t(tiles()) * size_t(in_.c) * kLine; }
  int vectors() const { return (out_.c + width_ - 1) / width_; }
  int start(int vector) const { return std::max(0, std::min(vector * width_, out_.c - width_)); }

  // A row of the padded input to [tile][channel][kLine].
  void transform(const Frame& frame, int sample, int row, float* to) const {
    const Place& from = frame.place(x_);
    const float* line = frame.data(x_, sample) + from.at(row - window_.top, -window_.left);
    if (in_.c == 1 && tiles() >= 4) {
      for (int t = 0; t < tiles(); t += 4) transform_tiles(line, std::min(t, tiles() - 4), to);
      return;
    }
    for (int t = 0; t < tiles(); ++t, line += kTileOutputs * in_.c, to += in_.c * kLine)
      if (in_.c < 4)
        for (int c = 0; c < in_.c; ++c) transform_channels<1>(line, c, to);
      else
        for (int c = 0; c < in_.c; c += 4) transform_channels<4>(line, std::min(c, in_.c - 4), to);
  }

  // Channels `c` ... `c` + V - 1 of a tile.
  template <int V>
  void transform_channels(const float* line, int c, float* to) const {
    Vec<V> d[kLine];
    for (int i = 0; i < N; ++i) d[i] = load<V>(line + i * in_.c + c);
    transform_lanes<V>(d, to + c * kLine);
  }

  // Tiles `t` ... `t` + 3 of the only channel.
  static void transform_tiles(const float* line, int t, float* to) {
    Vec<4> d[kLine];
    for (int half = 0; half < 2; ++half) {
      Vec<4> square[4];
      for (int i = 0; i < 4; ++i) square[i] = load<4>(line + (t + half + i) * kTileOutputs);
      transpose<4>(square);
      for (int i = 0; i < 4; ++i) d[half * 4 + i] = square[i];
    }
    transform_lanes<4>(d, to + t * kLine);
  }

  template <int V>
  static void transform_lanes(const Vec<V> (&inputs)[kLine], float* to) {
    Vec<V> d[N], points[N], all[kLine] = {};
    for (int i = 0; i < N; ++i) d[i] = inputs[i];
    Minimal<R>::input(d, points);
    for (int i = 0; i < N; ++i) all[i] = points[i];
    for (int first = 0; first < kLine; first += V) {
      Vec<V> square[V];
      for (int i = 0; i < V; ++i) square[i] = all[first + i];
      transpose<V>(square);
      for (int i = 0; i < V; ++i) store<V>(to + i * kLine + first, square[i]);
    }
  }

  // `count` tiles from a pixel on, in all channels.
  void outputs(const Frame& frame, const Pixel& at, const float* const* lines, int count) const {
    const Residual residual(frame, epilogue_, at.sample);
    float spoilt[kMostTiles<R> * kLanes];
    RowJob job{};
    job.spoilt = spoilt;
    job.x = lines;
    job.channels = in_.c;
    job.pixel = out_.c;
    job.columns = out_.w - at.column;
    job.finish = Finish(epilogue_.activation);
    for (int v = 0; v < vectors(); ++v) {
      job.weights = packed_.data() + size_t(v) * size_t(R * in_.c) * size_t(N * width_);
      job.bias = bias_.data() + start(v);
      job.y = frame.data(y_, at.sample) + frame.place(y_).at(at.row, at.column) + start(v);
      if (const float* rest = residual.at(at.row, at.column)) job.residual = rest + start(v);
      if (functions_[size_t(count - 1)](job)) continue;
      for (int t = 0; t < count; ++t)
        for (int lane = 0; lane < std::min(width_, out_.c); ++lane)
          if (!(spoilt[t * width_ + lane] == 0.0f))
            mend(frame, {at.sample, at.row, at.column + t * kTileOutputs}, start(v) + lane);
    }
  }

  // Infinity and NaN spread over a whole tile, and large numbers may overflow in it: such a channel of it is computed
  // as convolution is defined.
  void mend(const Frame& frame, const Pixel& at, int k) const {
    const Place &from = frame.place(x_), &to = frame.place(y_);
    const float* x = frame.data(x_, at.sample);
    const Residual residual(frame, epilogue_, at.sample);
    for (int column = at.column; column < std::min(at.column + kTileOutputs, out_.w); ++column) {
      Vec<4> sum = broadcast<4>(bias_.data()[k]);
      for (int r = 0; r < R; ++r)
        for (int s = 0; s < R; ++s) {
          const float* pixel = x + from.at(at.row + r - window_.top, column + s - window_.left);
          const float* w = weight_ + (size_t(k) * size_t(in_.c) * R + size_t(r)) * R + size_t(s);
          for (int c = 0; c < in_.c; ++c)
            sum = fused<4>(broadcast<4>(pixel[c]), broadcast<4>(w[size_t(c) * R * R]), sum);
        }
      if (const float* rest = residual.at(at.row, column)) sum += rest[k];
      frame.data(y_, at.sample)[to.at(at.row, column) + size_t(k)] = activate<4>(epilogue_.activation, sum)[0];
    }
  }

  int x_, y_;
  Window window_;
  Epilogue epilogue_;
  Shape in_, out_;
  int width_;
  RowFunctions<R> functions_;
  const float* weight_;
  AlignedFloats bias_, packed_;
};

}  // namespace

StepPtr make_rows(const Program& program, const Instruction& conv, int y, const Epilogue& epilogue) {
  if (conv.window.kh == 3) return std::make_unique<Rows<3>>(program, conv, y, epilogue);
  return std::make_unique<Rows<5>>(program, conv, y, epilogue);
}

}  // namespace nncompile
