// What a program means, one element after the other and in double precision: what the stress test compares with.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "../src/program.h"

namespace nncompile::reference {

struct Tensor {
  Shape shape;
  std::vector<double> data;  // [c][y][x]

  explicit Tensor(const Shape& its) : shape(its), data(its.size()) {}
  double& at(int c, int y, int x) { return data[(size_t(c) * size_t(shape.h) + size_t(y)) * size_t(shape.w) + size_t(x)]; }
  double at(int c, int y, int x) const { return const_cast<Tensor*>(this)->at(c, y, x); }
  bool inside(int y, int x) const { return y >= 0 && y < shape.h && x >= 0 && x < shape.w; }
};

inline double curve(const Activation& activation, double x) {
  const double a = double(activation.first), b = double(activation.second);
  switch (activation.kind) {
    case Kind::kNone:
      return x;
    case Kind::kRelu:
      return std::max(x, 0.0);
    case Kind::kClip:
      return std::min(std::max(x, a), b);
    case Kind::kLeakyRelu:
      return x < 0 ? x * a : x;
    case Kind::kSilu:
      return x / (1 + std::exp(-x));
    case Kind::kHardSwish:
      return x * std::min(std::max(x + 3, 0.0), 6.0) / 6;
    case Kind::kSigmoid:
      return 1 / (1 + std::exp(-x));
    case Kind::kTanh:
      return std::tanh(x);
    case Kind::kHardSigmoid:
      return std::min(std::max(a * x + b, 0.0), 1.0);
  }
  return x;
}

class Sample {
 public:
  // `inputs`: one sample of each activation.
  Sample(const Program& program, const std::vector<const float*>& inputs) : program_(program) {
    for (size_t i = 0; i < program.inputs.size(); ++i) {
      Tensor value(program.inputs[i].shape);
      std::copy_n(inputs[i], value.data.size(), value.data.begin());
      values_.push_back(std::move(value));
    }
    for (const Instruction& instruction : program.instructions) values_.push_back(make(instruction));
  }

  const Tensor& value(int number) const { return values_[size_t(number)]; }

 private:
  Tensor make(const Instruction& instruction) const {
    Tensor y(program_.shapes[values_.size()]);
    const Tensor& x = value(instruction.inputs[0]);
    switch (instruction.op) {
      case Opcode::kConv:
        each(y, [&](int c, int i, int j) { return convolved(instruction, x, c, i, j); });
        break;
      case Opcode::kMaxPool:
      case Opcode::kAveragePool:
        each(y, [&](int c, int i, int j) { return pooled(instruction, x, c, i, j); });
        break;
      case Opcode::kGlobalAverage:
        each(y, [&](int c, int, int) {
          double sum = 0;
          for (int i = 0; i < x.shape.h; ++i)
            for (int j = 0; j < x.shape.w; ++j) sum += x.at(c, i, j);
          return sum / (double(x.shape.h) * x.shape.w);
        });
        break;
      case Opcode::kAdd:
        each(y, [&](int c, int i, int j) { return x.at(c, i, j) + value(instruction.inputs[1]).at(c, i, j); });
        break;
      case Opcode::kMultiply: {
        const Tensor& z = value(instruction.inputs[1]);
        const bool gate = !(z.shape == x.shape);
        each(y, [&](int c, int i, int j) { return x.at(c, i, j) * (gate ? z.at(c, 0, 0) : z.at(c, i, j)); });
        break;
      }
      case Opcode::kLinear: {
        const Weight& weight = program_.weights[size_t(instruction.weight)];
        each(y, [&](int c, int, int) {
          double sum = bias(instruction, c);
          for (int k = 0; k < x.shape.c; ++k)
            sum += x.data[size_t(k)] * double(instruction.transposed ? weight.data[size_t(c) * x.data.size() + size_t(k)]
                                                                     : weight.data[size_t(k) * y.data.size() + size_t(c)]);
          return sum;
        });
        break;
      }
      case Opcode::kActivation:
        each(y, [&](int c, int i, int j) { return curve(instruction.activation, x.at(c, i, j)); });
        break;
      case Opcode::kSoftmax:
      case Opcode::kLogSoftmax: {
        const double largest = *std::max_element(x.data.begin(), x.data.end());
        double total = 0;
        for (const double element : x.data) total += std::exp(element - largest);
        each(y, [&](int c, int, int) {
          const double shifted = x.at(c, 0, 0) - largest;
          return instruction.op == Opcode::kSoftmax ? std::exp(shifted) / total : shifted - std::log(total);
        });
        break;
      }
      case Opcode::kConcat: {
        auto to = y.data.begin();
        for (const int part : instruction.inputs) to = std::copy(value(part).data.begin(), value(part).data.end(), to);
        break;
      }
      case Opcode::kFlatten:
        y.data = x.data;
        break;
    }
    return y;
  }

  template <class Element>
  static void each(Tensor& y, const Element& element) {
    for (int c = 0; c < y.shape.c; ++c)
      for (int i = 0; i < y.shape.h; ++i)
        for (int j = 0; j < y.shape.w; ++j) y.at(c, i, j) = element(c, i, j);
  }

  double bias(const Instruction& instruction, int c) const {
    return instruction.bias < 0 ? 0.0 : double(program_.weights[size_t(instruction.bias)].data[c]);
  }

  double convolved(const Instruction& conv, const Tensor& x, int k, int i, int j) const {
    const Window& w = conv.window;
    const float* weight = program_.weights[size_t(conv.weight)].data;
    const int channels = x.shape.c / conv.groups, first = conv.groups == 1 ? 0 : k;
    double sum = bias(conv, k);
    for (int c = 0; c < channels; ++c)
      for (int r = 0; r < w.kh; ++r)
        for (int s = 0; s < w.kw; ++s) {
          const int y = i * w.sh - w.top + r, column = j * w.sw - w.left + s;
          if (x.inside(y, column))
            sum += x.at(first + c, y, column) *
                   double(weight[((size_t(k) * size_t(channels) + size_t(c)) * size_t(w.kh) + size_t(r)) * size_t(w.kw) + size_t(s)]);
        }
    return sum;
  }

  static double pooled(const Instruction& pool, const Tensor& x, int c, int i, int j) {
    const Window& w = pool.window;
    double sum = 0, largest = -HUGE_VAL;
    int inside = 0, padded = 0;
    for (int r = 0; r < w.kh; ++r)
      for (int s = 0; s < w.kw; ++s) {
        const int y = i * w.sh - w.top + r, column = j * w.sw - w.left + s;
        if (y < x.shape.h + w.bottom && column < x.shape.w + w.right) ++padded;
        if (!x.inside(y, column)) continue;
        ++inside;
        sum += x.at(c, y, column);
        largest = std::max(largest, x.at(c, y, column));
      }
    if (pool.op == Opcode::kMaxPool) return largest;
    return sum / (w.include_pad ? padded : inside);
  }

  const Program& program_;
  std::vector<Tensor> values_;
};

}  // namespace nncompile::reference
