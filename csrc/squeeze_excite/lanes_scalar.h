// One float or double at a time, in plain C++: for every CPU, and for doubles.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "elements.h"

namespace perfkit::squeeze_excite {
namespace {

inline float widened(Bfloat number) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(number.bits) << 16);
}

inline float widened(Half number) {
  const std::uint32_t sign = (number.bits & 0x8000u) << 16, rest = number.bits & 0x7fffu;
  if (rest >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  // Read as a float, exponent and mantissa are 2^-112 of what they say: subnormal ones too.
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(
                                         std::bit_cast<float>(rest << 13) * 0x1p112f));
}

inline Bfloat to_bfloat(float number) {
  const auto bits = std::bit_cast<std::uint32_t>(number);
  if (std::isnan(number)) return {0x7fc0};
  return {static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

inline Half to_half(float number) {
  const auto bits = std::bit_cast<std::uint32_t>(number);
  const std::uint32_t sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
  if (rest > 0x7f800000u) return {static_cast<std::uint16_t>(sign | 0x7e00u)};
  if (rest >= 0x477ff000u) return {static_cast<std::uint16_t>(sign | 0x7c00u)};  // 65520 and more
  if (rest < 0x38800000u) {  // below 2^-14: the adder of floats rounds to multiples of 2^-24
    const float magnitude = std::bit_cast<float>(rest) + 0.5f;
    return {static_cast<std::uint16_t>(
        sign | (std::bit_cast<std::uint32_t>(magnitude) - std::bit_cast<std::uint32_t>(0.5f)))};
  }
  const std::uint32_t near = rest + 0xfffu + (rest >> 13 & 1u);
  return {static_cast<std::uint16_t>(sign | (near - 0x38000000u) >> 13)};
}

template <class T>
struct Single {
  using Real = T;
  static constexpr std::int64_t kCount = 1;
  T value;

  static Single all(T number) { return {number}; }
  static Single load(const T* from) { return {*from}; }
  template <class Element>
  static Single load(const Element* from) {
    return {widened(*from)};
  }
  // With fewer than kCount there is nothing to load or store.
  template <class Element>
  static Single load(const Element*, std::int64_t) {
    return {0};
  }
  void store(T* to) const { *to = value; }
  void store(Half* to) const { *to = to_half(value); }
  void store(Bfloat* to) const { *to = to_bfloat(value); }
  template <class Element>
  void store(Element*, std::int64_t) const {}

  T sum() const { return value; }
  static void store_sums(const Single (&of)[4], T* to) {
    for (std::int64_t i = 0; i < 4; ++i) to[i] = of[i].value;
  }

  static Single fma(Single a, Single b, Single c) { return {a.value * b.value + c.value}; }
  static Single where_above_zero(Single by, Single value) {
    return {by.value <= 0 ? T(0) : value.value};
  }

  friend Single operator+(Single a, Single b) { return {a.value + b.value}; }
  friend Single operator-(Single a, Single b) { return {a.value - b.value}; }
  friend Single operator*(Single a, Single b) { return {a.value * b.value}; }
  friend Single operator/(Single a, Single b) { return {a.value / b.value}; }
};

// exp by the C library: for doubles a polynomial of floats would not do.
template <class T>
Single<T> exp(Single<T> x) {
  return {std::exp(x.value)};
}

}  // namespace
}  // namespace perfkit::squeeze_excite
