#include "first_fit.h"

#include <algorithm>

namespace nncompile {

void Stay::extend(size_t step) {
  first = std::min(first, step);
  last = std::max(last, step);
}

size_t first_fit(std::vector<Stay>& stays) {
  size_t end = 0;
  for (auto stay = stays.begin(); stay != stays.end(); ++stay) {
    if (!stay->needed()) continue;
    std::vector<std::pair<size_t, size_t>> taken;
    for (auto other = stays.begin(); other != stay; ++other)
      if (other->needed() && other->first <= stay->last && stay->first <= other->last)
        taken.push_back({other->offset, other->offset + other->floats});
    std::sort(taken.begin(), taken.end());
    stay->offset = 0;
    for (const auto& [from, to] : taken) {
      if (stay->offset + stay->floats <= from) break;
      stay->offset = std::max(stay->offset, to);
    }
    end = std::max(end, stay->offset + stay->floats);
  }
  return end;
}

}  // namespace nncompile
