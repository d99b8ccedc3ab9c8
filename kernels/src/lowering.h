// From a program's instructions to steps with places.
#pragma once

#include "region.h"

namespace nncompile {

inline constexpr int kMaxChunk = 32;  // samples that share one reading of a linear layer's weights

struct Lowered {
  std::vector<StepPtr> steps;
  std::vector<Place> places;  // of every value
  size_t arena_floats = 0;
};

Lowered lower(const Program& program, const Options& options);

}  // namespace nncompile
