#include "winograd_choice.h"

#include <algorithm>
#include <cctype>

namespace nncompile {
namespace {

// A number without a sign or a leading zero, of 9 digits at most; then `end`, or the text's end for 0.
bool number(const std::string& text, size_t& at, char end) {
  const size_t start = at;
  while (at < text.size() && std::isdigit(static_cast<unsigned char>(text[at]))) ++at;
  if (at == start || at - start > 9 || text[start] == '0') return false;
  if (end == 0) return at == text.size();
  return at < text.size() && text[at++] == end;
}

bool names_a_layer(const std::string& text) {
  size_t at = 0;
  for (const char end : {'x', 'x', 'x', '@', 'x', '\0'})
    if (!number(text, at, end)) return false;
  return true;
}

}  // namespace

std::string layer_name(const Program& program, const Instruction& conv, int y) {
  const auto& dims = program.weight_of(conv).dims;
  const Shape& out = program.shapes[size_t(y)];
  std::string name;
  for (const int64_t size : dims) name += (name.empty() ? "" : "x") + std::to_string(size);
  return name + "@" + std::to_string(out.h) + "x" + std::to_string(out.w);
}

WinogradChoice WinogradChoice::parse(const std::string& text) {
  WinogradChoice choice;
  if (text == "auto") return choice;
  if (text == "always") {
    choice.rule_ = Rule::kAlways;
    return choice;
  }
  choice.rule_ = Rule::kListed;
  if (text == "never") return choice;
  for (size_t start = 0; start <= text.size();) {
    const size_t end = std::min(text.find(',', start), text.size());
    const std::string layer = text.substr(start, end - start);
    if (!names_a_layer(layer))
      throw Refused("nncompile.winograd is '" + text +
                    "', not auto, always, never, or layers such as 16x6x5x5@10x10 with commas between them");
    choice.layers_.insert(layer);
    start = end + 1;
  }
  return choice;
}

bool WinogradChoice::says(const std::string& layer, bool cheaper) const {
  if (rule_ == Rule::kListed) return layers_.count(layer) > 0;
  return rule_ == Rule::kAlways || cheaper;
}

}  // namespace nncompile
