// A program's instructions after activations and residuals were merged into the layers before them.
#pragma once

#include <vector>

#include "cost.h"
#include "layers.h"

namespace nncompile {

struct Work {
  const Instruction* instruction;
  int y;                   // the value that it makes
  Epilogue epilogue;
  std::vector<int> reads;  // the residual included
  bool alive = true;       // false: merged into a later one, or only another name for its input
  bool batched = false;    // runs on all samples of a chunk at once
  bool streamed = false;   // a convolution whose weights come from memory for each use
  Algorithm algorithm = Algorithm::kDirect;
};

}  // namespace nncompile
