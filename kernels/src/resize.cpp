// A plane of another size, by the nearest element or by linear interpolation; rows first, then columns.
#include "resize.h"

#include <cstring>

#include "layers.h"
#include "lines.h"

namespace nncompile {
namespace {

class Resize : public Step {
 public:
  Resize(const Program& program, const Instruction& resize, int y)
      : x_(resize.inputs[0]),
        y_(y),
        in_(program.shapes[size_t(x_)]),
        out_(program.shapes[size_t(y)]),
        rows_(sources(in_.h, out_.h, resize.resizing)),
        columns_(sources(in_.w, out_.w, resize.resizing)),
        linear_(resize.resizing != Resizing::kNearest) {}

  int units() const override { return out_.h; }
  RowWise row_wise() const override { return {out_.h, 1, 1, x_, {}, 0, rows_.data()}; }
  double cost() const override { return (linear_ ? 20.0 : 8.0) * double(out_.size()); }
  size_t scratch() const override { return linear_ ? size_t(in_.w) * size_t(in_.c) : 0; }

  void run(const Frame& frame, int sample, int, int begin, int end) const override {
    const Place& from = frame.place(x_);
    const Place& to = frame.place(y_);
    const float* x = frame.data(x_, sample);
    float* y = frame.data(y_, sample);
    for (int row = begin; row < end; ++row) {
      const Source& source = rows_[size_t(row)];
      float* line = y + to.at(row, 0);
      if (row > begin && source == rows_[size_t(row - 1)])
        std::memcpy(line, y + to.at(row - 1, 0), size_t(out_.w) * size_t(out_.c) * sizeof(float));
      else
        columns(mixed(source, x, from, frame.scratch), line);
    }
    clear_border(to, y, begin, end);
  }

 private:
  // What a row of the result is made of: a row of the input, or two of them mixed in `scratch`.
  const float* mixed(const Source& source, const float* x, const Place& from, float* scratch) const {
    const float *first = x + from.at(source.first, 0), *second = x + from.at(source.second, 0);
    if (source.one()) return first;
    over_channels(in_.w * in_.c, [&](int i, auto width, int count) {
      constexpr int N = decltype(width)::lanes;
      write<N>(scratch + i, mix<N>(read<N>(first + i, count), read<N>(second + i, count), source.share), count);
    });
    return scratch;
  }

  void columns(const float* x, float* y) const {
    for (const Source& source : columns_) {
      const float* first = x + size_t(source.first) * size_t(in_.c);
      const float* second = x + size_t(source.second) * size_t(in_.c);
      over_channels(in_.c, [&](int c, auto width, int count) {
        constexpr int N = decltype(width)::lanes;
        Vec<N> value = read<N>(first + c, count);
        if (!source.one()) value = mix<N>(value, read<N>(second + c, count), source.share);
        write<N>(y + c, value, count);
      });
      y += in_.c;
    }
  }

  int x_, y_;
  Shape in_, out_;
  std::vector<Source> rows_, columns_;
  bool linear_;
};

}  // namespace

StepPtr make_resize(const Program& program, const Instruction& resize, int y) {
  return std::make_unique<Resize>(program, resize, y);
}

}  // namespace nncompile
