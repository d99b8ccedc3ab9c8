// A region's convolutions and pools for as many samples at once as a vector has lanes, one sample in each.
//
// Values are [c][y][x][lane], weights are broadcast: no lane is wasted, whatever the number of channels. It pays
// for small networks in batches, as long as the activations of all those samples fit the second-level cache.
#pragma once

#include "work.h"

namespace nncompile {

class LaneStage {
 public:
  virtual ~LaneStage() = default;
  virtual int width() const = 0;            // samples at once
  virtual double cost() const = 0;          // of so many, as `Step` counts
  virtual size_t arena() const = 0;         // floats, for the values of those samples
  virtual size_t step_scratch() const = 0;  // floats, for each thread that runs a part of a step
  // One after the other they compute what is computed sample by sample, for `samples` samples from `sample` on, at most
  // `width()`: they write the kept places of the frame, and the outputs that no later step writes.
  virtual int steps() const = 0;
  virtual int units(int step) const = 0;
  virtual void run_step(int step, const Frame& frame, int sample, int samples, float* arena, float* scratch, int begin,
                        int end) const = 0;

  // All of it by one thread, in the frame's scratch.
  size_t scratch() const { return arena() + step_scratch(); }
  void run(const Frame& frame, int sample, int samples) const {
    for (int step = 0; step < steps(); ++step)
      run_step(step, frame, sample, samples, frame.scratch, frame.scratch + arena(), 0, units(step));
  }
};

// A step of a stage as one of a region, for threads that share the samples: their values are in the frame's `lanes`.
class SharedLaneStep : public Step {
 public:
  SharedLaneStep(const LaneStage& stage, int step) : stage_(stage), step_(step) {}

  int units() const override { return stage_.units(step_); }
  void run(const Frame& frame, int sample, int samples, int begin, int end) const override {
    stage_.run_step(step_, frame, sample, samples, frame.lanes, frame.scratch, begin, end);
  }

 private:
  const LaneStage& stage_;
  int step_;
};

// Widest first; none where samples in lanes cannot run the program, or would not fit.
std::vector<std::unique_ptr<LaneStage>> make_lane_stages(const Program& program, const std::vector<Work>& works,
                                                         const std::vector<Place>& places);

}  // namespace nncompile
