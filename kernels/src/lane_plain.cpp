// Pools, planes of another size and pointwise steps with a sample in each lane.
#include "lane_pool.h"
#include "resize.h"

namespace nncompile {
namespace {

template <int V>
class LanePoolStep : public LaneStep<V> {
 public:
  LanePoolStep(const Program& program, const Work& work)
      : x_(work.instruction->inputs[0]), y_(work.y), pool_(program, work) {}

  int units() const override { return pool_.shape().c; }

  void run(const LaneArena<V>& arena, int begin, int end) const override {
    const LaneView<V> x = arena.view(x_), y = arena.view(y_);
    for (int c = begin; c < end; ++c)
      for (int row = 0; row < pool_.shape().h; ++row)
        pool_.run(x.at(c, pool_.first_row(row), 0), x.pitch(), row, y.at(c, row, 0));
    if (end == units()) clear_lane_border(y);
  }

 private:
  int x_, y_;
  LanePool<V> pool_;
};

template <int V>
class LaneResize : public LaneStep<V> {
 public:
  LaneResize(const Program& program, const Work& work)
      : x_(work.instruction->inputs[0]), y_(work.y), channels_(program.shapes[size_t(y_)].c) {
    const Shape &in = program.shapes[size_t(x_)], &out = program.shapes[size_t(y_)];
    rows_ = sources(in.h, out.h, work.instruction->resizing);
    columns_ = sources(in.w, out.w, work.instruction->resizing);
  }

  int units() const override { return channels_; }

  void run(const LaneArena<V>& arena, int begin, int end) const override {
    const LaneView<V> x = arena.view(x_), y = arena.view(y_);
    for (int c = begin; c < end; ++c)
      for (size_t row = 0; row < rows_.size(); ++row) {
        float* to = y.at(c, int(row), 0);
        for (const Source& column : columns_) {
          Vec<V> value = mixed(x, c, rows_[row], column.first);
          if (!column.one()) value = mix<V>(value, mixed(x, c, rows_[row], column.second), column.share);
          store<V>(to, value);
          to += V;
        }
      }
    if (end == units()) clear_lane_border(y);
  }

 private:
  static Vec<V> mixed(const LaneView<V>& x, int c, const Source& row, int column) {
    const Vec<V> first = load<V>(x.at(c, row.first, column));
    return row.one() ? first : mix<V>(first, load<V>(x.at(c, row.second, column)), row.share);
  }

  int x_, y_, channels_;
  std::vector<Source> rows_, columns_;
};

// Add, Sub, Mul, an activation alone, Concat.
template <int V>
class LanePointwise : public LaneStep<V> {
 public:
  LanePointwise(const Program& program, const Work& work)
      : inputs_(work.instruction->inputs),
        y_(work.y),
        op_(work.instruction->op),
        activation_(op_ == Opcode::kActivation ? work.instruction->activation : work.epilogue.activation),
        gate_(op_ == Opcode::kMultiply && !(program.shapes[size_t(inputs_[0])] == program.shapes[size_t(inputs_[1])])),
        channels_(program.shapes[size_t(y_)].c) {}

  int units() const override { return channels_; }

  void run(const LaneArena<V>& arena, int begin, int end) const override {
    const LaneView<V> y = arena.view(y_);
    if (op_ == Opcode::kConcat) {
      int channel = 0;
      for (const int input : inputs_) {
        const LaneView<V> x = arena.view(input);
        for (int c = 0; c < x.place->shape.c; ++c, ++channel)
          if (channel >= begin && channel < end) one(x, x, y, c, channel);
      }
    } else {
      const LaneView<V> a = arena.view(inputs_[0]), b = arena.view(inputs_.back());
      for (int c = begin; c < end; ++c) one(a, b, y, c, c);
    }
    if (end == units()) clear_lane_border(y);
  }

 private:
  void one(const LaneView<V>& a, const LaneView<V>& b, const LaneView<V>& y, int from, int to) const {
    const Shape& shape = y.place->shape;
    for (int row = 0; row < shape.h; ++row)
      for (int column = 0; column < shape.w; ++column) {
        Vec<V> value = load<V>(a.at(from, row, column));
        const float* other = gate_ ? b.at(from, 0, 0) : b.at(from, row, column);
        if (op_ == Opcode::kAdd) value += load<V>(other);
        if (op_ == Opcode::kSubtract) value -= load<V>(other);
        if (op_ == Opcode::kMultiply) value *= load<V>(other);
        store<V>(y.at(to, row, column), activate<V>(activation_, value));
      }
  }

  std::vector<int> inputs_;
  int y_;
  Opcode op_;
  Activation activation_;
  bool gate_;
  int channels_;
};

}  // namespace

template <int V>
LaneStepPtr<V> make_lane_pool(const Program& program, const Work& work) {
  return std::make_unique<LanePoolStep<V>>(program, work);
}
template <int V>
LaneStepPtr<V> make_lane_pointwise(const Program& program, const Work& work) {
  return std::make_unique<LanePointwise<V>>(program, work);
}
template <int V>
LaneStepPtr<V> make_lane_resize(const Program& program, const Work& work) {
  return std::make_unique<LaneResize<V>>(program, work);
}

#if defined(__AVX512F__)
template LaneStepPtr<16> make_lane_pool<16>(const Program&, const Work&);
template LaneStepPtr<16> make_lane_pointwise<16>(const Program&, const Work&);
template LaneStepPtr<16> make_lane_resize<16>(const Program&, const Work&);
#endif
#if defined(__AVX2__)
template LaneStepPtr<8> make_lane_pool<8>(const Program&, const Work&);
template LaneStepPtr<8> make_lane_pointwise<8>(const Program&, const Work&);
template LaneStepPtr<8> make_lane_resize<8>(const Program&, const Work&);
#endif

}  // namespace nncompile
