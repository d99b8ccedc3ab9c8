// A convolution's weights in the order of its sums.
#pragma once

#include "program.h"

namespace nncompile {

// From the graph's K x C x KH x KW; C is 1 where the convolution is depthwise.
class ConvWeights {
 public:
  explicit ConvWeights(const Weight& weight)
      : data_(weight.data), c_(size_t(weight.dims[1])), kh_(size_t(weight.dims[2])), kw_(size_t(weight.dims[3])) {}

  // How many weights an output channel has.
  size_t lines() const { return kh_ * kw_ * c_; }

  // That of output channel k at place i: kernel row, column, input channel.
  float operator()(int k, size_t i) const {
    const size_t c = i % c_, column = i / c_ % kw_, row = i / c_ / kw_;
    return data_[((size_t(k) * c_ + c) * kh_ + row) * kw_ + column];
  }

 private:
  const float* data_;
  size_t c_, kh_, kw_;
};

}  // namespace nncompile
