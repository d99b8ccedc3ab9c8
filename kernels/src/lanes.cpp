#include "lanes.h"

#include "aligned.h"
#include "cache.h"
#include "cost.h"
#include "first_fit.h"
#include "lane_steps.h"
#include "transpose.h"

namespace nncompile {
namespace {

// `count` values of each of V rows, `from_pitch` apart, to V lanes of `count` vectors, or back.
template <int V>
void rows_to_lanes(const float* from, size_t from_pitch, float* to, int count) {
  int i = 0;
  for (; i + V <= count; i += V) {
    Vec<V> square[V];
    for (int s = 0; s < V; ++s) square[s] = load<V>(from + size_t(s) * from_pitch + i);
    transpose<V>(square);
    for (int j = 0; j < V; ++j) store<V>(to + (i + j) * V, square[j]);
  }
  for (; i < count; ++i)
    for (int s = 0; s < V; ++s) to[i * V + s] = from[size_t(s) * from_pitch + size_t(i)];
}

// `stride`: between the vectors, in floats.
template <int V>
void lanes_to_rows(const float* from, ptrdiff_t stride, float* to, size_t to_pitch, int count) {
  int i = 0;
  for (; i + V <= count; i += V) {
    Vec<V> square[V];
    for (int j = 0; j < V; ++j) square[j] = load<V>(from + (i + j) * stride);
    transpose<V>(square);
    for (int s = 0; s < V; ++s) store<V>(to + size_t(s) * to_pitch + i, square[s]);
  }
  for (; i < count; ++i)
    for (int s = 0; s < V; ++s) to[size_t(s) * to_pitch + size_t(i)] = from[i * stride + s];
}

template <int V>
class Stage : public LaneStage {
 public:
  struct Exit {
    int value, output;  // output -1: to the kept place of the value
  };

  std::vector<Bordered> places;
  std::vector<LaneStepPtr<V>> steps;
  std::vector<Exit> exits;
  std::vector<int> entries;  // the inputs that are read
  size_t arena_floats = 0;

  int width() const override { return V; }
  size_t scratch() const override { return arena_floats + AlignedFloats::kSlack; }

  void run(const Frame& frame, int sample) const override {
    const LaneArena<V> arena{frame.scratch, &places};
    for (const int input : entries) enter(frame, sample, arena.view(input), input);
    for (const auto& step : steps) step->run(arena);
    for (const Exit& exit : exits) leave(frame, sample, arena.view(exit.value), exit);
  }

 private:
  static void enter(const Frame& frame, int sample, const LaneView<V>& view, int input) {
    const Shape& shape = view.place->shape;
    const float* x = frame.inputs[input] + size_t(frame.first + sample) * shape.size();
    for (int c = 0; c < shape.c; ++c)
      for (int row = 0; row < shape.h; ++row, x += shape.w)
        rows_to_lanes<V>(x, shape.size(), view.at(c, row, 0), shape.w);
    clear_lane_border(view);
  }

  static void leave(const Frame& frame, int sample, const LaneView<V>& view, const Exit& exit) {
    const Shape& shape = view.place->shape;
    if (exit.output < 0) {
      const Place& place = frame.place(exit.value);
      float* y = frame.data(exit.value, sample);
      for (int row = 0; row < shape.h; ++row)
        for (int column = 0; column < shape.w; ++column)
          lanes_to_rows<V>(view.at(0, row, column), view.plane(), y + place.at(row, column), place.size(), shape.c);
      return;
    }
    float* y = frame.outputs[exit.output] + size_t(frame.first + sample) * shape.size();
    for (int c = 0; c < shape.c; ++c)
      for (int row = 0; row < shape.h; ++row, y += shape.w)
        lanes_to_rows<V>(view.at(c, row, 0), V, y, shape.size(), shape.w);
  }
};

template <int V>
class Builder {
 public:
  Builder(const Program& program, const Options& options, const std::vector<Work>& works,
          const std::vector<Place>& places)
      : program_(program), options_(options), works_(works), kept_(places), stage_(std::make_unique<Stage<V>>()) {}

  std::unique_ptr<LaneStage> build() {
    if (!supported() || !pays()) return nullptr;
    stage_->places.resize(program_.shapes.size());
    for (size_t v = 0; v < program_.shapes.size(); ++v) stage_->places[v].shape = program_.shapes[v];
    for (const Work& work : works_)
      if (here(work) && work.instruction->op == Opcode::kConv) border(work);
    find_exits();
    assign_offsets();
    for (const Work& work : works_)
      if (here(work)) add(work);
    if (double(stage_->scratch()) * sizeof(float) > 0.8 * cache_bytes()) return nullptr;
    return std::move(stage_);
  }

 private:
  static bool here(const Work& work) { return work.alive && !work.batched; }

  bool supported() const {
    bool any = false;
    for (const Work& work : works_) {
      if (!here(work)) continue;
      const Opcode op = work.instruction->op;
      if (op == Opcode::kFlatten || op == Opcode::kSoftmax || op == Opcode::kLogSoftmax) return false;
      any = any || op == Opcode::kConv;
    }
    // A kept input would need a copy of its own.
    for (size_t i = 0; i < program_.inputs.size(); ++i)
      if (kept_[i].kept) return false;
    return any;
  }

  bool pays() const {
    double channels = 0, samples = 0;
    for (const Work& work : works_) {
      if (!here(work) || work.instruction->op != Opcode::kConv) continue;
      const bool winograd = uses_winograd(program_, options_, *work.instruction, work.y);
      channels += winograd ? winograd_cost(program_, *work.instruction, work.y)
                           : direct_cost(program_, *work.instruction, work.y, Layout::kChannels);
      samples += direct_cost(program_, *work.instruction, work.y, Layout::kSamples);
    }
    return samples < 0.95 * channels;
  }

  void border(const Work& work) {
    const Shape& y = program_.shapes[size_t(work.y)];
    const Window& w = work.instruction->window;
    stage_->places[size_t(work.instruction->inputs[0])].widen(w, w.rows(y.h), w.columns(y.w));
  }

  void find_exits() {
    for (const Work& work : works_)
      if (here(work) && kept_[size_t(work.y)].kept) stage_->exits.push_back({work.y, -1});
    for (size_t i = 0; i < program_.outputs.size(); ++i) {
      const int value = program_.outputs[i].value;
      const int its = root(value);
      bool made_here = its < int(program_.inputs.size());
      for (const Work& work : works_) made_here = made_here || (here(work) && work.y == its);
      if (made_here && !kept_[size_t(its)].kept) stage_->exits.push_back({its, int(i)});
    }
  }

  int root(int value) const { return root_of(kept_, value); }

  void assign_offsets() {
    std::vector<Stay> stays(program_.shapes.size());
    size_t step = 0;
    for (const Work& work : works_) {
      if (!here(work)) continue;
      ++step;
      for (const int x : work.reads) stays[size_t(root(x))].extend(step);
      stays[size_t(work.y)].extend(step);
    }
    for (const auto& exit : stage_->exits) stays[size_t(exit.value)].extend(step + 1);
    for (size_t i = 0; i < program_.inputs.size(); ++i)
      if (stays[i].needed()) {
        stays[i].extend(0);
        stage_->entries.push_back(int(i));
      }
    for (size_t v = 0; v < stays.size(); ++v) stays[v].floats = stage_->places[v].size() * V;
    stage_->arena_floats = first_fit(stays);
    for (size_t v = 0; v < stays.size(); ++v) stage_->places[v].offset = stays[size_t(root(int(v)))].offset;
  }

  void add(const Work& work) {
    LaneStepPtr<V> step;
    switch (work.instruction->op) {
      case Opcode::kConv:
        step = make_lane_conv<V>(program_, work);
        break;
      case Opcode::kMaxPool:
      case Opcode::kAveragePool:
      case Opcode::kGlobalAverage:
        step = make_lane_pool<V>(program_, work);
        break;
      default:
        step = make_lane_pointwise<V>(program_, work);
    }
    stage_->steps.push_back(std::move(step));
  }

  const Program& program_;
  const Options& options_;
  const std::vector<Work>& works_;
  const std::vector<Place>& kept_;
  std::unique_ptr<Stage<V>> stage_;
};

}  // namespace

std::vector<std::unique_ptr<LaneStage>> make_lane_stages(const Program& program, const Options& options,
                                                         const std::vector<Work>& works,
                                                         const std::vector<Place>& places) {
  std::vector<std::unique_ptr<LaneStage>> stages;
  const auto add = [&](std::unique_ptr<LaneStage> stage) {
    if (stage) stages.push_back(std::move(stage));
  };
  if constexpr (kLanes >= 16) add(Builder<16>(program, options, works, places).build());
  if constexpr (kLanes >= 8) add(Builder<8>(program, options, works, places).build());
  return stages;
}

}  // namespace nncompile
