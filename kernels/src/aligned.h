// Floats on a boundary of 64 bytes, with room behind them for a vector that starts at the last one.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

namespace nncompile {

class AlignedFloats {
 public:
  static constexpr size_t kSlack = 32;

  // So many floats and the room behind them, up to the next boundary.
  static constexpr size_t with_slack(size_t floats) { return (floats + kSlack + 15) / 16 * 16; }

  AlignedFloats() = default;
  explicit AlignedFloats(size_t count) {
    const size_t bytes = with_slack(count) * sizeof(float);
    data_.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
    if (!data_) throw std::bad_alloc();
    for (size_t i = count; i < bytes / sizeof(float); ++i) data_.get()[i] = 0.0f;
  }
  // A copy; zeros where `from` is null.
  AlignedFloats(const float* from, size_t count) : AlignedFloats(count) {
    if (from)
      std::copy_n(from, count, data());
    else
      std::fill_n(data(), count, 0.0f);
  }

  float* data() { return data_.get(); }
  const float* data() const { return data_.get(); }
  float& operator[](size_t i) { return data_.get()[i]; }

 private:
  struct Free {
    void operator()(float* data) const { std::free(data); }
  };
  std::unique_ptr<float, Free> data_;
};

}  // namespace nncompile
