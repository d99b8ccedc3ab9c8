#include "cost.h"

#include <algorithm>
#include <limits>

#include "winograd.h"

namespace nncompile {
namespace {

constexpr double kMaxTransformedBytes = 40e6;
// Weights beyond what a second-level cache holds beside the activations of a sample.
constexpr double kStreamedBytes = 1e6, kStreamedShare = 4;
// As many multiplications of a lane take as long as a weight that comes from memory.
constexpr double kReadCost = 9;
// An operation of a transform, with its loads and stores, against one of a product; measured.
constexpr double kTransformWeight = 3;

double filled(int channels, Layout layout) {
  if (layout == Layout::kSamples) return channels;
  const int half = kLanes > 4 ? kLanes / 2 : kLanes;
  return double((channels + half - 1) / half * half);
}

// Of so many weights, each of which serves so many pixels or tiles of a sample.
double product_cost(double weights, double uses) {
  const bool streamed = weights * sizeof(float) > kStreamedBytes;
  return weights * (streamed ? std::max(uses, kReadCost) : uses);
}

template <int R>
double winograd(const Shape& in, const Shape& out) {
  using F = Minimal<R>;
  const double tiles = double((out.h + 3) / 4) * double((out.w + 3) / 4);
  const auto lanes = [](int channels) { return filled(channels, Layout::kChannels); };
  const double inputs = lanes(in.c) * 2 * F::kPoints * F::kInputOperations;
  const double weights = F::kPoints * F::kPoints * double(in.c) * lanes(out.c);
  const double outputs = lanes(out.c) * (F::kPoints + 4) * F::kOutputOperations;
  return tiles * kTransformWeight * (inputs + outputs) + product_cost(weights, tiles);
}

}  // namespace

double direct_cost(const Program& program, const Instruction& conv, int y, Layout layout) {
  const Shape &in = program.shapes[size_t(conv.inputs[0])], &out = program.shapes[size_t(y)];
  const double taps = double(conv.window.kh) * conv.window.kw * (conv.groups == 1 ? in.c : 1);
  return product_cost(taps * filled(out.c, layout), double(out.h) * out.w);
}

double winograd_cost(const Program& program, const Instruction& conv, int y) {
  const Window& w = conv.window;
  const Shape &in = program.shapes[size_t(conv.inputs[0])], &out = program.shapes[size_t(y)];
  const double points = w.kh + 3;
  if (conv.groups != 1 || w.kh != w.kw || (w.kh != 3 && w.kh != 5) || w.sh != 1 || w.sw != 1 ||
      points * points * in.c * out.c * sizeof(float) > kMaxTransformedBytes)
    return std::numeric_limits<double>::infinity();
  return w.kh == 3 ? winograd<3>(in, out) : winograd<5>(in, out);
}

bool streams_weights(const Program& program, const Options& options, const Instruction& conv, int y) {
  const Shape &in = program.shapes[size_t(conv.inputs[0])], &out = program.shapes[size_t(y)];
  const int more = uses_winograd(program, options, conv, y) ? kTileOutputs - 1 : 0;
  const double taps = double(conv.window.kh + more) * (conv.window.kw + more);
  const double weights = taps * in.c / conv.groups * out.c * sizeof(float);
  return weights > kStreamedBytes && weights > kStreamedShare * double(in.size() + out.size()) * sizeof(float);
}

}  // namespace nncompile
