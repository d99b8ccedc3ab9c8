// A program's instructions as works: activations and residuals merged into the layers before them.
#pragma once

#include "work.h"

namespace nncompile {

// One for each instruction, in their order; those that were merged into a later one are not alive.
std::vector<Work> merge(const Program& program);

// What makes a value; null for an input.
const Work* maker(const std::vector<Work>& works, int value);

}  // namespace nncompile
