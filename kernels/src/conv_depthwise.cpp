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
    const ConvWeights weight(program.weight_of(conv));
    for (size_t tap = 0, to = 0; tap < weight.lines(); ++tap)
      for (int channel = 0; channel < shape_.c; ++channel) weights_[to++] = weight(channel, tap);
  }

  int units() const override { return shape_.h; }
  double cost() const override { return 6.0 * double(shape_.size()) * window_.kh * window_.kw; }

  void run(const Frame& frame, int sample, int, int begin, int end) const override {
    const Place& from = frame.place(x_);
    const Place& to = frame.place(y_);
    const float* x = frame.data(x_, sample);
    float* y = frame.data(y_, sample);
    const Residual residual(frame, epilogue_, sample);
    for (int row = begin; row < end; ++row) {
      const float* line = x + from.at(row * window_.sh - window_.top, -window_.left);
      const float* rest = residual.at(row, 0);
      float* result = y + to.at(row, 0);
      over_channels(shape_.c, [&](int c, auto width, int count) {
        constexpr int N = decltype(width)::lanes;
        int column = 0;
        for (; column + kPixels <= shape_.w; column += kPixels)
          pixels<N, kPixels>(line, from.pitch(), rest, result, column, c, count);
        for (; column < shape_.w; ++column) pixels<N, 1>(line, from.pitch(), rest, result, column, c, count);
      });
    }
    clear_border(to, y, begin, end);
  }

 private:
  static constexpr int kPixels = 4;

  template <int N, int P>
  void pixels(const float* line, size_t pitch, const float* residual, float* result, int column, int c,
              int count) const {
    const size_t channels = size_t(shape_.c), step = size_t(window_.sw) * channels;
    const float* x = line + size_t(column) * step + c;
    const float* w = weights_.data() + c;
    Vec<N> sum[P];
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) sum[p] = load<N>(bias_.data() + c);
    for (int i = 0; i < window_.kh; ++i, x += pitch)
      for (int j = 0; j < window_.kw; ++j, w += channels) {
        const Vec<N> weight = load<N>(w);
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p)
          sum[p] += read<N>(x + size_t(j) * channels + size_t(p) * step, count) * weight;
      }
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      const size_t at = size_t(column + p) * channels + size_t(c);
      if (residual) sum[p] += read<N>(residual + at, count);
      write<N>(result + at, activate<N>(epilogue_.activation, sum[p]), count);
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
