// From a program's instructions to steps with places.
#pragma once

#include "lanes.h"
#include "options.h"
#include "step.h"

namespace nncompile {

struct Lowered {
  std::vector<StepPtr> steps;
  std::vector<Place> places;  // of every value
  size_t arena_floats = 0;
  int chunk = kMaxChunk;  // samples at once in an arena
  bool all_batched = false;  // every step takes the samples of a chunk at once
  std::vector<std::unique_ptr<LaneStage>> lanes;
  std::vector<Algorithm> algorithms;  // of every instruction
};

Lowered lower(const Program& program, const Options& options);

}  // namespace nncompile
