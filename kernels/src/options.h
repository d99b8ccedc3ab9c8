// What a session was asked for.
#pragma once

#include "cache.h"

namespace nncompile {

struct Options {
  int threads = 1;
  bool exact = false;  // no Winograd
  double cache = cache_bytes();  // what steps that run row by row should fit
};

}  // namespace nncompile
