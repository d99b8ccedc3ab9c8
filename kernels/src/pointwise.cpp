// Steps that compute each element from those at the same place, and softmax.
#include <cmath>

#include "activation.h"
#include "layers.h"
#include "lines.h"

namespace nncompile {
namespace {

// One or two inputs, of which the second may have one number for each channel or for each pixel, or the first for each
// channel and the second for each pixel; then an activation.
class Pointwise : public Step {
 public:
  Pointwise(Opcode op, const std::vector<int>& inputs, int y, const Shape& shape, Beside gate,
            const Activation& activation)
      : op_(op), inputs_(inputs), y_(y), shape_(shape), gate_(gate), activation_(activation) {}

  int units() const override { return shape_.h; }
  // A gate of channels is one row, whatever row is made.
  RowWise row_wise() const override {
    const bool of_channels = gate_ == Beside::kOfChannels || gate_ == Beside::kOuter;
    return of_channels ? RowWise{} : RowWise{shape_.h, 1, 1, -1, {}, 0};
  }
  double cost() const override { return 10.0 * double(shape_.size()); }

  void run(const Frame& frame, int sample, int samples, int begin, int end) const override {
    for (int s = sample; s < sample + samples; ++s) one(frame, s, begin, end);
  }

 private:
  void one(const Frame& frame, int sample, int begin, int end) const {
    const Place& to = frame.place(y_);
    const Place& from = frame.place(inputs_[0]);
    const Place& other = frame.place(inputs_.back());
    const float* x = frame.data(inputs_[0], sample);
    const float* z = frame.data(inputs_.back(), sample);
    float* y = frame.data(y_, sample);
    // Without a gate all pixels of a row are one run of floats.
    const bool same = gate_ == Beside::kSame, outer = gate_ == Beside::kOuter;
    const bool of_pixels = outer || gate_ == Beside::kOfPixels;
    const int pixels = same ? 1 : shape_.w, run = same ? shape_.w * shape_.c : shape_.c;
    for (int row = begin; row < end; ++row)
      for (int p = 0; p < pixels; ++p) {
        const float* a = x + (outer ? from.at(0, 0) : from.at(row, p));
        const float* b = z + (gate_ == Beside::kOfChannels ? other.at(0, 0) : other.at(row, p));
        float* result = y + to.at(row, p);
        // The last vector may overlap the one before: in place, that would compute some elements twice.
        over_channels(run, [&](int c, auto width, int count) {
          constexpr int N = decltype(width)::lanes;
          Vec<N> value = read<N>(a + c, count);
          const Vec<N> with = of_pixels ? broadcast<N>(*b) : read<N>(b + c, count);
          if (op_ == Opcode::kAdd) value += with;
          if (op_ == Opcode::kSubtract) value -= with;
          if (op_ == Opcode::kMultiply) value *= with;
          if (op_ == Opcode::kDivide) value /= with;
          write<N>(result + c, activate<N>(activation_, value), count);
        });
      }
    clear_border(to, y, begin, end);
  }

  Opcode op_;
  std::vector<int> inputs_;
  int y_;
  Shape shape_;
  Beside gate_;
  Activation activation_;
};

class Softmax : public Step {
 public:
  Softmax(int x, int y, const Shape& shape, bool logarithm) : x_(x), y_(y), count_(shape.c), logarithm_(logarithm) {}

  void run(const Frame& frame, int sample, int samples, int, int) const override {
    const Place& from = frame.place(x_);
    const Place& to = frame.place(y_);
    for (int s = sample; s < sample + samples; ++s) {
      one(frame.data(x_, s) + from.at(0, 0), frame.data(y_, s) + to.at(0, 0));
      clear_border(to, frame.data(y_, s), 0, 1);
    }
  }

 private:
  void one(const float* x, float* y) const {
    float largest = x[0];
    for (int i = 1; i < count_; ++i) largest = x[i] > largest || x[i] != x[i] ? x[i] : largest;
    double total = 0;
    for (int i = 0; i < count_; ++i) {
      y[i] = x[i] - largest;
      const float power = std::exp(y[i]);
      total += double(power);
      if (!logarithm_) y[i] = power;
    }
    const float scale = float(1.0 / total), shift = float(std::log(total));
    for (int i = 0; i < count_; ++i) y[i] = logarithm_ ? y[i] - shift : y[i] * scale;
  }

  int x_, y_, count_;
  bool logarithm_;
};

}  // namespace

StepPtr make_pointwise(Opcode op, const std::vector<int>& inputs, int y, const Shape& shape, Beside gate,
                       const Activation& activation) {
  return std::make_unique<Pointwise>(op, inputs, y, shape, gate, activation);
}
StepPtr make_softmax(int x, int y, const Shape& shape, bool logarithm) {
  return std::make_unique<Softmax>(x, y, shape, logarithm);
}

}  // namespace nncompile
