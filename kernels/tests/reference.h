// What a program means, one element after the other and in double precision, with how far float32 may be from it: what
// the stress test compares with.
#pragma once

#include <vector>

#include "rounding.h"

namespace nncompile::reference {

// Winograd's algorithm is off by a share of the largest sum of absolute values in its layer
// (tests/kernels/test_winograd_error.py).
constexpr double kWinograd = 2e-5;

struct Tensor {
  Shape shape;
  std::vector<Number> data;  // [c][y][x]

  explicit Tensor(const Shape& its) : shape(its), data(its.size()) {}
  Number& at(int c, int y, int x) {
    return data[(size_t(c) * size_t(shape.h) + size_t(y)) * size_t(shape.w) + size_t(x)];
  }
  const Number& at(int c, int y, int x) const { return const_cast<Tensor*>(this)->at(c, y, x); }
  // Where the element at `i` of a caller's tensor of that rank lies in `data`.
  size_t from(size_t i, int rank) const {
    if (!channels_last(rank)) return i;
    const size_t channels = size_t(shape.c), plane = size_t(shape.h) * size_t(shape.w);
    return i % channels * plane + i / channels;
  }
  bool inside(int y, int x) const { return y >= 0 && y < shape.h && x >= 0 && x < shape.w; }
};

class Sample {
 public:
  // `inputs`: one sample of each activation. `winograd`: whether layers may run by Winograd's algorithm.
  Sample(const Program& program, const std::vector<const float*>& inputs, bool winograd)
      : program_(program), winograd_(winograd) {
    for (size_t i = 0; i < program.inputs.size(); ++i) {
      Tensor value(program.inputs[i].shape);
      for (size_t e = 0; e < value.data.size(); ++e)
        value.data[value.from(e, program.inputs[i].rank)] = {double(inputs[i][e]), 0};
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
        convolve(instruction, x, y);
        break;
      case Opcode::kConvTranspose:
        each(y, [&](int c, int i, int j) { return spread(instruction, x, c, i, j); });
        break;
      case Opcode::kMaxPool:
      case Opcode::kAveragePool:
        each(y, [&](int c, int i, int j) { return pooled(instruction, x, c, i, j); });
        break;
      case Opcode::kGlobalAverage:
        each(y, [&](int c, int, int) {
          Mean mean;
          for (int i = 0; i < x.shape.h; ++i)
            for (int j = 0; j < x.shape.w; ++j) mean.add(x.at(c, i, j));
          return mean.result(x.shape.h * x.shape.w);
        });
        break;
      case Opcode::kPlaneNorm:
        each(y, [&](int c, int, int) {
          Mean squares;
          for (int i = 0; i < x.shape.h; ++i)
            for (int j = 0; j < x.shape.w; ++j) squares.add(x.at(c, i, j) * x.at(c, i, j));
          return root(squares.result(1));
        });
        break;
      case Opcode::kChannelMean:
        each(y, [&](int, int i, int j) {
          Mean mean;
          for (int c = 0; c < x.shape.c; ++c) mean.add(x.at(c, i, j));
          return mean.result(x.shape.c);
        });
        break;
      case Opcode::kAdd:
        each(y, [&](int c, int i, int j) { return x.at(c, i, j) + value(instruction.inputs[1]).at(c, i, j); });
        break;
      case Opcode::kResize:
        each(y, [&](int c, int i, int j) { return resized(instruction.resizing, x, y.shape, c, i, j); });
        break;
      case Opcode::kSubtract:
        each(y, [&](int c, int i, int j) { return x.at(c, i, j) - value(instruction.inputs[1]).at(c, i, j); });
        break;
      case Opcode::kMultiply: {
        const Tensor& z = value(instruction.inputs[1]);
        const Beside how = beside(x.shape, z.shape);
        const auto other = [&](int c, int i, int j) {
          if (how == Beside::kOfChannels) return z.at(c, 0, 0);
          return z.at(how == Beside::kSame ? c : 0, i, j);
        };
        const bool outer = how == Beside::kOuter;
        each(y, [&](int c, int i, int j) { return (outer ? x.at(c, 0, 0) : x.at(c, i, j)) * other(c, i, j); });
        break;
      }
      case Opcode::kDivide: {
        const Tensor& z = value(instruction.inputs[1]);
        const bool same = z.shape == x.shape;
        each(y, [&](int c, int i, int j) { return x.at(c, i, j) / z.at(same ? c : 0, i, j); });
        break;
      }
      case Opcode::kLinear: {
        const Weight& weight = program_.weights[size_t(instruction.weight)];
        each(y, [&](int c, int, int) {
          WeightedSum sum(bias(instruction, c));
          for (size_t k = 0; k < x.data.size(); ++k)
            sum.add(x.data[k], double(instruction.transposed ? weight.data[size_t(c) * x.data.size() + k]
                                                             : weight.data[k * y.data.size() + size_t(c)]));
          return sum.result();
        });
        break;
      }
      case Opcode::kLayerNorm:
        layer_norm(instruction, x, y);
        break;
      case Opcode::kActivation:
        each(y, [&](int c, int i, int j) { return curve(instruction.activation, x.at(c, i, j)); });
        break;
      case Opcode::kSoftmax:
      case Opcode::kLogSoftmax:
        softmax(x, y, instruction.op == Opcode::kLogSoftmax);
        break;
      case Opcode::kConcat: {
        auto to = y.data.begin();
        for (const int part : instruction.inputs) to = std::copy(value(part).data.begin(), value(part).data.end(), to);
        break;
      }
      case Opcode::kFlatten:
        y.data = x.data;
        break;
      case Opcode::kSelect:
        each(y, [&](int c, int i, int j) { return x.at(instruction.channels[size_t(c)], i, j); });
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

  void convolve(const Instruction& conv, const Tensor& x, Tensor& y) const {
    const Window& w = conv.window;
    const bool winograd =
        winograd_ && conv.groups == 1 && w.kh == w.kw && (w.kh == 3 || w.kh == 5) && w.sh == 1 && w.sw == 1 &&
        !w.dilated();
    double largest = 0;
    each(y, [&](int k, int i, int j) {
      const WeightedSum sum = convolved(conv, x, k, i, j);
      largest = std::max(largest, sum.size());
      return winograd ? Number{sum.result().value, sum.of_numbers()} : sum.result();
    });
    for (size_t i = 0; winograd && i < y.data.size(); ++i) y.data[i].error += kWinograd * largest;
  }

  WeightedSum convolved(const Instruction& conv, const Tensor& x, int k, int i, int j) const {
    const Window& w = conv.window;
    const Weight& weight = program_.weight_of(conv);
    const bool matrix = weight.dims.size() == 2;
    const int all = int(weight.dims[matrix && !conv.transposed ? 1 : 0]);
    const int channels = x.shape.c / conv.groups, outputs = all / conv.groups;
    const int first = k / outputs * channels;
    WeightedSum sum(bias(conv, k));
    for (int c = 0; c < channels; ++c)
      for (int r = 0; r < w.kh; ++r)
        for (int s = 0; s < w.kw; ++s) {
          const int y = i * w.sh - w.top + r * w.dh, column = j * w.sw - w.left + s * w.dw;
          const size_t line = (size_t(k) * size_t(channels) + size_t(c)) * size_t(w.kh) + size_t(r);
          size_t place = line * size_t(w.kw) + size_t(s);
          if (matrix && !conv.transposed) place = size_t(c) * size_t(all) + size_t(k);
          if (x.inside(y, column)) sum.add(x.at(first + c, y, column), double(weight.data[place]));
        }
    return sum;
  }

  // The input's elements that a transposed convolution's kernel spreads as far as one of the result.
  Number spread(const Instruction& conv, const Tensor& x, int k, int i, int j) const {
    const Window& w = conv.window;
    const Weight& weight = program_.weight_of(conv);
    const int channels = x.shape.c / conv.groups, outputs = int(weight.dims[1]), first = k / outputs * channels;
    WeightedSum sum(bias(conv, k));
    for (int c = first; c < first + channels; ++c)
      for (int y = 0; y < x.shape.h; ++y)
        for (int column = 0; column < x.shape.w; ++column) {
          const int down = i + w.top - y * w.sh, across = j + w.left - column * w.sw;
          if (down < 0 || down % w.dh != 0 || down / w.dh >= w.kh) continue;
          if (across < 0 || across % w.dw != 0 || across / w.dw >= w.kw) continue;
          const size_t plane = size_t(c) * size_t(outputs) + size_t(k % outputs);
          const size_t line = plane * size_t(w.kh) + size_t(down / w.dh);
          sum.add(x.at(c, y, column), double(weight.data[line * size_t(w.kw) + size_t(across / w.dw)]));
        }
    return sum.result();
  }

  static Number pooled(const Instruction& pool, const Tensor& x, int c, int i, int j) {
    const Window& w = pool.window;
    Mean mean;
    Number largest{-HUGE_VAL, 0};
    int inside = 0, padded = 0;
    for (int r = 0; r < w.kh; ++r)
      for (int s = 0; s < w.kw; ++s) {
        const int y = i * w.sh - w.top + r, column = j * w.sw - w.left + s;
        if (y < x.shape.h + w.bottom && column < x.shape.w + w.right) ++padded;
        if (!x.inside(y, column)) continue;
        ++inside;
        const Number& element = x.at(c, y, column);
        mean.add(element);
        largest = {std::max(largest.value, element.value), std::max(largest.error, element.error)};
      }
    if (pool.op == Opcode::kMaxPool) return largest;
    return mean.result(w.include_pad ? padded : inside);
  }

  // Where the middle of element `i` of `to` lies among `from`.
  static double position(Resizing how, int i, int to, int from) {
    if (how == Resizing::kNearest) return std::floor(double(i) * from / to);
    if (how == Resizing::kCorners) return to == 1 ? 0.0 : double(i) * (from - 1) / (to - 1);
    return std::min(std::max((i + 0.5) * from / to - 0.5, 0.0), from - 1.0);
  }

  static Number resized(Resizing how, const Tensor& x, const Shape& to, int c, int i, int j) {
    const double row = position(how, i, to.h, x.shape.h), column = position(how, j, to.w, x.shape.w);
    Number sum;
    double size = 0;
    for (int r = int(row); r <= int(row) + 1; ++r)
      for (int s = int(column); s <= int(column) + 1; ++s) {
        const double share = (1 - std::abs(r - row)) * (1 - std::abs(s - column));
        if (share <= 0) continue;
        const Number& element = x.at(c, r, s);
        sum = {sum.value + share * element.value, sum.error + share * element.error};
        size = std::max(size, std::abs(element.value));  // a share is off by u, however small it is
      }
    return sum.rounded(8, size);  // of each of two mixes: two shares, a product, and the sum
  }

  // With the variance at both ends of what it may be: where all channels are alike, the rate is steep.
  void layer_norm(const Instruction& norm, const Tensor& x, Tensor& y) const {
    const int channels = x.shape.c;
    const auto rate = [&](double variance) { return 1 / std::sqrt(std::max(variance, 0.0) + double(norm.epsilon)); };
    for (int i = 0; i < x.shape.h; ++i)
      for (int j = 0; j < x.shape.w; ++j) {
        Mean sum, squares;
        for (int c = 0; c < channels; ++c) sum.add(x.at(c, i, j));
        const Number mean = sum.result(channels);
        const auto off = [&](int c) { return x.at(c, i, j) - mean; };
        for (int c = 0; c < channels; ++c) squares.add(off(c) * off(c));
        const Number variance = squares.result(channels);
        const double middle = rate(variance.value), steep = rate(variance.value - variance.error);
        const Number its = Number{middle, std::max(steep - middle, middle - rate(variance.value + variance.error))};
        for (int c = 0; c < channels; ++c) {
          const Number standard = off(c) * its.rounded(4, steep);
          const Number scale{double(program_.weight_of(norm).data[c]), 0}, shift{bias(norm, c), 0};
          y.at(c, i, j) = standard * scale + shift;
        }
      }
  }

  static void softmax(const Tensor& x, Tensor& y, bool logarithm) {
    double largest = -HUGE_VAL, total = 0, error = 0;  // the last of a shift of all: an average of the elements' errors
    for (const Number& element : x.data) largest = std::max(largest, element.value);
    for (const Number& element : x.data) {
      total += std::exp(element.value - largest);
      error += std::exp(element.value - largest) * element.error;
    }
    each(y, [&](int c, int, int) {
      const Number& element = x.at(c, 0, 0);
      const double shifted = element.value - largest, share = std::exp(shifted) / total;
      const Number power = Number{shifted - std::log(total), element.error + error / total}.rounded(
          4, std::abs(shifted) + std::log(total) + 1);
      return logarithm ? power : Number{share, std::min(1.0, share * std::expm1(power.error))}.rounded(1, share);
    });
  }

  const Program& program_;
  bool winograd_;
  std::vector<Tensor> values_;
};

}  // namespace nncompile::reference
