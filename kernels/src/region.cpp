#include "region.h"

#include "lowering.h"
#include "team.h"

namespace nncompile {
namespace {

// Below so many times what makes a step worth cutting, some 20 microseconds, it is not worth it for all steps together:
// on some pairs of processors the way of a cache line is several times as long.
constexpr double kOfAll = 10;
// Linear layers alone pass little from one to the next.
constexpr double kOfLinear = 3;
constexpr double kLargeWeights = 2e6;  // floats

}  // namespace

Region::Region(Program program, const Options& options) : program_(std::move(program)), options_(options) {
  options_.threads = std::max(1, options_.threads);
  Lowered lowered = lower(program_, options_);
  steps_ = std::move(lowered.steps);
  places_ = std::move(lowered.places);
  lanes_ = std::move(lowered.lanes);
  algorithms_ = std::move(lowered.algorithms);
  chunk_ = lowered.chunk;
  all_batched_ = lowered.all_batched;
  arenas_.resize(lowered.arena_floats);
  size_t scratch = 0;
  for (const auto& stage : lanes_) {
    scratch = std::max(scratch, stage->scratch());
    lane_steps_.emplace_back();
    for (int step = 0; step < stage->steps(); ++step) lane_steps_.back().emplace_back(*stage, step);
  }
  for (const StepPtr& step : steps_) {
    scratch = std::max(scratch, step->scratch());
    cost_ += step->cost();
  }
  scratches_.resize(scratch);
  for (const Weight& weight : program_.weights) {
    double floats = 1;
    for (const int64_t size : weight.dims) floats *= double(size);
    weights_ += floats;
  }
}

std::vector<int> Region::lane_widths() const {
  std::vector<int> widths;
  for (const auto& stage : lanes_) widths.push_back(stage->width());
  return widths;
}

size_t Region::segment_end(size_t first) const {
  size_t end = first + 1;
  if (!steps_[first]->batched)
    while (end < steps_.size() && steps_[end]->segment == steps_[first]->segment) ++end;
  return end;
}

void Region::run(int64_t batch, const float* const* inputs, float* const* outputs,
                 const ParallelFor& parallel) const {
  if (batch <= 0) return;
  const double least = all_batched_ ? kOfLinear : kOfAll;
  const bool worth_sharing = cost_ * double(batch) >= least * options_.split;
  const int64_t threads = worth_sharing ? options_.threads : 1, at_once = threads * chunk_;
  Frame frame{};
  frame.places = &places_;
  frame.inputs = inputs;
  frame.outputs = outputs;
  if (shares(batch, threads)) {
    run_shared(frame, int(batch), parallel);
    return;
  }
  // As many chunks for every thread, each small enough for an arena.
  const int64_t rounds = (batch + at_once - 1) / at_once;
  const int64_t chunks = threads * rounds;
  const auto task = [&](size_t i) {
    const int64_t first = batch * int64_t(i) / chunks, end = batch * (int64_t(i) + 1) / chunks;
    IdleFloats::Lease arena(arenas_), scratch(scratches_);
    Frame own = frame;
    own.first = first;
    own.arena = arena.data();
    own.scratch = scratch.data();
    run_chunk(own, int(end - first));
  };
  if (chunks == 1)
    task(0);
  else
    parallel(size_t(chunks), task);
}

bool Region::shares(int64_t batch, int64_t threads) const {
  if (batch < threads) return true;
  // Of linear layers each then reads a part of the weights only, which takes as long as a few samples' products.
  if (all_batched_ && batch < (weights_ > kLargeWeights ? 9 : 3) * threads) return threads > 1 && batch <= chunk_;
  // Too few in lanes for each of them, and few left over.
  if (lanes_.empty() || batch > chunk_) return false;
  const int64_t width = lanes_.back()->width();
  return width <= batch && batch < width * threads && batch % width * 2 <= threads;
}

void Region::run_chunk(Frame frame, int samples) const {
  for (size_t s = 0, end; s < steps_.size(); s = end) {
    end = segment_end(s);
    if (steps_[s]->batched) {
      steps_[s]->run(frame, 0, samples, 0, steps_[s]->units());
      continue;
    }
    int sample = 0;
    if (s == 0)
      for (const auto& stage : lanes_)
        for (; sample + stage->width() <= samples; sample += stage->width()) stage->run(frame, sample);
    for (; sample < samples; ++sample)
      for (size_t i = s; i < end; ++i) steps_[i]->run(frame, sample, 1, 0, steps_[i]->units());
  }
}

// A few samples: one after the other, or in lanes, and the threads share each step.
void Region::run_shared(Frame frame, int samples, const ParallelFor& parallel) const {
  IdleFloats::Lease arena(arenas_), lanes(scratches_);
  frame.arena = arena.data();
  frame.lanes = lanes.data();
  size_t most = steps_.size() * size_t(samples);
  for (const auto& steps : lane_steps_) most += steps.size() * size_t(samples);
  Team team(most);
  const auto parts = [&](const Step& step) { return std::min({step.most_parts(), options_.threads, kMaxParts}); };
  const auto add = [&](const Step& step, int sample, int count) {
    team.add(step, sample, count, step.cost() * count >= options_.split ? parts(step) : 1);
  };
  for (size_t s = 0, end; s < steps_.size(); s = end) {
    end = segment_end(s);
    if (steps_[s]->batched) {
      add(*steps_[s], 0, samples);
      continue;
    }
    int sample = 0;
    if (s == 0)
      for (size_t stage = 0; stage < lanes_.size(); ++stage)
        for (const int width = lanes_[stage]->width(); sample + width <= samples; sample += width)
          for (const Step& step : lane_steps_[stage]) team.add(step, sample, width, parts(step));
    for (; sample < samples; ++sample)
      for (size_t i = s; i < end; ++i) add(*steps_[i], sample, 1);
  }
  const auto task = [&](size_t member) {
    IdleFloats::Lease scratch(scratches_);
    Frame own = frame;
    own.scratch = scratch.data();
    team.work(own, int(member));
  };
  if (team.members() == 1)
    task(0);
  else
    parallel(size_t(team.members()), task);
}

}  // namespace nncompile
