// A convolution's weights in the order of its sums.
#pragma once

#include "program.h"

namespace nncompile {

// From the graph's K x C x KH x KW, where C is 1 if the convolution is depthwise, or the matrix of a linear layer.
class ConvWeights {
 public:
  ConvWeights(const Program& program, const Instruction& conv)
      : data_(program.weight_of(conv).data), kh_(size_t(conv.window.kh)), kw_(size_t(conv.window.kw)) {
    const std::vector<int64_t>& dims = program.weight_of(conv).dims;
    inputs_first_ = dims.size() == 2 && !conv.transposed;
    k_ = size_t(dims[inputs_first_ ? 1 : 0]);
    c_ = size_t(dims[inputs_first_ ? 0 : 1]);
  }

  // How many weights an output channel has.
  size_t lines() const { return kh_ * kw_ * c_; }

  // That of output channel k at place i: kernel row, column, input channel.
  float operator()(int k, size_t i) const {
    if (inputs_first_) return data_[i * k_ + size_t(k)];
    const size_t c = i % c_, column = i / c_ % kw_, row = i / c_ / kw_;
    return data_[((size_t(k) * c_ + c) * kh_ + row) * kw_ + column];
  }

 private:
  const float* data_;
  size_t k_, c_, kh_, kw_;
  bool inputs_first_;
};

}  // namespace nncompile
