// Means over the channels of each pixel, and layer normalisation by them: scale (x - mean) / sqrt(variance + epsilon) +
// shift.
#include <cmath>

#include "aligned.h"
#include "layers.h"
#include "lines.h"

namespace nncompile {
namespace {

// The sum of all lanes in four.
template <int N>
inline Vec<4> folded(Vec<N> value) {
  if constexpr (N == 4) {
    return value;
  } else {
    Vec<N / 2> halves[2];
    std::memcpy(halves, &value, sizeof value);
    return folded<N / 2>(halves[0] + halves[1]);
  }
}

// The mean of what `term` makes of each element, a vector or a single one.
template <class Term>
float mean_of(const float* x, int count, const Term& term) {
  Vec<kLanes> wide{};
  Vec<4> narrow{};
  int i = 0;
  for (; i + kLanes <= count; i += kLanes) wide += term(load<kLanes>(x + i));
  for (; i + 4 <= count; i += 4) narrow += term(load<4>(x + i));
  narrow += folded<kLanes>(wide);
  float sum = (narrow[0] + narrow[2]) + (narrow[1] + narrow[3]);
  for (; i < count; ++i) sum += term(x[i]);
  return sum / float(count);
}

class ChannelMean : public Step {
 public:
  ChannelMean(int x, int y, const Shape& shape) : x_(x), y_(y), shape_(shape) {}

  int units() const override { return shape_.h; }
  RowWise row_wise() const override { return {shape_.h, 1, 1, -1, {}, 0}; }
  double cost() const override { return 6.0 * double(shape_.size()); }

  void run(const Frame& frame, int sample, int, int begin, int end) const override {
    const Place& from = frame.place(x_);
    const Place& to = frame.place(y_);
    const float* x = frame.data(x_, sample);
    float* y = frame.data(y_, sample);
    for (int row = begin; row < end; ++row)
      for (int column = 0; column < shape_.w; ++column)
        y[to.at(row, column)] = mean_of(x + from.at(row, column), shape_.c, [](auto value) { return value; });
    clear_border(to, y, begin, end);
  }

 private:
  int x_, y_;
  Shape shape_;  // of x
};

class LayerNorm : public Step {
 public:
  LayerNorm(const Program& program, const Instruction& norm, int y)
      : x_(norm.inputs[0]),
        y_(y),
        shape_(program.shapes[size_t(y)]),
        epsilon_(norm.epsilon),
        scale_(program.weight_of(norm).data, size_t(shape_.c)),
        shift_(program.bias_of(norm), size_t(shape_.c)) {}

  int units() const override { return shape_.h; }
  RowWise row_wise() const override { return {shape_.h, 1, 1, -1, {}, 0}; }
  double cost() const override { return 20.0 * double(shape_.size()); }

  void run(const Frame& frame, int sample, int samples, int begin, int end) const override {
    const Place& from = frame.place(x_);
    const Place& to = frame.place(y_);
    for (int s = sample; s < sample + samples; ++s) {
      const float* x = frame.data(x_, s);
      float* y = frame.data(y_, s);
      for (int row = begin; row < end; ++row)
        for (int column = 0; column < shape_.w; ++column) pixel(x + from.at(row, column), y + to.at(row, column));
      clear_border(to, y, begin, end);
    }
  }

 private:
  // In two passes, since the difference of the mean of squares and the square of the mean would lose digits.
  void pixel(const float* x, float* y) const {
    const float mean = mean_of(x, shape_.c, [](auto value) { return value; });
    const float variance = mean_of(x, shape_.c, [mean](auto value) {
      const auto off = value - mean;
      return off * off;
    });
    const float rate = 1.0f / std::sqrt(variance + epsilon_);
    over_channels(shape_.c, [&](int c, auto width, int count) {
      constexpr int N = decltype(width)::lanes;
      const Vec<N> standard = (read<N>(x + c, count) - mean) * rate;
      write<N>(y + c, fused<N>(standard, load<N>(scale_.data() + c), load<N>(shift_.data() + c)), count);
    });
  }

  int x_, y_;
  Shape shape_;
  float epsilon_;
  AlignedFloats scale_, shift_;
};

}  // namespace

StepPtr make_channel_mean(int x, int y, const Shape& shape) { return std::make_unique<ChannelMean>(x, y, shape); }
StepPtr make_layer_norm(const Program& program, const Instruction& norm, int y) {
  return std::make_unique<LayerNorm>(program, norm, y);
}

}  // namespace nncompile
