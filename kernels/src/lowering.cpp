#include "lowering.h"

#include "aligned.h"
#include "choice.h"
#include "first_fit.h"
#include "lanes.h"
#include "merge.h"
#include "row_group.h"
#include "work.h"

namespace nncompile {
namespace {

// Fewer samples at once where what convolutions make must be kept for all of them.
constexpr int kStreamedChunk = 8;

class Lowering {
 public:
  // `lanes`: whether samples in lanes are considered.
  Lowering(const Program& program, const Options& options, bool lanes)
      : program_(program), options_(options), lanes_(lanes), works_(merge(program)) {
    is_output_.assign(program.shapes.size(), false);
    for (const Output& output : program.outputs) is_output_[size_t(output.value)] = true;
  }

  Lowered run() {
    lanes_ = choose_algorithms(program_, options_, lanes_, works_);
    result_.algorithms.resize(program_.instructions.size());
    for (const Work& work : works_)
      if (work.alive) result_.algorithms[size_t(work.instruction - program_.instructions.data())] = work.algorithm;
    place_values();
    mark_batched();
    make_steps();
    group_steps();
    keep_between_segments();
    assign_offsets();
    if (lanes_ && one_stage()) result_.lanes = make_lane_stages(program_, works_, result_.places);
    return std::move(result_);
  }

  // Whether the algorithms were chosen for samples in lanes, too.
  bool for_lanes() const { return lanes_; }

 private:
  void place_values() {
    result_.places.resize(program_.shapes.size());
    for (size_t v = 0; v < program_.shapes.size(); ++v) result_.places[v].shape = program_.shapes[v];
    for (const Work& work : works_)
      if (work.alive && work.instruction->op == Opcode::kConv && reads_border(*work.instruction)) border_for(work);
    for (Work& work : works_) {
      if (!work.alive || work.instruction->op != Opcode::kFlatten) continue;
      const Place& x = result_.places[size_t(work.reads[0])];
      const bool one_pixel = x.shape.h == 1 && x.shape.w == 1;
      if (!x.bordered() && !result_.places[size_t(work.y)].bordered() && (one_pixel || only_linear_reads(work.y))) {
        result_.places[size_t(work.y)].alias = root(work.reads[0]);
        work.alive = false;
      }
    }
  }

  int root(int value) const { return root_of(result_.places, value); }

  bool only_linear_reads(int value) const {
    if (is_output_[size_t(value)]) return false;
    for (const Work& work : works_) {
      if (!work.alive) continue;
      if (work.epilogue.residual == value) return false;
      for (const int x : work.reads)
        if (x == value && work.instruction->op != Opcode::kLinear) return false;
    }
    return true;
  }

  static bool reads_border(const Instruction& conv) { return conv.depthwise || !conv.window.dilated(); }

  // The zeros that a convolution reads around its input; Winograd's tiles may reach further than its windows.
  void border_for(const Work& work) {
    Place& x = result_.places[size_t(work.instruction->inputs[0])];
    const Shape& y = program_.shapes[size_t(work.y)];
    const Window& w = work.instruction->window;
    x.widen(w, work.algorithm == Algorithm::kTiles ? winograd_extent(y.h, w.kh) : w.rows(y.h),
            work.algorithm != Algorithm::kDirect ? winograd_extent(y.w, w.kw) : w.columns(y.w));
  }

  static bool runs_batched(Opcode op) {
    return op == Opcode::kLinear || op == Opcode::kAdd || op == Opcode::kSubtract || op == Opcode::kMultiply ||
           op == Opcode::kDivide || op == Opcode::kActivation || op == Opcode::kSoftmax || op == Opcode::kLogSoftmax ||
           op == Opcode::kLayerNorm;
  }

  void mark_batched() {
    std::vector<bool> batched(program_.shapes.size(), false);
    for (Work& work : works_) {
      bool all = runs_batched(work.instruction->op);
      for (const int x : work.reads) all = all && batched[size_t(root(x))];
      work.batched = work.instruction->op == Opcode::kLinear || work.streamed || all;
      if (work.alive && work.streamed) result_.chunk = kStreamedChunk;
      if (work.alive) batched[size_t(work.y)] = work.batched;
    }
  }

  void make_steps() {
    const auto takes_all = [](const Work& work) { return work.batched || !work.alive; };
    result_.all_batched = std::all_of(works_.begin(), works_.end(), takes_all);
    for (size_t i = 0; i < program_.inputs.size(); ++i) {
      StepPtr step = make_load(int(i), int(i), program_.inputs[i]);
      step->batched = result_.all_batched;
      add(std::move(step), {}, {int(i)});
    }
    for (const Work& work : works_) {
      if (!work.alive) continue;
      StepPtr step = make(work);
      step->batched = work.batched;
      add(std::move(step), work.reads, {work.y});
    }
    for (size_t i = 0; i < program_.outputs.size(); ++i) {
      const int value = program_.outputs[i].value;
      const Input its{program_.outputs[i].rank, result_.places[size_t(root(value))].shape};
      StepPtr step = make_store(value, int(i), its);
      const Work* made = maker(works_, value);
      step->batched = made ? made->batched : result_.all_batched;
      add(std::move(step), {value}, {});
    }
  }

  void group_steps() {
    std::vector<Candidate> candidates;
    const auto roots = [&](std::vector<int> values) {
      for (int& value : values) value = root(value);
      return values;
    };
    for (size_t s = 0; s < result_.steps.size(); ++s)
      candidates.push_back({std::move(result_.steps[s]), roots(reads_[s]), roots(writes_[s])});
    result_.steps.clear();
    reads_.clear();
    writes_.clear();
    for (Candidate& step : group_rows(std::move(candidates), result_.places, options_.cache)) {
      result_.steps.push_back(std::move(step.step));
      reads_.push_back(std::move(step.reads));
      writes_.push_back(std::move(step.writes));
    }
  }

  StepPtr make(const Work& work) {
    const Instruction& instruction = *work.instruction;
    const Shape& shape = program_.shapes[size_t(instruction.inputs[0])];
    switch (instruction.op) {
      case Opcode::kConv:
        if (instruction.depthwise) return make_depthwise(program_, instruction, work.y, work.epilogue);
        if (work.algorithm == Algorithm::kTiles)
          return make_winograd(program_, instruction, work.y, work.epilogue, work.streamed);
        if (work.algorithm == Algorithm::kRows) return make_rows(program_, instruction, work.y, work.epilogue);
        if (instruction.window.dilated()) return make_dilated(program_, instruction, work.y, work.epilogue);
        return make_conv(program_, instruction, work.y, work.epilogue);
      case Opcode::kConvTranspose:
        if (instruction.depthwise) return make_transposed_depthwise(program_, instruction, work.y, work.epilogue);
        return make_transposed(program_, instruction, work.y, work.epilogue);
      case Opcode::kLinear:
        return make_linear(program_, instruction, result_.places[size_t(root(instruction.inputs[0]))].shape, work.y,
                           work.epilogue);
      case Opcode::kMaxPool:
      case Opcode::kAveragePool:
        return make_pool(program_, instruction, work.y, work.epilogue.activation);
      case Opcode::kGlobalAverage:
        return make_global_average(instruction.inputs[0], work.y, shape);
      case Opcode::kPlaneNorm:
        return make_plane_norm(instruction.inputs[0], work.y, shape);
      case Opcode::kChannelMean:
        return make_channel_mean(instruction.inputs[0], work.y, shape);
      case Opcode::kConcat:
        return make_concat(instruction.inputs, work.y, program_.shapes[size_t(work.y)]);
      case Opcode::kSelect:
        return make_select(instruction.inputs[0], instruction.channels, work.y, shape);
      case Opcode::kResize:
        return make_resize(program_, instruction, work.y);
      case Opcode::kLayerNorm:
        return make_layer_norm(program_, instruction, work.y);
      case Opcode::kSoftmax:
      case Opcode::kLogSoftmax:
        return make_softmax(instruction.inputs[0], work.y, shape, instruction.op == Opcode::kLogSoftmax);
      case Opcode::kFlatten:
        return make_flatten(instruction.inputs[0], work.y);
      case Opcode::kActivation:
        return make_pointwise(instruction.op, instruction.inputs, work.y, shape, Beside::kSame, instruction.activation);
      case Opcode::kAdd:
      case Opcode::kSubtract:
      case Opcode::kMultiply:
      case Opcode::kDivide:
        break;
    }
    const Beside gate = beside(shape, program_.shapes[size_t(instruction.inputs[1])]);
    return make_pointwise(instruction.op, instruction.inputs, work.y, program_.shapes[size_t(work.y)], gate,
                          work.epilogue.activation);
  }

  void add(StepPtr step, std::vector<int> reads, std::vector<int> writes) {
    if (!result_.steps.empty()) {
      const Step& last = *result_.steps.back();
      step->segment = last.segment + (last.batched != step->batched ? 1 : 0);
    }
    reads_.push_back(std::move(reads));
    writes_.push_back(std::move(writes));
    result_.steps.push_back(std::move(step));
  }

  // Within a segment the samples of a chunk go through one after the other; what a later segment reads, and
  // what a batched step makes, must stay for all of them.
  void keep_between_segments() {
    std::vector<int> made(program_.shapes.size(), -1);
    for (size_t s = 0; s < result_.steps.size(); ++s) {
      const Step& step = *result_.steps[s];
      for (const int v : reads_[s])
        if (made[size_t(root(v))] != step.segment) result_.places[size_t(root(v))].kept = true;
      for (const int v : writes_[s]) {
        made[size_t(root(v))] = step.segment;
        if (step.batched) result_.places[size_t(root(v))].kept = true;
      }
    }
  }

  // Whether two steps take turns, sample by sample.
  bool together(size_t a, size_t b) const {
    return !result_.steps[a]->batched && result_.steps[a]->segment == result_.steps[b]->segment;
  }

  // A value that is kept for all samples of a chunk stays as long as the segments that make and read it.
  void assign_offsets() {
    std::vector<Stay> stays(result_.places.size());
    for (size_t s = 0; s < result_.steps.size(); ++s)
      for (const auto* values : {&reads_[s], &writes_[s]})
        for (const int v : *values) stays[size_t(root(v))].extend(s);
    for (size_t v = 0; v < stays.size(); ++v) {
      Stay& stay = stays[v];
      stay.floats = footprint(result_.places[v]);
      if (!result_.places[v].kept || !stay.needed()) continue;
      while (stay.first > 0 && together(stay.first - 1, stay.first)) --stay.first;
      while (stay.last + 1 < result_.steps.size() && together(stay.last, stay.last + 1)) ++stay.last;
    }
    result_.arena_floats = first_fit(stays);
    for (size_t v = 0; v < stays.size(); ++v) result_.places[v].offset = stays[v].offset;
  }

  // Whether all that goes through sample by sample comes before what goes through in chunks.
  bool one_stage() const {
    bool batched = false;
    for (const Work& work : works_) {
      if (!work.alive) continue;
      if (batched && !work.batched) return false;
      batched = work.batched;
    }
    return true;
  }

  size_t footprint(const Place& place) const {
    return AlignedFloats::with_slack(place.size() * (place.kept ? size_t(result_.chunk) : 1));
  }

  const Program& program_;
  const Options& options_;
  bool lanes_;
  std::vector<Work> works_;
  std::vector<bool> is_output_;
  std::vector<std::vector<int>> reads_, writes_;
  Lowered result_;
};

}  // namespace

Lowered lower(const Program& program, const Options& options) {
  Lowering first(program, options, options.lanes && kLanes >= 8);
  Lowered lowered = first.run();
  if (!first.for_lanes() || !lowered.lanes.empty()) return lowered;
  // They were chosen for samples in lanes, which do not fit after all.
  return Lowering(program, options, false).run();
}

}  // namespace nncompile
