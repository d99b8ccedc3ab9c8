// How far float32 may be from a number: the error analysis that the stress test compares by.
//
// A sum of n terms with r roundings is off by at most r u S, u = 2^-24 and S the sum of the terms' absolute values,
// however its terms are ordered; and by kConfidence sqrt(r) u S but for one in 10^7, as roundings are of either sign.
// N. Higham, T. Mary, "A New Approach to Probabilistic Rounding Error Analysis", SIAM J. Sci. Comput., 2019.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "../src/program.h"

namespace nncompile::reference {

constexpr double kUnit = FLT_EPSILON / 2, kConfidence = 6;

// A value, and how far from it the computed one may be.
struct Number {
  double value = 0, error = 0;

  // The same after so many roundings of what is as large as `size`.
  Number rounded(double roundings, double size) const {
    return {value, error + roundings * kUnit * std::abs(size) + FLT_MIN};
  }
};

inline Number operator+(Number a, Number b) {
  return Number{a.value + b.value, a.error + b.error}.rounded(1, a.value + b.value);
}
inline Number operator-(Number a, Number b) { return a + Number{-b.value, b.error}; }
inline Number operator*(Number a, Number b) {
  const double value = a.value * b.value;
  return Number{value, std::abs(a.value) * b.error + std::abs(b.value) * a.error + a.error * b.error}.rounded(1, value);
}

// Of a divisor that is further from 0 than it may be off.
inline Number operator/(Number a, Number b) {
  const double least = std::abs(b.value) - b.error, value = a.value / b.value;
  return Number{value, (a.error + std::abs(value) * b.error) / least}.rounded(1, value);
}
inline Number root(Number a) {
  const double value = std::sqrt(a.value), low = std::sqrt(std::max(0.0, a.value - a.error));
  return Number{value, std::max(value - low, std::sqrt(a.value + a.error) - value)}.rounded(1, value);
}

// The sum of numbers by weights of either sign at random: of such the errors of the numbers add up as a random walk,
// even where those are alike.
class WeightedSum {
 public:
  explicit WeightedSum(double bias) : value_(bias), size_(std::abs(bias)) {}

  void add(const Number& x, double weight) {
    value_ += x.value * weight;
    size_ += std::abs(x.value * weight);
    squares_ += x.error * weight * x.error * weight;
    roundings_ += 2;
  }

  double size() const { return size_; }  // of its terms, without their signs
  double of_numbers() const { return std::sqrt(squares_); }
  Number result() const {
    return Number{value_, of_numbers()}.rounded(kConfidence * std::sqrt(roundings_ + 1), size_);
  }

 private:
  double value_, size_, squares_ = 0, roundings_ = 0;
};

// The mean of numbers whose errors may be alike.
class Mean {
 public:
  void add(const Number& x) {
    sum_.value += x.value;
    sum_.error += x.error;
    size_ += std::abs(x.value);
    ++count_;
  }

  Number result(int of) const {
    return Number{sum_.value / of, sum_.error / of}.rounded(kConfidence * std::sqrt(count_ + 2), size_ / of);
  }

 private:
  Number sum_;
  double size_ = 0, count_ = 0;
};

// An activation: `steepest` slope, and the roundings in it; those of an exponential are 2 units in the last place.
inline Number curve(const Activation& activation, const Number& x) {
  const double a = double(activation.first), b = double(activation.second), v = x.value;
  const auto made = [&](double y, double steepest, double roundings, double size) {
    return Number{y, steepest * x.error}.rounded(roundings, size);
  };
  switch (activation.kind) {
    case Kind::kNone:
      return x;
    case Kind::kRelu:
      return made(std::max(v, 0.0), 1, 0, 0);
    case Kind::kClip:
      return made(std::min(std::max(v, a), b), 1, 0, 0);
    case Kind::kLeakyRelu:
      return made(v < 0 ? v * a : v, std::max(1.0, std::abs(a)), 1, v * a);
    case Kind::kSilu: {
      const double y = v / (1 + std::exp(-v));
      return made(y, 1.1, 8, y);
    }
    case Kind::kHardSwish:
      return made(v * std::min(std::max(v + 3, 0.0), 6.0) / 6, 1.5, 4, v);
    case Kind::kSigmoid: {
      const double y = 1 / (1 + std::exp(-v));
      return made(y, 0.25, 8, y);
    }
    case Kind::kTanh:
      return made(std::tanh(v), 1, 8, std::tanh(v));
    case Kind::kHardSigmoid:
      return made(std::min(std::max(a * v + b, 0.0), 1.0), std::abs(a), 2, std::abs(a * v) + std::abs(b));
    case Kind::kGelu: {  // the exponential's argument, v^2 / 2, is rounded too
      const double y = v * 0.5 * std::erfc(-v / std::sqrt(2.0));
      return made(y, 1.2, 12 + v * v, y);
    }
    case Kind::kStarRelu: {
      const double square = a * std::max(v, 0.0) * std::max(v, 0.0);
      return made(square + b, std::abs(a) * (2 * std::abs(v) + x.error), 2, std::abs(square) + std::abs(b));
    }
  }
  return x;
}

}  // namespace nncompile::reference
