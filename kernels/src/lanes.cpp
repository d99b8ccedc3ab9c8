#include "lanes.h"

#include "aligned.h"
#include "cache.h"
#include "first_fit.h"
#include "lane_steps.h"
#include "transpose.h"

namespace nncompile {
namespace {

// A vector of half as many lanes takes so much more than half the time; measured.
constexpr double kNarrow = 1.3;

// `count` values of each of V rows, which begin at `rows` of `from`, to V lanes of `count` vectors.
template <int V>
void rows_to_lanes(const float* from, const size_t (&rows)[V], float* to, int count) {
  int i = 0;
  for (; i + V <= count; i += V) {
    Vec<V> square[V];
    for (int s = 0; s < V; ++s) square[s] = load<V>(from + rows[s] + i);
    transpose<V>(square);
    for (int j = 0; j < V; ++j) store<V>(to + (i + j) * V, square[j]);
  }
  for (; i < count; ++i)
    for (int s = 0; s < V; ++s) to[i * V + s] = from[rows[s] + size_t(i)];
}

// And back the first `samples` lanes, to rows `to_pitch` apart. `stride`: between the vectors, in floats.
template <int V>
void lanes_to_rows(const float* from, ptrdiff_t stride, float* to, size_t to_pitch, int count, int samples) {
  int i = 0;
  for (; i + V <= count; i += V) {
    Vec<V> square[V];
    for (int j = 0; j < V; ++j) square[j] = load<V>(from + (i + j) * stride);
    transpose<V>(square);
    for (int s = 0; s < V; ++s)
      if (s < samples) store<V>(to + size_t(s) * to_pitch + i, square[s]);
  }
  for (; i < count; ++i)
    for (int s = 0; s < samples; ++s) to[size_t(s) * to_pitch + size_t(i)] = from[i * stride + s];
}

template <int V>
class Stage : public LaneStage {
 public:
  struct Exit {
    int value, output;  // output -1: to the kept place of the value
  };

  std::vector<Bordered> places;
  std::vector<Exit> exits;
  std::vector<int> entries;  // the inputs that are read
  size_t arena_floats = 0, scratch_floats = 0;
  double operations = 0;  // of vectors, in its convolutions

  int width() const override { return V; }
  double cost() const override { return 2.0 * V * operations * (V < kLanes ? kNarrow : 1); }
  size_t arena() const override { return AlignedFloats::with_slack(arena_floats); }
  size_t step_scratch() const override { return scratch_floats; }
  int steps() const override { return int(entries.size() + steps_.size() + exits.size()); }

  // Of an entry or an exit, rows.
  int units(int step) const override {
    const size_t i = size_t(step), inner = i - entries.size();
    if (i < entries.size()) return places[size_t(entries[i])].shape.h;
    if (inner < steps_.size()) return steps_[inner]->units();
    return places[size_t(exits[inner - steps_.size()].value)].shape.h;
  }

  void run_step(int step, const Frame& frame, int sample, int samples, float* arena, float* scratch, int begin,
                int end) const override {
    const LaneArena<V> its{arena, scratch, &places};
    const size_t i = size_t(step), inner = i - entries.size();
    if (i < entries.size())
      enter(frame, sample, samples, its.view(entries[i]), entries[i], begin, end);
    else if (inner < steps_.size())
      steps_[inner]->run(its, begin, end);
    else
      leave(frame, sample, samples, its.view(exits[inner - steps_.size()].value), exits[inner - steps_.size()], begin,
            end);
  }

  void add(LaneStepPtr<V> step) {
    scratch_floats = std::max(scratch_floats, step->scratch());
    steps_.push_back(std::move(step));
  }

 private:
  // Lanes without a sample of their own have the last one, which is as finite as it is.
  static void enter(const Frame& frame, int sample, int samples, const LaneView<V>& view, int input, int begin,
                    int end) {
    const Shape& shape = view.place->shape;
    const float* x = frame.inputs[input] + size_t(frame.first + sample) * shape.size();
    size_t rows[V];
    for (int s = 0; s < V; ++s) rows[s] = size_t(std::min(s, samples - 1)) * shape.size();
    for (int c = 0; c < shape.c; ++c)
      for (int row = begin; row < end; ++row)
        rows_to_lanes<V>(x + size_t(c * shape.h + row) * size_t(shape.w), rows, view.at(c, row, 0), shape.w);
    if (end == shape.h) clear_lane_border(view);
  }

  static void leave(const Frame& frame, int sample, int samples, const LaneView<V>& view, const Exit& exit, int begin,
                    int end) {
    const Shape& shape = view.place->shape;
    if (exit.output < 0) {
      const Place& place = frame.place(exit.value);
      float* y = frame.data(exit.value, sample);
      for (int row = begin; row < end; ++row)
        for (int column = 0; column < shape.w; ++column)
          lanes_to_rows<V>(view.at(0, row, column), view.plane(), y + place.at(row, column), place.size(), shape.c,
                           samples);
      return;
    }
    float* y = frame.outputs[exit.output] + size_t(frame.first + sample) * shape.size();
    for (int c = 0; c < shape.c; ++c)
      for (int row = begin; row < end; ++row)
        lanes_to_rows<V>(view.at(c, row, 0), V, y + size_t(c * shape.h + row) * size_t(shape.w), shape.size(), shape.w,
                         samples);
  }

  std::vector<LaneStepPtr<V>> steps_;
};

template <int V>
class Builder {
 public:
  Builder(const Program& program, const std::vector<Work>& works, const std::vector<Place>& places)
      : program_(program), works_(works), kept_(places), stage_(std::make_unique<Stage<V>>()) {}

  std::unique_ptr<LaneStage> build() {
    if (!supported()) return nullptr;
    stage_->places.resize(program_.shapes.size());
    for (size_t v = 0; v < program_.shapes.size(); ++v) stage_->places[v].shape = program_.shapes[v];
    for (const Work& work : works_)
      if (here(work) && work.instruction->op == Opcode::kConv) border(work);
    find_exits();
    find_pools();
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
      if (op == Opcode::kFlatten || op == Opcode::kSelect || op == Opcode::kSoftmax || op == Opcode::kLogSoftmax ||
          op == Opcode::kLayerNorm || op == Opcode::kPlaneNorm || op == Opcode::kChannelMean || op == Opcode::kDivide)
        return false;
      const std::vector<int>& read = work.instruction->inputs;
      if (op == Opcode::kMultiply) {
        const Beside how = beside(program_.shapes[size_t(read[0])], program_.shapes[size_t(read[1])]);
        if (how == Beside::kOfPixels || how == Beside::kOuter) return false;
      }
      any = any || op == Opcode::kConv || op == Opcode::kConvTranspose;
    }
    // A kept input would need a copy of its own.
    for (size_t i = 0; i < program_.inputs.size(); ++i)
      if (kept_[i].kept || channels_last(program_.inputs[i].rank)) return false;
    for (const Output& output : program_.outputs)
      if (channels_last(output.rank)) return false;
    return any;
  }

  void border(const Work& work) {
    const Shape& y = program_.shapes[size_t(work.y)];
    const Window& w = work.instruction->window;
    stage_->places[size_t(work.instruction->inputs[0])].widen(
        w, w.rows(y.h), work.algorithm == Algorithm::kRows ? winograd_extent(y.w, w.kw) : w.columns(y.w));
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

  // A pool runs with the convolution that only it reads, where its windows do not overlap.
  void find_pools() {
    std::vector<int> uses(program_.shapes.size(), 0);
    for (const Work& work : works_)
      if (work.alive)
        for (const int x : work.reads) ++uses[size_t(root(x))];
    for (const auto& exit : stage_->exits) ++uses[size_t(exit.value)];
    pools_.assign(program_.shapes.size(), nullptr);
    for (const Work& conv : works_)
      for (const Work& pool : works_) {
        const Opcode op = pool.instruction->op;
        const Window& w = pool.instruction->window;
        if (here(conv) && conv.instruction->op == Opcode::kConv && here(pool) && pool.reads[0] == conv.y &&
            uses[size_t(conv.y)] == 1 && (op == Opcode::kMaxPool || op == Opcode::kAveragePool) && w.kh <= w.sh)
          pools_[size_t(conv.y)] = &pool;
      }
  }

  void assign_offsets() {
    std::vector<Stay> stays(program_.shapes.size());
    size_t step = 0;
    for (const Work& work : works_) {
      if (!here(work)) continue;
      ++step;
      for (const int x : work.reads)
        if (!pools_[size_t(root(x))]) stays[size_t(root(x))].extend(step);
      const Work* pool = pools_[size_t(work.y)];
      stays[size_t(pool ? pool->y : work.y)].extend(step);
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
    if (pools_[size_t(root(work.reads[0]))]) return;  // runs with the convolution
    const Work* pool = pools_[size_t(work.y)];
    LaneStepPtr<V> step;
    switch (work.instruction->op) {
      case Opcode::kConv:
        stage_->operations += conv_cost(program_, *work.instruction, work.y, work.algorithm, Layout::kSamples);
        step = work.algorithm == Algorithm::kRows ? make_lane_rows<V>(program_, work, pool)
                                                   : make_lane_conv<V>(program_, work, pool);
        break;
      case Opcode::kConvTranspose:
        stage_->operations += conv_cost(program_, *work.instruction, work.y, work.algorithm, Layout::kSamples);
        step = make_lane_transposed<V>(program_, work);
        break;
      case Opcode::kMaxPool:
      case Opcode::kAveragePool:
      case Opcode::kGlobalAverage:
        step = make_lane_pool<V>(program_, work);
        break;
      case Opcode::kResize:
        step = make_lane_resize<V>(program_, work);
        break;
      default:
        step = make_lane_pointwise<V>(program_, work);
    }
    stage_->add(std::move(step));
  }

  const Program& program_;
  const std::vector<Work>& works_;
  const std::vector<Place>& kept_;
  std::vector<const Work*> pools_;  // of each value: the pool that runs with the convolution that makes it, or null
  std::unique_ptr<Stage<V>> stage_;
};

}  // namespace

std::vector<std::unique_ptr<LaneStage>> make_lane_stages(const Program& program, const std::vector<Work>& works,
                                                         const std::vector<Place>& places) {
  std::vector<std::unique_ptr<LaneStage>> stages;
  const auto add = [&](std::unique_ptr<LaneStage> stage) {
    if (stage) stages.push_back(std::move(stage));
  };
  if constexpr (kLanes >= 16) add(Builder<16>(program, works, places).build());
  if constexpr (kLanes >= 8) add(Builder<8>(program, works, places).build());
  return stages;
}

}  // namespace nncompile
