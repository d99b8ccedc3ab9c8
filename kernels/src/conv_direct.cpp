// Convolution and linear layers as they are defined, on NHWC data.
#include "conv_weights.h"
#include "layers.h"
#include "tile.h"

namespace nncompile {
namespace {

class Conv : public Step {
 public:
  Conv(const Program& program, const Instruction& conv, int y, const Epilogue& epilogue)
      : x_(conv.inputs[0]),
        y_(y),
        window_(conv.window),
        epilogue_(epilogue),
        in_(program.shapes[size_t(x_)]),
        out_(program.shapes[size_t(y)]),
        pointwise_(window_.kh == 1 && window_.kw == 1 && window_.sh == 1 && window_.sw == 1 && out_.h == in_.h &&
                   out_.w == in_.w),
        groups_(conv.groups),
        inputs_(in_.c / groups_),
        panels_(out_.c, pointwise_ ? out_.h * out_.w : out_.w, lines(), program.bias_of(conv),
                ConvWeights(program, conv), groups_),
        by_rows_(weights() < in_.size() + out_.size()) {}

  // Threads share whichever is more, the plane (and find rows that they wrote themselves) or the weights: then unit u
  // is row u % height of block u / height.
  int units() const override { return by_rows_ ? out_.h : int(panels_.blocks().size()) * out_.h; }
  RowWise row_wise() const override {
    if (!by_rows_) return {};
    return {out_.h, 1, 1, x_, window_, weights()};
  }
  double cost() const override { return 2.0 * double(out_.size()) * double(lines()); }

  void run(const Frame& frame, int sample, int samples, int begin, int end) const override {
    const Place& from = frame.place(x_);
    const Place& to = frame.place(y_);
    // Pixels that follow one another without a border are one long row, through all samples where the result has no
    // border either.
    const bool flat = pointwise_ && !from.bordered() && (!to.bordered() || panels_.whole_vectors()) &&
                      (epilogue_.residual < 0 || !frame.place(epilogue_.residual).bordered());
    TileJob job{};
    job.pixel = ptrdiff_t(window_.sw) * in_.c;
    job.pitch = ptrdiff_t(from.pitch());
    if (groups_ == 1) {
      job.rows = window_.kh;
      job.run = window_.kw * in_.c;
    } else {  // a column's channels end before the next column's begin
      job.bands = window_.kh;
      job.band = job.pitch;
      job.pitch = in_.c;
      job.rows = window_.kw;
      job.run = inputs_;
      job.lines = window_.kw * inputs_;
    }
    job.y_pixel = out_.c;
    if (flat && to.bordered()) {
      job.columns = out_.w;
      job.y_break = ptrdiff_t(to.pitch()) - ptrdiff_t(out_.w) * out_.c;
    }
    job.finish = Finish(epilogue_.activation);
    job.residual_pixel = out_.c;
    // Blocks of channels outermost: their weights stay in cache for all rows of all samples.
    const auto run_rows = [&](const Block& block, int first, int rows) {
      const bool all = flat && !to.bordered() && rows == out_.h;
      const int rows_at_once = flat ? rows : 1, samples_at_once = all ? samples : 1;
      for (int s = sample; s < sample + samples; s += samples_at_once) {
        const Residual residual(frame, epilogue_, s);
        for (int row = first; row < first + rows; row += rows_at_once) {
          const float* x = frame.data(x_, s) + from.at(row * window_.sh - window_.top, -window_.left) +
                           block.group * inputs_;
          panels_.row(block, job, x, frame.data(y_, s) + to.at(row, 0), residual.at(row, 0),
                      samples_at_once * rows_at_once * out_.w);
        }
      }
    };
    if (by_rows_) {
      const int at_once = groups_ == 1 ? end - begin : 1;  // all groups take their channels of the same cache lines
      for (int row = begin; row < end; row += at_once)
        for (const Block& block : panels_.blocks()) run_rows(block, row, at_once);
      for (int s = sample; s < sample + samples; ++s) clear_border(to, frame.data(y_, s), begin, end);
      return;
    }
    for (int unit = begin, rows; unit < end; unit += rows) {
      rows = std::min(end - unit, out_.h - unit % out_.h);
      run_rows(panels_.blocks()[size_t(unit / out_.h)], unit % out_.h, rows);
    }
    if (end == units())
      for (int s = sample; s < sample + samples; ++s) clear_border(to, frame.data(y_, s), 0, out_.h);
  }

 private:
  size_t lines() const { return size_t(window_.kh) * size_t(window_.kw) * size_t(inputs_); }  // weights of an output
  size_t weights() const { return lines() * size_t(out_.c); }

  int x_, y_;
  Window window_;
  Epilogue epilogue_;
  Shape in_, out_;
  bool pointwise_;
  int groups_, inputs_;  // channels that a group reads
  Panels panels_;
  bool by_rows_;
};

// A matrix product over all samples of a chunk, which so share each reading of the weights. The input's columns
// are in H x W x C order, the weights' in C x H x W.
class Linear : public Step {
 public:
  Linear(const Program& program, const Instruction& linear, const Shape& flattened, int y, const Epilogue& epilogue)
      : x_(linear.inputs[0]),
        y_(y),
        epilogue_(epilogue),
        in_(int(flattened.size())),
        out_(program.shapes[size_t(y)].c),
        panels_(out_, kMaxChunk, flattened.size(), program.bias_of(linear),
                Weights{program.weight_of(linear).data, flattened, linear.transposed, size_t(out_)}) {}

  int units() const override { return int(panels_.blocks().size()); }
  double cost() const override { return 4.5 * in_ * out_; }  // weights that serve one sample take longer to read

  void run(const Frame& frame, int sample, int samples, int begin, int end) const override {
    const Place& from = frame.place(x_);
    const Place& to = frame.place(y_);
    TileJob job{};
    job.pixel = ptrdiff_t(from.size());
    job.rows = 1;
    job.run = in_;
    job.y_pixel = ptrdiff_t(to.size());
    const Residual residual(frame, epilogue_, sample);
    job.residual_pixel = ptrdiff_t(residual.size());
    job.finish = Finish(epilogue_.activation);
    for (int b = begin; b < end; ++b)
      panels_.row(panels_.blocks()[size_t(b)], job, frame.data(x_, sample) + from.at(0, 0),
                  frame.data(y_, sample) + to.at(0, 0), residual.at(0, 0), samples);
    if (end == units())
      for (int s = sample; s < sample + samples; ++s) clear_border(to, frame.data(y_, s), 0, 1);
  }

 private:
  struct Weights {
    const float* data;
    Shape shape;
    bool transposed;
    size_t out;
    float operator()(int k, size_t i) const {
      const size_t c = i % size_t(shape.c), plane = i / size_t(shape.c);
      const size_t column = c * size_t(shape.h) * size_t(shape.w) + plane;
      return transposed ? data[size_t(k) * shape.size() + column] : data[column * out + size_t(k)];
    }
  };

  int x_, y_;
  Epilogue epilogue_;
  int in_, out_;
  Panels panels_;
};

}  // namespace

StepPtr make_conv(const Program& program, const Instruction& conv, int y, const Epilogue& epilogue) {
  return std::make_unique<Conv>(program, conv, y, epilogue);
}

StepPtr make_linear(const Program& program, const Instruction& linear, const Shape& flattened, int y,
                    const Epilogue& epilogue) {
  return std::make_unique<Linear>(program, linear, flattened, y, epilogue);
}

}  // namespace nncompile
