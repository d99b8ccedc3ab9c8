// Where the rows or columns of a resized plane come from; both layouts resize by these tables, to the same bits.
#pragma once

#include <algorithm>
#include <vector>

#include "program.h"
#include "vector.h"

namespace nncompile {

// (1 - share) x[first] + share x[second]; x[first] alone where both are one.
struct Source {
  int first, second;
  float share;

  bool one() const { return first == second; }
  bool operator==(const Source& other) const {
    return first == other.first && second == other.second && share == other.share;
  }
};

// Of each of `outputs` rows or columns made of `inputs`; neither end of a pair ever goes back.
inline std::vector<Source> sources(int inputs, int outputs, Resizing how) {
  std::vector<Source> result;
  for (int i = 0; i < outputs; ++i) {
    double at = double(i);
    if (how == Resizing::kNearest) at = double(int64_t(i) * inputs / outputs);
    if (how == Resizing::kHalfPixels) at = (i + 0.5) * inputs / outputs - 0.5;
    if (how == Resizing::kCorners) at = outputs > 1 ? at * (inputs - 1) / (outputs - 1) : 0;
    at = std::min(std::max(at, 0.0), double(inputs - 1));
    const int first = int(at), second = std::min(first + 1, inputs - 1);
    const bool alone = how == Resizing::kNearest || inputs == outputs;
    result.push_back({first, alone ? first : second, float(at - first)});
  }
  return result;
}

template <int N>
inline Vec<N> mix(Vec<N> first, Vec<N> second, float share) {
  return fused<N>(second, broadcast<N>(share), first * broadcast<N>(1 - share));
}

}  // namespace nncompile
