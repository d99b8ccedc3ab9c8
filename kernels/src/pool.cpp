// Max and average pooling over NHWC data; windows are cut at the edges of the plane, so padding costs nothing.
#include <cmath>

#include "activation.h"
#include "layers.h"
#include "lines.h"

namespace nncompile {
namespace {

constexpr int kNarrow = 8;

// A window, cut at the edges of the plane.
struct Area {
  const float* corner;
  size_t pitch;
  int rows, columns;
};

class Pool : public Step {
 public:
  Pool(const Program& program, const Instruction& pool, int y, const Activation& activation)
      : x_(pool.inputs[0]),
        y_(y),
        maximum_(pool.op == Opcode::kMaxPool),
        window_(pool.window),
        activation_(activation),
        in_(program.shapes[size_t(x_)]),
        out_(program.shapes[size_t(y)]),
        fours_(maximum_ && window_.fours(in_, out_)) {}

  int units() const override { return out_.h; }
  RowWise row_wise() const override { return {out_.h, 1, 1, x_, window_, 0}; }
  double cost() const override {
    return 27.0 * std::max(out_.c, 16) * double(out_.h) * out_.w * window_.kh * window_.kw;
  }

  void run(const Frame& frame, int sample, int, int begin, int end) const override {
    const Place& from = frame.place(x_);
    const Place& to = frame.place(y_);
    const float* x = frame.data(x_, sample);
    float* y = frame.data(y_, sample);
    for (int row = begin; row < end; ++row) {
      const int y0 = row * window_.sh - window_.top;
      const int top = std::max(y0, 0), bottom = std::min(y0 + window_.kh, in_.h);
      if (fours_) {
        const float* corner = x + from.at(top, 0);
        for (int column = 0; column < out_.w; ++column, corner += 2 * in_.c)
          vectors(column, y + to.at(row, column), [&](int c, auto width) {
            return largest_of_four<decltype(width)::lanes>(corner + c, from.pitch());
          });
        continue;
      }
      for (int column = 0; column < out_.w; ++column) {
        const int x0 = column * window_.sw - window_.left;
        const int left = std::max(x0, 0), right = std::min(x0 + window_.kw, in_.w);
        const Area area{x + from.at(top, left), from.pitch(), bottom - top, right - left};
        const float share = maximum_ ? 1.0f : 1.0f / float(elements(y0, x0, area.rows * area.columns));
        vectors(column, y + to.at(row, column),
                [&](int c, auto width) { return pooled<decltype(width)::lanes>(area, c, share); });
      }
    }
    clear_border(to, y, begin, end);
  }

 private:
  // Writes the channels of one pixel, `value(c, width)` for those from c on.
  template <class Value>
  void vectors(int column, float* to, const Value& value) const {
    // Few channels in one vector: what is stored behind them is overwritten by the next pixel, where one follows.
    if (in_.c < kNarrow && (out_.w - column) * in_.c >= kNarrow)
      store<kNarrow>(to, value(0, Width<kNarrow>{}));
    else
      over_channels(in_.c, [&](int c, auto width, int count) { write<decltype(width)::lanes>(to + c, value(c, width), count); });
  }

  // How many elements an average counts: those inside, or all that the padded plane holds.
  int elements(int y0, int x0, int inside) const {
    if (!window_.include_pad) return inside;
    const int rows = std::min(y0 + window_.kh, in_.h + window_.bottom) - y0;
    const int columns = std::min(x0 + window_.kw, in_.w + window_.right) - x0;
    return rows * columns;
  }

  // Reads whole vectors: behind the last channel of the last pixel an arena has room.
  template <int N>
  Vec<N> pooled(const Area& area, int c, float share) const {
    const float* x = area.corner + c;
    const size_t step = size_t(in_.c);
    Vec<N> value;
    if (!maximum_) {
      value = Vec<N>{};
      for (int i = 0; i < area.rows; ++i, x += area.pitch)
        for (int j = 0; j < area.columns; ++j) value += load<N>(x + size_t(j) * step);
      value *= share;
    } else {
      value = load<N>(x);
      for (int i = 0; i < area.rows; ++i, x += area.pitch)
        for (int j = 0; j < area.columns; ++j) value = larger<N>(value, load<N>(x + size_t(j) * step));
    }
    return activate<N>(activation_, value);
  }

  template <int N>
  Vec<N> largest_of_four(const float* x, size_t pitch) const {
    const float *right = x + in_.c, *below = x + pitch, *corner = right + pitch;
    return activate<N>(activation_, largest<N>(load<N>(x), load<N>(right), load<N>(below), load<N>(corner)));
  }

  int x_, y_;
  bool maximum_;
  Window window_;
  Activation activation_;
  Shape in_, out_;
  bool fours_;
};

// The mean of a plane, or the root of the sum of its squares.
class OfPlane : public Step {
 public:
  OfPlane(int x, int y, const Shape& shape, bool norm) : x_(x), y_(y), shape_(shape), norm_(norm) {}

  double cost() const override { return norm_ ? 4.0 * double(shape_.size()) : 0; }

  void run(const Frame& frame, int sample, int, int, int) const override {
    const Place& from = frame.place(x_);
    const float* x = frame.data(x_, sample);
    float* y = frame.data(y_, sample) + frame.place(y_).at(0, 0);
    const float share = 1.0f / (float(shape_.h) * float(shape_.w));
    over_channels(shape_.c, [&](int c, auto width, int count) {
      constexpr int N = decltype(width)::lanes;
      Vec<N> total{};
      for (int row = 0; row < shape_.h; ++row) {
        // A sum for each row keeps the error of a large plane small.
        Vec<N> line{};
        const float* pixel = x + from.at(row, 0) + c;
        for (int column = 0; column < shape_.w; ++column, pixel += shape_.c) {
          const Vec<N> value = read<N>(pixel, count);
          line += norm_ ? value * value : value;
        }
        total += line;
      }
      Vec<N> result = total * share;
      for (int i = 0; norm_ && i < N; ++i) result[i] = std::sqrt(total[i]);
      write<N>(y + c, result, count);
    });
    clear_border(frame.place(y_), frame.data(y_, sample), 0, 1);
  }

 private:
  int x_, y_;
  Shape shape_;
  bool norm_;
};

}  // namespace

StepPtr make_pool(const Program& program, const Instruction& pool, int y, const Activation& activation) {
  return std::make_unique<Pool>(program, pool, y, activation);
}
StepPtr make_global_average(int x, int y, const Shape& shape) {
  return std::make_unique<OfPlane>(x, y, shape, false);
}
StepPtr make_plane_norm(int x, int y, const Shape& shape) { return std::make_unique<OfPlane>(x, y, shape, true); }

}  // namespace nncompile
