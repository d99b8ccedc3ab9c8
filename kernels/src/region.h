// A program made ready to run: steps, places and arenas.
#pragma once

#include <functional>

#include "groups.h"
#include "idle_floats.h"
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
  const std::vector<Algorithm>& algorithms() const { return algorithms_; }  // of every instruction
  // Of samples in lanes, widest first.
  std::vector<int> lane_widths() const;

  // Computes all outputs for `batch` samples. May be called from several threads at once.
  void run(int64_t batch, const float* const* inputs, float* const* outputs, const ParallelFor& parallel) const;

 private:
  // The first step behind the segment of step `first`: batched steps go one by one.
  size_t segment_end(size_t first) const;
  // How threads that have some samples each do best.
  Pieces pieces(int64_t batch, int64_t threads) const;
  double cost(const Pieces& pieces, int64_t threads) const;
  // Whether they do better to share `samples` samples.
  bool shares(int64_t samples, int64_t threads) const;
  void run_chunk(Frame frame, int samples) const;
  void run_shared(Frame frame, int samples, const ParallelFor& parallel) const;

  Program program_;
  Options options_;
  std::vector<Place> places_;
  std::vector<StepPtr> steps_;
  int chunk_ = 1;
  bool all_batched_ = false;
  double cost_ = 0, batched_cost_ = 0;  // of a sample: all steps, and those that take the samples of a chunk at once
  double weights_ = 0;  // floats
  Groups alone_, shared_;  // for the first segment, by one thread and by all
  std::vector<std::unique_ptr<LaneStage>> lanes_;
  std::vector<std::vector<SharedLaneStep>> lane_steps_;  // of each stage
  std::vector<Algorithm> algorithms_;
  mutable IdleFloats arenas_, scratches_;
};

}  // namespace nncompile
