// Sixteen floats in an AVX-512 register. For the files of that instruction set alone.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "elements.h"

namespace perfkit::squeeze_excite {
namespace {

struct Lanes {
  using Real = float;
  static constexpr std::int64_t kCount = 16;
  __m512 value;

  static Lanes all(float number) { return {_mm512_set1_ps(number)}; }

  static Lanes load(const float* from) { return {_mm512_loadu_ps(from)}; }
  static Lanes load(const Half* from) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)))};
  }
  static Lanes load(const Bfloat* from) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  // The first `count`, fewer than kCount; zeros after them.
  static Lanes load(const float* from, std::int64_t count) {
    return {_mm512_maskz_loadu_ps(first(count), from)};
  }
  static Lanes load(const Half* from, std::int64_t count) {
    return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(count), from))};
  }
  static Lanes load(const Bfloat* from, std::int64_t count) {
    return widen(_mm256_maskz_loadu_epi16(first(count), from));
  }

  void store(float* to) const { _mm512_storeu_ps(to, value); }
  void store(Half* to) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), half());
  }
  void store(Bfloat* to) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bfloat());
  }
  void store(float* to, std::int64_t count) const {
    _mm512_mask_storeu_ps(to, first(count), value);
  }
  void store(Half* to, std::int64_t count) const {
    _mm256_mask_storeu_epi16(to, first(count), half());
  }
  void store(Bfloat* to, std::int64_t count) const {
    _mm256_mask_storeu_epi16(to, first(count), bfloat());
  }

  float sum() const { return _mm512_reduce_add_ps(value); }
  // The sums of four registers.
  static void store_sums(const Lanes (&of)[4], float* to) {
    const auto pairs = [](__m512 a, __m512 b) {
      return _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    };
    const __m512d ab = _mm512_castps_pd(pairs(of[0].value, of[1].value));
    const __m512d cd = _mm512_castps_pd(pairs(of[2].value, of[3].value));
    const __m512 quarters = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)),
                                          _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
    const __m256 halves =
        _mm256_add_ps(_mm512_castps512_ps256(quarters), _mm512_extractf32x8_ps(quarters, 1));
    _mm_storeu_ps(to,
                  _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1)));
  }

  // a * b + c, rounded once.
  static Lanes fma(Lanes a, Lanes b, Lanes c) {
    return {_mm512_fmadd_ps(a.value, b.value, c.value)};
  }
  // `value`, and 0 where `by` is not above 0 (a NaN is).
  static Lanes where_above_zero(Lanes by, Lanes value) {
    const __mmask16 above = _mm512_cmp_ps_mask(by.value, _mm512_setzero_ps(), _CMP_NLE_UQ);
    return {_mm512_maskz_mov_ps(above, value.value)};
  }
  // Of NaN the first: NaN.
  static Lanes clamp(Lanes x, float low, float high) {
    const __m512 above = _mm512_max_ps(_mm512_set1_ps(low), x.value);
    return {_mm512_min_ps(_mm512_set1_ps(high), above)};
  }
  // x * 2^k for a whole k, with overflow and underflow.
  static Lanes scale(Lanes x, Lanes k) { return {_mm512_scalef_ps(x.value, k.value)}; }
  Lanes rounded() const {
    return {_mm512_roundscale_ps(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }

  friend Lanes operator+(Lanes a, Lanes b) { return {_mm512_add_ps(a.value, b.value)}; }
  friend Lanes operator-(Lanes a, Lanes b) { return {_mm512_sub_ps(a.value, b.value)}; }
  friend Lanes operator*(Lanes a, Lanes b) { return {_mm512_mul_ps(a.value, b.value)}; }
  friend Lanes operator/(Lanes a, Lanes b) { return {_mm512_div_ps(a.value, b.value)}; }

 private:
  static __mmask16 first(std::int64_t count) {
    return static_cast<__mmask16>((1u << count) - 1);
  }
  static Lanes widen(__m256i bits) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
  }
  __m256i half() const { return _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT); }
  __m256i bfloat() const {
    const __m512i bits = _mm512_castps_si512(value);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    const __m512i near = _mm512_srli_epi32(_mm512_add_epi32(bits, up), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    const __m512i whole = _mm512_mask_mov_epi32(near, nan, _mm512_set1_epi32(0x7fc0));
    return _mm512_cvtepi32_epi16(whole);
  }
};

}  // namespace
}  // namespace perfkit::squeeze_excite
