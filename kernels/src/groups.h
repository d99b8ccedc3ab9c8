// How a batch is cut: into pieces, one for a thread at a time, and each of those into groups of samples that go through
// a region together, in the lanes of vectors or one alone; by what each costs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace nncompile {

// Samples in lanes take as long however few of the lanes there are samples for.
struct LaneCost {
  int width;
  double cost;
};

// The cheapest groups for every number of samples up to `most`.
class Groups {
 public:
  Groups() = default;
  // `alone`: what one sample costs on its own. `lanes`: of each stage.
  Groups(int most, double alone, const std::vector<LaneCost>& lanes);

  double cost(int samples) const { return cost_[size_t(samples)]; }

  // Calls `visit(stage, first, count)` for each group; stage -1 is a sample alone.
  template <class Visit>
  void each(int samples, const Visit& visit) const {
    for (int first = 0; first < samples;) {
      const Group& group = groups_[size_t(samples - first)];
      visit(group.stage, first, group.samples);
      first += group.samples;
    }
  }

 private:
  struct Group {
    int stage, samples;
  };

  std::vector<double> cost_{0};
  std::vector<Group> groups_{{-1, 0}};  // of so many samples, the first
};

// A batch in pieces as equal as they can be of whole granules, so many samples each.
struct Pieces {
  int64_t batch, granule, count;

  int64_t begin(int64_t piece) const { return std::min(batch, granules() * piece / count * granule); }
  int64_t granules() const { return (batch + granule - 1) / granule; }

  // As many for every thread, of at most `most` samples.
  static Pieces of(int64_t batch, int64_t granule, int64_t threads, int64_t most) {
    Pieces pieces{batch, granule, 1};
    const int64_t at_once = threads * (most / granule);
    const int64_t rounds = (pieces.granules() + at_once - 1) / at_once;
    pieces.count = std::min(threads * rounds, pieces.granules());
    return pieces;
  }
};

}  // namespace nncompile
