// A region's convolutions and pools for as many samples at once as a vector has lanes, one sample in each.
//
// Values are [c][y][x][lane], weights are broadcast: no lane is wasted, whatever the number of channels. It pays
// for small networks in batches, as long as the activations of all those samples fit the second-level cache.
#pragma once

#include "options.h"
#include "work.h"

namespace nncompile {

class LaneStage {
 public:
  virtual ~LaneStage() = default;
  virtual int width() const = 0;        // samples at once
  virtual size_t scratch() const = 0;   // floats
  // Computes what is computed sample by sample, for `width()` samples from `sample` on: writes the kept places
  // of the frame, and the outputs that no later step writes.
  virtual void run(const Frame& frame, int sample) const = 0;
};

// Widest first; none where samples in lanes cannot run the program, or would not run it faster.
std::vector<std::unique_ptr<LaneStage>> make_lane_stages(const Program& program, const Options& options,
                                                         const std::vector<Work>& works,
                                                         const std::vector<Place>& places);

}  // namespace nncompile
