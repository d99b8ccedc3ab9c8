// Pools and pointwise steps with a sample in each lane.
#include "activation.h"
#include "lane_steps.h"

namespace nncompile {
namespace {

template <int V>
class LanePool : public LaneStep<V> {
 public:
  LanePool(const Program& program, const Work& work)
      : x_(work.instruction->inputs[0]),
        y_(work.y),
        op_(work.instruction->op),
        window_(work.instruction->window),
        activation_(work.epilogue.activation),
        in_(program.shapes[size_t(x_)]),
        out_(program.shapes[size_t(y_)]) {
    if (op_ == Opcode::kGlobalAverage) {
      window_.kh = in_.h;
      window_.kw = in_.w;
    }
  }

  void run(const LaneArena<V>& arena) const override {
    const LaneView<V> x = arena.view(x_), y = arena.view(y_);
    for (int c = 0; c < out_.c; ++c)
      for (int row = 0; row < out_.h; ++row) {
        const int y0 = row * window_.sh - window_.top;
        const int top = std::max(y0, 0), bottom = std::min(y0 + window_.kh, in_.h);
        for (int column = 0; column < out_.w; ++column) {
          const int x0 = column * window_.sw - window_.left;
          const int left = std::max(x0, 0), right = std::min(x0 + window_.kw, in_.w);
          const Vec<V> value = window(x.at(c, top, left), x.pitch(), bottom - top, right - left, y0, x0);
          store<V>(y.at(c, row, column), activate<V>(activation_, value));
        }
      }
    clear_lane_border(y);
  }

 private:
  Vec<V> window(const float* x, ptrdiff_t pitch, int rows, int columns, int y0, int x0) const {
    if (op_ == Opcode::kMaxPool) {
      Vec<V> value = load<V>(x);
      for (int i = 0; i < rows; ++i)
        for (int j = 0; j < columns; ++j) value = larger<V>(value, load<V>(x + i * pitch + j * V));
      return value;
    }
    const bool global = op_ == Opcode::kGlobalAverage;
    Vec<V> total{};
    for (int i = 0; i < rows; ++i) {
      Vec<V> line = global ? Vec<V>{} : total;
      for (int j = 0; j < columns; ++j) line += load<V>(x + i * pitch + j * V);
      total = global ? total + line : line;
    }
    int count = rows * columns;
    if (window_.include_pad)
      count = (std::min(y0 + window_.kh, in_.h + window_.bottom) - y0) *
              (std::min(x0 + window_.kw, in_.w + window_.right) - x0);
    return total * (1.0f / float(count));
  }

  int x_, y_;
  Opcode op_;
  Window window_;
  Activation activation_;
  Shape in_, out_;
};

// Add, Mul, an activation alone, Concat.
template <int V>
class LanePointwise : public LaneStep<V> {
 public:
  LanePointwise(const Program& program, const Work& work)
      : inputs_(work.instruction->inputs),
        y_(work.y),
        op_(work.instruction->op),
        activation_(op_ == Opcode::kActivation ? work.instruction->activation : work.epilogue.activation),
        gate_(op_ == Opcode::kMultiply && !(program.shapes[size_t(inputs_[0])] == program.shapes[size_t(inputs_[1])])) {}

  void run(const LaneArena<V>& arena) const override {
    const LaneView<V> y = arena.view(y_);
    if (op_ == Opcode::kConcat) {
      int channel = 0;
      for (const int input : inputs_) {
        const LaneView<V> x = arena.view(input);
        for (int c = 0; c < x.place->shape.c; ++c, ++channel) one(x, x, y, c, channel);
      }
    } else {
      const LaneView<V> a = arena.view(inputs_[0]), b = arena.view(inputs_.back());
      for (int c = 0; c < y.place->shape.c; ++c) one(a, b, y, c, c);
    }
    clear_lane_border(y);
  }

 private:
  void one(const LaneView<V>& a, const LaneView<V>& b, const LaneView<V>& y, int from, int to) const {
    const Shape& shape = y.place->shape;
    for (int row = 0; row < shape.h; ++row)
      for (int column = 0; column < shape.w; ++column) {
        Vec<V> value = load<V>(a.at(from, row, column));
        const float* other = gate_ ? b.at(from, 0, 0) : b.at(from, row, column);
        if (op_ == Opcode::kAdd) value += load<V>(other);
        if (op_ == Opcode::kMultiply) value *= load<V>(other);
        store<V>(y.at(to, row, column), activate<V>(activation_, value));
      }
  }

  std::vector<int> inputs_;
  int y_;
  Opcode op_;
  Activation activation_;
  bool gate_;
};

}  // namespace

template <int V>
LaneStepPtr<V> make_lane_pool(const Program& program, const Work& work) {
  return std::make_unique<LanePool<V>>(program, work);
}
template <int V>
LaneStepPtr<V> make_lane_pointwise(const Program& program, const Work& work) {
  return std::make_unique<LanePointwise<V>>(program, work);
}

#if defined(__AVX512F__)
template LaneStepPtr<16> make_lane_pool<16>(const Program&, const Work&);
template LaneStepPtr<16> make_lane_pointwise<16>(const Program&, const Work&);
#endif
#if defined(__AVX2__)
template LaneStepPtr<8> make_lane_pool<8>(const Program&, const Work&);
template LaneStepPtr<8> make_lane_pointwise<8>(const Program&, const Work&);
#endif

}  // namespace nncompile
