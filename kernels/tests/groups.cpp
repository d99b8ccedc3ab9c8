// How batches are cut, against all the ways in which they could be.
#include "../src/groups.h"

#include <cmath>
#include <cstdio>
#include <random>

namespace nncompile {
namespace {

int failures = 0;

void expect(bool holds, const char* what, int64_t samples) {
  if (holds) return;
  ++failures;
  std::printf("%s (%lld samples)\n", what, static_cast<long long>(samples));
}

double least(int samples, double alone, const std::vector<LaneCost>& lanes) {
  if (samples <= 0) return 0;
  double best = alone + least(samples - 1, alone, lanes);
  for (const LaneCost& stage : lanes) best = std::min(best, stage.cost + least(samples - stage.width, alone, lanes));
  return best;
}

void try_groups(double alone, const std::vector<LaneCost>& lanes) {
  constexpr int kMost = 20;
  const Groups groups(kMost, alone, lanes);
  for (int samples = 0; samples <= kMost; ++samples) {
    int next = 0;
    double cost = 0;
    groups.each(samples, [&](int stage, int first, int count) {
      expect(first == next, "a group does not begin where the last one ends", samples);
      expect(count >= 1 && count <= (stage < 0 ? 1 : lanes[size_t(stage)].width), "a group's size", samples);
      cost += stage < 0 ? alone : lanes[size_t(stage)].cost;
      next += count;
    });
    expect(next == samples, "groups do not end with the samples", samples);
    expect(std::abs(cost - groups.cost(samples)) < 1e-9, "the cost is not that of the groups", samples);
    expect(std::abs(cost - least(samples, alone, lanes)) < 1e-9, "others cost less", samples);
  }
}

void try_pieces(int64_t batch, int64_t granule, int64_t threads, int64_t most) {
  const Pieces pieces = Pieces::of(batch, granule, threads, most);
  int64_t small = batch, large = 0;
  for (int64_t i = 0; i < pieces.count; ++i) {
    const int64_t begin = pieces.begin(i), samples = pieces.begin(i + 1) - begin;
    expect(begin % granule == 0, "a piece begins inside a granule", batch);
    expect(samples >= 1 && samples <= most, "a piece's size", batch);
    if (i + 1 < pieces.count) small = std::min(small, samples);
    large = std::max(large, samples);
  }
  expect(pieces.begin(0) == 0 && pieces.begin(pieces.count) == batch, "pieces are not the batch", batch);
  expect(pieces.count == 1 || large - small <= granule, "pieces differ by more than a granule", batch);
  expect(pieces.count % threads == 0 || pieces.count == pieces.granules(), "a thread has fewer pieces", batch);
}

}  // namespace
}  // namespace nncompile

int main() {
  using namespace nncompile;
  std::mt19937 random(0);
  std::uniform_real_distribution<double> cost(0.5, 12);
  for (int i = 0; i < 40; ++i) {
    try_groups(1, {});
    try_groups(1, {{8, cost(random)}});
    try_groups(1, {{16, cost(random)}, {8, cost(random)}});
  }
  for (int64_t batch = 1; batch <= 200; ++batch)
    for (const int64_t granule : {1, 8, 16})
      for (const int64_t threads : {1, 2, 3, 8})
        for (const int64_t most : {16, 32}) try_pieces(batch, granule, threads, most);
  try_pieces(int64_t(1) << 40, 16, 1024, int64_t(1) << 20);
  std::printf("%d failures\n", failures);
  return failures ? 1 : 0;
}
