// What a FusedRegion node computes: values, each C x H x W per sample, and one instruction for each.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace nncompile {

inline constexpr int64_t kSchema = 1;

// A program, a weight or an input that the library does not understand; never a guess.
struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Opcode : int64_t {
  kConv = 1,
  kMaxPool = 2,
  kAveragePool = 3,
  kGlobalAverage = 4,
  kAdd = 5,
  kLinear = 6,
  kActivation = 7,
  kSoftmax = 8,
  kLogSoftmax = 9,
  kConcat = 10,
  kMultiply = 11,
  kFlatten = 12,
  kSelect = 13,
  kSubtract = 14,
  kResize = 15,
  kConvTranspose = 16,
  kLayerNorm = 17,
  kPlaneNorm = 18,
  kChannelMean = 19,
  kDivide = 20,
};

enum class Kind : int64_t {
  kNone = 0,
  kRelu = 1,
  kClip = 2,
  kLeakyRelu = 3,
  kSilu = 4,
  kHardSwish = 5,
  kSigmoid = 6,
  kTanh = 7,
  kHardSigmoid = 8,
  kGelu = 9,
  kStarRelu = 10,
};

// How a plane of another size is made, by where the middles of its elements lie: the element at i n / m, rounded down,
// of n for m; a mix of two, with the planes' edges or the middles of their corners at the same places.
enum class Resizing : int64_t {
  kNearest = 0,
  kHalfPixels = 1,
  kCorners = 2,
};

// `first` and `second` are the constants of the kinds that have some: bounds, slope, alpha and beta, scale and shift.
struct Activation {
  Kind kind = Kind::kNone;
  float first = 0, second = 0;
};

struct Shape {
  int c = 0, h = 1, w = 1;
  size_t size() const { return size_t(c) * size_t(h) * size_t(w); }
  bool operator==(const Shape& other) const { return c == other.c && h == other.h && w == other.w; }
};

struct Window {
  int kh = 1, kw = 1, sh = 1, sw = 1, top = 0, left = 0, bottom = 0, right = 0;
  int dh = 1, dw = 1;  // dilations
  bool ceil = false, include_pad = false;

  bool dilated() const { return dh != 1 || dw != 1; }
  // How many rows and columns so many outputs read, padding included.
  int rows(int outputs) const { return (outputs - 1) * sh + (kh - 1) * dh + 1; }
  int columns(int outputs) const { return (outputs - 1) * sw + (kw - 1) * dw + 1; }
  // Whether each output reads 2 x 2 inputs that are its alone and none of them padding.
  bool fours(const Shape& in, const Shape& out) const {
    return kh == 2 && kw == 2 && sh == 2 && sw == 2 && !dilated() && top == 0 && left == 0 && 2 * out.h <= in.h &&
           2 * out.w <= in.w;
  }
};

// A weight of the graph: its dimensions and its values, which live as long as the session.
struct Weight {
  std::vector<int64_t> dims;
  const float* data = nullptr;
};

struct Instruction {
  Opcode op;
  std::vector<int> inputs;  // value ids
  int weight = -1, bias = -1;
  int groups = 1;
  bool depthwise = false;  // a group for each channel, of one output
  bool transposed = false;
  Window window;
  Activation activation;
  Resizing resizing = Resizing::kNearest;
  std::vector<int> channels;  // of its input, one for each of the result
  float epsilon = 0;
};

// As ranks: N x H x C, of planes one column wide; of 4 axes, N x H x W x C.
inline constexpr int kSequence = 3, kChannelsLast = 5;

inline bool channels_last(int rank) { return rank == kSequence || rank == kChannelsLast; }

// How the second of two values stands beside a first of that shape: the same, one number for each channel or for each
// pixel, or one for each pixel where the first has one for each channel.
enum class Beside { kSame, kOfChannels, kOfPixels, kOuter, kNeither };

inline Beside beside(const Shape& first, const Shape& second) {
  if (second == first) return Beside::kSame;
  if (second == Shape{first.c, 1, 1}) return Beside::kOfChannels;
  if (second == Shape{1, first.h, first.w}) return Beside::kOfPixels;
  return first.h == 1 && first.w == 1 && second.c == 1 ? Beside::kOuter : Beside::kNeither;
}

struct Input {
  int rank;  // 2: N x C; 4: N x C x H x W; kSequence or kChannelsLast
  Shape shape;
};

struct Output {
  int value;
  int rank;  // as of an input
};

struct Program {
  std::vector<Input> inputs;
  std::vector<Instruction> instructions;
  std::vector<Output> outputs;
  std::vector<Shape> shapes;  // of every value: the inputs, then one for each instruction
  std::vector<Weight> weights;

  int value_of(int instruction) const { return int(inputs.size()) + instruction; }
  const Weight& weight_of(const Instruction& layer) const { return weights[size_t(layer.weight)]; }
  // Null where the layer has none.
  const float* bias_of(const Instruction& layer) const {
    return layer.bias < 0 ? nullptr : weights[size_t(layer.bias)].data;
  }
};

// Reads the attributes of a node and checks every number in them against the weights.
// Throws Refused.
Program parse(int64_t schema, const std::vector<int64_t>& code, const std::vector<float>& constants,
              std::vector<Weight> weights);

// The number of activations, which is all that must be known to tell the weights among a node's inputs.
size_t activation_count(const std::vector<int64_t>& code);

}  // namespace nncompile
