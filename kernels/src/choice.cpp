#include "choice.h"

#include <algorithm>
#include <cmath>

namespace nncompile {
namespace {

// Samples in lanes must save so much, and may cost a single sample so much.
constexpr double kGain = 0.95, kLoss = 1.1;

class Costs {
 public:
  explicit Costs(const Program& program) : program_(program) {}

  double of(const Work& work, Algorithm algorithm, Layout layout) const {
    return conv_cost(program_, *work.instruction, work.y, algorithm, layout);
  }
  // Of `algorithm` beyond those of the definition.
  double more(const Work& work, Algorithm algorithm, Layout layout) const {
    return of(work, algorithm, layout) - of(work, Algorithm::kDirect, layout);
  }

 private:
  const Program& program_;
};

}  // namespace

bool choose_algorithms(const Program& program, const Options& options, bool possible, std::vector<Work>& works) {
  const Costs costs(program);
  // Whether a form of Winograd's algorithm runs a layer, for which that takes so many operations more.
  const auto winograd = [&](const Work& work, double more) {
    return !options.exact && std::isfinite(more) &&
           options.winograd.says(layer_name(program, *work.instruction, work.y), more < 0);
  };
  std::vector<Work*> convs, rows;
  // Of all layers: by the best algorithm for a single sample, and by those that can be had in both layouts.
  double alone = 0, shared = 0, samples = 0;
  for (Work& work : works) {
    const Opcode op = work.instruction->op;
    if (!work.alive || (op != Opcode::kConv && op != Opcode::kConvTranspose)) continue;
    if (winograd(work, costs.more(work, Algorithm::kTiles, Layout::kChannels))) work.algorithm = Algorithm::kTiles;
    work.streamed =
        work.instruction->groups == 1 && streams_weights(program, *work.instruction, work.y, work.algorithm);
    if (work.streamed) continue;
    convs.push_back(&work);
    alone += costs.of(work, work.algorithm, Layout::kChannels);
    shared += costs.of(work, Algorithm::kDirect, Layout::kChannels);
    samples += costs.of(work, Algorithm::kDirect, Layout::kSamples);
    if (winograd(work, costs.more(work, Algorithm::kRows, Layout::kSamples))) rows.push_back(&work);
  }
  // First the layers that save most for what they cost a single sample more.
  const auto price = [&](const Work* work) {
    const double saved = -costs.more(*work, Algorithm::kRows, Layout::kSamples);
    return costs.more(*work, Algorithm::kRows, Layout::kChannels) / saved;
  };
  if (options.winograd.by_cost())  // then each saves something, and has a price
    std::sort(rows.begin(), rows.end(), [&](const Work* a, const Work* b) { return price(a) < price(b); });
  size_t taken = 0;
  for (; taken < rows.size(); ++taken) {
    const double more = costs.more(*rows[taken], Algorithm::kRows, Layout::kChannels);
    if (options.winograd.by_cost() && more > 0 && shared + more > kLoss * alone) break;
    shared += more;
    samples += costs.more(*rows[taken], Algorithm::kRows, Layout::kSamples);
  }
  if (!possible || samples >= kGain * alone || shared > kLoss * alone) return false;
  for (Work* work : convs) work->algorithm = Algorithm::kDirect;
  for (size_t i = 0; i < taken; ++i) rows[i]->algorithm = Algorithm::kRows;
  return true;
}

}  // namespace nncompile
