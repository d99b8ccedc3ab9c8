// When Winograd's algorithm is used, and what it needs around its input.
#pragma once

#include "program.h"

namespace nncompile {

inline constexpr double kMaxWinogradBytes = 12e6;

// Whether a convolution of kernel 3x3 or 5x5 and stride 1 takes fewer operations by Winograd's algorithm.
bool winograd_pays(const Program& program, const Instruction& conv, int y);

// Its tiles cover multiples of 4 outputs: the rows or columns that they read for `outputs` of them.
inline int winograd_extent(int outputs, int kernel) { return (outputs + 3) / 4 * 4 + kernel - 1; }

}  // namespace nncompile
