// Where values lie in an arena that they share, one after the other.
#pragma once

#include <cstddef>
#include <vector>

namespace nncompile {

// The steps from the first to the last that need a value, both included.
struct Stay {
  size_t floats = 0;
  size_t first = ~size_t(0), last = 0;
  size_t offset = 0;  // what `first_fit` finds

  bool needed() const { return first <= last; }
  void extend(size_t step);
};

// A value takes the first gap among those before it that stay at the same time. Returns the arena's floats.
size_t first_fit(std::vector<Stay>& stays);

}  // namespace nncompile
