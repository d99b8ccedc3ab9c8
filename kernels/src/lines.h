// Vector loops over the channels of one pixel.
#pragma once

#include "vector.h"

namespace nncompile {

// Calls `body(start, width<N>, count)` so that the vectors cover `channels` channels; where they are no multiple
// of the lanes, the last full vector starts earlier. `count` is 0 for a full vector.
template <int N>
struct Width {
  static constexpr int lanes = N;
};

template <class Body>
inline void over_channels(int channels, const Body& body) {
  if (channels >= kLanes) {
    int c = 0;
    for (; c + kLanes <= channels; c += kLanes) body(c, Width<kLanes>{}, 0);
    if (c < channels) body(channels - kLanes, Width<kLanes>{}, 0);
  } else if (kLanes > 4 && channels >= 4) {
    int c = 0;
    for (; c + 4 <= channels; c += 4) body(c, Width<4>{}, 0);
    if (c < channels) body(channels - 4, Width<4>{}, 0);
  } else {
    body(0, Width<4>{}, channels);
  }
}

template <int N>
inline Vec<N> read(const float* from, int count) {
  return count ? load_some<N>(from, count) : load<N>(from);
}

template <int N>
inline void write(float* to, Vec<N> value, int count) {
  if (count)
    store_some<N>(to, value, count);
  else
    store<N>(to, value);
}

}  // namespace nncompile
