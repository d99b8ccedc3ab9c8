// A tile of a layer: products in registers, then bias, residual, activation and the store.
#pragma once

#include <array>

#include "activation.h"
#include "aligned.h"
#include "product.h"

namespace nncompile {

inline constexpr int kMaxVectors = 4;

// What the tiles of a layer have in common.
struct TileJob {
  ptrdiff_t pixel, pitch;  // of x, in floats
  int rows, run;
  int bands = 1;       // so many times the rows,
  ptrdiff_t band = 0;  // so many floats apart,
  int lines = 0;       // and so many lines of weights
  int first = 0;       // the first of those
  ptrdiff_t y_pixel, residual_pixel;
  int columns = 0;        // pixels of a row of y,
  ptrdiff_t y_break = 0;  // and the floats between two rows; 0 columns: all are one row
  Finish finish;
};

struct TileData {
  const float* x;
  float* y;
  const float* residual;  // null, or laid out as y
  const float* weights;
  const float* bias;
  const int* start;  // of each vector, its first channel
  int channels;      // fewer than a vector's lanes: store so many; 0: all
  bool row_end;      // behind the last pixel stands what must not be written
  bool alone;        // behind each pixel
  int column;        // of the first pixel
};

using TileFunction = void (*)(const TileJob&, const TileData&);

// The functions for tiles of 1, 2 ... max_pixels(vectors) pixels by so many vectors of `width` lanes.
const TileFunction* find_tiles(int width, int vectors);

// A few vectors of output channels that are computed together. Where the channels are no multiple of a vector,
// the last one starts earlier and computes some channels twice, so that every store stays inside.
struct Block {
  int vectors = 0;
  int group = 0;
  std::array<int, kMaxVectors> start{};  // first channel of each vector
  size_t weights = 0, bias = 0;          // offsets into the layer's packed floats
  const TileFunction* tiles = nullptr;   // [pixels - 1]
};

// The lanes of the vectors for so many channels: 8 waste fewer than 16 on some channel counts, and take half as long; 4
// take as long as 8.
inline int vector_width(int channels) {
  if (channels <= 4) return 4;
  const auto lanes = [channels](int width) { return (channels + width - 1) / width * width; };
  return kLanes > 8 && lanes(8) * 5 <= lanes(16) * 4 ? 8 : kLanes;
}

// The channels of a layer, group by group, cut into blocks, with its weights in the order in which tiles read them.
class Panels {
 public:
  // `weight(k, i)` is the weight of output channel k and line i of `lines` (bands * rows * run); rows are mostly
  // `pixels` long.
  template <class Weight>
  Panels(int outputs, int pixels, size_t lines, const float* bias, const Weight& weight, int groups = 1)
      : channels_(outputs / groups), width_(vector_width(channels_)), alone_(groups > 1) {
    const int vectors = (channels_ + width_ - 1) / width_;
    const int count = choose_blocks(vectors, pixels);
    size_t floats = 0;
    for (int g = 0; g < groups; ++g)
      for (int b = 0, v = 0; b < count; ++b) {
        Block block;
        block.group = g;
        for (const int stop = vectors * (b + 1) / count; v < stop; ++v)
          block.start[size_t(block.vectors++)] =
              g * channels_ + std::max(0, std::min(v * width_, channels_ - width_));
        const size_t line = size_t(block.vectors) * size_t(width_);
        block.tiles = find_tiles(width_, block.vectors);
        block.bias = floats;
        block.weights = floats + line;
        floats += line * (lines + 1);
        blocks_.push_back(block);
      }
    packed_ = AlignedFloats(floats);
    for (const Block& block : blocks_) {
      const int end = (block.group + 1) * channels_;
      const auto pack = [&](float* to, const auto& number) {
        for (int v = 0; v < block.vectors; ++v)
          for (int k = block.start[size_t(v)], stop = k + width_; k < stop; ++k) *to++ = k < end ? number(k) : 0.0f;
      };
      pack(packed_.data() + block.bias, [bias](int k) { return bias ? bias[k] : 0.0f; });
      const size_t line = size_t(block.vectors) * size_t(width_);
      for (size_t i = 0; i < lines; ++i)
        pack(packed_.data() + block.weights + i * line, [&](int k) { return weight(k, i); });
    }
  }

  const std::vector<Block>& blocks() const { return blocks_; }

  // Whether tiles write what they compute and nothing behind it.
  bool whole_vectors() const { return channels_ >= width_; }

  // One row of `pixels` pixels of one block; `residual` is null or as `y`.
  void row(const Block& block, const TileJob& job, const float* x, float* y, const float* residual, int pixels) const {
    TileData data{x,
                  y,
                  residual,
                  packed_.data() + block.weights + size_t(job.first) * size_t(block.vectors) * size_t(width_),
                  packed_.data() + block.bias,
                  block.start.data(),
                  channels_ < width_ ? channels_ : 0,
                  false,
                  alone_,
                  0};
    const int most = tile_pixels(block, pixels);
    for (int p = 0; p < pixels; p += most) {
      const int count = std::min(most, pixels - p);
      data.row_end = p + count == pixels;
      block.tiles[count - 1](job, data);
      data.x += count * job.pixel;
      data.y += count * job.y_pixel;
      if (job.columns) {
        data.y += (data.column + count) / job.columns * job.y_break;
        data.column = (data.column + count) % job.columns;
      }
      if (residual) data.residual += count * job.residual_pixel;
    }
  }

 private:
  // As few tiles as there must be, and as equal as they can be.
  static int tile_pixels(const Block& block, int pixels) {
    const int most = max_pixels(block.vectors);
    const int tiles = (pixels + most - 1) / most;
    return (pixels + tiles - 1) / tiles;
  }

  // The cut with the fewest loads for each multiplication: wide blocks leave few registers for pixels.
  static int choose_blocks(int vectors, int pixels) {
    const auto loads = [&](int count) {
      const int widest = (vectors + count - 1) / count, most = max_pixels(widest);
      const double across = double(pixels) / ((pixels + most - 1) / most);
      return double(count) / vectors + 1 / across;
    };
    int best = (vectors + kMaxVectors - 1) / kMaxVectors;
    for (int narrower = kMaxVectors - 1; narrower > 1; --narrower) {
      const int count = (vectors + narrower - 1) / narrower;
      if (loads(count) < loads(best)) best = count;
    }
    return best;
  }

  int channels_, width_;  // of a group
  bool alone_;
  std::vector<Block> blocks_;
  AlignedFloats packed_;
};

}  // namespace nncompile
