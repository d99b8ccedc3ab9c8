// Rows of a pool with a sample in each lane, over a plane or over what a convolution before it has just made.
#pragma once

#include "activation.h"
#include "lane_steps.h"

namespace nncompile {

// The rows that a pool reads next, of some channels.
template <int V>
struct LaneStrip {
  Bordered place;
  LaneView<V> view;

  // Rows `first` ... of a plane so wide, in `data`.
  LaneStrip(float* data, int channels, int first, int rows, int columns) {
    place.shape = {channels, rows, columns};
    place.top = -first;
    place.bottom = first;
    view = {data, &place};
  }
  LaneStrip(const LaneStrip&) = delete;

  static size_t floats(int channels, int rows, int columns) { return size_t(channels) * rows * columns * V; }
};

template <int V>
class LanePool {
 public:
  LanePool(const Program& program, const Work& work)
      : op_(work.instruction->op),
        window_(work.instruction->window),
        activation_(work.epilogue.activation),
        in_(program.shapes[size_t(work.instruction->inputs[0])]),
        out_(program.shapes[size_t(work.y)]) {
    if (op_ == Opcode::kGlobalAverage) {
      window_.kh = in_.h;
      window_.kw = in_.w;
    }
    fours_ = op_ == Opcode::kMaxPool && window_.fours(in_, out_);
  }

  // Whether each output is the largest of 2 x 2 inputs: then one may find it by oneself, and `finish` the row.
  bool fours() const { return fours_; }
  void finish(float* y) const {
    if (activation_.kind != Kind::kNone) activate_all<V>(activation_, y, out_.w);
  }

  const Shape& shape() const { return out_; }
  int rows() const { return window_.kh; }
  // The rows of its input that row `row` reads, and the columns that any does.
  int first_row(int row) const { return std::max(row * window_.sh - window_.top, 0); }
  int end_row(int row) const { return std::min(row * window_.sh - window_.top + window_.kh, in_.h); }
  int columns() const { return std::min((out_.w - 1) * window_.sw - window_.left + window_.kw, in_.w); }

  // One row of one channel: from `x`, where the input's row `first_row(row)` and column 0 are, with rows `pitch` apart.
  void run(const float* x, ptrdiff_t pitch, int row, float* y) const {
    if (fours_)
      largest_of_four(x, pitch, y);
    else
      any_window(x, pitch, row, y);
    finish(y);
  }

 private:
  void largest_of_four(const float* x, ptrdiff_t pitch, float* y) const {
    for (const float* end = y + ptrdiff_t(out_.w) * V; y < end; y += V, x += 2 * V)
      store<V>(y, largest<V>(load<V>(x), load<V>(x + V), load<V>(x + pitch), load<V>(x + pitch + V)));
  }

  void any_window(const float* x, ptrdiff_t pitch, int row, float* y) const {
    const int y0 = row * window_.sh - window_.top, rows = end_row(row) - first_row(row);
    for (int column = 0; column < out_.w; ++column, y += V) {
      const int x0 = column * window_.sw - window_.left;
      const int left = std::max(x0, 0), columns = std::min(x0 + window_.kw, in_.w) - left;
      store<V>(y, pooled(x + left * V, pitch, rows, columns, y0, x0));
    }
  }

  Vec<V> pooled(const float* x, ptrdiff_t pitch, int rows, int columns, int y0, int x0) const {
    if (op_ == Opcode::kMaxPool) {
      Vec<V> value = load<V>(x);
      for (int i = 0; i < rows; ++i)
        for (int j = i ? 0 : 1; j < columns; ++j) value = larger<V>(value, load<V>(x + i * pitch + j * V));
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

  Opcode op_;
  Window window_;
  Activation activation_;
  Shape in_, out_;
  bool fours_ = false;
};

}  // namespace nncompile
