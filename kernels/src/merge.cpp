#include "merge.h"

namespace nncompile {
namespace {

bool has_epilogue(const Work& work) {
  const Opcode op = work.instruction->op;
  return op == Opcode::kConv || op == Opcode::kConvTranspose || op == Opcode::kLinear;
}

class Merging {
 public:
  explicit Merging(const Program& program) : uses_(program.shapes.size(), 0) {
    for (size_t i = 0; i < program.instructions.size(); ++i) {
      const Instruction& instruction = program.instructions[i];
      works_.push_back({&instruction, program.value_of(int(i)), {}, instruction.inputs, true, false});
      for (const int x : instruction.inputs) ++uses_[size_t(x)];
    }
    for (const Output& output : program.outputs) ++uses_[size_t(output.value)];
  }

  std::vector<Work> run() {
    merge_residuals();
    merge_activations();
    return std::move(works_);
  }

 private:
  // What makes a value that only one reads, as it is; null where there is no such thing.
  Work* mergeable(int value) {
    const Work* made = maker(works_, value);
    if (!made || uses_[size_t(value)] != 1 || made->epilogue.activation.kind != Kind::kNone) return nullptr;
    return &works_[size_t(made - works_.data())];
  }

  // Add(conv, x) as conv with residual x. The layer moves to the place of the Add, behind what computes x.
  void merge_residuals() {
    for (Work& work : works_) {
      if (work.instruction->op != Opcode::kAdd || work.reads[0] == work.reads[1]) continue;
      for (const int side : {1, 0}) {
        Work* layer = mergeable(work.reads[size_t(side)]);
        if (!layer || !has_epilogue(*layer) || layer->epilogue.residual >= 0) continue;
        const int other = work.reads[size_t(1 - side)];
        work.instruction = layer->instruction;
        work.reads = layer->reads;
        work.reads.push_back(other);
        work.epilogue.residual = other;
        layer->alive = false;
        break;
      }
    }
  }

  // Activation(layer) as the layer's own; again the later of the two stays.
  void merge_activations() {
    for (Work& work : works_) {
      if (work.instruction->op != Opcode::kActivation) continue;
      Work* layer = mergeable(work.reads[0]);
      if (!layer) continue;
      const Opcode op = layer->instruction->op;
      if (!has_epilogue(*layer) && op != Opcode::kMaxPool && op != Opcode::kAveragePool && op != Opcode::kAdd &&
          op != Opcode::kSubtract && op != Opcode::kMultiply && op != Opcode::kDivide)
        continue;
      const Activation activation = work.instruction->activation;
      work.instruction = layer->instruction;
      work.reads = layer->reads;
      work.epilogue = layer->epilogue;
      work.epilogue.activation = activation;
      layer->alive = false;
    }
  }

  std::vector<Work> works_;
  std::vector<int> uses_;
};

}  // namespace

std::vector<Work> merge(const Program& program) { return Merging(program).run(); }

const Work* maker(const std::vector<Work>& works, int value) {
  for (const Work& work : works)
    if (work.alive && work.y == value) return &work;
  return nullptr;
}

}  // namespace nncompile
