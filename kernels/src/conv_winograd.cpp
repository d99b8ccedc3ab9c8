// Convolution of 3x3 or 5x5 and stride 1 by Winograd's algorithm: 4x4 outputs a tile, 2.25 times 36 or 64
// multiplications for 144 or 400.
#include <utility>
#include <vector>

#include "layers.h"
#include "lines.h"
#include "tile.h"
#include "winograd.h"

namespace nncompile {
namespace {

// A band of tiles is transformed, multiplied and transformed back while it is in the second-level cache; where the
// weights are what is large, more tiles share each reading of them.
constexpr size_t kBandFloats = 96 * 1024, kStreamedBandFloats = 1280 * 1024;

template <int R>
class Winograd : public Step {
  static constexpr int N = Minimal<R>::kPoints;
  static constexpr int kPositions = N * N;

 public:
  // `streamed`: the weights come from memory, so threads share a sample by channels and samples are taken together.
  Winograd(const Program& program, const Instruction& conv, int y, const Epilogue& epilogue, bool streamed)
      : x_(conv.inputs[0]),
        y_(y),
        window_(conv.window),
        epilogue_(epilogue),
        in_(program.shapes[size_t(x_)]),
        out_(program.shapes[size_t(y)]),
        streamed_(streamed),
        weight_(program.weight_of(conv).data),
        bias_(program.bias_of(conv), size_t(out_.c)) {
    const size_t tile = size_t(kPositions) * size_t(in_.c + out_.c);
    band_ = int(std::max<size_t>((streamed ? kStreamedBandFloats : kBandFloats) / tile, 8));
    band_ = std::min(band_, tiles() * (streamed ? kMaxChunk : 1));
    const std::vector<float> u = transform_weights<R>(weight_, in_.c, out_.c);
    const size_t inputs = size_t(in_.c), outputs = size_t(out_.c);
    for (size_t position = 0; position < kPositions; ++position) {
      const float* its = u.data() + position * inputs * outputs;
      panels_.emplace_back(out_.c, band_, inputs, nullptr,
                           [its, outputs](int k, size_t i) { return its[i * outputs + size_t(k)]; });
    }
  }

  int units() const override { return streamed_ ? int(panels_[0].blocks().size()) : tiles(); }
  RowWise row_wise() const override {
    if (streamed_) return {};
    return {out_.h, kTileOutputs, columns(), x_, window_, size_t(kPositions) * size_t(in_.c) * size_t(out_.c)};
  }
  double cost() const override { return 2.0 * double(out_.size()) * R * R * in_.c / 4; }
  size_t scratch() const override { return transformed() + products(); }

  void run(const Frame& frame, int sample, int samples, int begin, int end) const override {
    float* transformed_input = frame.scratch;
    float* product = frame.scratch + transformed();
    Band band{};
    band.block_end = streamed_ ? end : int(panels_[0].blocks().size());
    if (streamed_) band.block = begin;
    const int last = sample * tiles() + (streamed_ ? samples * tiles() : end);
    for (band.first = sample * tiles() + (streamed_ ? 0 : begin); band.first < last; band.first += band.tiles) {
      band.tiles = std::min(band_, last - band.first);
      transform_input(frame, band, transformed_input);
      multiply(band, transformed_input, product);
      transform_output(frame, band, product);
    }
    if (!streamed_ && first_row(begin) < first_row(end))
      clear_border(frame.place(y_), frame.data(y_, sample), first_row(begin), first_row(end));
    if (streamed_ && end == units())
      for (int s = sample; s < sample + samples; ++s) clear_border(frame.place(y_), frame.data(y_, s), 0, out_.h);
  }

 private:
  // Tiles `first` ... of a chunk, counted through its samples, and the blocks of output channels to compute.
  struct Band {
    int first, tiles, block, block_end;
  };
  struct Tile {
    int sample, row, column;  // of its first output
  };

  int columns() const { return (out_.w + kTileOutputs - 1) / kTileOutputs; }
  int tiles() const { return (out_.h + kTileOutputs - 1) / kTileOutputs * columns(); }
  // Of the first row of tiles that begins at tile `index` or behind it.
  int first_row(int index) const { return std::min((index + columns() - 1) / columns() * kTileOutputs, out_.h); }
  Tile tile(int index) const {
    const int inside = index % tiles();
    return {index / tiles(), inside / columns() * kTileOutputs, inside % columns() * kTileOutputs};
  }
  // Floats from one position to the next: an odd number of lines of a cache, so that a tile's positions do not all fall
  // into a few of its sets.
  static size_t plane(int tiles, int channels) {
    const size_t line = 64 / sizeof(float);
    return ((size_t(tiles) * size_t(channels) + line - 1) / line | 1) * line;
  }
  size_t transformed() const { return AlignedFloats::with_slack(size_t(kPositions) * plane(band_, in_.c)); }
  size_t products() const { return AlignedFloats::with_slack(size_t(kPositions) * plane(band_, out_.c)); }

  void transform_input(const Frame& frame, const Band& band, float* result) const {
    const Place& from = frame.place(x_);
    const size_t c = size_t(in_.c), step = plane(band.tiles, in_.c);
    for (int t = 0; t < band.tiles; ++t) {
      const Tile at = tile(band.first + t);
      const float* corner = frame.data(x_, at.sample) + from.at(at.row - window_.top, at.column - window_.left);
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
          for (int j = 0; j < N; ++j) write<V>(to + size_t(i * N + j) * step + channel, t2[j], count);
        }
      });
    }
  }

  void multiply(const Band& band, const float* input, float* product) const {
    TileJob job{};
    job.pixel = in_.c;
    job.rows = 1;
    job.run = in_.c;
    job.y_pixel = out_.c;
    for (int position = 0; position < kPositions; ++position) {
      const Panels& panels = panels_[size_t(position)];
      const float* x = input + size_t(position) * plane(band.tiles, in_.c);
      float* y = product + size_t(position) * plane(band.tiles, out_.c);
      for (int b = band.block; b < band.block_end; ++b)
        panels.row(panels.blocks()[size_t(b)], job, x, y, nullptr, band.tiles);
    }
  }

  // The output channels of blocks `begin` ... `end` - 1.
  std::pair<int, int> channels(int begin, int end) const {
    const std::vector<Block>& blocks = panels_[0].blocks();
    const auto start = [&](int b) { return b < int(blocks.size()) ? blocks[size_t(b)].start[0] : out_.c; };
    return {start(begin), start(end)};
  }

  void transform_output(const Frame& frame, const Band& band, const float* product) const {
    const Place& to = frame.place(y_);
    const size_t step = plane(band.tiles, out_.c);
    const auto [begin, end] = channels(band.block, band.block_end);
    const Finish finish(epilogue_.activation);
    for (int t = 0; t < band.tiles; ++t) {
      const Tile at = tile(band.first + t);
      const int height = std::min(kTileOutputs, out_.h - at.row), width = std::min(kTileOutputs, out_.w - at.column);
      const Residual residual(frame, epilogue_, at.sample);
      float* y = frame.data(y_, at.sample) + begin;
      const float* m = product + size_t(t) * size_t(out_.c) + begin;
      const float* biases = bias_.data() + begin;
      bool finite = true;
      over_channels(end - begin, [&](int channel, auto lanes, int count) {
        constexpr int V = decltype(lanes)::lanes;
        Vec<V> half[kTileOutputs][N];
        for (int j = 0; j < N; ++j) {
          Vec<V> column_of[N], t1[kTileOutputs];
#pragma GCC unroll 8
          for (int i = 0; i < N; ++i) column_of[i] = read<V>(m + size_t(i * N + j) * step + channel, count);
          Minimal<R>::output(column_of, t1);
#pragma GCC unroll 4
          for (int i = 0; i < kTileOutputs; ++i) half[i][j] = t1[i];
        }
        const Vec<V> bias = load<V>(biases + channel);
        Vec<V> check{};
        for (int i = 0; i < height; ++i) {
          Vec<V> values[kTileOutputs];
          Minimal<R>::output(half[i], values);
          float* line = y + to.at(at.row + i, at.column) + channel;
          const float* rest = residual.at(at.row + i, at.column);
#pragma GCC unroll 4
          for (int j = 0; j < kTileOutputs; ++j) {
            if (j >= width) break;
            Vec<V> value = values[j] + bias;
            check += value * 0.0f;
            if (rest) value += read<V>(rest + begin + channel + j * out_.c, count);
            value = finish.curve ? activate<V>(*finish.curve, value) : bounded<V>(finish.bounds, value);
            write<V>(line + j * out_.c, value, count);
          }
        }
        finite = finite && all_zero<V>(check);
      });
      if (!finite) direct(frame, at, begin, end);
    }
  }

  // Infinity and NaN spread over a whole tile, and large numbers may overflow in it: such a tile is computed as
  // convolution is defined.
  void direct(const Frame& frame, const Tile& tile, int begin, int end) const {
    const Place& from = frame.place(x_);
    const Place& to = frame.place(y_);
    const float* x = frame.data(x_, tile.sample);
    float* y = frame.data(y_, tile.sample);
    const Residual residual(frame, epilogue_, tile.sample);
    for (int i = tile.row; i < std::min(tile.row + kTileOutputs, out_.h); ++i)
      for (int j = tile.column; j < std::min(tile.column + kTileOutputs, out_.w); ++j)
        for (int k = begin; k < end; ++k) {
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
  bool streamed_;
  const float* weight_;
  AlignedFloats bias_;
  std::vector<Panels> panels_;
  int band_ = 1;
};

}  // namespace

StepPtr make_winograd(const Program& program, const Instruction& conv, int y, const Epilogue& epilogue,
                      bool streamed) {
  if (conv.window.kh == 3) return std::make_unique<Winograd<3>>(program, conv, y, epilogue, streamed);
  return std::make_unique<Winograd<5>>(program, conv, y, epilogue, streamed);
}

}  // namespace nncompile
