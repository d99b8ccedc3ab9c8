// What a session was asked for.
#pragma once

#include "cache.h"
#include "winograd_choice.h"

namespace nncompile {

struct Options {
  int threads = 1;
  bool exact = false;  // no Winograd, whatever `winograd` says
  WinogradChoice winograd;
  bool lanes = true;  // samples in lanes where that pays
  // A step of a lower cost, some 2 microseconds, is not worth cutting: members that wait for each other and read what
  // another processor wrote take that long.
  double split = 2e5;
  int session = 0;  // the number under which it asks for a report; 0: for none
  double cache = cache_bytes();  // what steps that run row by row should fit
};

}  // namespace nncompile
