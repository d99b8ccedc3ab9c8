#include "program.h"

namespace nncompile {
namespace {

constexpr int64_t kMaxDimension = 1 << 24;
constexpr double kMaxElements = 1 << 30;
constexpr int64_t kMaxCount = 1 << 14;

[[noreturn]] void refuse(const std::string& why) { throw Refused("FusedRegion: " + why); }

// In double precision, where nothing overflows.
double elements(int64_t a, int64_t b, int64_t c) { return double(a) * double(b) * double(c); }

class Reader {
 public:
  explicit Reader(const std::vector<int64_t>& code) : code_(code) {}

  int64_t next(const char* what, int64_t low, int64_t high) {
    if (at_ >= code_.size()) refuse(std::string("the program ends before ") + what);
    const int64_t value = code_[at_++];
    if (value < low || value > high)
      refuse(std::string(what) + " is " + std::to_string(value) + ", not in [" + std::to_string(low) + ", " +
             std::to_string(high) + "]");
    return value;
  }
  size_t position() const { return at_; }
  bool done() const { return at_ == code_.size(); }

 private:
  const std::vector<int64_t>& code_;
  size_t at_ = 0;
};

class Parser {
 public:
  Parser(const std::vector<int64_t>& code, const std::vector<float>& constants, Program& program)
      : in_(code), constants_(constants), program_(program) {}

  void run() {
    const int64_t inputs = in_.next("the number of activations", 1, kMaxCount);
    for (int64_t i = 0; i < inputs; ++i) {
      Input input;
      input.rank = int(in_.next("a rank", 2, kChannelsLast));
      input.shape.c = dimension();
      input.shape.h = dimension();
      input.shape.w = dimension();
      if (!fits(input.rank, input.shape)) refuse("a plane of rank " + std::to_string(input.rank));
      add_shape(input.shape);
      program_.inputs.push_back(input);
    }
    const int64_t count = in_.next("the number of instructions", 1, kMaxCount);
    for (int64_t i = 0; i < count; ++i) instruction();
    const int64_t outputs = in_.next("the number of outputs", 1, kMaxCount);
    for (int64_t i = 0; i < outputs; ++i) {
      Output output;
      output.value = value();
      output.rank = int(in_.next("a rank", 2, kChannelsLast));
      if (!fits(output.rank, program_.shapes[size_t(output.value)])) refuse("an output's rank");
      program_.outputs.push_back(output);
    }
    if (!in_.done()) refuse("the program goes on after its end");
  }

 private:
  int dimension() { return int(in_.next("a dimension", 1, kMaxDimension)); }
  static bool fits(int rank, const Shape& shape) { return rank > 3 || (shape.w == 1 && (rank == 3 || shape.h == 1)); }
  int value() { return int(in_.next("a value", 0, int64_t(program_.shapes.size()) - 1)); }
  int weight(const char* what, int64_t low = 0) {
    return int(in_.next(what, low, int64_t(program_.weights.size()) - 1));
  }

  void add_shape(const Shape& shape) {
    if (elements(shape.c, shape.h, shape.w) > kMaxElements) refuse("a value has too many elements");
    program_.shapes.push_back(shape);
  }

  int pad() { return int(in_.next("a pad", 0, kMaxDimension)); }

  // A window, and its padding in front.
  Window kernel(bool pool) {
    Window w;
    w.kh = dimension();
    w.kw = dimension();
    w.sh = dimension();
    w.sw = dimension();
    if (!pool) {
      w.dh = dimension();
      w.dw = dimension();
      for (const double span : {double(w.kh - 1) * w.dh, double(w.kw - 1) * w.dw})
        if (span > double(kMaxDimension)) refuse("a kernel is dilated too far");
    }
    w.top = pad();
    w.left = pad();
    return w;
  }

  Window window(bool pads_average, bool pool) {
    Window w = kernel(pool);
    w.bottom = pad();
    w.right = pad();
    if (pool) w.ceil = in_.next("ceil", 0, 1) != 0;
    if (pads_average) w.include_pad = in_.next("include_pad", 0, 1) != 0;
    if (pool && (w.top >= w.kh || w.bottom >= w.kh || w.left >= w.kw || w.right >= w.kw))
      refuse("a pool pads by its kernel or more");
    return w;
  }

  // ONNX's formula; with ceil, a last window that would start in the trailing pad is left out.
  static int extent(int n, int kernel, int stride, int before, int after, bool ceil) {
    const int span = n + before + after - kernel;
    if (span < 0) refuse("a kernel is larger than its input");
    int count = (span + (ceil ? stride - 1 : 0)) / stride + 1;
    if (ceil && (count - 1) * stride >= n + before) --count;
    return count;
  }

  static Shape windowed(const Shape& x, const Window& w, int channels) {
    if (elements(x.c, int64_t(x.h) + w.top + w.bottom, int64_t(x.w) + w.left + w.right) > kMaxElements)
      refuse("a padded value has too many elements");
    return {channels, extent(x.h, w.rows(1), w.sh, w.top, w.bottom, w.ceil),
            extent(x.w, w.columns(1), w.sw, w.left, w.right, w.ceil)};
  }

  void bias(const Instruction& instruction, int64_t channels) {
    if (instruction.bias < 0) return;
    if (program_.weights[size_t(instruction.bias)].dims != std::vector<int64_t>{channels})
      refuse("a bias does not fit its layer");
  }

  void instruction() {
    const int64_t opcode = in_.next("an opcode", 1, 20);
    const int64_t fields = in_.next("a number of fields", 1, kMaxCount);
    const size_t start = in_.position();
    Instruction made{};
    made.op = Opcode(opcode);
    made.inputs.push_back(made.op == Opcode::kConcat ? int(in_.next("a number of values", 1, kMaxCount)) : value());
    const Shape x = made.op == Opcode::kConcat ? Shape{} : program_.shapes[size_t(made.inputs[0])];
    Shape y = x;
    switch (made.op) {
      case Opcode::kConv: {
        made.weight = weight("a weight");
        made.bias = weight("a bias", -1);
        made.window = window(false, false);
        made.groups = dimension();
        const auto& dims = program_.weight_of(made).dims;
        if (dims.size() != 4 || dims[2] != made.window.kh || dims[3] != made.window.kw ||
            dims[1] * made.groups != x.c || dims[0] < 1 || dims[0] > kMaxDimension)
          refuse("a convolution's weight does not fit its input");
        if (elements(dims[0] * dims[1], made.window.kh, made.window.kw) > kMaxElements)
          refuse("a convolution's weight has too many elements");
        if (dims[0] % made.groups != 0) refuse("a convolution's outputs are no multiple of its groups");
        made.depthwise = made.groups != 1 && dims[1] == 1 && dims[0] == made.groups;
        bias(made, dims[0]);
        y = windowed(x, made.window, int(dims[0]));
        break;
      }
      case Opcode::kConvTranspose: {
        made.weight = weight("a weight");
        made.bias = weight("a bias", -1);
        made.window = kernel(false);
        y.h = dimension();
        y.w = dimension();
        made.groups = dimension();
        const Window& w = made.window;
        const auto& dims = program_.weight_of(made).dims;
        if (dims.size() != 4 || dims[2] != w.kh || dims[3] != w.kw || dims[0] != x.c || dims[1] < 1 ||
            x.c % made.groups != 0 || double(dims[1]) * made.groups > double(kMaxDimension))
          refuse("a transposed convolution's weight does not fit its input");
        made.depthwise = made.groups != 1 && dims[1] == 1 && dims[0] == made.groups;
        y.c = int(dims[1]) * made.groups;
        if (elements(dims[0] * dims[1], w.kh, w.kw) > kMaxElements || elements(x.w, y.c, w.kw) > kMaxElements)
          refuse("a transposed convolution's weight has too many elements");
        bias(made, y.c);
        break;
      }
      case Opcode::kMaxPool:
        made.window = window(false, true);
        y = windowed(x, made.window, x.c);
        break;
      case Opcode::kAveragePool:
        made.window = window(true, true);
        y = windowed(x, made.window, x.c);
        break;
      case Opcode::kChannelMean:
        y.c = 1;
        break;
      case Opcode::kGlobalAverage:
      case Opcode::kPlaneNorm:
        y = {x.c, 1, 1};
        break;
      case Opcode::kAdd:
      case Opcode::kSubtract:
        made.inputs.push_back(value());
        if (!(program_.shapes[size_t(made.inputs[1])] == x))
          refuse(made.op == Opcode::kAdd ? "Add of different shapes" : "Sub of different shapes");
        break;
      case Opcode::kMultiply: {
        made.inputs.push_back(value());
        const Shape other = program_.shapes[size_t(made.inputs[1])];
        const Beside how = beside(x, other);
        if (how == Beside::kNeither) refuse("Mul of different shapes");
        if (how == Beside::kOuter) y = {x.c, other.h, other.w};
        break;
      }
      case Opcode::kDivide: {
        made.inputs.push_back(value());
        const Beside other = beside(x, program_.shapes[size_t(made.inputs[1])]);
        if (other != Beside::kSame && other != Beside::kOfPixels) refuse("Div of different shapes");
        break;
      }
      case Opcode::kLinear: {
        made.weight = weight("a weight");
        made.bias = weight("a bias", -1);
        made.transposed = in_.next("transposed", 0, 1) != 0;
        const auto& dims = program_.weight_of(made).dims;
        if (dims.size() != 2 || dims[made.transposed ? 1 : 0] != x.c)
          refuse("a linear layer's weight does not fit its input");
        const int64_t out = dims[made.transposed ? 0 : 1];
        if (out < 1 || double(out) > kMaxElements) refuse("a linear layer has no outputs");
        bias(made, out);
        y = {int(out), x.h, x.w};
        if (x.h != 1 || x.w != 1) made.op = Opcode::kConv;  // of each pixel: a convolution of 1 x 1
        break;
      }
      case Opcode::kLayerNorm:
        made.weight = weight("a weight");
        made.bias = weight("a bias", -1);
        if (program_.weight_of(made).dims != std::vector<int64_t>{x.c}) refuse("a scale does not fit its channels");
        bias(made, x.c);
        made.epsilon = constant(true);
        break;
      case Opcode::kActivation:
        made.activation.kind = Kind(in_.next("an activation", 1, 10));
        made.activation.first = constant(constants_of(made.activation.kind) > 0);
        made.activation.second = constant(constants_of(made.activation.kind) > 1);
        break;
      case Opcode::kSoftmax:
      case Opcode::kLogSoftmax:
        if (x.h != 1 || x.w != 1) refuse("softmax over a plane");
        break;
      case Opcode::kConcat: {
        const int count = made.inputs[0];
        made.inputs.clear();
        y = {0, 1, 1};
        for (int i = 0; i < count; ++i) {
          made.inputs.push_back(value());
          const Shape part = program_.shapes[size_t(made.inputs.back())];
          if (i > 0 && (part.h != y.h || part.w != y.w)) refuse("Concat of different planes");
          if (double(y.c) + part.c > kMaxElements) refuse("Concat of too many channels");
          y = {y.c + part.c, part.h, part.w};
        }
        break;
      }
      case Opcode::kFlatten:
        if (double(x.size()) > kMaxElements) refuse("a value has too many elements");
        y = {int(x.size()), 1, 1};
        break;
      case Opcode::kSelect:
        y.c = int(in_.next("a number of channels", 1, kMaxCount));
        for (int i = 0; i < y.c; ++i) made.channels.push_back(int(in_.next("a channel", 0, x.c - 1)));
        break;
      case Opcode::kResize:
        y.h = dimension();
        y.w = dimension();
        made.resizing = Resizing(in_.next("a way to resize", 0, 2));
        break;
    }
    if (int64_t(in_.position() - start) != fields) refuse("an instruction has another number of fields");
    program_.instructions.push_back(std::move(made));
    add_shape(y);
  }

  static int constants_of(Kind kind) {
    if (kind == Kind::kClip || kind == Kind::kHardSigmoid || kind == Kind::kStarRelu) return 2;
    return kind == Kind::kLeakyRelu ? 1 : 0;
  }

  float constant(bool needed) {
    const int64_t index = in_.next("a constant", needed ? 0 : -1, int64_t(constants_.size()) - 1);
    return index < 0 ? 0.0f : constants_[size_t(index)];
  }

  Reader in_;
  const std::vector<float>& constants_;
  Program& program_;
};

}  // namespace

size_t activation_count(const std::vector<int64_t>& code) {
  if (code.empty() || code[0] < 1 || code[0] > kMaxCount) refuse("the program has no activations");
  return size_t(code[0]);
}

Program parse(int64_t schema, const std::vector<int64_t>& code, const std::vector<float>& constants,
              std::vector<Weight> weights) {
  if (schema != kSchema)
    refuse("the program has schema " + std::to_string(schema) + ", and this library knows " +
           std::to_string(kSchema) + " only; install the nncompile-kernels that fits the file");
  Program program;
  program.weights = std::move(weights);
  Parser(code, constants, program).run();
  return program;
}

}  // namespace nncompile
