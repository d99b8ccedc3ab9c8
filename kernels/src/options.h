// What a session was asked for.
#pragma once

namespace nncompile {

struct Options {
  int threads = 1;
  bool exact = false;  // no Winograd
};

}  // namespace nncompile
