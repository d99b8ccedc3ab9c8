// Convolution with a sample in each lane: as it is defined, or by Winograd's algorithm.
#include "lane_product.h"
#include "lane_steps.h"
#include "winograd.h"

namespace nncompile {
namespace {

const float* bias_of(const Program& program, const Instruction& conv) {
  return conv.bias < 0 ? nullptr : program.weights[size_t(conv.bias)].data;
}

template <int V>
void set_epilogue(LaneJob& job, const Epilogue& epilogue) {
  job.curve = is_bounds(epilogue.activation) ? nullptr : &epilogue.activation;
  job.bounds = is_bounds(epilogue.activation) ? bounds_of(epilogue.activation) : Bounds{};
}

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
        bias_(bias_of(program, *work.instruction)) {
    const float* data = program.weights[size_t(work.instruction->weight)].data;
    const size_t c = size_t(channels_), kh = size_t(window_.kh), kw = size_t(window_.kw);
    const auto weight = [=](int k, size_t i) {
      return data[((size_t(k) * c + i % c) * kh + i / c / kw) * kw + i / c % kw];
    };
    const int outputs = program.shapes[size_t(y_)].c;
    if (depthwise_)
      for (int k = 0; k < outputs; ++k)
        weights_.emplace_back(1, kh * kw, [&](int, size_t i) { return weight(k, i); });
    else
      weights_.emplace_back(outputs, kh * kw * c, weight);
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
    set_epilogue<V>(job, epilogue_);
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

// One row of 4x4 tiles at a time.
template <int V, int R>
class LaneWinograd : public LaneStep<V> {
  static constexpr int N = Minimal<R>::kPoints;
  static constexpr int kPositions = N * N;

 public:
  LaneWinograd(const Program& program, const Work& work)
      : x_(work.instruction->inputs[0]),
        y_(work.y),
        window_(work.instruction->window),
        epilogue_(work.epilogue),
        in_(program.shapes[size_t(x_)]),
        out_(program.shapes[size_t(y_)]),
        bias_(bias_of(program, *work.instruction)),
        weight_(program.weights[size_t(work.instruction->weight)].data) {
    const std::vector<float> u = transform_weights<R>(weight_, in_.c, out_.c);
    const size_t pairs = size_t(in_.c) * size_t(out_.c), c = size_t(in_.c);
    for (size_t position = 0; position < kPositions; ++position) {
      const float* its = u.data() + position * pairs;
      weights_.emplace_back(out_.c, c, [its, c](int k, size_t i) { return its[size_t(k) * c + i]; });
    }
  }

  size_t scratch() const override { return size_t(kPositions) * size_t(tiles()) * size_t(in_.c + out_.c) * V; }

  void run(const LaneArena<V>& arena) const override {
    float* product = arena.scratch + size_t(kPositions) * size_t(tiles()) * size_t(in_.c) * V;
    for (int row = 0; row < out_.h; row += kTileOutputs) {
      transform_input(arena, row, arena.scratch);
      multiply(arena.scratch, product);
      transform_output(arena, row, product);
    }
    clear_lane_border(arena.view(y_));
  }

 private:
  int tiles() const { return (out_.w + kTileOutputs - 1) / kTileOutputs; }

  void transform_input(const LaneArena<V>& arena, int row, float* result) const {
    const LaneView<V> x = arena.view(x_);
    const size_t position = size_t(in_.c) * size_t(tiles()) * V;
    for (int c = 0; c < in_.c; ++c)
      for (int t = 0; t < tiles(); ++t) {
        const float* corner = x.at(c, row - window_.top, t * kTileOutputs - window_.left);
        float* to = result + (size_t(c) * size_t(tiles()) + size_t(t)) * V;
        Vec<V> half[N][N];
        for (int j = 0; j < N; ++j) {
          Vec<V> d[N], t1[N];
#pragma GCC unroll 8
          for (int i = 0; i < N; ++i) d[i] = load<V>(corner + i * x.pitch() + j * V);
          Minimal<R>::input(d, t1);
#pragma GCC unroll 8
          for (int i = 0; i < N; ++i) half[i][j] = t1[i];
        }
        for (int i = 0; i < N; ++i) {
          Vec<V> t2[N];
          Minimal<R>::input(half[i], t2);
#pragma GCC unroll 8
          for (int j = 0; j < N; ++j) store<V>(to + size_t(i * N + j) * position, t2[j]);
        }
      }
  }

  void multiply(const float* input, float* product) const {
    LaneJob job{};
    job.pixel = V;
    job.plane = ptrdiff_t(tiles()) * V;
    job.kh = job.kw = 1;
    job.channels = in_.c;
    job.y_plane = job.plane;
    for (int position = 0; position < kPositions; ++position) {
      const LaneWeights& weights = weights_[size_t(position)];
      job.x = input + position * ptrdiff_t(in_.c) * job.plane;
      for (int g = 0; g < weights.groups(); ++g) {
        job.weights = weights.of(g);
        job.y = product + (position * ptrdiff_t(out_.c) + weights.start(g)) * job.plane;
        lane_row<V>(job, weights.start(g + 1) - weights.start(g), tiles());
      }
    }
  }

  void transform_output(const LaneArena<V>& arena, int row, const float* product) const {
    const int height = std::min(kTileOutputs, out_.h - row);
    const size_t position = size_t(out_.c) * size_t(tiles()) * V;
    for (int k = 0; k < out_.c; ++k)
      for (int t = 0; t < tiles(); ++t) {
        const int column = t * kTileOutputs, width = std::min(kTileOutputs, out_.w - column);
        const float* m = product + (size_t(k) * size_t(tiles()) + size_t(t)) * V;
        Vec<V> half[kTileOutputs][N];
        for (int j = 0; j < N; ++j) {
          Vec<V> line[N], t1[kTileOutputs];
#pragma GCC unroll 8
          for (int i = 0; i < N; ++i) line[i] = load<V>(m + size_t(i * N + j) * position);
          Minimal<R>::output(line, t1);
#pragma GCC unroll 4
          for (int i = 0; i < kTileOutputs; ++i) half[i][j] = t1[i];
        }
        const Vec<V> bias = broadcast<V>(bias_ ? bias_[k] : 0.0f);
        Vec<V> check{};
        for (int i = 0; i < height; ++i) {
          Vec<V> values[kTileOutputs];
          Minimal<R>::output(half[i], values);
          for (int j = 0; j < width; ++j) {
            const Vec<V> value = values[j] + bias;
            check += value * 0.0f;
            finish(arena, k, row + i, column + j, value);
          }
        }
        bool finite = true;
        for (int lane = 0; lane < V; ++lane) finite = finite && check[lane] == 0.0f;
        if (!finite) direct(arena, k, row, column, height, width);
      }
  }

  void finish(const LaneArena<V>& arena, int k, int row, int column, Vec<V> value) const {
    if (epilogue_.residual >= 0) value += load<V>(arena.view(epilogue_.residual).at(k, row, column));
    store<V>(arena.view(y_).at(k, row, column), activate<V>(epilogue_.activation, value));
  }

  // See conv_winograd.cpp: a tile with a number that is not finite is computed as convolution is defined.
  void direct(const LaneArena<V>& arena, int k, int row, int column, int height, int width) const {
    const LaneView<V> x = arena.view(x_);
    for (int i = row; i < row + height; ++i)
      for (int j = column; j < column + width; ++j) {
        Vec<V> sum = broadcast<V>(bias_ ? bias_[k] : 0.0f);
        for (int r = 0; r < R; ++r)
          for (int s = 0; s < R; ++s)
            for (int c = 0; c < in_.c; ++c)
              sum += load<V>(x.at(c, i + r - window_.top, j + s - window_.left)) *
                     broadcast<V>(weight_[((size_t(k) * size_t(in_.c) + size_t(c)) * R + size_t(r)) * R + size_t(s)]);
        finish(arena, k, i, j, sum);
      }
  }

  int x_, y_;
  Window window_;
  Epilogue epilogue_;
  Shape in_, out_;
  const float* bias_;
  const float* weight_;
  std::vector<LaneWeights> weights_;
};

}  // namespace

template <int V>
LaneStepPtr<V> make_lane_conv(const Program& program, const Work& work) {
  return std::make_unique<LaneConv<V>>(program, work);
}
template <int V>
LaneStepPtr<V> make_lane_winograd(const Program& program, const Work& work) {
  if (work.instruction->window.kh == 3) return std::make_unique<LaneWinograd<V, 3>>(program, work);
  return std::make_unique<LaneWinograd<V, 5>>(program, work);
}

template LaneStepPtr<kLanes> make_lane_conv<kLanes>(const Program&, const Work&);
template LaneStepPtr<kLanes> make_lane_winograd<kLanes>(const Program&, const Work&);

}  // namespace nncompile
