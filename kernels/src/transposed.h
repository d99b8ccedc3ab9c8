// Which rows and columns of the input and of the kernel meet in each one of a transposed convolution's result. Both
// layouts compute by these tables, to the same bits.
//
// Row y of the result is made of the kernel's rows r and the input's rows i with i sh + r dh = y + top; columns alike.
// So nothing is multiplied by zeros between or around the input's elements.
#pragma once

#include <numeric>
#include <vector>

#include "resize.h"

namespace nncompile {

class Spread {
 public:
  // Kernel rows that follow one another in `order()`, and the row of the input that the first of them meets; the next
  // ones' are `apart()` rows further each.
  struct Rows {
    int first = 0, count = 0, input = 0;
  };
  // A column of the kernel, and that of the input that it meets.
  struct Part {
    int column, input;
  };

  Spread(const Window& window, const Shape& in, const Shape& out)
      : kw_(window.kw), apart_(window.dh / std::gcd(window.sh, window.dh)) {
    const int step = window.sh / std::gcd(window.sh, window.dh);
    for (int last = window.kh - 1; last >= std::max(0, window.kh - step); --last)
      for (int row = last; row >= 0; row -= step) order_.push_back(row);
    for (int y = 0; y < out.h; ++y) {
      const int last = y + window.top, first = last - (window.kh - 1) * window.dh;
      Rows rows;
      for (size_t i = 0; i < order_.size(); ++i) {
        const int input = input_at(last - order_[i] * window.dh, window.sh, in.h);
        if (input >= 0 && rows.count++ == 0) rows = {int(i), 1, input};
      }
      rows_.push_back(rows);
      const auto inside = [&](int row) { return std::min(std::max(row, 0), in.h - 1); };
      sources_.push_back({inside((first + window.sh - 1) / window.sh), inside(last / window.sh), 0});
    }
    straight_ = out.w == in.w * kw_;
    for (int x = 0; x < out.w; ++x) {
      std::vector<Part> parts;
      for (int column = kw_ - 1; column >= 0; --column) {
        const int input = input_at(x + window.left - column * window.dw, window.sw, in.w);
        if (input >= 0) parts.push_back({column, input});
      }
      straight_ = straight_ && parts.size() == 1 && parts[0].input * kw_ + parts[0].column == x;
      columns_.push_back(std::move(parts));
    }
  }

  const std::vector<int>& order() const { return order_; }  // of the kernel's rows
  int apart() const { return apart_; }
  const std::vector<Rows>& rows() const { return rows_; }                       // of each row of the result
  const std::vector<std::vector<Part>>& columns() const { return columns_; }    // what each column is the sum of
  const std::vector<Source>& sources() const { return sources_; }               // between which rows a row's lie
  bool straight() const { return straight_; }  // whether a row is what each column of the input gives, side by side

 private:
  // The place that `at` is of `size` places `stride` apart; -1 where it is none.
  static int input_at(int at, int stride, int size) {
    return at < 0 || at % stride != 0 || at / stride >= size ? -1 : at / stride;
  }

  int kw_, apart_;
  std::vector<int> order_;
  std::vector<Rows> rows_;
  std::vector<Source> sources_;
  std::vector<std::vector<Part>> columns_;
  bool straight_;
};

// Weights from the graph's C x K x KH x KW, with the kernel's rows in the order of a `Spread`.
class TransposedWeights {
 public:
  TransposedWeights(const Weight& weight, int groups, const std::vector<int>& order)
      : data_(weight.data),
        inputs_(size_t(weight.dims[0]) / size_t(groups)),
        outputs_(size_t(weight.dims[1])),
        kh_(size_t(weight.dims[2])),
        kw_(size_t(weight.dims[3])),
        order_(order) {}

  size_t lines() const { return kh_ * inputs_; }

  // Of output k, group by group a column of the kernel and a channel of the group, and of line i, a row of the kernel
  // and a channel of the input.
  float operator()(int k, size_t i) const {
    const size_t group = size_t(k) / (kw_ * outputs_), column = size_t(k) / outputs_ % kw_;
    const size_t input = group * inputs_ + i % inputs_, row = size_t(order_[i / inputs_]);
    return data_[((input * outputs_ + size_t(k) % outputs_) * kh_ + row) * kw_ + column];
  }

 private:
  const float* data_;
  size_t inputs_, outputs_, kh_, kw_;  // channels of a group
  const std::vector<int>& order_;
};

}  // namespace nncompile
