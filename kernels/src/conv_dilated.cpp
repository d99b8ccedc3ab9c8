// Dilated convolution: taps that lie in the padding are left out, so that its input needs no border, however far it
// reaches, and no time goes into zeros: with dilations as large as the plane those are nearly all taps.
#include "conv_weights.h"
#include "layers.h"
#include "tile.h"

namespace nncompile {
namespace {

// Of a kernel's rows or columns, those that lie inside the plane.
struct Taps {
  int first, count;
  bool operator==(const Taps& other) const { return first == other.first && count == other.count; }
};

// `start`: where the first of `kernel` taps lies on an axis of `size`.
Taps taps_inside(int start, int kernel, int dilation, int size) {
  const int first = start < 0 ? (dilation - 1 - start) / dilation : 0;
  const int end = start < size ? std::min(kernel, (size - 1 - start) / dilation + 1) : 0;
  return first < end ? Taps{first, end - first} : Taps{0, 0};
}

// Results `begin` ... `end` - 1 of a row, whose columns inside the plane are the same.
struct Span {
  int begin, end;
  Taps columns;
};

class DilatedConv : public Step {
 public:
  DilatedConv(const Program& program, const Instruction& conv, int y, const Epilogue& epilogue)
      : x_(conv.inputs[0]),
        y_(y),
        window_(conv.window),
        epilogue_(epilogue),
        in_(program.shapes[size_t(x_)]),
        out_(program.shapes[size_t(y)]),
        inputs_(in_.c / conv.groups),
        panels_(out_.c, out_.w, lines(), program.bias_of(conv), ConvWeights(program, conv), conv.groups),
        by_rows_(weights() < in_.size() + out_.size()) {
    for (int column = 0; column < out_.w; ++column) {
      const Taps taps = taps_inside(column * window_.sw - window_.left, window_.kw, window_.dw, in_.w);
      if (spans_.empty() || !(spans_.back().columns == taps)) spans_.push_back({column, column, taps});
      spans_.back().end = column + 1;
    }
  }

  // Threads share whichever is more, the plane or the weights: then unit u is row u % height of block u / height.
  int units() const override { return by_rows_ ? out_.h : int(panels_.blocks().size()) * out_.h; }
  RowWise row_wise() const override {
    if (!by_rows_) return {};
    return {out_.h, 1, 1, x_, window_, weights()};
  }
  double cost() const override { return 2.0 * double(out_.size()) * double(lines()); }

  void run(const Frame& frame, int sample, int samples, int begin, int end) const override {
    const Place& to = frame.place(y_);
    for (int unit = begin; unit < end; ++unit)
      for (int s = sample; s < sample + samples; ++s) {
        if (!by_rows_) {
          row(panels_.blocks()[size_t(unit / out_.h)], frame, s, unit % out_.h);
          continue;
        }
        for (const Block& block : panels_.blocks()) row(block, frame, s, unit);
      }
    for (int s = sample; s < sample + samples; ++s) {
      if (by_rows_) clear_border(to, frame.data(y_, s), begin, end);
      if (!by_rows_ && end == units()) clear_border(to, frame.data(y_, s), 0, out_.h);
    }
  }

 private:
  void row(const Block& block, const Frame& frame, int sample, int row) const {
    const Place& from = frame.place(x_);
    const Place& to = frame.place(y_);
    const Residual residual(frame, epilogue_, sample);
    const int top = row * window_.sh - window_.top;
    const Taps rows = taps_inside(top, window_.kh, window_.dh, in_.h);
    TileJob job{};
    job.pixel = ptrdiff_t(window_.sw) * in_.c;
    job.bands = rows.count;
    job.band = window_.dh * ptrdiff_t(from.pitch());
    job.pitch = ptrdiff_t(window_.dw) * in_.c;
    job.run = inputs_;
    job.lines = window_.kw * inputs_;
    job.y_pixel = job.residual_pixel = out_.c;
    job.finish = Finish(epilogue_.activation);
    const float* x = frame.data(x_, sample) + block.group * inputs_;
    if (rows.count) x += from.at(top + rows.first * window_.dh, 0);
    for (const Span& span : spans_) {
      job.rows = span.columns.count;
      job.first = (rows.first * window_.kw + span.columns.first) * inputs_;
      const int left = span.begin * window_.sw - window_.left + span.columns.first * window_.dw;
      panels_.row(block, job, span.columns.count ? x + ptrdiff_t(left) * in_.c : x,
                  frame.data(y_, sample) + to.at(row, span.begin), residual.at(row, span.begin), span.end - span.begin);
    }
  }

  size_t lines() const { return size_t(window_.kh) * size_t(window_.kw) * size_t(inputs_); }  // weights of an output
  size_t weights() const { return lines() * size_t(out_.c); }

  int x_, y_;
  Window window_;
  Epilogue epilogue_;
  Shape in_, out_;
  int inputs_;  // channels that a group reads
  Panels panels_;
  bool by_rows_;
  std::vector<Span> spans_;
};

}  // namespace

StepPtr make_dilated(const Program& program, const Instruction& conv, int y, const Epilogue& epilogue) {
  return std::make_unique<DilatedConv>(program, conv, y, epilogue);
}

}  // namespace nncompile
