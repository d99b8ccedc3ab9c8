// Which rows of the steps of a row group are made when, and which of them are still held.
#pragma once

#include "step.h"

namespace nncompile {

struct RowRead {
  int maker;  // the member that makes what is read
  bool windowed;
};

// A step of the group, and what it reads of others.
struct RowMember {
  Step* step;
  RowWise wise;
  std::vector<RowRead> reads;
  int makes;  // the value; -1: none
  Bordered place;

  int up(int row) const { return std::min((row + wise.rows - 1) / wise.rows * wise.rows, wise.height); }
  int down(int row) const { return row / wise.rows * wise.rows; }

  // Rows are counted from the border's first on: the first that is read of `maker` for row `row` ...
  int first_read(const RowRead& read, const RowMember& maker, int row) const {
    if (!read.windowed) return maker.place.top + row;
    return maker.place.top + (wise.sources ? wise.sources[row].first : row * wise.window.sh - wise.window.top);
  }
  // ... and how many it must have made, without the border, for the rows before `end`. Steps of several rows at once
  // read as if they made all of them.
  int needed(const RowRead& read, const RowMember& maker, int end) const {
    const int whole = (end + wise.rows - 1) / wise.rows * wise.rows;
    int rows = end;
    if (read.windowed && wise.sources) rows = wise.sources[end - 1].second + 1;
    if (read.windowed && !wise.sources) rows = wise.window.rows(whole) - wise.window.top;
    return std::max(1, std::min(rows, maker.wise.height));  // where only the border is read, that comes with a row
  }
};

// How far the members have come with the rows of the last one that were asked for.
class RowProgress {
 public:
  struct Made {
    int begin, end;    // these rows it makes in all
    int done;
    int window = 0;    // the first row that its window still holds, from the border's first on
  };

  RowProgress(const std::vector<RowMember>& members, int begin, int end) : members_(members), made_(members.size()) {
    for (size_t i = 0; i < members.size(); ++i) made_[i] = {members[i].wise.height, 0, 0, 0};
    made_.back() = {begin, end, begin, 0};
    for (size_t i = members.size(); i-- > 0;) {
      const RowMember& member = members[i];
      Made& its = made_[i];  // all that read it have been here
      its.begin = its.done = member.down(std::min(its.begin, member.wise.height - 1));
      its.end = std::max(member.up(its.end), member.up(its.begin + 1));
      its.window = its.begin + (its.begin > 0 ? member.place.top : 0);
      for (const RowRead& read : member.reads) {
        const RowMember& maker = members[size_t(read.maker)];
        Made& read_of = made_[size_t(read.maker)];
        const int first = member.first_read(read, maker, its.begin) - maker.place.top;
        read_of.begin = std::min(read_of.begin, std::max(0, first));
        read_of.end = std::max(read_of.end, member.needed(read, maker, its.end));
      }
    }
  }

  const Made& of(size_t i) const { return made_[i]; }

  // RowMember `i` as far as row `end`, and first all that it reads: `run(i, begin, end)` is called for what is to make.
  template <class Run>
  void advance(size_t i, int end, const Run& run) {
    const RowMember& member = members_[i];
    end = std::min(member.up(end), made_[i].end);
    if (end <= made_[i].done) return;
    for (const RowRead& read : member.reads)
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
      for (const RowRead& read : members_[reader].reads)
        if (size_t(read.maker) == i && made_[reader].done < made_[reader].end)
          first = std::min(first, members_[reader].first_read(read, members_[i], made_[reader].done));
    const int rows = std::max(0, first - its.window);
    made_[i].window += rows;
    return rows;
  }

 private:
  const std::vector<RowMember>& members_;
  std::vector<Made> made_;
};

}  // namespace nncompile
