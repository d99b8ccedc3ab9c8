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
  float* scratch;  // of the step at work
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
  // Units `begin` ... `end` - 1 of the work, which may run in any order and at once, each with scratch of its own.
  virtual void run(const LaneArena<V>& arena, int begin, int end) const = 0;
  virtual int units() const = 0;
  virtual size_t scratch() const { return 0; }  // floats
};

template <int V>
using LaneStepPtr = std::unique_ptr<LaneStep<V>>;

// A convolution as it is defined, or by Winograd's algorithm along the rows; where `pool` is not null, with that pool of
// it, whose windows do not overlap, and without a place of its own.
template <int V>
LaneStepPtr<V> make_lane_conv(const Program& program, const Work& work, const Work* pool);
template <int V>
LaneStepPtr<V> make_lane_rows(const Program& program, const Work& work, const Work* pool);
template <int V>
LaneStepPtr<V> make_lane_transposed(const Program& program, const Work& work);
template <int V>
LaneStepPtr<V> make_lane_pool(const Program& program, const Work& work);
template <int V>
LaneStepPtr<V> make_lane_pointwise(const Program& program, const Work& work);
template <int V>
LaneStepPtr<V> make_lane_resize(const Program& program, const Work& work);

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
