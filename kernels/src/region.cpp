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
// Of a step of samples in lanes, threads that share it do so much more than a part each, since one reads what another
// wrote, and wait for one another, in what makes a step worth cutting. Measured: 1.3 on processors that share a cache,
// and up to 2 on others.
constexpr double kShared = 1.35, kHandOver = 0.1;
// It takes two processors to share, and both must be free: not for less than this share of the time of pieces.
constexpr double kWorthSharing = 0.97;
// Steps that take all samples of a chunk share each reading of the weights.
constexpr double kBatched = 0.5;

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
  std::vector<LaneCost> alone, shared;
  for (const auto& stage : lanes_) {
    scratch = std::max(scratch, stage->scratch());
    alone.push_back({stage->width(), stage->cost()});
    shared.push_back({stage->width(), kShared * stage->cost() / options_.threads +
                                          kHandOver * options_.split * stage->steps()});
    lane_steps_.emplace_back();
    for (int step = 0; step < stage->steps(); ++step) lane_steps_.back().emplace_back(*stage, step);
  }
  double first = 0, first_shared = 0;  // of the first segment, of a sample
  for (const StepPtr& step : steps_) {
    const double cost = step->cost();
    scratch = std::max(scratch, step->scratch());
    cost_ += cost;
    if (step->batched) {
      batched_cost_ += kBatched * cost;
    } else if (step->segment == 0) {
      first += cost;
      first_shared += std::min(cost, cost / options_.threads + options_.split / 2);
    }
  }
  scratches_.resize(scratch);
  alone_ = Groups(chunk_, first, alone);
  shared_ = Groups(chunk_, first_shared, shared);
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
  const int64_t threads = worth_sharing ? options_.threads : 1;
  Frame frame{};
  frame.places = &places_;
  frame.inputs = inputs;
  frame.outputs = outputs;
  if (batch < threads || shares(batch, threads)) {
    const Pieces all = Pieces::of(batch, 1, 1, chunk_);
    for (int64_t i = 0; i < all.count; ++i) {
      frame.first = all.begin(i);
      run_shared(frame, int(all.begin(i + 1) - frame.first), parallel);
    }
    return;
  }
  const Pieces cut = pieces(batch, threads);
  const auto task = [&](size_t i) {
    IdleFloats::Lease arena(arenas_), scratch(scratches_);
    Frame own = frame;
    own.first = cut.begin(int64_t(i));
    own.arena = arena.data();
    own.scratch = scratch.data();
    run_chunk(own, int(cut.begin(int64_t(i) + 1) - own.first));
  };
  if (cut.count == 1)
    task(0);
  else
    parallel(size_t(cut.count), task);
}

Pieces Region::pieces(int64_t batch, int64_t threads) const {
  Pieces best = Pieces::of(batch, 1, threads, chunk_);
  for (const auto& stage : lanes_) {
    if (stage->width() > chunk_) continue;
    const Pieces whole = Pieces::of(batch, stage->width(), threads, chunk_);
    if (cost(whole, threads) < cost(best, threads)) best = whole;
  }
  return best;
}

double Region::cost(const Pieces& pieces, int64_t threads) const {
  double sum = 0, largest = 0;
  for (int64_t i = 0; i < pieces.count; ++i) {
    const int samples = int(pieces.begin(i + 1) - pieces.begin(i));
    const double its = alone_.cost(samples) + samples * batched_cost_;
    sum += its;
    largest = std::max(largest, its);
  }
  return std::max(largest, sum / double(threads));
}

bool Region::shares(int64_t samples, int64_t threads) const {
  if (threads == 1 || samples > chunk_) return false;
  // Of linear layers each then reads a part of the weights only, which takes as long as a few samples' products.
  if (all_batched_) return samples < (weights_ > kLargeWeights ? 9 : 3) * threads;
  if (lanes_.empty()) return false;
  const double together = shared_.cost(int(samples)) + double(samples) * batched_cost_ / double(threads);
  return together < kWorthSharing * cost(pieces(samples, threads), threads);
}

void Region::run_chunk(Frame frame, int samples) const {
  for (size_t s = 0, end; s < steps_.size(); s = end) {
    end = segment_end(s);
    if (steps_[s]->batched) {
      steps_[s]->run(frame, 0, samples, 0, steps_[s]->units());
      continue;
    }
    const auto run_group = [&](int stage, int first, int count) {
      if (stage >= 0) return lanes_[size_t(stage)]->run(frame, first, count);
      for (int sample = first; sample < first + count; ++sample)
        for (size_t i = s; i < end; ++i) steps_[i]->run(frame, sample, 1, 0, steps_[i]->units());
    };
    if (s == 0)
      alone_.each(samples, run_group);
    else
      run_group(-1, 0, samples);
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
    const auto add_group = [&](int stage, int first, int count) {
      if (stage >= 0)
        for (const Step& step : lane_steps_[size_t(stage)]) team.add(step, first, count, parts(step));
      else
        for (int sample = first; sample < first + count; ++sample)
          for (size_t i = s; i < end; ++i) add(*steps_[i], sample, 1);
    };
    if (s == 0)
      shared_.each(samples, add_group);
    else
      add_group(-1, 0, samples);
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
