// Transposed convolution with channels in the lanes. A row of the result is one product, of the input's pixels by the
// rows of the kernel that make it, in all of the kernel's columns; then each column is the sum of what reaches it.
#include "transposed.h"

#include "layers.h"
#include "tile.h"

namespace nncompile {
namespace {

// Floats of products that wait to be summed while a block's weights are in cache.
constexpr size_t kWaiting = 1 << 16;

class Transposed : public Step {
 public:
  Transposed(const Program& program, const Instruction& conv, int y, const Epilogue& epilogue)
      : x_(conv.inputs[0]),
        y_(y),
        kh_(conv.window.kh),
        kw_(conv.window.kw),
        epilogue_(epilogue),
        in_(program.shapes[size_t(x_)]),
        out_(program.shapes[size_t(y)]),
        groups_(conv.groups),
        inputs_(in_.c / groups_),
        outputs_(out_.c / groups_),
        spread_(conv.window, in_, out_),
        straight_(groups_ == 1 && spread_.straight()),
        bias_(repeated(program.bias_of(conv), std::max(kw_, out_.w))),
        panels_(pixel(), in_.w, lines(), straight_ ? bias_.data() : nullptr,
                TransposedWeights(program.weight_of(conv), groups_, spread_.order()), groups_),
        pieces_(find_pieces()),
        by_rows_(weights() < in_.size() + out_.size()) {
    const size_t most = size_t(out_.h) * kMaxChunk;
    if (!by_rows_) at_once_ = int(std::min(std::max<size_t>(kWaiting / products(), 1), most));
  }

  int units() const override { return out_.h; }
  RowWise row_wise() const override {
    if (!by_rows_) return {};
    return {out_.h, 1, 1, x_, {}, weights(), spread_.sources().data()};
  }
  double cost() const override {
    double rows = 0;
    for (const Spread::Rows& its : spread_.rows()) rows += its.count;
    return double(products()) * (2 * rows * inputs_ + (straight_ ? 0 : 8.0 * out_.h));
  }
  size_t scratch() const override { return straight_ ? 0 : size_t(at_once_) * products(); }

  void run(const Frame& frame, int sample, int samples, int begin, int end) const override {
    const int rows = end - begin;
    for (int first = 0, count; first < rows * samples; first += count) {
      count = std::min(at_once_, rows * samples - first);
      const auto each_row = [&](const auto& body) {
        for (int i = 0; i < count; ++i)
          body(sample + (first + i) / rows, begin + (first + i) % rows, frame.scratch + size_t(i) * products());
      };
      for (const Block& block : panels_.blocks())
        each_row([&](int s, int row, float* to) { multiply(block, frame, s, row, to); });
      if (!straight_) each_row([&](int s, int row, const float* from) { sum(frame, s, row, from); });
    }
    for (int s = sample; s < sample + samples; ++s) clear_border(frame.place(y_), frame.data(y_, s), begin, end);
  }

 private:
  // So many products of a row of them, which add up to a row of the result from `to` on.
  struct Piece {
    size_t from, to;
    int count;
  };

  std::vector<Piece> find_pieces() const {
    const size_t width = size_t(outputs_), channels = size_t(out_.c);
    std::vector<std::vector<Piece>> of_inputs(size_t(in_.w));  // in their order each row is read once
    for (int x = 0; x < out_.w; ++x)
      for (const Spread::Part& part : spread_.columns()[size_t(x)])
        for (size_t group = 0; group < size_t(groups_); ++group) {
          const size_t column = group * size_t(kw_) + size_t(part.column);
          of_inputs[size_t(part.input)].push_back({size_t(part.input) * size_t(pixel()) + column * width,
                                                   size_t(x) * channels + group * width, outputs_});
        }
    std::vector<Piece> pieces;
    for (const std::vector<Piece>& of_one : of_inputs)
      for (const Piece& piece : of_one) {
        const bool next = !pieces.empty() && piece.from == pieces.back().from + size_t(pieces.back().count) &&
                          piece.to == pieces.back().to + size_t(pieces.back().count);
        if (next)
          pieces.back().count += piece.count;
        else
          pieces.push_back(piece);
      }
    return pieces;
  }

  // For each of so many columns.
  AlignedFloats repeated(const float* bias, int columns) const {
    const size_t channels = size_t(out_.c), count = size_t(columns) * channels;
    AlignedFloats floats(nullptr, count);
    for (size_t i = 0; bias && i < count; ++i) floats[i] = bias[i % channels];
    return floats;
  }

  void multiply(const Block& block, const Frame& frame, int sample, int row, float* products) const {
    const Place& from = frame.place(x_);
    const Spread::Rows& rows = spread_.rows()[size_t(row)];
    TileJob job{};
    job.pixel = in_.c;
    job.pitch = spread_.apart() * ptrdiff_t(from.pitch());
    job.rows = rows.count;
    job.run = inputs_;
    job.first = rows.first * inputs_;
    job.y_pixel = job.residual_pixel = pixel();
    const float* x = frame.data(x_, sample) + from.at(rows.input, 0) + block.group * inputs_;
    if (!straight_) return panels_.row(block, job, x, products, nullptr, in_.w);
    job.finish = Finish(epilogue_.activation);
    panels_.row(block, job, x, frame.data(y_, sample) + frame.place(y_).at(row, 0),
                Residual(frame, epilogue_, sample).at(row, 0), in_.w);
  }

  void sum(const Frame& frame, int sample, int row, const float* products) const {
    float* y = frame.data(y_, sample) + frame.place(y_).at(row, 0);
    const int count = out_.w * out_.c;
    std::copy_n(bias_.data(), count, y);
    for (const Piece& piece : pieces_) add(products + piece.from, y + piece.to, piece.count);
    const float* residual = Residual(frame, epilogue_, sample).at(row, 0);
    if (residual) add(residual, y, count);
    if (epilogue_.activation.kind == Kind::kNone) return;
    const int vectors = count / kLanes, done = vectors * kLanes;
    activate_all<kLanes>(epilogue_.activation, y, vectors);
    if (done == count) return;
    const Vec<kLanes> last = load_some<kLanes>(y + done, count - done);
    store_some<kLanes>(y + done, activate<kLanes>(epilogue_.activation, last), count - done);
  }

  static void add(const float* x, float* y, int count) {
    int i = 0;
    for (; i + kLanes <= count; i += kLanes) store<kLanes>(y + i, load<kLanes>(y + i) + load<kLanes>(x + i));
    for (; kLanes > 4 && i + 4 <= count; i += 4) store<4>(y + i, load<4>(y + i) + load<4>(x + i));
    for (; i < count; ++i) y[i] += x[i];
  }

  size_t lines() const { return size_t(kh_) * size_t(inputs_); }       // weights of a product
  int pixel() const { return kw_ * out_.c; }                           // products of a pixel
  size_t products() const { return size_t(in_.w) * size_t(pixel()); }  // for a row of the result
  size_t weights() const { return lines() * size_t(pixel()); }

  int x_, y_, kh_, kw_;
  Epilogue epilogue_;
  Shape in_, out_;
  int groups_, inputs_, outputs_;  // channels of a group
  Spread spread_;
  bool straight_;  // products are the result
  AlignedFloats bias_;  // of a row
  Panels panels_;
  std::vector<Piece> pieces_;
  bool by_rows_;
  int at_once_ = 1;  // rows
};

}  // namespace

StepPtr make_transposed(const Program& program, const Instruction& conv, int y, const Epilogue& epilogue) {
  return std::make_unique<Transposed>(program, conv, y, epilogue);
}

}  // namespace nncompile
