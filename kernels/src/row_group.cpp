#include "row_group.h"

#include <cstring>
#include <utility>

#include "aligned.h"
#include "row_progress.h"

namespace nncompile {
namespace {

// Of the cache, for the windows and the weights of a group.
constexpr double kCacheShare = 0.6;
constexpr int kMostRowsAtOnce = 16;
// Fewer, and what two parts both compute weighs too much.
constexpr int kLeastRowsOfPart = 4;

class RowGroup : public Step {
 public:
  // The steps come with it later: while it is only weighed they stay with the candidates.
  RowGroup(std::vector<RowMember> members, size_t values, int rows_at_once)
      : members_(std::move(members)), values_(values), rows_at_once_(rows_at_once) {
    segment = members_.front().step->segment;
    plan_windows();
  }

  void own(std::vector<StepPtr> steps) { steps_ = std::move(steps); }

  double floats_in_use() const {
    double floats = double(windows_);
    for (const RowMember& member : members_) floats += double(member.wise.weights);
    return floats;
  }

  int units() const override { return members_.back().wise.height; }
  int most_parts() const override { return std::max(1, units() / kLeastRowsOfPart); }
  double cost() const override {
    double sum = 0;
    for (const RowMember& member : members_) sum += member.step->cost();
    return sum;
  }
  size_t scratch() const override {
    size_t most = 0;
    for (const RowMember& member : members_) most = std::max(most, member.step->scratch());
    return windows_ + most;
  }

  void run(const Frame& frame, int sample, int, int begin, int end) const override {
    begin = members_.back().down(begin);  // those before belong to whoever has the rows before
    end = end == units() ? end : members_.back().down(end);
    if (begin == end) return;
    std::vector<float*> planes(values_, nullptr);
    Frame own = frame;
    own.scratch = frame.scratch + windows_;
    own.planes = planes.data();
    RowProgress progress(members_, begin, end);
    const auto plane = [&](size_t i) {  // where the border's first row would lie
      return frame.scratch + offsets_[i] - ptrdiff_t(progress.of(i).window) * ptrdiff_t(pitch(i));
    };
    walk(progress, begin, end, [&](size_t i, int from, int to) {
      const RowMember& member = members_[i];
      if (inner(i)) {
        if (progress.extent(i, to) > rows_[i]) {
          const float* old = plane(i) + size_t(progress.of(i).window) * pitch(i);
          const int held = progress.extent(i, from), gone = progress.slide(i);
          std::memmove(frame.scratch + offsets_[i], old + size_t(gone) * pitch(i),
                       size_t(std::max(0, held - gone)) * pitch(i) * sizeof(float));
        }
        planes[size_t(member.makes)] = plane(i);
      }
      const int units = (to + member.wise.rows - 1) / member.wise.rows * member.wise.units;
      member.step->run(own, sample, 1, from / member.wise.rows * member.wise.units, units);
    });
  }

 private:
  bool inner(size_t i) const { return i + 1 < members_.size(); }
  size_t pitch(size_t i) const { return size_t(members_[i].place.width()) * size_t(members_[i].place.shape.c); }

  template <class Run>
  void walk(RowProgress& progress, int begin, int end, const Run& run) const {
    for (int row = begin; row < end;) {
      row = std::min(row + rows_at_once_, end);
      progress.advance(members_.size() - 1, row, run);
    }
  }

  // Each window holds what is read of it from any row of the last step on: as many rows as that takes are found by
  // going through all of them. Where the rows end earlier, the last few at once are fewer.
  void plan_windows() {
    rows_.assign(members_.size(), 0);
    for (int begin = 0; begin < units(); begin += members_.back().wise.rows) {
      RowProgress progress(members_, begin, units());
      walk(progress, begin, units(), [&](size_t i, int, int to) {
        progress.slide(i);
        rows_[i] = std::max(rows_[i], progress.extent(i, to));
      });
    }
    for (size_t i = 0; inner(i); ++i) {
      // Room for as much again, so that a window slides every other time only.
      rows_[i] = std::min(2 * rows_[i], members_[i].place.height());
      offsets_.push_back(windows_);
      windows_ += AlignedFloats::with_slack(size_t(rows_[i]) * pitch(i));
    }
  }

  std::vector<RowMember> members_;
  std::vector<StepPtr> steps_;
  size_t values_;
  int rows_at_once_;
  std::vector<int> rows_;        // of each member's window
  std::vector<size_t> offsets_;  // of the windows in the scratch
  size_t windows_ = 0;           // floats
};

class Grouping {
 public:
  Grouping(std::vector<Candidate> candidates, const std::vector<Place>& places, double cache)
      : all_(std::move(candidates)), places_(places), budget_(kCacheShare * cache / sizeof(float)) {}

  std::vector<Candidate> run() {
    for (size_t i = 0; i < all_.size();) {
      const size_t end = group_end(i);
      if (end - i > 1)
        merge(i, end);
      else
        result_.push_back(std::move(all_[i]));
      i = end;
    }
    return std::move(result_);
  }

 private:
  bool can(const Candidate& candidate, size_t first) const {
    return !candidate.step->batched && candidate.step->row_wise().height > 0 &&
           candidate.step->segment == all_[first].step->segment;
  }

  std::unique_ptr<RowGroup> group(size_t begin, size_t end, int rows) const {
    std::vector<RowMember> members;
    for (size_t i = begin; i < end; ++i) {
      const Candidate& its = all_[i];
      RowMember member{its.step.get(), its.step->row_wise(), {}, its.writes.empty() ? -1 : its.writes[0], {}};
      if (member.makes >= 0) member.place = places_[size_t(member.makes)];
      for (const int value : its.reads)
        for (size_t j = 0; j < members.size(); ++j)
          if (members[j].makes == value) member.reads.push_back({int(j), value == member.wise.windowed});
      members.push_back(std::move(member));
    }
    return std::make_unique<RowGroup>(std::move(members), places_.size(), rows);
  }

  bool read_between(int value, size_t begin, size_t end) const {
    for (size_t j = begin; j < end; ++j)
      if (std::count(all_[j].reads.begin(), all_[j].reads.end(), value)) return true;
    return false;
  }

  // Whether all that the steps make leads to what the last one makes, and nothing else is read behind.
  bool closed(size_t begin, size_t end) const {
    for (size_t i = begin; i + 1 < end; ++i) {
      if (all_[i].writes.empty()) return false;
      const int value = all_[i].writes[0];
      if (!read_between(value, i + 1, end) || read_between(value, end, all_.size())) return false;
    }
    return true;
  }

  double made(size_t i) const { return all_[i].writes.empty() ? 0 : double(places_[size_t(all_[i].writes[0])].size()); }

  // As far as the windows fit the cache, and from there back to where least passes on.
  size_t group_end(size_t begin) const {
    size_t best = begin + 1;
    double least = made(begin);
    for (size_t end = begin + 1; end <= all_.size() && can(all_[end - 1], begin); ++end) {
      if (group(begin, end, 2)->floats_in_use() > budget_) break;
      if (made(end - 1) <= least && closed(begin, end)) {
        best = end;
        least = made(end - 1);
      }
    }
    double largest = 0;
    for (size_t i = begin; i + 1 < best; ++i) largest = std::max(largest, made(i));
    return largest > budget_ ? best : begin + 1;
  }

  void merge(size_t begin, size_t end) {
    std::unique_ptr<RowGroup> best = group(begin, end, 2);
    for (int rows = 4; rows <= kMostRowsAtOnce; rows *= 2) {
      auto next = group(begin, end, rows);
      if (next->floats_in_use() > budget_) break;
      best = std::move(next);
    }
    Candidate merged;
    std::vector<StepPtr> steps;
    std::vector<int> inside;
    for (size_t i = begin; i < end; ++i) {
      for (const int value : all_[i].reads)
        if (!std::count(inside.begin(), inside.end(), value)) merged.reads.push_back(value);
      inside.insert(inside.end(), all_[i].writes.begin(), all_[i].writes.end());
      steps.push_back(std::move(all_[i].step));
    }
    merged.writes = all_[end - 1].writes;
    best->own(std::move(steps));
    merged.step = std::move(best);
    result_.push_back(std::move(merged));
  }

  std::vector<Candidate> all_, result_;
  const std::vector<Place>& places_;
  double budget_;  // floats
};

}  // namespace

std::vector<Candidate> group_rows(std::vector<Candidate> candidates, const std::vector<Place>& places, double cache) {
  return Grouping(std::move(candidates), places, cache).run();
}

}  // namespace nncompile
