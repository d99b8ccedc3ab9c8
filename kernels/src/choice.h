// By which algorithm each convolution of a program runs: the same one whatever the batch and the layout, so that a
// sample's answer has the same bits in all of them.
#pragma once

#include "options.h"
#include "work.h"

namespace nncompile {

// Sets `algorithm` and `streamed` of every convolution. Returns whether samples in lanes, where they are `possible`,
// take fewer operations for the batches that have enough of them, and not many more for a single sample.
bool choose_algorithms(const Program& program, const Options& options, bool possible, std::vector<Work>& works);

}  // namespace nncompile
