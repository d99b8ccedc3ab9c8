// What a convolution costs, in operations of one lane for one sample: how an algorithm is chosen.
#pragma once

#include "program.h"
#include "vector.h"

namespace nncompile {

// How channels lie: in the lanes, which are then filled up, or one sample in each lane.
enum class Layout { kChannels, kSamples };

// As it is defined, or Winograd's: along its rows, or in tiles of both dimensions (of channels in lanes only).
enum class Algorithm { kDirect, kRows, kTiles };

// Infinite where the algorithm does not apply (Winograd's to another kernel than 3x3 or 5x5, to a stride, to groups or
// to a transposed convolution), or its weights would take too much memory.
double conv_cost(const Program& program, const Instruction& conv, int y, Algorithm algorithm, Layout layout);

// Whether a layer's weights, and not what it reads and writes for a sample, are what memory is busy with.
bool streams_weights(const Program& program, const Instruction& conv, int y, Algorithm algorithm);

// Winograd's tiles cover multiples of 4 outputs: the rows or columns that they read for `outputs` of them.
inline int winograd_extent(int outputs, int kernel) { return (outputs + 3) / 4 * 4 + kernel - 1; }

}  // namespace nncompile
