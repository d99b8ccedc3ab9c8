// A program made ready to run: steps, places and arenas.
#pragma once

#include <functional>
#include <mutex>

#include "aligned.h"
#include "lanes.h"
#include "options.h"
#include "step.h"

namespace nncompile {

// Calls task(0) ... task(count - 1), in any order and on any thread, and returns when all are done.
using ParallelFor = std::function<void(size_t count, const std::function<void(size_t)>& task)>;

class Region {
 public:
  Region(Program program, const Options& options);

  const Program& program() const { return program_; }

  // Computes all outputs for `batch` samples. May be called from several threads at once.
  void run(int64_t batch, const float* const* inputs, float* const* outputs, const ParallelFor& parallel) const;

 private:
  class Lease;

  int64_t chunk_samples(int64_t batch) const;
  void run_chunk(Frame frame, int samples) const;
  void run_steps_in_parts(Frame frame, int samples, const ParallelFor& parallel) const;

  Program program_;
  Options options_;
  std::vector<Place> places_;
  std::vector<StepPtr> steps_;
  std::vector<std::unique_ptr<LaneStage>> lanes_;
  size_t arena_floats_ = 0, scratch_floats_ = 0;
  mutable std::mutex mutex_;
  mutable std::vector<AlignedFloats> idle_;
};

}  // namespace nncompile
