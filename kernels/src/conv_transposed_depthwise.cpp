// Depthwise transposed convolution: each channel with its own kernel, channels in the lanes; each result is summed from
// what reaches it.
#include "activation.h"
#include "aligned.h"
#include "layers.h"
#include "lines.h"
#include "transposed.h"

namespace nncompile {
namespace {

class TransposedDepthwise : public Step {
 public:
  TransposedDepthwise(const Program& program, const Instruction& conv, int y, const Epilogue& epilogue)
      : x_(conv.inputs[0]),
        y_(y),
        kh_(conv.window.kh),
        kw_(conv.window.kw),
        epilogue_(epilogue),
        shape_(program.shapes[size_t(y)]),
        spread_(conv.window, program.shapes[size_t(x_)], shape_),
        weights_(taps() * size_t(shape_.c)),
        bias_(program.bias_of(conv), size_t(shape_.c)) {
    const TransposedWeights weight(program.weight_of(conv), shape_.c, spread_.order());
    for (size_t tap = 0, to = 0; tap < taps(); ++tap)
      for (int channel = 0; channel < shape_.c; ++channel)
        weights_[to++] = weight(channel * kw_ + int(tap % size_t(kw_)), tap / size_t(kw_));
  }

  int units() const override { return shape_.h; }
  RowWise row_wise() const override {
    return {shape_.h, 1, 1, x_, {}, taps() * size_t(shape_.c), spread_.sources().data()};
  }
  double cost() const override {
    double rows = 0, columns = 0;
    for (const Spread::Rows& its : spread_.rows()) rows += its.count;
    for (const std::vector<Spread::Part>& parts : spread_.columns()) columns += double(parts.size());
    return 6.0 * shape_.c * rows * columns;
  }

  void run(const Frame& frame, int sample, int, int begin, int end) const override {
    const Place& from = frame.place(x_);
    const Place& to = frame.place(y_);
    const Residual residual(frame, epilogue_, sample);
    for (int row = begin; row < end; ++row) {
      const float* x = frame.data(x_, sample) + from.at(spread_.rows()[size_t(row)].input, 0);
      for (int column = 0; column < shape_.w; ++column)
        pixel(x, from.pitch(), row, column, frame.data(y_, sample) + to.at(row, column), residual.at(row, column));
    }
    clear_border(to, frame.data(y_, sample), begin, end);
  }

 private:
  void pixel(const float* x, size_t pitch, int row, int column, float* y, const float* residual) const {
    const Spread::Rows& rows = spread_.rows()[size_t(row)];
    const size_t channels = size_t(shape_.c), apart = size_t(spread_.apart()) * pitch;
    over_channels(shape_.c, [&](int c, auto width, int count) {
      constexpr int N = decltype(width)::lanes;
      Vec<N> sum = load<N>(bias_.data() + c);
      for (int i = 0; i < rows.count; ++i)
        for (const Spread::Part& part : spread_.columns()[size_t(column)])
          sum += read<N>(x + size_t(i) * apart + size_t(part.input) * channels + c, count) *
                 load<N>(weights_.data() + size_t((rows.first + i) * kw_ + part.column) * channels + c);
      if (residual) sum += read<N>(residual + c, count);
      write<N>(y + c, activate<N>(epilogue_.activation, sum), count);
    });
  }

  size_t taps() const { return size_t(kh_) * size_t(kw_); }

  int x_, y_, kh_, kw_;
  Epilogue epilogue_;
  Shape shape_;
  Spread spread_;
  AlignedFloats weights_, bias_;  // weights: kernel row, in the order of `spread_`, column, channel
};

}  // namespace

StepPtr make_transposed_depthwise(const Program& program, const Instruction& conv, int y, const Epilogue& epilogue) {
  return std::make_unique<TransposedDepthwise>(program, conv, y, epilogue);
}

}  // namespace nncompile
