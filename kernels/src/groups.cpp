#include "groups.h"

#include <algorithm>

namespace nncompile {

Groups::Groups(int most, double alone, const std::vector<LaneCost>& lanes) {
  for (int samples = 1; samples <= most; ++samples) {
    double least = cost(samples - 1) + alone;
    Group first{-1, 1};
    for (size_t stage = 0; stage < lanes.size(); ++stage) {
      const int count = std::min(lanes[stage].width, samples);
      const double its = cost(samples - count) + lanes[stage].cost;
      if (its >= least) continue;
      least = its;
      first = {int(stage), count};
    }
    cost_.push_back(least);
    groups_.push_back(first);
  }
}

}  // namespace nncompile
