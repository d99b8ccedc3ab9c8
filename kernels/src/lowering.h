// From a program's instructions to steps with places.
#pragma once

#include "lanes.h"
#include "options.h"
#include "step.h"

namespace nncompile {

inline constexpr int kMaxChunk = 32;  // samples that share one reading of a linear layer's weights

struct Lowered {
  std::vector<StepPtr> steps;
  std::vector<Place> places;  // of every value
  size_t arena_floats = 0;
  std::vector<std::unique_ptr<LaneStage>> lanes;
};

Lowered lower(const Program& program, const Options& options);

}  // namespace nncompile
