#include "report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>

namespace nncompile {
namespace {

struct Reports {
  std::mutex mutex;
  std::map<int, std::string> by_session;
};

Reports& reports() {
  static Reports all;
  return all;
}

}  // namespace

std::string report(const Program& program, const std::vector<Algorithm>& algorithms,
                   const std::vector<int>& lane_widths) {
  std::string lines;
  for (const int width : lane_widths) lines += "lanes " + std::to_string(width) + "\n";
  for (size_t i = 0; i < program.instructions.size(); ++i) {
    const Instruction& conv = program.instructions[i];
    if (conv.op != Opcode::kConv) continue;
    const int y = program.value_of(int(i));
    const auto of = [&](Algorithm algorithm) { return conv_cost(program, conv, y, algorithm, Layout::kChannels); };
    const double ratio = std::min(of(Algorithm::kRows), of(Algorithm::kTiles)) / of(Algorithm::kDirect);
    if (std::isinf(ratio)) continue;
    char cost[32];
    std::snprintf(cost, sizeof cost, "%.3f", ratio);
    const Algorithm chosen = algorithms[i];
    lines += layer_name(program, conv, y) + (chosen == Algorithm::kDirect ? " 0 " : " 1 ") + cost;
    if (chosen != Algorithm::kDirect) lines += chosen == Algorithm::kRows ? " rows" : " tiles";
    lines += "\n";
  }
  return lines;
}

void add_report(int session, const std::string& lines) {
  if (session == 0) return;
  const std::lock_guard<std::mutex> lock(reports().mutex);
  reports().by_session[session] += lines;
}

size_t take_report(int session, char* text, size_t size) {
  const std::lock_guard<std::mutex> lock(reports().mutex);
  const auto found = reports().by_session.find(session);
  if (found == reports().by_session.end()) return 0;
  const size_t length = found->second.size();
  if (length > size) return length;
  std::memcpy(text, found->second.data(), length);
  reports().by_session.erase(found);
  return length;
}

}  // namespace nncompile
