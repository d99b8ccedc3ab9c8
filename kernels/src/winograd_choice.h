// Which convolutions run by Winograd's algorithm where it applies: those for which it costs less, or as told.
#pragma once

#include <set>
#include <string>

#include "program.h"

namespace nncompile {

// A convolution by its shape, as a choice and a report name it: its weight's dimensions and its output's plane,
// say 16x6x5x5@10x10. Two of one shape are one layer here: they cost the same.
std::string layer_name(const Program& program, const Instruction& conv, int y);

class WinogradChoice {
 public:
  // "auto", "always", "never", or the layers that it runs, by name, with commas between them.
  // Throws Refused.
  static WinogradChoice parse(const std::string& text);

  bool by_cost() const { return rule_ == Rule::kCheaper; }
  bool says(const std::string& layer, bool cheaper) const;

 private:
  enum class Rule { kCheaper, kAlways, kListed } rule_ = Rule::kCheaper;
  std::set<std::string> layers_;
};

}  // namespace nncompile
