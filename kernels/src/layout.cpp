// Between the caller's layout, N x C x H x W or the channels last, and the places of a region, channels innermost.
#include <cstring>

#include "layers.h"
#include "transpose.h"

namespace nncompile {
namespace {

void transpose_each(const float* x, size_t x_pitch, float* y, size_t y_pitch, int top, int bottom, int left, int right) {
  for (int i = top; i < bottom; ++i)
    for (int j = left; j < right; ++j) y[size_t(i) * y_pitch + size_t(j)] = x[size_t(j) * x_pitch + size_t(i)];
}

// By squares of N x N in registers; what is left at the edges one by one.
template <int N>
void transpose_by(const float* x, size_t x_pitch, float* y, size_t y_pitch, int rows, int columns) {
  const int whole_rows = rows / N * N, whole_columns = columns / N * N;
  for (int i = 0; i < whole_rows; i += N)
    for (int j = 0; j < whole_columns; j += N) {
      Vec<N> square[N];
      for (int k = 0; k < N; ++k) square[k] = load<N>(x + size_t(j + k) * x_pitch + size_t(i));
      transpose<N>(square);
      for (int k = 0; k < N; ++k) store<N>(y + size_t(i + k) * y_pitch + size_t(j), square[k]);
    }
  transpose_each(x, x_pitch, y, y_pitch, 0, whole_rows, whole_columns, columns);
  transpose_each(x, x_pitch, y, y_pitch, whole_rows, rows, 0, columns);
}

// y[i][j] = x[j][i] for `rows` x `columns` results.
void transpose_plane(const float* x, size_t x_pitch, float* y, size_t y_pitch, int rows, int columns) {
  const int least = std::min(rows, columns);
  if (least >= kLanes)
    transpose_by<kLanes>(x, x_pitch, y, y_pitch, rows, columns);
  else if (least >= 4)
    transpose_by<4>(x, x_pitch, y, y_pitch, rows, columns);
  else
    transpose_each(x, x_pitch, y, y_pitch, 0, rows, 0, columns);
}

// Rows `begin` ... `end` - 1: channels from innermost to outermost, without a border.
void to_planes(const float* x, const Place& from, float* y, int begin, int end) {
  const Shape& shape = from.shape;
  const size_t plane = size_t(shape.h) * size_t(shape.w);
  if (plane == 1) {
    std::memcpy(y, x + from.at(0, 0), shape.size() * sizeof(float));
    return;
  }
  for (int row = begin; row < end; ++row)
    transpose_plane(x + from.at(row, 0), size_t(shape.c), y + size_t(row) * size_t(shape.w), plane, shape.c, shape.w);
}

// An element's way between the layouts takes as long as so many operations of a product, and where both are the same.
constexpr double kCostOfMoving = 40, kCostOfCopying = 8;

bool same_rows(const Input& its) {
  return channels_last(its.rank) || its.shape.c == 1 || (its.shape.h == 1 && its.shape.w == 1);
}

double cost_of_moving(const Input& its) {
  return (channels_last(its.rank) ? kCostOfCopying : kCostOfMoving) * double(its.shape.size());
}

class Load : public Step {
 public:
  Load(int input, int value, const Input& its) : input_(input), value_(value), its_(its) {}

  int units() const override { return its_.shape.h; }
  RowWise row_wise() const override { return {its_.shape.h, 1, 1, -1, {}, 0}; }
  double cost() const override { return cost_of_moving(its_); }

  void run(const Frame& frame, int sample, int samples, int begin, int end) const override {
    for (int s = sample; s < sample + samples; ++s) one(frame, s, begin, end);
  }

 private:
  void one(const Frame& frame, int sample, int begin, int end) const {
    const Place& to = frame.place(value_);
    const size_t plane = size_t(to.shape.h) * size_t(to.shape.w);
    const float* x = frame.inputs[input_] + size_t(frame.first + sample) * to.shape.size();
    float* y = frame.data(value_, sample);
    const size_t pixels = size_t(to.shape.w), floats = pixels * size_t(to.shape.c);
    const bool same = same_rows(its_);
    for (int row = begin; row < end; ++row) {
      float* line = y + to.at(row, 0);
      if (same)
        std::memcpy(line, x + size_t(row) * floats, floats * sizeof(float));
      else
        transpose_plane(x + size_t(row) * pixels, plane, line, size_t(to.shape.c), to.shape.w, to.shape.c);
    }
    clear_border(to, y, begin, end);
  }

  int input_, value_;
  Input its_;
};

class Store : public Step {
 public:
  Store(int value, int output, const Input& its) : value_(value), output_(output), its_(its) {}

  int units() const override { return its_.shape.h; }
  RowWise row_wise() const override { return {its_.shape.h, 1, 1, -1, {}, 0}; }
  double cost() const override { return cost_of_moving(its_); }

  void run(const Frame& frame, int sample, int samples, int begin, int end) const override {
    const Place& from = frame.place(value_);
    for (int s = sample; s < sample + samples; ++s) {
      float* y = frame.outputs[output_] + size_t(frame.first + s) * from.shape.size();
      const float* x = frame.data(value_, s);
      const size_t floats = size_t(from.shape.w) * size_t(from.shape.c);
      if (!channels_last(its_.rank))
        to_planes(x, from, y, begin, end);
      else
        for (int row = begin; row < end; ++row)
          std::memcpy(y + size_t(row) * floats, x + from.at(row, 0), floats * sizeof(float));
    }
  }

 private:
  int value_, output_;
  Input its_;
};

class Flatten : public Step {
 public:
  Flatten(int x, int y) : x_(x), y_(y) {}

  void run(const Frame& frame, int sample, int, int, int) const override {
    const Place& to = frame.place(y_);
    float* y = frame.data(y_, sample);
    const Place& from = frame.place(x_);
    to_planes(frame.data(x_, sample), from, y + to.at(0, 0), 0, from.shape.h);
    clear_border(to, y, 0, 1);
  }

 private:
  int x_, y_;
};

class Concat : public Step {
 public:
  Concat(const std::vector<int>& inputs, int y, const Shape& shape) : inputs_(inputs), y_(y), shape_(shape) {}
  int units() const override { return shape_.h; }
  RowWise row_wise() const override { return {shape_.h, 1, 1, -1, {}, 0}; }
  double cost() const override { return 8.0 * double(shape_.size()); }

  void run(const Frame& frame, int sample, int, int begin, int end) const override {
    const Place& to = frame.place(y_);
    float* y = frame.data(y_, sample);
    size_t channel = 0;
    for (const int input : inputs_) {
      const Place& from = frame.place(input);
      const float* x = frame.data(input, sample);
      const size_t c = size_t(from.shape.c);
      for (int row = begin; row < end; ++row)
        for (int column = 0; column < shape_.w; ++column)
          std::memcpy(y + to.at(row, column) + channel, x + from.at(row, column), c * sizeof(float));
      channel += c;
    }
    clear_border(to, y, begin, end);
  }

 private:
  std::vector<int> inputs_;
  int y_;
  Shape shape_;
};

// Some channels of a value, in any order.
class Select : public Step {
 public:
  Select(int x, const std::vector<int>& channels, int y, const Shape& shape)
      : x_(x), y_(y), shape_(shape), channels_(channels) {
    in_a_row_ = true;
    for (size_t i = 1; i < channels_.size(); ++i) in_a_row_ = in_a_row_ && channels_[i] == channels_[i - 1] + 1;
  }
  int units() const override { return shape_.h; }
  RowWise row_wise() const override { return {shape_.h, 1, 1, -1, {}, 0}; }
  double cost() const override { return 8.0 * double(shape_.h) * shape_.w * double(channels_.size()); }

  void run(const Frame& frame, int sample, int, int begin, int end) const override {
    const Place& from = frame.place(x_);
    const Place& to = frame.place(y_);
    const float* x = frame.data(x_, sample);
    float* y = frame.data(y_, sample);
    const int* channels = channels_.data();
    const size_t count = channels_.size();
    for (int row = begin; row < end; ++row)
      for (int column = 0; column < shape_.w; ++column) {
        const float* pixel = x + from.at(row, column);
        float* result = y + to.at(row, column);
        if (in_a_row_)
          std::memcpy(result, pixel + channels[0], count * sizeof(float));
        else
          for (size_t i = 0; i < count; ++i) result[i] = pixel[channels[i]];
      }
    clear_border(to, y, begin, end);
  }

 private:
  int x_, y_;
  Shape shape_;
  std::vector<int> channels_;
  bool in_a_row_;
};

}  // namespace

StepPtr make_load(int input, int value, const Input& its) { return std::make_unique<Load>(input, value, its); }
StepPtr make_store(int value, int output, const Input& its) { return std::make_unique<Store>(value, output, its); }
StepPtr make_flatten(int x, int y) { return std::make_unique<Flatten>(x, y); }
StepPtr make_select(int x, const std::vector<int>& channels, int y, const Shape& shape) {
  return std::make_unique<Select>(x, channels, y, shape);
}
StepPtr make_concat(const std::vector<int>& inputs, int y, const Shape& shape) {
  return std::make_unique<Concat>(inputs, y, shape);
}

}  // namespace nncompile
