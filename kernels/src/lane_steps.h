// The steps of a lane stage: values are [c][y][x][V], at fixed places of an arena.
#pragma once

#include <memory>

#include "work.h"

namespace nncompile {

template <int V>
struct LaneView {
  float* data;
  const Bordered* place;

  ptrdiff_t pitch() const { return ptrdiff_t(place->width()) * V; }
  ptrdiff_t plane() const { return pitch() * place->height(); }
  float* at(int c, int y, int x) const {
    return data + c * plane() + (y + place->top) * pitch() + (x + place->left) * V;
  }
};

template <int V>
struct LaneArena {
  float* data;
  const std::vector<Bordered>* places;

  LaneView<V> view(int value) const {
    const Bordered& place = (*places)[size_t(value)];
    return {data + place.offset, &place};
  }
};

template <int V>
class LaneStep {
 public:
  virtual ~LaneStep() = default;
  virtual void run(const LaneArena<V>& arena) const = 0;
};

template <int V>
using LaneStepPtr = std::unique_ptr<LaneStep<V>>;

template <int V>
LaneStepPtr<V> make_lane_conv(const Program& program, const Work& work);
template <int V>
LaneStepPtr<V> make_lane_pool(const Program& program, const Work& work);
template <int V>
LaneStepPtr<V> make_lane_pointwise(const Program& program, const Work& work);

// Zeros around every plane.
template <int V>
inline void clear_lane_border(const LaneView<V>& view) {
  const Bordered& place = *view.place;
  const ptrdiff_t pitch = view.pitch();
  for (int c = 0; c < place.shape.c; ++c) {
    float* plane = view.data + c * view.plane();
    std::fill_n(plane, place.top * pitch, 0.0f);
    for (int y = place.top; y < place.top + place.shape.h; ++y) {
      std::fill_n(plane + y * pitch, place.left * V, 0.0f);
      std::fill_n(plane + (y + 1) * pitch - place.right * V, place.right * V, 0.0f);
    }
    std::fill_n(plane + (place.top + place.shape.h) * pitch, place.bottom * pitch, 0.0f);
  }
}

}  // namespace nncompile
