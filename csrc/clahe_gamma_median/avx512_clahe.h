// CLAHE and median with AVX-512.
#pragma once

#include <cstdint>

#include "avx512_vectors.h"
#include "rows.h"

namespace perfkit::clahe_gamma_median {
namespace {

// --- CLAHE ------------------------------------------------------------------------------------

// Which bins get one more, of a rest of 0 .. 255; sixteen bins a mask.
struct RestMasks {
  uint16_t at[256][16];
};

constexpr RestMasks make_rest_masks() {
  RestMasks masks{};
  for (int rest = 1; rest < 256; ++rest) {
    const int step = 256 / rest;
    for (int i = 0; i < rest; ++i) {
      const int bin = i * step;
      masks.at[rest][bin / 16] = static_cast<uint16_t>(masks.at[rest][bin / 16] | 1 << bin % 16);
    }
  }
  return masks;
}

constexpr RestMasks kRestMasks = make_rest_masks();

// Lane i becomes the sum of lanes 0 .. i.
inline __m512i prefix_sums(__m512i value) {
  const __m512i zero = _mm512_setzero_si512();
  value = _mm512_add_epi32(value, _mm512_alignr_epi32(value, zero, 15));
  value = _mm512_add_epi32(value, _mm512_alignr_epi32(value, zero, 14));
  value = _mm512_add_epi32(value, _mm512_alignr_epi32(value, zero, 12));
  return _mm512_add_epi32(value, _mm512_alignr_epi32(value, zero, 8));
}

void map(const std::uint32_t* counts, int limit, float scale, uint8_t* mapping) {
  __m512i bins[16];
  for (int i = 0; i < 16; ++i) bins[i] = load(counts + 16 * i);
  if (limit > 0) {
    __m512i cut = _mm512_setzero_si512();
    for (__m512i& bin : bins) {
      const __m512i clipped = _mm512_min_epu32(bin, dwords(limit));
      cut = _mm512_add_epi32(cut, _mm512_sub_epi32(bin, clipped));
      bin = clipped;
    }
    const int excess = _mm512_reduce_add_epi32(cut);
    const uint16_t* masks = kRestMasks.at[excess % 256];
    const __m512i share = dwords(excess / 256), more = dwords(excess / 256 + 1);
    for (int i = 0; i < 16; ++i) {
      bins[i] = _mm512_add_epi32(bins[i], _mm512_mask_mov_epi32(share, masks[i], more));
    }
  }
  __m512i before = _mm512_setzero_si512();
  for (int i = 0; i < 16; ++i) {
    const __m512i sums = _mm512_add_epi32(prefix_sums(bins[i]), before);
    before = _mm512_permutexvar_epi32(dwords(15), sums);
    const __m512i value = _mm512_cvtps_epi32(
        _mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_set1_ps(scale)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(mapping + 16 * i), _mm512_cvtusepi32_epi8(value));
  }
}

// 16 pixels; corners: of the tiles top left, top right, bottom left, bottom right.
inline __m512i blended(const __m512 corners[4], __m512 right, __m512 lower) {
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512 left = _mm512_sub_ps(one, right), upper = _mm512_sub_ps(one, lower);
  const __m512 top = _mm512_add_ps(_mm512_mul_ps(corners[0], left), _mm512_mul_ps(corners[1], right));
  const __m512 bottom =
      _mm512_add_ps(_mm512_mul_ps(corners[2], left), _mm512_mul_ps(corners[3], right));
  const __m512 value = _mm512_add_ps(_mm512_mul_ps(top, upper), _mm512_mul_ps(bottom, lower));
  return _mm512_cvtps_epi32(value);
}

#ifdef __AVX512VBMI__

inline __m512 floats(const uint8_t* bytes) {
  return _mm512_cvtepi32_ps(
      _mm512_cvtepu8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes))));
}

// One cell; a vector holds 64 / kRows pixels of each of kRows rows.
template <int kRows>
void blend_cell(const BlendRows& block, const Cell& cell) {
  constexpr int kGroups = 4 / kRows;  // of 16 pixels in a row
  const ByteTable corners[4] = {
      ByteTable(block.upper + 256 * cell.left), ByteTable(block.upper + 256 * cell.right),
      ByteTable(block.lower + 256 * cell.left), ByteTable(block.lower + 256 * cell.right)};
  const __m512i in_order =
      _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
  alignas(64) uint8_t values[4][64];
  for (int64_t row = 0; row < block.rows; row += kRows) {
    int64_t rows[kRows];
    for (int i = 0; i < kRows; ++i) rows[i] = row + i < block.rows ? row + i : block.rows - 1;
    for (int64_t x = cell.begin; x < cell.end; x += 16 * kGroups) {
      const auto part = [&](int i) { return block.in + rows[i] * block.stride + x; };
      __m512i in;
      if constexpr (kRows == 1) {
        in = load(part(0));
      } else if constexpr (kRows == 2) {
        in = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(part(0))));
        in = _mm512_inserti64x4(
            in, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(part(1))), 1);
      } else {
        const auto lane = [&](int i) {
          return _mm_loadu_si128(reinterpret_cast<const __m128i*>(part(i)));
        };
        in = _mm512_inserti32x4(_mm512_castsi128_si512(lane(0)), lane(1), 1);
        in = _mm512_inserti32x4(_mm512_inserti32x4(in, lane(2), 2), lane(3), 3);
      }
      for (int i = 0; i < 4; ++i) store(values[i], corners[i](in));
      __m512i groups[4];
      for (int group = 0; group < 4; ++group) {
        const int64_t at = x + 16 * (group % kGroups), y = rows[group / kGroups];
        const __m512 around[4] = {floats(values[0] + 16 * group), floats(values[1] + 16 * group),
                                  floats(values[2] + 16 * group), floats(values[3] + 16 * group)};
        groups[group] = blended(around, _mm512_loadu_ps(block.right_weights + at),
                                _mm512_set1_ps(block.lower_weights[y]));
      }
      // Packing leaves the four pixels of lane k of group g at dword 4k + g.
      const __m512i bytes = _mm512_permutexvar_epi32(
          in_order, _mm512_packus_epi16(_mm512_packus_epi32(groups[0], groups[1]),
                                        _mm512_packus_epi32(groups[2], groups[3])));
      const auto store_part = [&](int i, auto part) {
        uint8_t* out = block.out + rows[i] * block.stride + x;
        if constexpr (sizeof(part) == 64) {
          _mm512_mask_storeu_epi8(out, first_bits(cell.end - x), part);
        } else if constexpr (sizeof(part) == 32) {
          _mm256_mask_storeu_epi8(out, static_cast<__mmask32>(first_bits(cell.end - x)), part);
        } else {
          _mm_mask_storeu_epi8(out, static_cast<__mmask16>(first_bits(cell.end - x)), part);
        }
      };
      if constexpr (kRows == 1) {
        store_part(0, bytes);
      } else if constexpr (kRows == 2) {
        store_part(0, _mm512_castsi512_si256(bytes));
        store_part(1, _mm512_extracti64x4_epi64(bytes, 1));
      } else {
        store_part(0, _mm512_castsi512_si128(bytes));
        store_part(1, _mm512_extracti32x4_epi32(bytes, 1));
        store_part(2, _mm512_extracti32x4_epi32(bytes, 2));
        store_part(3, _mm512_extracti32x4_epi32(bytes, 3));
      }
    }
  }
}

void blend(const BlendRows& block) {
  for (int64_t c = 0; c < block.cell_count; ++c) {
    const Cell& cell = block.cells[c];
    const int64_t width = cell.end - cell.begin;
    if (width <= 16) {
      blend_cell<4>(block, cell);
    } else if (width <= 32) {
      blend_cell<2>(block, cell);
    } else {
      blend_cell<1>(block, cell);
    }
  }
}

#else

// The first n of 16 dwords, as bytes.
inline void store_bytes(int64_t n, uint8_t* to, __m512i value) {
  const __mmask16 mask = n >= 16 ? 0xffff : static_cast<__mmask16>((1 << n) - 1);
  _mm512_mask_cvtusepi32_storeu_epi8(to, mask, value);
}

// The four mappings side by side: one look-up of a dword fetches what a pixel blends.
void pack_corners(const BlendRows& block, const Cell& cell, std::uint32_t* packed) {
  for (int i = 0; i < 256; i += 64) {
    const __m512i top_left = load(block.upper + 256 * cell.left + i);
    const __m512i top_right = load(block.upper + 256 * cell.right + i);
    const __m512i bottom_left = load(block.lower + 256 * cell.left + i);
    const __m512i bottom_right = load(block.lower + 256 * cell.right + i);
    const __m512i top[2] = {_mm512_unpacklo_epi8(top_left, top_right),
                            _mm512_unpackhi_epi8(top_left, top_right)};
    const __m512i bottom[2] = {_mm512_unpacklo_epi8(bottom_left, bottom_right),
                               _mm512_unpackhi_epi8(bottom_left, bottom_right)};
    __m512i parts[4];  // lane k of part j: entries 16k + 4j ... 16k + 4j + 3
    for (int half = 0; half < 2; ++half) {
      parts[2 * half] = _mm512_unpacklo_epi16(top[half], bottom[half]);
      parts[2 * half + 1] = _mm512_unpackhi_epi16(top[half], bottom[half]);
    }
    for (int j = 0; j < 4; ++j) {
      const auto put = [&](int k, __m128i lane) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(packed + i + 16 * k + 4 * j), lane);
      };
      put(0, _mm512_castsi512_si128(parts[j]));
      put(1, _mm512_extracti32x4_epi32(parts[j], 1));
      put(2, _mm512_extracti32x4_epi32(parts[j], 2));
      put(3, _mm512_extracti32x4_epi32(parts[j], 3));
    }
  }
}

inline __m512 corner(__m512i packed, int shift) {
  return _mm512_cvtepi32_ps(
      _mm512_and_si512(_mm512_srli_epi32(packed, static_cast<unsigned>(shift)), dwords(255)));
}

void blend(const BlendRows& block) {
  alignas(64) std::uint32_t packed[256], values[16];
  for (int64_t c = 0; c < block.cell_count; ++c) {
    const Cell& cell = block.cells[c];
    pack_corners(block, cell, packed);
    for (int64_t y = 0; y < block.rows; ++y) {
      const uint8_t* in = block.in + y * block.stride;
      uint8_t* out = block.out + y * block.stride;
      const __m512 lower = _mm512_set1_ps(block.lower_weights[y]);
      for (int64_t x = cell.begin; x < cell.end; x += 16) {
        for (int i = 0; i < 16; ++i) values[i] = packed[in[x + i]];
        const __m512i value = load(values);
        const __m512 around[4] = {corner(value, 0), corner(value, 8), corner(value, 16),
                                  corner(value, 24)};
        store_bytes(cell.end - x, out + x,
                    blended(around, _mm512_loadu_ps(block.right_weights + x), lower));
      }
    }
  }
}

#endif

// --- Median -----------------------------------------------------------------------------------

inline __m512i median_of_3(__m512i a, __m512i b, __m512i c) {
  return _mm512_max_epu8(_mm512_min_epu8(a, b), _mm512_min_epu8(_mm512_max_epu8(a, b), c));
}

void median(const uint8_t* middle, int64_t stride, uint8_t* out, int64_t n) {
  // Columns of three are sorted once and read three times.
  alignas(64) uint8_t sorted[3][kChunk + 2 * kBlock];
  for (int64_t from = 0; from < n; from += kChunk) {
    const int64_t count = n - from < kChunk ? n - from : kChunk;
    for (int64_t x = 0; x < count + 2; x += kBlock) {
      const uint8_t* at = middle + from + x - 1;
      const __m512i a = load(at - stride), b = load(at), c = load(at + stride);
      const __m512i less = _mm512_min_epu8(a, b), more = _mm512_max_epu8(a, b);
      const __m512i rest = _mm512_min_epu8(more, c);
      store(sorted[0] + x, _mm512_min_epu8(less, c));
      store(sorted[1] + x, _mm512_max_epu8(less, rest));
      store(sorted[2] + x, _mm512_max_epu8(more, c));
    }
    for (int64_t x = 0; x < count; x += kBlock) {
      const auto column = [&](int which, int shift) { return load(sorted[which] + x + shift); };
      const __m512i low = _mm512_max_epu8(_mm512_max_epu8(column(0, 0), column(0, 1)), column(0, 2));
      const __m512i middle = median_of_3(column(1, 0), column(1, 1), column(1, 2));
      const __m512i high =
          _mm512_min_epu8(_mm512_min_epu8(column(2, 0), column(2, 1)), column(2, 2));
      store(out + from + x, median_of_3(low, middle, high));
    }
  }
}

}  // namespace
}  // namespace perfkit::clahe_gamma_median
