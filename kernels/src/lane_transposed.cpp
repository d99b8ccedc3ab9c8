// Transposed convolution with a sample in each lane, in the steps of the one with channels in the lanes.
#include "lane_product.h"
#include "lane_steps.h"
#include "transposed.h"

namespace nncompile {
namespace {

template <int V>
class LaneTransposed : public LaneStep<V> {
 public:
  LaneTransposed(const Program& program, const Work& work)
      : x_(work.instruction->inputs[0]),
        y_(work.y),
        kw_(work.instruction->window.kw),
        epilogue_(work.epilogue),
        in_(program.shapes[size_t(x_)]),
        out_(program.shapes[size_t(y_)]),
        spread_(work.instruction->window, in_, out_),
        bias_(program.bias_of(*work.instruction)) {
    const TransposedWeights weight(program.weight_of(*work.instruction), 1, spread_.order());
    for (int column = 0; column < kw_; ++column)
      weights_.emplace_back(out_.c, weight.lines(), [&](int k, size_t i) { return weight(column * out_.c + k, i); });
  }

  // Unit u is row u % height of group u / height.
  int units() const override { return weights_[0].groups() * out_.h; }
  size_t scratch() const override { return size_t(kLaneChannels) * products(); }

  void run(const LaneArena<V>& arena, int begin, int end) const override {
    for (int unit = begin; unit < end; ++unit) {
      const int group = unit / out_.h, row = unit % out_.h;
      multiply(arena, group, row);
      for (int k = weights_[0].start(group); k < weights_[0].start(group + 1); ++k)
        sum(arena, arena.scratch + size_t(k - weights_[0].start(group)) * products(), k, row);
    }
    if (end == units()) clear_lane_border(arena.view(y_));
  }

 private:
  void multiply(const LaneArena<V>& arena, int group, int row) const {
    const LaneView<V> x = arena.view(x_);
    const Spread::Rows& rows = spread_.rows()[size_t(row)];
    const int first = weights_[0].start(group), count = weights_[0].start(group + 1) - first;
    for (int column = 0; column < kw_; ++column) {
      LaneJob job{};
      job.x = x.at(0, rows.input, 0);
      job.pixel = V;
      job.plane = x.plane();
      job.pitch = spread_.apart() * x.pitch();
      job.kh = rows.count;
      job.kw = 1;
      job.channels = in_.c;
      job.weights = weights_[size_t(column)].of(group) + rows.first * in_.c * count;
      job.bias = bias_ && spread_.straight() ? bias_ + first : nullptr;
      job.y = arena.scratch + column * in_.w * V;
      job.y_plane = ptrdiff_t(products());
      lane_row<V>(job, count, in_.w);
    }
  }

  // Row `row` of channel `k`.
  void sum(const LaneArena<V>& arena, const float* products, int k, int row) const {
    const LaneView<V> y = arena.view(y_);
    const float* residual = epilogue_.residual < 0 ? nullptr : arena.view(epilogue_.residual).at(k, row, 0);
    const Finish finish(epilogue_.activation);
    const Vec<V> bias = broadcast<V>(bias_ ? bias_[k] : 0.0f);
    for (int column = 0; column < out_.w; ++column) {
      const std::vector<Spread::Part>& parts = spread_.columns()[size_t(column)];
      const auto product = [&](const Spread::Part& part) {
        return load<V>(products + (part.column * in_.w + part.input) * V);
      };
      Vec<V> value = spread_.straight() ? product(parts[0]) : bias;
      if (!spread_.straight())
        for (const Spread::Part& part : parts) value += product(part);
      if (residual) value += load<V>(residual + column * V);
      store<V>(y.at(k, row, column), bounded<V>(finish.bounds, value));
    }
    if (finish.curve) activate_all<V>(*finish.curve, y.at(k, row, 0), out_.w);
  }

  size_t products() const { return size_t(kw_) * size_t(in_.w) * V; }  // floats, of a channel's row

  int x_, y_, kw_;
  Epilogue epilogue_;
  Shape in_, out_;
  Spread spread_;
  const float* bias_;
  std::vector<LaneWeights> weights_;  // of each column of the kernel
};

}  // namespace

template <int V>
LaneStepPtr<V> make_lane_transposed(const Program& program, const Work& work) {
  return std::make_unique<LaneTransposed<V>>(program, work);
}
#if defined(__AVX512F__)
template LaneStepPtr<16> make_lane_transposed<16>(const Program&, const Work&);
#endif
#if defined(__AVX2__)
template LaneStepPtr<8> make_lane_transposed<8>(const Program&, const Work&);
#endif

}  // namespace nncompile
