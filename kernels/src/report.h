// What the regions of a session chose, for whoever asks for it by the session's number.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "cost.h"
#include "winograd_choice.h"

namespace nncompile {

// One line for each convolution that Winograd's algorithm applies to: its name, 1 where that runs and 0 where not, its
// cost over that of the definition, and where it runs "tiles" or, along the rows alone, "rows". Before them, "lanes"
// and how many samples those hold.
std::string report(const Program& program, const std::vector<Algorithm>& algorithms,
                   const std::vector<int>& lane_widths);

// Adds to the report of a session that asked for one (`session` is not 0).
void add_report(int session, const std::string& lines);

// The length of a session's report. Where it fits into `size`, it is copied and forgotten.
size_t take_report(int session, char* text, size_t size);

}  // namespace nncompile
