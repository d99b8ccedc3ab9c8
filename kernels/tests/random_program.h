// Random programs, as a session would hand them to `parse`.
#pragma once

#include <cmath>
#include <deque>
#include <memory>
#include <random>
#include <vector>

#include "../src/program.h"

namespace nncompile {

// Floats on the heap without one more before or behind: a sanitizer sees every step outside.
class Exactly {
 public:
  explicit Exactly(size_t count) : count_(count), data_(new float[count]) {}
  float* data() { return data_.get(); }
  const float* data() const { return data_.get(); }
  size_t size() const { return count_; }

 private:
  size_t count_;
  std::unique_ptr<float[]> data_;
};

class RandomProgram {
 public:
  explicit RandomProgram(uint64_t seed) : random_(seed), large_(number(0, 7) == 0) {
    const int inputs = number(1, 2), plane = large_ ? 60 : 19;
    code_ = {inputs};
    for (int i = 0; i < inputs; ++i) {
      const Shape shape{channels(), number(1, plane), number(0, 4) ? number(1, plane) : 1};
      shapes_.push_back(shape);
      code_.insert(code_.end(), {rank(shape), shape.c, shape.h, shape.w});
    }
    const int wanted = number(1, 8);
    for (int tries = 0; tries < 40 && count_ < wanted; ++tries) layer();
    if (count_ == 0) add(Opcode::kActivation, {0, 1, -1, -1}, shapes_[0]);
    code_.push_back(count_);
    code_.insert(code_.end(), body_.begin(), body_.end());
    const int outputs = number(1, 3);
    code_.push_back(outputs);
    for (int i = 0; i < outputs; ++i) {
      const int value = i ? any() : int(shapes_.size()) - 1;
      code_.insert(code_.end(), {value, rank(shapes_[size_t(value)])});
    }
  }

  Program program() const {
    std::vector<Weight> weights;
    for (size_t i = 0; i < data_.size(); ++i) weights.push_back({dims_[i], data_[i].data()});
    return parse(kSchema, code_, constants_, std::move(weights));
  }

  // Whether its layers may be large enough to be split among threads.
  bool large() const { return large_; }

  void fill(Exactly& floats, double scale = 1) {
    std::normal_distribution<float> normal;
    for (size_t i = 0; i < floats.size(); ++i) floats.data()[i] = float(scale) * normal(random_);
  }
  int number(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }

 private:
  int any() { return number(0, int(shapes_.size()) - 1); }
  int rank(const Shape& shape) {
    if (shape.w == 1 && number(0, 1)) return kSequence;
    return number(0, 5) ? 4 : kChannelsLast;
  }
  int channels() { return number(0, 1) ? number(1, 9) : number(1, 40); }

  void layer() {
    const int x = number(0, 2) ? int(shapes_.size()) - 1 : any();
    const Shape shape = shapes_[size_t(x)];
    const bool column = shape.h == 1 && shape.w == 1;
    switch (number(1, 18)) {
      case 1:
      case 2:
        return convolution(x, false);
      case 3:
        return convolution(x, true);
      case 4:
        return pool(x, Opcode::kMaxPool);
      case 5:
        return pool(x, Opcode::kAveragePool);
      case 6:
        return add(Opcode::kGlobalAverage, {x}, {shape.c, 1, 1});
      case 7:
      case 8: {
        const int y = any();
        if (shapes_[size_t(y)] == shape) return add(number(0, 1) ? Opcode::kAdd : Opcode::kSubtract, {x, y}, shape);
        return convolution(x, false, shape.c);
      }
      case 9: {
        const int y = any();
        const Shape other = shapes_[size_t(y)];
        if (beside(shape, other) == Beside::kOuter) return add(Opcode::kMultiply, {x, y}, {shape.c, other.h, other.w});
        if (beside(shape, other) != Beside::kNeither) return add(Opcode::kMultiply, {x, y}, shape);
        if (number(0, 3) == 0) {  // of each channel, by each pixel
          add(Opcode::kGlobalAverage, {x}, {shape.c, 1, 1});
          add(Opcode::kChannelMean, {x}, {1, shape.h, shape.w});
          return add(Opcode::kMultiply, {int(shapes_.size()) - 2, int(shapes_.size()) - 1}, shape);
        }
        if (number(0, 1)) return add(Opcode::kPlaneNorm, {x}, {shape.c, 1, 1});
        add(Opcode::kChannelMean, {x}, {1, shape.h, shape.w});
        if (number(0, 1)) return add(Opcode::kMultiply, {x, int(shapes_.size()) - 1}, shape);
        add(Opcode::kActivation, {int(shapes_.size()) - 1, 2, 1, 2}, {1, shape.h, shape.w});  // far from 0
        return add(Opcode::kDivide, {x, int(shapes_.size()) - 1}, shape);
      }
      case 10: {
        const int y = any();
        const Shape other = shapes_[size_t(y)];
        if (other.h == shape.h && other.w == shape.w && other.c + shape.c <= 128)
          add(Opcode::kConcat, {2, x, y}, {shape.c + other.c, shape.h, shape.w});
        return;
      }
      case 11:
        if (number(0, 1)) return linear(x);
        return add(Opcode::kFlatten, {x}, {int(shape.size()), 1, 1});
      case 12:
        return select(x);
      case 13:
        return convolution(x, false, 0, number(2, 6));
      case 14:
        if (column) add(number(0, 1) ? Opcode::kSoftmax : Opcode::kLogSoftmax, {x}, shape);
        return;
      case 15:  // and fewer channels, as decoders have: then both run row by row
        resize(x);
        if (number(0, 1)) convolution(int(shapes_.size()) - 1, false, number(1, 2));
        return;
      case 16:
        return transposed(x, number(0, 2) ? 1 : number(2, 6));
      case 17: {
        const int scale = weight({shape.c}, 1), shift = bias(shape.c);
        return add(Opcode::kLayerNorm, {x, scale, shift, number(1, 3)}, shape);
      }
      default:
        return add(Opcode::kActivation, {x, number(1, 10), 1, 2}, shape);
    }
  }

  void select(int x) {
    const Shape in = shapes_[size_t(x)];
    const int count = number(1, 40), first = number(0, in.c - 1);
    const bool in_a_row = number(0, 1) && first + count <= in.c;
    std::vector<int64_t> fields{x, count};
    for (int i = 0; i < count; ++i) fields.push_back(in_a_row ? first + i : number(0, in.c - 1));
    add(Opcode::kSelect, fields, {count, in.h, in.w});
  }

  // By a whole factor, or to any size.
  void resize(int x) {
    const Shape in = shapes_[size_t(x)];
    const auto size = [&](int from) { return number(0, 1) ? from * number(1, 3) : number(1, 2 * from + 3); };
    const Shape out{in.c, size(in.h), size(in.w)};
    if (out.size() <= (large_ ? 200000u : 20000u)) add(Opcode::kResize, {x, out.h, out.w, number(0, 2)}, out);
  }

  // `groups`: at most.
  void convolution(int x, bool depthwise, int outputs = 0, int groups = 1) {
    const Shape in = shapes_[size_t(x)];
    if (depthwise) groups = in.c;
    while (in.c % groups != 0) --groups;
    const bool winograd = number(0, 2) == 0, square = winograd || number(0, 1);
    const int kh = winograd ? 3 + 2 * number(0, 1) : number(1, 7), kw = square ? kh : number(1, 7);
    const int sh = winograd || number(0, 1) ? 1 : number(1, 3);
    const int sw = square ? sh : number(1, 3);
    const int dh = winograd || number(0, 2) ? 1 : number(1, 3), dw = winograd || number(0, 2) ? 1 : number(1, 3);
    const int top = number(0, 3), left = number(0, 3), bottom = number(0, 3), right = number(0, 3);
    const int h = in.h + top + bottom - (kh - 1) * dh - 1, w = in.w + left + right - (kw - 1) * dw - 1;
    if (h < 0 || w < 0) return;
    const int c = depthwise ? in.c : outputs ? outputs : groups == 1 ? channels() : groups * number(1, 20);
    const Shape out{c, h / sh + 1, w / sw + 1};
    const double fan = double(kh) * kw * in.c / groups;
    if (double(out.size()) * fan > (large_ ? 4e6 : 100e3)) return;
    const int w_index = weight({c, in.c / groups, kh, kw}, 1 / std::sqrt(fan)), b_index = bias(c);
    add(Opcode::kConv, {x, w_index, b_index, kh, kw, sh, sw, dh, dw, top, left, bottom, right, groups}, out);
  }

  // Often with a kernel as large as its stride; of any plane, also with more behind than the kernel reaches.
  void transposed(int x, int groups) {
    const Shape in = shapes_[size_t(x)];
    while (in.c % groups != 0) --groups;
    const int kh = number(1, 5), kw = number(1, 5);
    const int sh = number(0, 2) ? number(1, 4) : kh, sw = number(0, 2) ? number(1, 4) : kw;
    const int dh = number(0, 2) ? 1 : number(1, 3), dw = number(0, 2) ? 1 : number(1, 3);
    const int top = number(0, 1) ? 0 : number(0, 3), left = number(0, 1) ? 0 : number(0, 3);
    const int cut = number(0, 1) ? 0 : number(-2, 3);
    const int h = (in.h - 1) * sh + (kh - 1) * dh + 1 - top - cut;
    const int w = (in.w - 1) * sw + (kw - 1) * dw + 1 - left - cut;
    const int outputs = groups == 1 ? channels() : number(1, 8);
    const double fan = double(kh) * kw * in.c / groups;
    if (h < 1 || w < 1 || double(in.size()) * kh * kw * outputs > (large_ ? 4e6 : 100e3)) return;
    const Shape out{groups * outputs, h, w};
    if (out.size() > (large_ ? 200000u : 20000u)) return;
    const int w_index = weight({in.c, outputs, kh, kw}, 1 / std::sqrt(fan)), b_index = bias(out.c);
    add(Opcode::kConvTranspose, {x, w_index, b_index, kh, kw, sh, sw, dh, dw, top, left, h, w, groups}, out);
  }

  void linear(int x) {
    const Shape shape = shapes_[size_t(x)];
    const int in = shape.c, out = number(1, 40), transposed = number(0, 1);
    if (double(shape.size()) * out > (large_ ? 4e6 : 100e3)) return;
    const std::vector<int64_t> dims = transposed ? std::vector<int64_t>{out, in} : std::vector<int64_t>{in, out};
    const int w_index = weight(dims, 1 / std::sqrt(double(in))), b_index = bias(out);
    add(Opcode::kLinear, {x, w_index, b_index, transposed}, {out, shape.h, shape.w});
  }

  void pool(int x, Opcode op) {
    const Shape in = shapes_[size_t(x)];
    const int kh = number(1, 4), kw = number(1, 4), sh = number(1, 3), sw = number(1, 3);
    const int top = number(0, kh - 1), left = number(0, kw - 1), bottom = number(0, kh - 1), right = number(0, kw - 1);
    const int ceil = number(0, 1);
    if (in.h + top + bottom < kh || in.w + left + right < kw) return;
    const Shape out{in.c, extent(in.h, kh, sh, top, bottom, ceil), extent(in.w, kw, sw, left, right, ceil)};
    std::vector<int64_t> fields{x, kh, kw, sh, sw, top, left, bottom, right, ceil};
    if (op == Opcode::kAveragePool) fields.push_back(number(0, 1));
    add(op, fields, out);
  }

  // As many windows as start before the trailing padding, the last of which may be cut where `ceil`.
  static int extent(int n, int kernel, int stride, int before, int after, bool ceil) {
    int windows = 0;
    while (windows * stride + kernel <= n + before + after) ++windows;
    const bool cut = (windows - 1) * stride + kernel < n + before + after;
    return windows + (ceil && cut && windows * stride < n + before ? 1 : 0);
  }

  int weight(const std::vector<int64_t>& dims, double scale) {
    size_t count = 1;
    for (const int64_t dim : dims) count *= size_t(dim);
    dims_.push_back(dims);
    data_.emplace_back(count);
    fill(data_.back(), scale);
    return int(data_.size()) - 1;
  }
  int bias(int channels) { return number(0, 1) ? weight({channels}, 1) : -1; }

  void add(Opcode op, const std::vector<int64_t>& fields, const Shape& shape) {
    body_.insert(body_.end(), {int64_t(op), int64_t(fields.size())});
    body_.insert(body_.end(), fields.begin(), fields.end());
    shapes_.push_back(shape);
    ++count_;
  }

  std::mt19937_64 random_;
  bool large_;
  std::vector<int64_t> code_, body_;
  int count_ = 0;
  std::vector<Shape> shapes_;
  std::vector<float> constants_{0.0f, 0.25f, 0.5f, 1e-5f};
  std::vector<std::vector<int64_t>> dims_;
  std::deque<Exactly> data_;
};

}  // namespace nncompile
