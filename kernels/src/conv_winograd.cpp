// Convolution of 3x3 or 5x5 and stride 1 by Winograd's algorithm: 4x4 outputs a tile, 2.25 times 36 or 64
// multiplications for 144 or 400.
#include <vector>

#include "layers.h"
#include "lines.h"
#include "tile.h"
#include "winograd.h"

namespace nncompile {
namespace {

// A band of tiles is transformed, multiplied and transformed back while it is in the second-level cache.
constexpr size_t kBandFloats = 96 * 1024;

template <int R>
class Winograd : public Step {
  static constexpr int N = Minimal<R>::kPoints;
  static constexpr int kPositions = N * N;

 public:
  Winograd(const Program& program, const Instruction& conv, int y, const Epilogue& epilogue)
      : x_(conv.inputs[0]),
        y_(y),
        window_(conv.window),
        epilogue_(epilogue),
        in_(program.shapes[size_t(x_)]),
        out_(program.shapes[size_t(y)]),
        weight_(program.weight_of(conv).data),
        bias_(program.bias_of(conv), size_t(out_.c)) {
    const std::vector<float> u = transform_weights<R>(weight_, in_.c, out_.c);
    const size_t pairs = size_t(in_.c) * size_t(out_.c), c = size_t(in_.c);
    for (size_t position = 0; position < kPositions; ++position) {
      const float* its = u.data() + position * pairs;
      panels_.emplace_back(out_.c, c, nullptr, [its, c](int k, size_t i) { return its[size_t(k) * c + i]; });
    }
    const size_t tile = size_t(kPositions) * size_t(in_.c + out_.c);
    band_ = int(std::max<size_t>(kBandFloats / tile, 8));
    band_ = std::min(band_, rows() * columns());
  }

  int units() const override { return rows(); }
  double flops() const override { return 2.0 * double(out_.size()) * R * R * in_.c / 4; }
  size_t scratch() const override { return transformed() + products(); }

  void run(const Frame& frame, int sample, int, int begin, int end) const override {
    float* transformed_input = frame.scratch;
    float* product = frame.scratch + transformed();
    const int last = end * columns();
    for (int first = begin * columns(); first < last; first += band_) {
      const int tiles = std::min(band_, last - first);
      transform_input(frame, sample, first, tiles, transformed_input);
      multiply(transformed_input, product, tiles);
      transform_output(frame, sample, first, tiles, product);
    }
    const int row = begin * kTileOutputs, stop = std::min(end * kTileOutputs, out_.h);
    clear_border(frame.place(y_), frame.data(y_, sample), row, stop);
  }

 private:
  int rows() const { return (out_.h + kTileOutputs - 1) / kTileOutputs; }
  int columns() const { return (out_.w + kTileOutputs - 1) / kTileOutputs; }
  size_t transformed() const { return AlignedFloats::with_slack(size_t(kPositions) * size_t(band_) * size_t(in_.c)); }
  size_t products() const { return AlignedFloats::with_slack(size_t(kPositions) * size_t(band_) * size_t(out_.c)); }

  void transform_input(const Frame& frame, int sample, int first, int tiles, float* result) const {
    const Place& from = frame.place(x_);
    const float* x = frame.data(x_, sample);
    const size_t c = size_t(in_.c), plane = size_t(tiles) * c;
    for (int t = 0; t < tiles; ++t) {
      const int row = (first + t) / columns(), column = (first + t) % columns();
      const float* corner = x + from.at(row * kTileOutputs - window_.top, column * kTileOutputs - window_.left);
      float* to = result + size_t(t) * c;
      over_channels(in_.c, [&](int channel, auto width, int count) {
        constexpr int V = decltype(width)::lanes;
        Vec<V> half[N][N];
        for (int j = 0; j < N; ++j) {
          Vec<V> d[N], t1[N];
#pragma GCC unroll 8
          for (int i = 0; i < N; ++i) d[i] = read<V>(corner + size_t(i) * from.pitch() + size_t(j) * c + channel, count);
          Minimal<R>::input(d, t1);
#pragma GCC unroll 8
          for (int i = 0; i < N; ++i) half[i][j] = t1[i];
        }
        for (int i = 0; i < N; ++i) {
          Vec<V> t2[N];
          Minimal<R>::input(half[i], t2);
#pragma GCC unroll 8
          for (int j = 0; j < N; ++j) write<V>(to + size_t(i * N + j) * plane + channel, t2[j], count);
        }
      });
    }
  }

  void multiply(const float* input, float* product, int tiles) const {
    TileJob job{};
    set_activation(job, {});
    job.pixel = in_.c;
    job.rows = 1;
    job.run = in_.c;
    job.y_pixel = out_.c;
    for (int position = 0; position < kPositions; ++position) {
      const Panels& panels = panels_[size_t(position)];
      for (const Block& block : panels.blocks()) {
        job.x = input + size_t(position) * size_t(tiles) * size_t(in_.c);
        job.y = product + size_t(position) * size_t(tiles) * size_t(out_.c);
        panels.row(block, job, tiles);
      }
    }
  }

  void transform_output(const Frame& frame, int sample, int first, int tiles, const float* product) const {
    const Place& to = frame.place(y_);
    float* y = frame.data(y_, sample);
    const Residual residual(frame, epilogue_, sample);
    const size_t k = size_t(out_.c), plane = size_t(tiles) * k;
    for (int t = 0; t < tiles; ++t) {
      const int row = (first + t) / columns() * kTileOutputs, column = (first + t) % columns() * kTileOutputs;
      const int height = std::min(kTileOutputs, out_.h - row), width = std::min(kTileOutputs, out_.w - column);
      const float* m = product + size_t(t) * k;
      bool finite = true;
      over_channels(out_.c, [&](int channel, auto lanes, int count) {
        constexpr int V = decltype(lanes)::lanes;
        Vec<V> half[kTileOutputs][N];
        for (int j = 0; j < N; ++j) {
          Vec<V> column_of[N], t1[kTileOutputs];
#pragma GCC unroll 8
          for (int i = 0; i < N; ++i) column_of[i] = read<V>(m + size_t(i * N + j) * plane + channel, count);
          Minimal<R>::output(column_of, t1);
#pragma GCC unroll 4
          for (int i = 0; i < kTileOutputs; ++i) half[i][j] = t1[i];
        }
        const Vec<V> bias = load<V>(bias_.data() + channel);
        Vec<V> check{};
        for (int i = 0; i < height; ++i) {
          Vec<V> values[kTileOutputs];
          Minimal<R>::output(half[i], values);
#pragma GCC unroll 4
          for (int j = 0; j < kTileOutputs; ++j) {
            if (j >= width) break;
            Vec<V> value = values[j] + bias;
            check += value * 0.0f;
            if (const float* rest = residual.at(row + i, column + j)) value += read<V>(rest + channel, count);
            write<V>(y + to.at(row + i, column + j) + channel, activate<V>(epilogue_.activation, value), count);
          }
        }
        finite = finite && all_zero<V>(check, count);
      });
      if (!finite) direct(frame, sample, row, column, height, width);
    }
  }

  template <int V>
  static bool all_zero(Vec<V> check, int count) {
    for (int i = 0; i < (count ? count : V); ++i)
      if (!(check[i] == 0.0f)) return false;
    return true;
  }

  // Infinity and NaN spread over a whole tile, and large numbers may overflow in it: such a tile is computed as
  // convolution is defined.
  void direct(const Frame& frame, int sample, int row, int column, int height, int width) const {
    const Place& from = frame.place(x_);
    const Place& to = frame.place(y_);
    const float* x = frame.data(x_, sample);
    float* y = frame.data(y_, sample);
    const Residual residual(frame, epilogue_, sample);
    for (int i = row; i < row + height; ++i)
      for (int j = column; j < column + width; ++j)
        for (int k = 0; k < out_.c; ++k) {
          float sum = bias_.data()[k];
          for (int r = 0; r < R; ++r)
            for (int s = 0; s < R; ++s) {
              const float* pixel = x + from.at(i + r - window_.top, j + s - window_.left);
              const float* w = weight_ + (size_t(k) * size_t(in_.c) * R + size_t(r)) * R + size_t(s);
              for (int c = 0; c < in_.c; ++c) sum += pixel[c] * w[size_t(c) * R * R];
            }
          if (const float* rest = residual.at(i, j)) sum += rest[k];
          y[to.at(i, j) + size_t(k)] = activate<4>(epilogue_.activation, broadcast<4>(sum))[0];
        }
  }

  int x_, y_;
  Window window_;
  Epilogue epilogue_;
  Shape in_, out_;
  const float* weight_;
  AlignedFloats bias_;
  std::vector<Panels> panels_;
  int band_ = 1;
};

}  // namespace

StepPtr make_winograd(const Program& program, const Instruction& conv, int y, const Epilogue& epilogue) {
  if (conv.window.kh == 3) return std::make_unique<Winograd<3>>(program, conv, y, epilogue);
  return std::make_unique<Winograd<5>>(program, conv, y, epilogue);
}

}  // namespace nncompile
