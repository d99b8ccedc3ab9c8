// Where values lie while a region runs, and what a step of it is.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "resize.h"

namespace nncompile {

inline constexpr int kMaxChunk = 32;  // samples that share one reading of a layer's weights

// A value in an arena, with the zeros around each of its planes that its readers' padding needs.
struct Bordered {
  Shape shape;
  int top = 0, left = 0, bottom = 0, right = 0;
  size_t offset = 0;  // in floats, from the arena's start

  int height() const { return shape.h + top + bottom; }
  int width() const { return shape.w + left + right; }
  size_t size() const { return size_t(shape.c) * size_t(width()) * size_t(height()); }
  bool bordered() const { return top || left || bottom || right; }

  // Widens the border for a reader of `rows` x `columns` from the window's padding on.
  void widen(const Window& window, int rows, int columns) {
    top = std::max(top, window.top);
    left = std::max(left, window.left);
    bottom = std::max(bottom, rows - window.top - shape.h);
    right = std::max(right, columns - window.left - shape.w);
  }
};

// A value with its channels innermost (NHWC).
struct Place : Bordered {
  bool kept = false;  // one for each sample of a chunk, not one for the sample at work
  int alias = -1;     // the value whose place holds this one's floats

  size_t pitch() const { return size_t(width()) * size_t(shape.c); }
  size_t at(int y, int x) const { return size_t(y + top) * pitch() + size_t(x + left) * size_t(shape.c); }
};

// The value whose place holds `value`.
inline int root_of(const std::vector<Place>& places, int value) {
  const int alias = places[size_t(value)].alias;
  return alias < 0 ? value : alias;
}

// Samples `first` ... of the call's inputs and outputs, at work in one arena.
struct Frame {
  const std::vector<Place>* places;
  float* arena;
  float* scratch;  // of the thread
  float* lanes;    // of samples in lanes that threads share
  const float* const* inputs;
  float* const* outputs;
  int64_t first = 0;
  float* const* planes = nullptr;  // by value: where a group of steps keeps those that are its own; null for others

  const Place& place(int value) const { return (*places)[size_t(root_of(*places, value))]; }
  float* data(int value, int sample) const {
    if (planes && planes[root_of(*places, value)]) return planes[root_of(*places, value)];
    const Place& at = place(value);
    return arena + at.offset + (at.kept ? size_t(sample) * at.size() : 0);
  }
};

// How a step makes some rows of its result, where it can.
struct RowWise {
  int height = 0;          // of the result; 0: it makes all or nothing
  int rows = 1, units = 1; // so many rows are so many units
  int windowed = -1;       // the value that it reads through `window`; of others it reads the rows that it makes
  Window window = {};
  size_t weights = 0;      // floats that it reads for every row
  const Source* sources = nullptr;  // of each row: what it reads of `windowed` without a window
};

class Step {
 public:
  virtual ~Step() = default;
  // Units `begin` ... `end` - 1 of the work on `samples` samples from `sample` on. A step that is not batched
  // is given one sample at a time.
  virtual void run(const Frame& frame, int sample, int samples, int begin, int end) const = 0;
  virtual int units() const { return 1; }
  virtual int most_parts() const { return units(); }  // that are worth sharing the units
  virtual RowWise row_wise() const { return {}; }
  // Of a sample, in operations of a matrix product that would take as long; measured.
  virtual double cost() const { return 0; }
  virtual size_t scratch() const { return 0; }  // floats for each thread
  bool batched = false;
  int segment = 0;
};

using StepPtr = std::unique_ptr<Step>;

// Makes the border of rows `begin` ... `end` - 1 zero, and that above or below with the first or the last row.
inline void clear_border(const Place& place, float* data, int begin, int end) {
  if (!place.bordered()) return;
  const size_t c = size_t(place.shape.c), pitch = place.pitch();
  if (begin == 0) std::fill_n(data, size_t(place.top) * pitch, 0.0f);
  for (int y = begin; y < end; ++y) {
    float* row = data + size_t(y + place.top) * pitch;
    std::fill_n(row, size_t(place.left) * c, 0.0f);
    std::fill_n(row + pitch - size_t(place.right) * c, size_t(place.right) * c, 0.0f);
  }
  if (end == place.shape.h)
    std::fill_n(data + size_t(place.top + place.shape.h) * pitch, size_t(place.bottom) * pitch, 0.0f);
}

}  // namespace nncompile
