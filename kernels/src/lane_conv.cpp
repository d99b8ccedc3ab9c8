// Convolution with a sample in each lane, as it is defined.
#include <optional>

#include "conv_weights.h"
#include "lane_pool.h"
#include "lane_product.h"

namespace nncompile {
namespace {

// Depthwise where groups are not 1: then each output channel reads one input channel.
template <int V>
class LaneConv : public LaneStep<V> {
 public:
  LaneConv(const Program& program, const Work& work, const Work* pool)
      : x_(work.instruction->inputs[0]),
        y_(pool ? pool->y : work.y),
        depthwise_(work.instruction->groups != 1),
        window_(work.instruction->window),
        epilogue_(work.epilogue),
        channels_(depthwise_ ? 1 : program.shapes[size_t(x_)].c),
        out_(program.shapes[size_t(work.y)]),
        columns_(out_.w),
        bias_(program.bias_of(*work.instruction)) {
    if (pool) columns_ = pool_.emplace(program, *pool).columns();
    const ConvWeights weight(program, *work.instruction);
    if (depthwise_)
      for (int k = 0; k < out_.c; ++k)
        weights_.emplace_back(1, weight.lines(), [&](int, size_t i) { return weight(k, i); });
    else
      weights_.emplace_back(out_.c, weight.lines(), weight);
  }

  // Unit u is row u % height of group u / height.
  int units() const override { return groups() * height(); }
  size_t scratch() const override { return pool_ ? LaneStrip<V>::floats(kLaneChannels, pool_->rows(), columns_) : 0; }

  void run(const LaneArena<V>& arena, int begin, int end) const override {
    const LaneView<V> x = arena.view(x_), y = arena.view(y_);
    LaneJob job{};
    job.pixel = ptrdiff_t(window_.sw) * V;
    job.plane = x.plane();
    job.pitch = x.pitch();
    job.line = window_.sh * x.pitch();
    job.kh = window_.kh;
    job.kw = window_.kw;
    job.channels = channels_;
    job.finish = Finish(epilogue_.activation);
    for (int unit = begin; unit < end; ++unit) {
      const int g = unit / height(), line = unit % height();
      const int first = depthwise_ ? g : weights_[0].start(g);
      const int count = depthwise_ ? 1 : weights_[0].start(g + 1) - first;
      const int top = pool_ ? pool_->first_row(line) : line, bottom = pool_ ? pool_->end_row(line) : line + 1;
      const LaneStrip<V> strip(arena.scratch, count, top, bottom - top, columns_);
      job.weights = depthwise_ ? weights_[size_t(g)].of(0) : weights_[0].of(g);
      job.bias = bias_ ? bias_ + first : nullptr;
      if (in_registers(job)) {
        job.x = x.at(0, top * window_.sh - window_.top, -window_.left);
        job.y = y.at(first, line, 0);
        job.y_plane = y.plane();
        pooled_row<V>(job, count, pool_->shape().w);
        for (int k = 0; k < count; ++k) pool_->finish(y.at(first + k, line, 0));
        continue;
      }
      job.y_plane = pool_ ? strip.view.plane() : y.plane();
      for (int row = top; row < bottom; ++row) {
        job.x = x.at(depthwise_ ? first : 0, row * window_.sh - window_.top, -window_.left);
        job.y = pool_ ? strip.view.at(0, row, 0) : y.at(first, row, 0);
        if (epilogue_.residual >= 0) {
          const LaneView<V> residual = arena.view(epilogue_.residual);
          job.residual = residual.at(first, row, 0);
          job.residual_plane = residual.plane();
        }
        lane_row<V>(job, count, columns_);
      }
      for (int k = 0; pool_ && k < count; ++k)
        pool_->run(strip.view.at(k, top, 0), strip.view.pitch(), line, y.at(first + k, line, 0));
    }
    if (end == units()) clear_lane_border(y);
  }

 private:
  int height() const { return pool_ ? pool_->shape().h : out_.h; }
  // Whether the pool finds its outputs before the layer's are stored.
  bool in_registers(const LaneJob& job) const {
    return pool_ && pool_->fours() && !depthwise_ && !job.finish.curve && epilogue_.residual < 0;
  }
  int groups() const { return depthwise_ ? out_.c : weights_[0].groups(); }

  int x_, y_;
  bool depthwise_;
  Window window_;
  Epilogue epilogue_;
  int channels_;
  Shape out_;
  int columns_;  // those that are needed
  std::optional<LanePool<V>> pool_;
  const float* bias_;
  std::vector<LaneWeights> weights_;
};

}  // namespace

template <int V>
LaneStepPtr<V> make_lane_conv(const Program& program, const Work& work, const Work* pool) {
  return std::make_unique<LaneConv<V>>(program, work, pool);
}
#if defined(__AVX512F__)
template LaneStepPtr<16> make_lane_conv<16>(const Program&, const Work&, const Work*);
#endif
#if defined(__AVX2__)
template LaneStepPtr<8> make_lane_conv<8>(const Program&, const Work&, const Work*);
#endif

}  // namespace nncompile
