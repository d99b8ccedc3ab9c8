// What a convolution costs, in operations of one lane for one sample: how an algorithm is chosen.
#pragma once

#include <cmath>

#include "options.h"
#include "program.h"
#include "vector.h"

namespace nncompile {

// How channels lie: in the lanes, which are then filled up, or one sample in each lane.
enum class Layout { kChannels, kSamples };

double direct_cost(const Program& program, const Instruction& conv, int y, Layout layout);

// Infinite where Winograd's algorithm does not apply (another kernel than 3x3 or 5x5, a stride, groups), or its
// weights would take too much memory.
double winograd_cost(const Program& program, const Instruction& conv, int y);

inline bool uses_winograd(const Program& program, const Options& options, const Instruction& conv, int y) {
  const double cost = winograd_cost(program, conv, y);
  if (options.exact || std::isinf(cost)) return false;
  const bool cheaper = cost < direct_cost(program, conv, y, Layout::kChannels);
  return options.winograd.says(layer_name(program, conv, y), cheaper);
}

// Whether a layer's weights, and not what it reads and writes for a sample, are what memory is busy with.
bool streams_weights(const Program& program, const Options& options, const Instruction& conv, int y);

// Winograd's tiles cover multiples of 4 outputs: the rows or columns that they read for `outputs` of them.
inline int winograd_extent(int outputs, int kernel) { return (outputs + 3) / 4 * 4 + kernel - 1; }

}  // namespace nncompile
