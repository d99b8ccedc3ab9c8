// Convolution with a sample in each lane, as it is defined.
//
// Winograd's algorithm was tried here too: for the few channels of the networks that fit, its transforms cost what
// the products save (LeNet5 level, LeNet with 3x3 kernels 1.5 times the time).
#include "conv_weights.h"
#include "lane_product.h"
#include "lane_steps.h"

namespace nncompile {
namespace {

// Depthwise where groups are not 1: then each output channel reads one input channel.
template <int V>
class LaneConv : public LaneStep<V> {
 public:
  LaneConv(const Program& program, const Work& work)
      : x_(work.instruction->inputs[0]),
        y_(work.y),
        depthwise_(work.instruction->groups != 1),
        window_(work.instruction->window),
        epilogue_(work.epilogue),
        channels_(depthwise_ ? 1 : program.shapes[size_t(x_)].c),
        bias_(program.bias_of(*work.instruction)) {
    const ConvWeights weight(program.weight_of(*work.instruction));
    const int outputs = program.shapes[size_t(y_)].c;
    if (depthwise_)
      for (int k = 0; k < outputs; ++k)
        weights_.emplace_back(1, weight.lines(), [&](int, size_t i) { return weight(k, i); });
    else
      weights_.emplace_back(outputs, weight.lines(), weight);
  }

  void run(const LaneArena<V>& arena) const override {
    const LaneView<V> x = arena.view(x_), y = arena.view(y_);
    const Shape& out = y.place->shape;
    LaneJob job{};
    job.pixel = ptrdiff_t(window_.sw) * V;
    job.plane = x.plane();
    job.pitch = x.pitch();
    job.kh = window_.kh;
    job.kw = window_.kw;
    job.channels = channels_;
    job.y_plane = y.plane();
    set_activation(job, epilogue_.activation);
    for (int g = 0; g < groups(out.c); ++g) {
      const int first = depthwise_ ? g : weights_[0].start(g);
      const int count = depthwise_ ? 1 : weights_[0].start(g + 1) - first;
      job.weights = depthwise_ ? weights_[size_t(g)].of(0) : weights_[0].of(g);
      job.bias = bias_ ? bias_ + first : nullptr;
      for (int row = 0; row < out.h; ++row) {
        job.x = x.at(depthwise_ ? first : 0, row * window_.sh - window_.top, -window_.left);
        job.y = y.at(first, row, 0);
        if (epilogue_.residual >= 0) {
          const LaneView<V> residual = arena.view(epilogue_.residual);
          job.residual = residual.at(first, row, 0);
          job.residual_plane = residual.plane();
        }
        lane_row<V>(job, count, out.w);
      }
    }
    clear_lane_border(y);
  }

 private:
  int groups(int outputs) const { return depthwise_ ? outputs : weights_[0].groups(); }

  int x_, y_;
  bool depthwise_;
  Window window_;
  Epilogue epilogue_;
  int channels_;
  const float* bias_;
  std::vector<LaneWeights> weights_;
};

}  // namespace

template <int V>
LaneStepPtr<V> make_lane_conv(const Program& program, const Work& work) {
  return std::make_unique<LaneConv<V>>(program, work);
}
#if defined(__AVX512F__)
template LaneStepPtr<16> make_lane_conv<16>(const Program&, const Work&);
#endif
#if defined(__AVX2__)
template LaneStepPtr<8> make_lane_conv<8>(const Program&, const Work&);
#endif

}  // namespace nncompile
