// Steps that several threads run together, with one hand-over to their pool for all of them.
//
// A step is cut into parts. A member claims its own part first and then any that nobody has claimed; when all parts
// are done, the members go on to the next step. No member waits for one that has not come: whoever is there does
// all the work, so a pool that runs the members one after another is as right as one that runs them at once.
#pragma once

#include <atomic>
#include <thread>

#include "step.h"

namespace nncompile {

inline constexpr int kMaxParts = 64;  // a bit each

class Team {
 public:
  // For at most `most` steps.
  explicit Team(size_t most) : jobs_(new Job[most]) {}

  // Of the next step: what to run, for which samples, cut into how many parts, at most kMaxParts.
  void add(const Step& step, int sample, int samples, int parts) {
    Job& job = jobs_[count_++];
    job.step = &step;
    job.sample = sample;
    job.samples = samples;
    job.parts = parts;
    members_ = std::max(members_, parts);
  }

  int members() const { return members_; }  // as many as can be at work at once

  // What member `member` of `members()` does, on whatever thread. Returns when all steps are done.
  void work(const Frame& frame, int member) {
    for (size_t i = 0; i < count_; ++i) {
      Job& job = jobs_[i];
      for (int tried = 0; tried < job.parts; ++tried) {
        const int part = (member + tried) % job.parts;
        const uint64_t bit = uint64_t(1) << part;
        if (!(job.claimed.load(std::memory_order_relaxed) & bit) &&
            !(job.claimed.fetch_or(bit, std::memory_order_relaxed) & bit))
          job.run(frame, part);
      }
      job.wait();
    }
  }

 private:
  struct Job {
    const Step* step;
    int sample, samples, parts;
    std::atomic<uint64_t> claimed{0};
    std::atomic<int> done{0};

    void run(const Frame& frame, int part) {
      const struct Done {  // also where the step throws: others wait for it
        std::atomic<int>& done;
        ~Done() { done.fetch_add(1, std::memory_order_release); }
      } when_left{done};
      const auto bound = [&](int of) { return int(int64_t(step->units()) * of / parts); };
      step->run(frame, sample, samples, bound(part), bound(part + 1));
    }

    void wait() const {
      for (int spins = 0; done.load(std::memory_order_acquire) < parts; ++spins)
        if (spins < kSpins)
          pause();
        else
          std::this_thread::yield();  // whoever has the part may need this processor
    }
  };

  static constexpr int kSpins = 2000;

  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
  }

  std::unique_ptr<Job[]> jobs_;
  size_t count_ = 0;
  int members_ = 1;
};

}  // namespace nncompile
