// The steps that a region is made of; each is made once, with its weights packed, when a session opens.
#pragma once

#include "step.h"

namespace nncompile {

// What follows a layer's sums: a residual of the same shape (-1: none), then an activation.
struct Epilogue {
  int residual = -1;
  Activation activation;
};

// The residual of one sample; null where there is none.
class Residual {
 public:
  Residual(const Frame& frame, const Epilogue& epilogue, int sample) {
    if (epilogue.residual < 0) return;
    place_ = &frame.place(epilogue.residual);
    data_ = frame.data(epilogue.residual, sample);
  }

  const float* at(int y, int x) const { return place_ ? data_ + place_->at(y, x) : nullptr; }
  size_t size() const { return place_ ? place_->size() : 0; }

 private:
  const Place* place_ = nullptr;
  const float* data_ = nullptr;
};

StepPtr make_load(int input, int value, const Input& its);           // from the caller's layout to a place
StepPtr make_store(int value, int output, const Input& its);         // and back, from a place of that shape
StepPtr make_conv(const Program& program, const Instruction& conv, int y, const Epilogue& epilogue);
StepPtr make_dilated(const Program& program, const Instruction& conv, int y, const Epilogue& epilogue);
StepPtr make_transposed(const Program& program, const Instruction& conv, int y, const Epilogue& epilogue);
StepPtr make_transposed_depthwise(const Program& program, const Instruction& conv, int y, const Epilogue& epilogue);
StepPtr make_winograd(const Program& program, const Instruction& conv, int y, const Epilogue& epilogue,
                      bool streamed);
StepPtr make_rows(const Program& program, const Instruction& conv, int y, const Epilogue& epilogue);
StepPtr make_depthwise(const Program& program, const Instruction& conv, int y, const Epilogue& epilogue);
StepPtr make_linear(const Program& program, const Instruction& linear, const Shape& flattened, int y,
                    const Epilogue& epilogue);
StepPtr make_pool(const Program& program, const Instruction& pool, int y, const Activation& activation);
StepPtr make_global_average(int x, int y, const Shape& shape);
StepPtr make_plane_norm(int x, int y, const Shape& shape);           // the root of the sum of squares
StepPtr make_channel_mean(int x, int y, const Shape& shape);
StepPtr make_pointwise(Opcode op, const std::vector<int>& inputs, int y, const Shape& shape, Beside gate,
                       const Activation& activation);
StepPtr make_concat(const std::vector<int>& inputs, int y, const Shape& shape);
StepPtr make_select(int x, const std::vector<int>& channels, int y, const Shape& shape);
StepPtr make_resize(const Program& program, const Instruction& resize, int y);
StepPtr make_layer_norm(const Program& program, const Instruction& norm, int y);
StepPtr make_softmax(int x, int y, const Shape& shape, bool logarithm);
StepPtr make_flatten(int x, int y);                                  // to C x H x W order, without a border

}  // namespace nncompile
