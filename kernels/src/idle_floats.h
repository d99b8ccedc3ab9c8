// Memory that is used again: as many pieces as were ever at work at once, all of one size.
#pragma once

#include <mutex>
#include <vector>

#include "aligned.h"

namespace nncompile {

class IdleFloats {
 public:
  // A piece for as long as the lease lives. Its contents are what they were left.
  class Lease {
   public:
    explicit Lease(IdleFloats& owner) : owner_(owner) {
      const std::lock_guard<std::mutex> lock(owner.mutex_);
      if (owner.idle_.empty()) {
        owner.idle_.reserve(owner.pieces_ + 1);  // so that it comes back without a need of memory
        floats_ = AlignedFloats(owner.floats_);
        ++owner.pieces_;
      } else {
        floats_ = std::move(owner.idle_.back());
        owner.idle_.pop_back();
      }
    }
    ~Lease() {
      const std::lock_guard<std::mutex> lock(owner_.mutex_);
      owner_.idle_.push_back(std::move(floats_));
    }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;

    float* data() { return floats_.data(); }

   private:
    IdleFloats& owner_;
    AlignedFloats floats_;
  };

  // Before the first lease.
  void resize(size_t floats) { floats_ = floats; }

 private:
  size_t floats_ = 0, pieces_ = 0;
  std::mutex mutex_;
  std::vector<AlignedFloats> idle_;
};

}  // namespace nncompile
