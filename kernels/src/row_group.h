// Several steps run row by row: what one makes is read by the next while it is in cache, and kept no longer.
//
// A few rows of the last step are made at a time, and before them, step by step, the rows that they need. What is
// made and read inside lies in windows of a few rows that slide down their planes. Threads that share a sample take
// rows of the last step each; the few rows between that both need, both compute.
#pragma once

#include "step.h"

namespace nncompile {

// A step with what it reads and makes, by the values' roots.
struct Candidate {
  StepPtr step;
  std::vector<int> reads, writes;
};

// Merges runs of the candidates, which stay in order, where what passes between them would leave a cache of
// `cache` bytes.
std::vector<Candidate> group_rows(std::vector<Candidate> candidates, const std::vector<Place>& places, double cache);

}  // namespace nncompile
