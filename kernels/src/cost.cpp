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
// An operation of a transform, with its loads and stores, against one of a product; measured. Along the rows it stays
// in registers, and with channels in the lanes their products take longer for want of loads.
constexpr double kTransformWeight = 3.4, kRowsTransformWeight = 2, kRowsProductWeight = 1.3;

// A product of a transposed convolution, stored and summed, likewise.
constexpr double kSumWeight = 2;

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
double tiles_cost(const Shape& in, const Shape& out) {
  using F = Minimal<R>;
  const double tiles = double((out.h + 3) / 4) * double((out.w + 3) / 4);
  const auto lanes = [](int channels) { return filled(channels, Layout::kChannels); };
  const double inputs = lanes(in.c) * 2 * F::kPoints * F::kInputOperations;
  const double weights = F::kPoints * F::kPoints * double(in.c) * lanes(out.c);
  const double outputs = lanes(out.c) * (F::kPoints + 4) * F::kOutputOperations;
  return tiles * kTransformWeight * (inputs + outputs) + product_cost(weights, tiles);
}

template <int R>
double rows_cost(const Shape& in, const Shape& out, Layout layout) {
  using F = Minimal<R>;
  const double across = double((out.w + 3) / 4), tiles = out.h * across;
  const double inputs = (out.h + R - 1) * across * filled(in.c, layout) * F::kInputOperations;
  const double outputs = tiles * filled(out.c, layout) * F::kOutputOperations;
  const double weights = R * F::kPoints * double(in.c) * filled(out.c, layout);
  if (layout == Layout::kSamples) return inputs + outputs + product_cost(weights, tiles);
  return kRowsTransformWeight * (inputs + outputs) + kRowsProductWeight * product_cost(weights, tiles);
}

// As conv_transposed.cpp has it, and what it takes to sum the products.
double transposed_cost(const Program& program, const Instruction& conv, int y, Layout layout) {
  const Window& w = conv.window;
  const Shape &in = program.shapes[size_t(conv.inputs[0])], &out = program.shapes[size_t(y)];
  if (layout == Layout::kSamples && conv.groups != 1) return std::numeric_limits<double>::infinity();
  const double products = conv.groups * filled(w.kw * out.c / conv.groups, layout);
  return product_cost(w.kh * double(in.c / conv.groups) * products, double(in.h) * in.w) +
         kSumWeight * products * double(in.w) * out.h;
}

// The rows and columns of what multiplies an input, of a kernel of so many.
Window transformed(const Window& kernel, Algorithm algorithm) {
  Window result = kernel;
  if (algorithm == Algorithm::kTiles) result.kh += kTileOutputs - 1;
  if (algorithm != Algorithm::kDirect) result.kw += kTileOutputs - 1;
  return result;
}

}  // namespace

double conv_cost(const Program& program, const Instruction& conv, int y, Algorithm algorithm, Layout layout) {
  const Window &w = conv.window, weights = transformed(w, algorithm);
  const Shape &in = program.shapes[size_t(conv.inputs[0])], &out = program.shapes[size_t(y)];
  if (conv.op == Opcode::kConvTranspose)
    return algorithm == Algorithm::kDirect ? transposed_cost(program, conv, y, layout)
                                           : std::numeric_limits<double>::infinity();
  const bool in_lanes = !w.dilated() && (conv.groups == 1 || conv.depthwise);
  if (layout == Layout::kSamples && !in_lanes) return std::numeric_limits<double>::infinity();
  if (algorithm == Algorithm::kDirect) {
    const double taps = double(w.kh) * w.kw * (in.c / conv.groups);
    const double outputs =
        conv.depthwise ? filled(out.c, layout) : conv.groups * filled(out.c / conv.groups, layout);
    return product_cost(taps * outputs, double(out.h) * out.w);
  }
  if (conv.groups != 1 || w.dilated() || w.kh != w.kw || (w.kh != 3 && w.kh != 5) || w.sh != 1 || w.sw != 1 ||
      (algorithm == Algorithm::kTiles && layout == Layout::kSamples) ||
      double(weights.kh) * weights.kw * in.c * out.c * sizeof(float) > kMaxTransformedBytes)
    return std::numeric_limits<double>::infinity();
  if (algorithm == Algorithm::kRows) return w.kh == 3 ? rows_cost<3>(in, out, layout) : rows_cost<5>(in, out, layout);
  return w.kh == 3 ? tiles_cost<3>(in, out) : tiles_cost<5>(in, out);
}

bool streams_weights(const Program& program, const Instruction& conv, int y, Algorithm algorithm) {
  const Shape &in = program.shapes[size_t(conv.inputs[0])], &out = program.shapes[size_t(y)];
  const Window its = transformed(conv.window, algorithm);
  const double weights = double(its.kh) * its.kw * in.c / conv.groups * out.c * sizeof(float);
  return weights > kStreamedBytes && weights > kStreamedShare * double(in.size() + out.size()) * sizeof(float);
}

}  // namespace nncompile
