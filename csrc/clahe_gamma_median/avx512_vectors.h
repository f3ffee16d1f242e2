// Vectors of AVX-512, for avx512.cpp and avx512_vbmi.cpp, which are compiled for different CPUs.
//
// Look-ups in tables of 256 are permutations, those in longer ones cubic polynomials
// (color/polynomials.h): a gather costs several times as much.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "../color/polynomials.h"
#include "rows.h"

namespace perfkit::clahe_gamma_median {
namespace {

using std::int64_t;
using std::uint16_t;
using std::uint64_t;
using std::uint8_t;

constexpr int64_t kChunk = 512;  // pixels whose intermediate values stay in the first level cache

inline __m512i load(const void* from) { return _mm512_loadu_si512(from); }
inline void store(void* to, __m512i value) { _mm512_storeu_si512(to, value); }
inline uint64_t first_bits(int64_t n) { return n >= 64 ? ~uint64_t{0} : (uint64_t{1} << n) - 1; }
// At most n bytes.
inline void store_first(int64_t n, uint8_t* to, __m512i value) {
  _mm512_mask_storeu_epi8(to, first_bits(n), value);
}
inline __m512i words(int value) { return _mm512_set1_epi16(static_cast<short>(value)); }
inline __m512i dwords(int value) { return _mm512_set1_epi32(value); }
// Pairs of words: `low` where multiplied with the first of a pair.
inline __m512i pairs(int low, int high) {
  return dwords(static_cast<int>(static_cast<unsigned>(high) << 16 | (low & 0xffff)));
}

// Two words a dword, each times that of `factors`, added.
inline __m512i add_products(__m512i sum, __m512i a, __m512i factors) {
#ifdef __AVX512VNNI__
  return _mm512_dpwssd_epi32(sum, a, factors);
#else
  return _mm512_add_epi32(sum, _mm512_madd_epi16(a, factors));
#endif
}

// The two halves of 64 bytes as words.
struct Words {
  __m512i low, high;
};

inline Words widened(__m512i bytes) {
  const __m512i zero = _mm512_setzero_si512();
  return {_mm512_unpacklo_epi8(bytes, zero), _mm512_unpackhi_epi8(bytes, zero)};
}

// A table of 256 bytes, by byte.
class ByteTable {
 public:
  explicit ByteTable(const uint8_t* table) {
    for (int i = 0; i < 4; ++i) part_[i] = load(table + 64 * i);
  }

  __m512i operator()(__m512i bytes) const {
#ifdef __AVX512VBMI__
    const __mmask64 upper = _mm512_movepi8_mask(bytes);
    return _mm512_mask_blend_epi8(upper, _mm512_permutex2var_epi8(part_[0], bytes, part_[1]),
                                  _mm512_permutex2var_epi8(part_[2], bytes, part_[3]));
#else
    // Each word of the table is two entries; even and odd bytes are looked up apart.
    const auto of_words = [&](__m512i index, __mmask32 top) {
      const __m512i pair = _mm512_srli_epi16(index, 1);
      const __m512i entries = _mm512_mask_blend_epi16(
          top, _mm512_permutex2var_epi16(part_[0], pair, part_[1]),
          _mm512_permutex2var_epi16(part_[2], pair, part_[3]));
      const __mmask32 odd = _mm512_test_epi16_mask(index, words(1));
      return _mm512_mask_srli_epi16(entries, odd, entries, 8);
    };
    const __m512i odd_bytes = _mm512_srli_epi16(bytes, 8);
    const __m512i even_bytes = _mm512_and_si512(bytes, words(255));
    const __m512i even = of_words(even_bytes, _mm512_test_epi16_mask(bytes, words(0x80)));
    const __m512i odd = of_words(odd_bytes, _mm512_movepi16_mask(bytes));
    return _mm512_mask_blend_epi8(0xaaaaaaaaaaaaaaaaULL, even, _mm512_slli_epi16(odd, 8));
#endif
  }

 private:
  __m512i part_[4];
};

// Piecewise cubic polynomials, rounded to integers.
class Polynomial {
 public:
  explicit Polynomial(const color::Cubics& cubics) {
    for (int power = 0; power < 4; ++power) {
      for (int half = 0; half < 2; ++half) {
        part_[power][half] = _mm512_loadu_ps(cubics.coefficients[power] + 16 * half);
      }
    }
  }

  __m512i operator()(__m512 z) const {
    const __m512i segment = _mm512_srli_epi32(_mm512_castps_si512(z), 21);
    const auto coefficient = [&](int power) {
      return _mm512_permutex2var_ps(part_[power][0], segment, part_[power][1]);
    };
    __m512 value = _mm512_fmadd_ps(coefficient(3), z, coefficient(2));
    value = _mm512_fmadd_ps(value, z, coefficient(1));
    value = _mm512_fmadd_ps(value, z, coefficient(0));
    return _mm512_cvtps_epi32(value);
  }

 private:
  __m512 part_[4][2];
};

}  // namespace
}  // namespace perfkit::clahe_gamma_median
