// Depthwise convolution: each channel with its own kernel, channels in the lanes.
#include "activation.h"
#include "aligned.h"
#include "conv_weights.h"
#include "layers.h"
#include "lines.h"

namespace nncompile {
namespace {

class Depthwise : public Step {
 public:
  Depthwise(const Program& program, const Instruction& conv, int y, const Epilogue& epilogue)
      : x_(conv.inputs[0]),
        y_(y),
        window_(conv.window),
        epilogue_(epilogue),
        shape_(program.shapes[size_t(y)]),
        weights_(size_t(window_.kh) * size_t(window_.kw) * size_t(shape_.c)),
        bias_(program.bias_of(conv), size_t(shape_.c)) {
    const ConvWeights weight(program, conv);
    for (size_t tap = 0, to = 0; tap < weight.lines(); ++tap)
      for (int channel = 0; channel < shape_.c; ++channel) weights_[to++] = weight(channel, tap);
  }

  int units() const override { return shape_.h; }
  RowWise row_wise() const override {
    return {shape_.h, 1, 1, x_, window_, size_t(window_.kh) * size_t(window_.kw) * size_t(shape_.c)};
  }
  double cost() const override { return 6.0 * double(shape_.size()) * window_.kh * window_.kw; }

  void run(const Frame& frame, int sample, int, int begin, int end) const override {
    const Place& from = frame.place(x_);
    const Place& to = frame.place(y_);
    const float* x = frame.data(x_, sample);
    float* y = frame.data(y_, sample);
    const Residual residual(frame, epilogue_, sample);
    const bool regular = window_.sh == window_.sw && window_.sw <= 2 && !window_.dilated() && shape_.c >= 4;
    const bool three = regular && window_.kh == 3 && window_.kw == 3;
    const bool wide = regular && (window_.kw == 5 || window_.kw == 7) && shape_.w >= kPixels;
    for (int row = begin, rows; row < end; row += rows) {
      rows = three && window_.sh == 1 && row + 1 < end ? 2 : 1;
      Rows at{x + from.at(row * window_.sh - window_.top, -window_.left), from.pitch(), {}, {}};
      for (int q = 0; q < rows; ++q) at.y[q] = y + to.at(row + q, 0), at.residual[q] = residual.at(row + q, 0);
      over_channels(shape_.c, [&](int c, auto width, int count) {
        constexpr int N = decltype(width)::lanes;
        if (wide)
          window_.kw == 5 ? wide_window<N, 5>(at, c) : wide_window<N, 7>(at, c);
        else if (!three)
          any_window<N>(at, c, count);
        else if (window_.sh == 2)
          three_by_three<N, 1, 2>(at, c);
        else if (rows == 2)
          three_by_three<N, 2, 1>(at, c);
        else
          three_by_three<N, 1, 1>(at, c);
      });
    }
    clear_border(to, y, begin, end);
  }

 private:
  static constexpr int kPixels = 4;

  // The first pixel of one or two rows of results, and what the first window reads.
  struct Rows {
    const float* x;
    size_t pitch;
    float* y[2];
    const float* residual[2];
  };

  template <int N>
  void any_window(const Rows& at, int c, int count) const {
    int column = 0;
    for (; column + kPixels <= shape_.w; column += kPixels) any_pixels<N, kPixels>(at, column, c, count);
    for (; column < shape_.w; ++column) any_pixels<N, 1>(at, column, c, count);
  }

  template <int N, int P>
  void any_pixels(const Rows& at, int column, int c, int count) const {
    const size_t channels = size_t(shape_.c), step = size_t(window_.sw) * channels, apart = size_t(window_.dw) * channels;
    const float* x = at.x + size_t(column) * step + c;
    const float* w = weights_.data() + c;
    Vec<N> sum[P];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) sum[p] = load<N>(bias_.data() + c);
    for (int i = 0; i < window_.kh; ++i, x += size_t(window_.dh) * at.pitch)
      for (int j = 0; j < window_.kw; ++j, w += channels) {
        const Vec<N> weight = load<N>(w);
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p)
          sum[p] += read<N>(x + size_t(j) * apart + size_t(p) * step, count) * weight;
      }
    finish<N, P>(sum, at, 0, column, c, count);
  }

  // K columns in the kernel. As many pixels at once as fill the row best.
  template <int N, int K>
  void wide_window(const Rows& at, int c) const {
    const auto computed = [this](int pixels) { return (shape_.w + pixels - 1) / pixels * pixels; };
    if (window_.sw == 2)
      wide_row<N, K, kPixels, 2>(at, c);
    else if (shape_.w < 7)
      wide_row<N, K, kPixels, 1>(at, c);
    else
      computed(7) < computed(8) ? wide_row<N, K, 7, 1>(at, c) : wide_row<N, K, 8, 1>(at, c);
  }

  // The last pixels start earlier where they are fewer, and compute some twice.
  template <int N, int K, int P, int S>
  void wide_row(const Rows& at, int c) const {
    for (int column = 0; column < shape_.w; column += P)
      wide_pixels<N, K, P, S>(at, std::min(column, shape_.w - P), c);
  }

  // With the weights of a kernel row in registers: what several windows read is read once.
  template <int N, int K, int P, int S>
  void wide_pixels(const Rows& at, int column, int c) const {
    const size_t channels = size_t(shape_.c);
    const float* x = at.x + size_t(column) * S * channels + c;
    const float* w = weights_.data() + c;
    Vec<N> sum[P];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) sum[p] = load<N>(bias_.data() + c);
    for (int i = 0; i < window_.kh; ++i, x += at.pitch, w += K * channels) {
      Vec<N> weights[K];
#pragma GCC unroll 7
      for (int tap = 0; tap < K; ++tap) weights[tap] = load<N>(w + size_t(tap) * channels);
#pragma GCC unroll 16
      for (int j = 0; j < (P - 1) * S + K; ++j) {
        const Vec<N> value = load<N>(x + size_t(j) * channels);
#pragma GCC unroll 8
        for (int p = 0; p < P; ++p)
          if (j >= p * S && j < p * S + K) sum[p] += value * weights[j - p * S];
      }
    }
    finish<N, P>(sum, at, 0, column, c, 0);
  }

  // Q rows at once, with the weights in registers: what several windows read is read once.
  template <int N, int Q, int S>
  void three_by_three(const Rows& at, int c) const {
    Vec<N> weights[9];
#pragma GCC unroll 9
    for (int tap = 0; tap < 9; ++tap) weights[tap] = load<N>(weights_.data() + tap * shape_.c + c);
    int column = 0;
    for (; column + kPixels <= shape_.w; column += kPixels) three_pixels<N, Q, kPixels, S>(at, weights, column, c);
    for (; column < shape_.w; ++column) three_pixels<N, Q, 1, S>(at, weights, column, c);
  }

  template <int N, int Q, int P, int S>
  void three_pixels(const Rows& at, const Vec<N> (&weights)[9], int column, int c) const {
    constexpr int kColumns = (P - 1) * S + 3;
    const size_t channels = size_t(shape_.c);
    const float* x = at.x + size_t(column) * S * channels + c;
    Vec<N> sum[Q][P];
#pragma GCC unroll 2
    for (int q = 0; q < Q; ++q)
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) sum[q][p] = load<N>(bias_.data() + c);
#pragma GCC unroll 4
    for (int i = 0; i < (Q - 1) * S + 3; ++i, x += at.pitch) {
      Vec<N> values[kColumns];
#pragma GCC unroll 9
      for (int j = 0; j < kColumns; ++j) values[j] = load<N>(x + size_t(j) * channels);
#pragma GCC unroll 2
      for (int q = 0; q < Q; ++q) {
        const int r = i - q * S;
        if (r < 0 || r > 2) continue;
#pragma GCC unroll 3
        for (int j = 0; j < 3; ++j)
#pragma GCC unroll 4
          for (int p = 0; p < P; ++p) sum[q][p] += values[p * S + j] * weights[r * 3 + j];
      }
    }
#pragma GCC unroll 2
    for (int q = 0; q < Q; ++q) finish<N, P>(sum[q], at, q, column, c, 0);
  }

  template <int N, int P>
  void finish(Vec<N> (&sum)[P], const Rows& at, int q, int column, int c, int count) const {
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      const size_t offset = size_t(column + p) * size_t(shape_.c) + size_t(c);
      if (at.residual[q]) sum[p] += read<N>(at.residual[q] + offset, count);
      write<N>(at.y[q] + offset, activate<N>(epilogue_.activation, sum[p]), count);
    }
  }

  int x_, y_;
  Window window_;
  Epilogue epilogue_;
  Shape shape_;
  AlignedFloats weights_, bias_;
};

}  // namespace

StepPtr make_depthwise(const Program& program, const Instruction& conv, int y, const Epilogue& epilogue) {
  return std::make_unique<Depthwise>(program, conv, y, epilogue);
}

}  // namespace nncompile
