// The activations, on vectors. NaN goes through all of them, as in PyTorch.
#pragma once

#include <initializer_list>

#include "program.h"
#include "vector.h"

namespace nncompile {

template <int N>
inline Vec<N> same_bits(IntVec<N> value) {
  Vec<N> result;
  std::memcpy(&result, &value, sizeof value);
  return result;
}

template <int N>
inline Vec<N> line(Vec<N> x, float slope, float shift) {
  return fused<N>(x, broadcast<N>(slope), broadcast<N>(shift));
}

// The highest power's coefficient first.
template <int N>
inline Vec<N> polynomial(Vec<N> x, std::initializer_list<float> coefficients) {
  auto next = coefficients.begin();
  Vec<N> sum = broadcast<N>(*next);
  while (++next != coefficients.end()) sum = fused<N>(sum, x, broadcast<N>(*next));
  return sum;
}

// exp(x) / 2^n of x = n ln 2 + r with |r| <= ln 2 / 2: exp(r) by the polynomial of Cephes (Moshier, "expf").
template <int N>
inline Vec<N> mantissa(Vec<N> x, Vec<N> n) {
  const Vec<N> most = fused<N>(n, broadcast<N>(-0.693359375f), x);
  const Vec<N> r = fused<N>(n, broadcast<N>(2.12194440e-4f), most);
  const Vec<N> p = polynomial<N>(r, {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f,
                                     1.6666665459e-1f, 5.0000001201e-1f});
  return fused<N>(p * r, r, r) + 1.0f;
}

// exp(x) within 2 units in the last place: x = n ln 2 + r with |r| <= ln 2 / 2, and exp(r) by the polynomial of
// Cephes (Moshier, "expf"). Below -87.3 the answer is 0 (no denormal numbers), above 88.7 infinity.
template <int N>
inline Vec<N> exponential(Vec<N> x) {
  const Vec<N> clipped = at_most<N>(at_least<N>(x, -87.33654f), 88.72283f);
  const Vec<N> n = line<N>(clipped, 1.44269504f, 12582912.0f) - 12582912.0f;  // rounded to an integer
  const Vec<N> q = mantissa<N>(clipped, n);
  // 2^n in two steps, since n may be 128
  const IntVec<N> exponent = __builtin_convertvector(n, IntVec<N>);
  const IntVec<N> half = exponent >> 1;
  const IntVec<N> low = (half + 127) << 23, high = (exponent - half + 127) << 23;
  Vec<N> y = q * same_bits<N>(low) * same_bits<N>(high);
  y = (x < -87.33654f) ? Vec<N>{} : y;
  y = (x > 88.72283f) ? broadcast<N>(__builtin_inff()) : y;
  return (x != x) ? x : y;
}

// 1 + exp(-x): 2^n in one step, since n + 127 is an exponent up to 88; from there on infinity. NaN is NaN, whatever its
// exponent would be.
template <int N>
inline Vec<N> one_and_decay(Vec<N> x) {
  constexpr float kRounding = 12582912.0f + 127.0f;
  const Vec<N> clipped = at_most<N>(at_least<N>(-x, -87.33654f), 88.0f);
  const Vec<N> rounded = line<N>(clipped, 1.44269504f, kRounding);
  const Vec<N> n = rounded - kRounding;
  IntVec<N> exponent;
  std::memcpy(&exponent, &rounded, sizeof exponent);
  const Vec<N> sum = fused<N>(mantissa<N>(clipped, n), same_bits<N>(exponent << 23), broadcast<N>(1.0f));
  return (x < -88.0f) ? broadcast<N>(__builtin_inff()) : sum;
}

template <int N>
inline Vec<N> sigmoid(Vec<N> x) {
  return 1.0f / one_and_decay<N>(x);
}

template <int N>
inline Vec<N> tanh(Vec<N> x) {
  // Near 0 the quotient loses digits; there the polynomial of Cephes (tanhf).
  const Vec<N> square = x * x;
  const Vec<N> p = polynomial<N>(square, {-5.70498872745e-3f, 2.06390887954e-2f, -5.37397155531e-2f,
                                          1.33314422036e-1f, -3.33332819422e-1f});
  const Vec<N> near = fused<N>(p * square, x, x);
  const Vec<N> far = 1.0f - 2.0f / (exponential<N>(2.0f * x) + 1.0f);
  return ((x < 0.625f) & (x > -0.625f)) ? near : far;
}

// exp(x) of x <= 0, as above: 2^n in one step, since n + 127 is an exponent, which the rounding to an integer leaves in
// the lowest bits.
template <int N>
inline Vec<N> decay(Vec<N> x) {
  constexpr float kRounding = 12582912.0f + 127.0f;
  const Vec<N> clipped = at_least<N>(x, -87.33654f);
  const Vec<N> rounded = line<N>(clipped, 1.44269504f, kRounding);
  const Vec<N> n = rounded - kRounding;
  IntVec<N> exponent;
  std::memcpy(&exponent, &rounded, sizeof exponent);
  return (x < -87.33654f) ? Vec<N>{} : mantissa<N>(clipped, n) * same_bits<N>(exponent << 23);
}

// x times the normal distribution's share below x, which for x < 0 is exp(-x^2 / 2) times a polynomial of
// t = 1 / (1 + 0.34 |x|): its share of the share is within 3.2e-7 (2.5e-8 before rounding; fitted from 0 to 13.3, the
// largest error made least by Lawson's weights), so that small results keep their digits.
template <int N>
inline Vec<N> gelu(Vec<N> x) {
  const Vec<N> size = (x < 0.0f) ? -x : x;
  const Vec<N> t = 1.0f / line<N>(size, 0.34f, 1.0f);
  const Vec<N> p = polynomial<N>(t, {-0.02647186f, 0.14114997f, -0.2764139f, 0.20577736f, -0.04708451f, 0.11631414f,
                                     0.114967555f, 0.13614239f, 0.13561885f});
  const Vec<N> half = t * p * decay<N>(-0.5f * x * x);
  return x * ((x < 0.0f) ? half : 1.0f - half);
}

template <int N>
inline Vec<N> activate(const Activation& activation, Vec<N> x) {
  switch (activation.kind) {
    case Kind::kNone:
      return x;
    case Kind::kRelu:
      return at_least<N>(x, 0.0f);
    case Kind::kClip:
      return at_most<N>(at_least<N>(x, activation.first), activation.second);
    case Kind::kLeakyRelu:
      return (x < 0.0f) ? x * activation.first : x;
    case Kind::kSilu:
      return x / one_and_decay<N>(x);
    case Kind::kHardSwish: {
      const Vec<N> gate = at_most<N>(at_least<N>(line<N>(x, 1.0f / 6.0f, 0.5f), 0.0f), 1.0f);
      return x * gate;
    }
    case Kind::kSigmoid:
      return sigmoid<N>(x);
    case Kind::kTanh:
      return tanh<N>(x);
    case Kind::kHardSigmoid:
      return at_most<N>(at_least<N>(line<N>(x, activation.first, activation.second), 0.0f), 1.0f);
    case Kind::kGelu:
      return gelu<N>(x);
    case Kind::kStarRelu: {
      const Vec<N> positive = at_least<N>(x, 0.0f);
      return line<N>(positive * positive, activation.first, activation.second);
    }
  }
  return x;
}

// `activate` of a kind that the compiler knows, whose constants so stay in registers.
template <int N, Kind kKind>
inline Vec<N> activate_as(const Activation& activation, Vec<N> x) {
  return activate<N>({kKind, activation.first, activation.second}, x);
}

// Calls `body` with a function of one vector.
template <int N, class Body>
inline void activating(const Activation& activation, const Body& body) {
  switch (activation.kind) {
    case Kind::kSilu:
      return body([&](Vec<N> x) { return activate_as<N, Kind::kSilu>(activation, x); });
    case Kind::kSigmoid:
      return body([&](Vec<N> x) { return activate_as<N, Kind::kSigmoid>(activation, x); });
    case Kind::kTanh:
      return body([&](Vec<N> x) { return activate_as<N, Kind::kTanh>(activation, x); });
    case Kind::kGelu:
      return body([&](Vec<N> x) { return activate_as<N, Kind::kGelu>(activation, x); });
    default:
      return body([&](Vec<N> x) { return activate<N>(activation, x); });
  }
}

// Of `count` vectors. Out of line: in every tile it would be most of the code.
template <int N>
[[gnu::noinline]] void activate_all(const Activation& activation, float* values, int count) {
  activating<N>(activation, [=](const auto& activated) {
    for (int i = 0; i < count; ++i) store<N>(values + i * N, activated(load<N>(values + i * N)));
  });
}

// The activations that are bounds, as such: a layer applies them in registers.
struct Bounds {
  float low = -__builtin_inff(), high = __builtin_inff();

  bool any() const { return low > -__builtin_inff() || high < __builtin_inff(); }
};

// An activation as `bounds`, or as `curve` where it is more than that.
struct Finish {
  const Activation* curve = nullptr;  // the activation itself, not a copy
  Bounds bounds;

  Finish() = default;
  explicit Finish(const Activation& activation) {
    switch (activation.kind) {
      case Kind::kNone:
        break;
      case Kind::kRelu:
        bounds.low = 0.0f;
        break;
      case Kind::kClip:
        bounds = {activation.first, activation.second};
        break;
      default:
        curve = &activation;
    }
  }
};

template <int N>
inline Vec<N> bounded(const Bounds& bounds, Vec<N> x) {
  return at_most<N>(at_least<N>(x, bounds.low), bounds.high);
}

}  // namespace nncompile
