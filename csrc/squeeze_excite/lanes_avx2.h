// Eight floats in an AVX2 register. For the files of that instruction set alone.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "elements.h"

namespace perfkit::squeeze_excite {
namespace {

struct Lanes {
  using Real = float;
  static constexpr std::int64_t kCount = 8;
  __m256 value;

  static Lanes all(float number) { return {_mm256_set1_ps(number)}; }

  static Lanes load(const float* from) { return {_mm256_loadu_ps(from)}; }
  static Lanes load(const Half* from) { return {_mm256_cvtph_ps(eight(from))}; }
  static Lanes load(const Bfloat* from) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(eight(from)), 16))};
  }
  // The first `count`, fewer than kCount; zeros after them.
  static Lanes load(const float* from, std::int64_t count) {
    return {_mm256_maskload_ps(from, first(count))};
  }
  template <class Element>
  static Lanes load(const Element* from, std::int64_t count) {
    Element part[kCount] = {};
    std::memcpy(part, from, static_cast<std::size_t>(count) * sizeof(Element));
    return load(part);
  }

  void store(float* to) const { _mm256_storeu_ps(to, value); }
  void store(Half* to) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                     _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
  }
  void store(Bfloat* to) const {
    const __m256i bits = _mm256_castps_si256(value);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    const __m256i near = _mm256_srli_epi32(_mm256_add_epi32(bits, up), 16);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    const __m256i whole = _mm256_blendv_epi8(near, _mm256_set1_epi32(0x7fc0), nan);
    const __m256i halves = _mm256_permute4x64_epi64(_mm256_packus_epi32(whole, whole), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(halves));
  }
  void store(float* to, std::int64_t count) const {
    _mm256_maskstore_ps(to, first(count), value);
  }
  template <class Element>
  void store(Element* to, std::int64_t count) const {
    Element part[kCount];
    store(part);
    std::memcpy(to, part, static_cast<std::size_t>(count) * sizeof(Element));
  }

  float sum() const {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(value), _mm256_extractf128_ps(value, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  // The sums of four registers.
  static void store_sums(const Lanes (&of)[4], float* to) {
    const __m256 halves = _mm256_hadd_ps(_mm256_hadd_ps(of[0].value, of[1].value),
                                         _mm256_hadd_ps(of[2].value, of[3].value));
    _mm_storeu_ps(to,
                  _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1)));
  }

  // a * b + c, rounded once.
  static Lanes fma(Lanes a, Lanes b, Lanes c) {
    return {_mm256_fmadd_ps(a.value, b.value, c.value)};
  }
  // `value`, and 0 where `by` is not above 0 (a NaN is).
  static Lanes where_above_zero(Lanes by, Lanes value) {
    const __m256 above = _mm256_cmp_ps(by.value, _mm256_setzero_ps(), _CMP_NLE_UQ);
    return {_mm256_and_ps(above, value.value)};
  }
  // Of NaN the first: NaN.
  static Lanes clamp(Lanes x, float low, float high) {
    const __m256 above = _mm256_max_ps(_mm256_set1_ps(low), x.value);
    return {_mm256_min_ps(_mm256_set1_ps(high), above)};
  }
  // x * 2^k for a whole k within +-250, with overflow and underflow.
  static Lanes scale(Lanes x, Lanes k) {
    const __m256i whole = _mm256_cvtps_epi32(k.value);
    const __m256i some = _mm256_srai_epi32(whole, 1);
    const __m256i rest = _mm256_sub_epi32(whole, some);
    return {_mm256_mul_ps(_mm256_mul_ps(x.value, power(some)), power(rest))};
  }
  Lanes rounded() const {
    return {_mm256_round_ps(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }

  friend Lanes operator+(Lanes a, Lanes b) { return {_mm256_add_ps(a.value, b.value)}; }
  friend Lanes operator-(Lanes a, Lanes b) { return {_mm256_sub_ps(a.value, b.value)}; }
  friend Lanes operator*(Lanes a, Lanes b) { return {_mm256_mul_ps(a.value, b.value)}; }
  friend Lanes operator/(Lanes a, Lanes b) { return {_mm256_div_ps(a.value, b.value)}; }

 private:
  template <class Element>
  static __m128i eight(const Element* from) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  }
  static __m256i first(std::int64_t count) {
    const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), index);
  }
  static __m256 power(__m256i k) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(k, _mm256_set1_epi32(127)), 23));
  }
};

}  // namespace
}  // namespace perfkit::squeeze_excite
