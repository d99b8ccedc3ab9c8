#include "region.h"

#include "lowering.h"

namespace nncompile {
namespace {

// Below this a step is not worth handing to a second thread: a hand-over costs about 2.4 microseconds.
constexpr double kMinFlopsToSplit = 1.5e6;

}  // namespace

// An arena for the duration of one chunk.
class Region::Lease {
 public:
  explicit Lease(const Region& region) : region_(region) {
    {
      const std::lock_guard<std::mutex> lock(region.mutex_);
      if (!region.idle_.empty()) {
        floats_ = std::move(region.idle_.back());
        region.idle_.pop_back();
      }
    }
    if (!floats_.data()) floats_ = AlignedFloats(region.arena_floats_ + region.scratch_floats_ * threads());
  }
  ~Lease() {
    const std::lock_guard<std::mutex> lock(region_.mutex_);
    region_.idle_.push_back(std::move(floats_));
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  float* arena() { return floats_.data(); }
  float* scratch(size_t thread) { return floats_.data() + region_.arena_floats_ + thread * region_.scratch_floats_; }

 private:
  size_t threads() const { return size_t(region_.options_.threads); }

  const Region& region_;
  AlignedFloats floats_;
};

Region::Region(Program program, const Options& options) : program_(std::move(program)), options_(options) {
  options_.threads = std::max(1, options_.threads);
  Lowered lowered = lower(program_, options_);
  steps_ = std::move(lowered.steps);
  places_ = std::move(lowered.places);
  lanes_ = std::move(lowered.lanes);
  arena_floats_ = lowered.arena_floats;
  const auto need = [this](size_t floats) { scratch_floats_ = std::max(scratch_floats_, (floats + 15) / 16 * 16); };
  for (const auto& stage : lanes_) need(stage->scratch());
  for (const StepPtr& step : steps_) need(step->scratch());
}

void Region::run(int64_t batch, const float* const* inputs, float* const* outputs,
                 const ParallelFor& parallel) const {
  const int64_t threads = options_.threads;
  Frame frame{};
  frame.places = &places_;
  frame.inputs = inputs;
  frame.outputs = outputs;
  if (batch < threads) {
    if (batch > 0) run_steps_in_parts(frame, int(batch), parallel);
    return;
  }
  // As many chunks for every thread, each small enough for an arena.
  const int64_t rounds = (batch + threads * kMaxChunk - 1) / (threads * kMaxChunk);
  const int64_t chunks = threads * rounds;
  const auto task = [&](size_t i) {
    const int64_t first = batch * int64_t(i) / chunks, end = batch * (int64_t(i) + 1) / chunks;
    if (first == end) return;
    Lease lease(*this);
    Frame own = frame;
    own.first = first;
    own.arena = lease.arena();
    own.scratch = lease.scratch(0);
    run_chunk(own, int(end - first));
  };
  if (chunks == 1)
    task(0);
  else
    parallel(size_t(chunks), task);
}

void Region::run_chunk(Frame frame, int samples) const {
  for (size_t s = 0; s < steps_.size();) {
    if (steps_[s]->batched) {
      steps_[s]->run(frame, 0, samples, 0, steps_[s]->units());
      ++s;
      continue;
    }
    size_t end = s;
    while (end < steps_.size() && steps_[end]->segment == steps_[s]->segment) ++end;
    int sample = 0;
    if (s == 0)
      for (const auto& stage : lanes_)
        for (; sample + stage->width() <= samples; sample += stage->width()) stage->run(frame, sample);
    for (; sample < samples; ++sample)
      for (size_t i = s; i < end; ++i) steps_[i]->run(frame, sample, 1, 0, steps_[i]->units());
    s = end;
  }
}

// Fewer samples than threads: one sample after the other, each large step split over the threads.
void Region::run_steps_in_parts(Frame frame, int samples, const ParallelFor& parallel) const {
  Lease lease(*this);
  frame.arena = lease.arena();
  const auto run_step = [&](const Step& step, int sample, int count) {
    const int units = step.units();
    const int parts = step.flops() * count < kMinFlopsToSplit ? 1 : std::min(units, options_.threads);
    if (parts == 1) {
      frame.scratch = lease.scratch(0);
      step.run(frame, sample, count, 0, units);
      return;
    }
    parallel(size_t(parts), [&](size_t part) {
      Frame own = frame;
      own.scratch = lease.scratch(part);
      step.run(own, sample, count, int(size_t(units) * part / size_t(parts)),
               int(size_t(units) * (part + 1) / size_t(parts)));
    });
  };
  for (size_t s = 0; s < steps_.size();) {
    if (steps_[s]->batched) {
      run_step(*steps_[s], 0, samples);
      ++s;
      continue;
    }
    size_t end = s;
    while (end < steps_.size() && steps_[end]->segment == steps_[s]->segment) ++end;
    for (int sample = 0; sample < samples; ++sample)
      for (size_t i = s; i < end; ++i) run_step(*steps_[i], sample, 1);
    s = end;
  }
}

}  // namespace nncompile
