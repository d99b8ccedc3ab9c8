#include "row_group.h"

#include <cstring>
#include <utility>

#include "aligned.h"

namespace nncompile {
namespace {

// Of the cache, for the windows and the weights of a group.
constexpr double kCacheShare = 0.6;
constexpr int kMostRowsAtOnce = 16;
// Fewer, and what two parts both compute weighs too much.
constexpr int kLeastRowsOfPart = 4;

struct Read {
  int maker;  // the member that makes what is read
  bool windowed;
};

struct Member {
  Step* step;
  RowWise wise;
  std::vector<Read> reads;
  int makes;  // the value; -1: none
  Bordered place;

  int up(int row) const { return std::min((row + wise.rows - 1) / wise.rows * wise.rows, wise.height); }
  int down(int row) const { return row / wise.rows * wise.rows; }

  // Rows are counted from the border's first on: the first that is read of `maker` for row `row` ...
  int first_read(const Read& read, const Member& maker, int row) const {
    return maker.place.top + (read.windowed ? row * wise.window.sh - wise.window.top : row);
  }
  // ... and how many it must have made, without the border, for the rows before `end`. Steps of several rows at once
  // read as if they made all of them.
  int needed(const Read& read, const Member& maker, int end) const {
    const int whole = (end + wise.rows - 1) / wise.rows * wise.rows;
    const int rows = read.windowed ? (whole - 1) * wise.window.sh - wise.window.top + wise.window.kh : end;
    return std::max(1, std::min(rows, maker.wise.height));  // where only the border is read, that comes with a row
  }
};

// How far the members have come with the rows of the last one that were asked for.
class Progress {
 public:
  struct Made {
    int begin, end;    // these rows it makes in all
    int done;
    int window = 0;    // the first row that its window still holds, from the border's first on
  };

  Progress(const std::vector<Member>& members, int begin, int end) : members_(members), made_(members.size()) {
    for (size_t i = 0; i < members.size(); ++i) made_[i] = {members[i].wise.height, 0, 0, 0};
    made_.back() = {begin, end, begin, 0};
    for (size_t i = members.size(); i-- > 0;) {
      const Member& member = members[i];
      Made& its = made_[i];  // all that read it have been here
      its.begin = its.done = member.down(std::min(its.begin, member.wise.height - 1));
      its.end = std::max(member.up(its.end), member.up(its.begin + 1));
      its.window = its.begin + (its.begin > 0 ? member.place.top : 0);
      for (const Read& read : member.reads) {
        const Member& maker = members[size_t(read.maker)];
        Made& read_of = made_[size_t(read.maker)];
        const int first = member.first_read(read, maker, its.begin) - maker.place.top;
        read_of.begin = std::min(read_of.begin, std::max(0, first));
        read_of.end = std::max(read_of.end, member.needed(read, maker, its.end));
      }
    }
  }

  const Made& of(size_t i) const { return made_[i]; }

  // Member `i` as far as row `end`, and first all that it reads: `run(i, begin, end)` is called for what is to make.
  template <class Run>
  void advance(size_t i, int end, const Run& run) {
    const Member& member = members_[i];
    end = std::min(member.up(end), made_[i].end);
    if (end <= made_[i].done) return;
    for (const Read& read : member.reads)
      advance(size_t(read.maker), member.needed(read, members_[size_t(read.maker)], end), run);
    run(i, made_[i].done, end);
    made_[i].done = end;
  }

  // The rows of member `i`'s window, when it has come to row `end`.
  int extent(size_t i, int end) const {
    const Bordered& place = members_[i].place;
    return (end == place.shape.h ? place.height() : place.top + end) - made_[i].window;
  }

  // Lets the window of member `i` slide over what nobody will read again: returns by how many rows.
  int slide(size_t i) {
    const Made& its = made_[i];
    int first = extent(i, its.done) + its.window;
    for (size_t reader = i + 1; reader < members_.size(); ++reader)
      for (const Read& read : members_[reader].reads)
        if (size_t(read.maker) == i && made_[reader].done < made_[reader].end)
          first = std::min(first, members_[reader].first_read(read, members_[i], made_[reader].done));
    const int rows = std::max(0, first - its.window);
    made_[i].window += rows;
    return rows;
  }

 private:
  const std::vector<Member>& members_;
  std::vector<Made> made_;
};

class RowGroup : public Step {
 public:
  // The steps come with it later: while it is only weighed they stay with the candidates.
  RowGroup(std::vector<Member> members, size_t values, int rows_at_once)
      : members_(std::move(members)), values_(values), rows_at_once_(rows_at_once) {
    segment = members_.front().step->segment;
    plan_windows();
  }

  void own(std::vector<StepPtr> steps) { steps_ = std::move(steps); }

  double floats_in_use() const {
    double floats = double(windows_);
    for (const Member& member : members_) floats += double(member.wise.weights);
    return floats;
  }

  int units() const override { return members_.back().wise.height; }
  int most_parts() const override { return std::max(1, units() / kLeastRowsOfPart); }
  double cost() const override {
    double sum = 0;
    for (const Member& member : members_) sum += member.step->cost();
    return sum;
  }
  size_t scratch() const override {
    size_t most = 0;
    for (const Member& member : members_) most = std::max(most, member.step->scratch());
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
    Progress progress(members_, begin, end);
    const auto plane = [&](size_t i) {  // where the border's first row would lie
      return frame.scratch + offsets_[i] - ptrdiff_t(progress.of(i).window) * ptrdiff_t(pitch(i));
    };
    walk(progress, begin, end, [&](size_t i, int from, int to) {
      const Member& member = members_[i];
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
  void walk(Progress& progress, int begin, int end, const Run& run) const {
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
      Progress progress(members_, begin, units());
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

  std::vector<Member> members_;
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
    std::vector<Member> members;
    for (size_t i = begin; i < end; ++i) {
      const Candidate& its = all_[i];
      Member member{its.step.get(), its.step->row_wise(), {}, its.writes.empty() ? -1 : its.writes[0], {}};
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
