// Functions of one byte with AVX-512: linear light of a channel, and Y and f(Y) of L.
//
// With VBMI they are tables, whose low and high bytes are looked up apart; without it permutations
// of words cost four times as much, and arithmetic takes their place.
#pragma once

#include <cstdint>

#include "../color/tables.h"
#include "avx512_vectors.h"

namespace perfkit::clahe_gamma_median {
namespace {

#ifdef __AVX512VBMI__

// A table of 256 words, low bytes before high ones.
struct alignas(64) WordEntries {
  constexpr explicit WordEntries(const uint16_t (&table)[256]) {
    for (int i = 0; i < 256; ++i) {
      bytes[i] = static_cast<uint8_t>(table[i]);
      bytes[256 + i] = static_cast<uint8_t>(table[i] >> 8);
    }
  }

  uint8_t bytes[512]{};
};

constexpr WordEntries kLinear(color::kLinear), kY(color::kY), kFy(color::kFy);

class WordTable {
 public:
  explicit WordTable(const WordEntries& entries)
      : low_(entries.bytes), high_(entries.bytes + 256) {}

  Words operator()(__m512i bytes) const {
    const __m512i low = low_(bytes), high = high_(bytes);
    return {_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)};
  }

 private:
  ByteTable low_, high_;
};

class LinearLight : public WordTable {
 public:
  LinearLight() : WordTable(kLinear) {}
};

class Luma {
 public:
  void operator()(__m512i l, Words& y, Words& fy) const {
    y = y_(l);
    fy = fy_(l);
  }

 private:
  WordTable y_{kY}, fy_{kFy};
};

#else

// Linear light as 64 lines: entry i is (start + slope * i) / 32, of segment 16383 * i / 65536.
struct alignas(64) Lines {
  uint16_t start[64], slope[64];
};

constexpr Lines make_lines() {
  Lines lines{};
  for (int segment = 0, first = 0; segment < 64; ++segment) {
    int end = first;
    while (end < 256 && end * 16383 >> 16 == segment) ++end;
    // The least slope for which some start puts every entry into its 32.
    for (int slope = 0;; ++slope) {
      int low = -(1 << 20), high = 1 << 20;
      for (int i = first; i < end; ++i) {
        const int least = 32 * color::kLinear[i] - slope * i;
        low = least > low ? least : low;
        high = least + 31 < high ? least + 31 : high;
      }
      if (low > high) continue;
      lines.start[segment] = static_cast<uint16_t>(low);
      lines.slope[segment] = static_cast<uint16_t>(slope);
      break;
    }
    first = end;
  }
  return lines;
}

constexpr Lines kLines = make_lines();

class LinearLight {
 public:
  Words operator()(__m512i bytes) const {
    const Words index = widened(bytes);
    return {of_words(index.low), of_words(index.high)};
  }

 private:
  __m512i of_words(__m512i index) const {
    const __m512i segment = _mm512_mulhi_epu16(index, words(16383));
    const __m512i start = _mm512_permutex2var_epi16(start_[0], segment, start_[1]);
    const __m512i slope = _mm512_permutex2var_epi16(slope_[0], segment, slope_[1]);
    return _mm512_srli_epi16(_mm512_add_epi16(start, _mm512_mullo_epi16(slope, index)), 5);
  }

  __m512i start_[2] = {load(kLines.start), load(kLines.start + 32)};
  __m512i slope_[2] = {load(kLines.slope), load(kLines.slope + 32)};
};

class Luma {
 public:
  void operator()(__m512i l, Words& y, Words& fy) const {
    const Words index = widened(l);
    of_words(index.low, y.low, fy.low);
    of_words(index.high, y.high, fy.high);
  }

 private:
  // f(Y) is a line in L, and Y its cube but for the darkest.
  void of_words(__m512i l, __m512i& y, __m512i& fy) const {
    const __m512i zero = _mm512_setzero_si512();
    __m512i y_parts[2], fy_parts[2];
    for (int half = 0; half < 2; ++half) {
      const __m512i wide = half == 0 ? _mm512_unpacklo_epi16(l, zero) : _mm512_unpackhi_epi16(l, zero);
      const __m512 f = _mm512_fmadd_ps(_mm512_cvtepi32_ps(wide), slope_, start_);
      fy_parts[half] = _mm512_cvtps_epi32(f);
      y_parts[half] = _mm512_cvtps_epi32(
          _mm512_mul_ps(_mm512_mul_ps(f, f), _mm512_mul_ps(f, _mm512_set1_ps(0x1p-28f))));
    }
    fy = _mm512_packus_epi32(fy_parts[0], fy_parts[1]);
    y = _mm512_packus_epi32(y_parts[0], y_parts[1]);
    const __mmask32 dark = _mm512_cmplt_epu16_mask(l, words(32));
    y = _mm512_mask_permutexvar_epi16(y, dark, l, darkest_);
  }

  __m512 slope_ = _mm512_set1_ps(100.0f * 16384.0f / (255.0f * 116.0f));
  __m512 start_ = _mm512_set1_ps(16.0f * 16384.0f / 116.0f);
  __m512i darkest_ = load(color::kY);
};

#endif

}  // namespace
}  // namespace perfkit::clahe_gamma_median
