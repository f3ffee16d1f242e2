// RGB <-> Lab with AVX-512, 64 pixels at a time.
//
// Bytes are widened by interleaving with zeros, within lanes of 128 bits, and narrowed by packing,
// which undoes the order. Products are of 16-bit lanes wherever they are exact there: each such
// replacement is right over its whole domain, and whole conversions are over all 2^24 colours.
#pragma once

#include <cstdint>
#include <cstring>

#include "../color/tables.h"
#include "avx512_luma.h"
#include "avx512_vectors.h"
#include "rows.h"
#include "shuffles.h"

namespace perfkit::clahe_gamma_median {
namespace {

// --- Interleaved <-> planes -------------------------------------------------------------------

#ifdef __AVX512VBMI__

// Where a byte comes from: of the first two registers by permutation, of the third where `third`.
struct Permutation {
  alignas(64) uint8_t of_two[3][64];
  alignas(64) uint8_t of_third[3][64];
  uint64_t third[3];
};

constexpr Permutation make_permutation(bool joins) {
  Permutation permutation{};
  for (int i = 0; i < 3; ++i) {
    for (int k = 0; k < 64; ++k) {
      // Byte k of plane i is byte 3k + i of the pixels, and the other way round.
      const int at = joins ? (64 * i + k) % 3 * 64 + (64 * i + k) / 3 : 3 * k + i;
      permutation.of_two[i][k] = static_cast<uint8_t>(at % 128);
      permutation.of_third[i][k] = static_cast<uint8_t>(at % 64);
      if (at >= 128) permutation.third[i] |= uint64_t{1} << k;
    }
  }
  return permutation;
}

constexpr Permutation kSplit = make_permutation(false), kJoin = make_permutation(true);

inline __m512i permuted(const __m512i from[3], const Permutation& permutation, int i) {
  const __m512i two = _mm512_permutex2var_epi8(from[0], load(permutation.of_two[i]), from[1]);
  return _mm512_mask_permutexvar_epi8(two, permutation.third[i], load(permutation.of_third[i]),
                                      from[2]);
}

inline void split_block(const uint8_t* rgb, uint8_t* const planes[3], int64_t at) {
  const __m512i from[3] = {load(rgb), load(rgb + 64), load(rgb + 128)};
  for (int i = 0; i < 3; ++i) store(planes[i] + at, permuted(from, kSplit, i));
}

inline void join_block(const uint8_t* const planes[3], int64_t at, uint8_t* rgb) {
  const __m512i from[3] = {load(planes[0] + at), load(planes[1] + at), load(planes[2] + at)};
  for (int i = 0; i < 3; ++i) store(rgb + 64 * i, permuted(from, kJoin, i));
}

#else

inline __m512i in_all_lanes(const uint8_t* lane) {
  return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(lane)));
}

inline __m512i shuffled(const __m512i from[3], const uint8_t shuffles[3][16]) {
  return _mm512_or_si512(_mm512_or_si512(_mm512_shuffle_epi8(from[0], in_all_lanes(shuffles[0])),
                                         _mm512_shuffle_epi8(from[1], in_all_lanes(shuffles[1]))),
                         _mm512_shuffle_epi8(from[2], in_all_lanes(shuffles[2])));
}

inline void split_block(const uint8_t* rgb, uint8_t* const planes[3], int64_t at) {
  const __m128i* lanes = reinterpret_cast<const __m128i*>(rgb);
  __m512i from[3];
  for (int j = 0; j < 3; ++j) {
    __m512i value = _mm512_castsi128_si512(_mm_loadu_si128(lanes + j));
    value = _mm512_inserti32x4(value, _mm_loadu_si128(lanes + 3 + j), 1);
    value = _mm512_inserti32x4(value, _mm_loadu_si128(lanes + 6 + j), 2);
    from[j] = _mm512_inserti32x4(value, _mm_loadu_si128(lanes + 9 + j), 3);
  }
  for (int i = 0; i < 3; ++i) store(planes[i] + at, shuffled(from, kShuffles.split[i]));
}

inline void join_block(const uint8_t* const planes[3], int64_t at, uint8_t* rgb) {
  const __m512i from[3] = {load(planes[0] + at), load(planes[1] + at), load(planes[2] + at)};
  __m128i* lanes = reinterpret_cast<__m128i*>(rgb);
  for (int i = 0; i < 3; ++i) {
    const __m512i value = shuffled(from, kShuffles.join[i]);
    _mm_storeu_si128(lanes + i, _mm512_castsi512_si128(value));
    _mm_storeu_si128(lanes + 3 + i, _mm512_extracti32x4_epi32(value, 1));
    _mm_storeu_si128(lanes + 6 + i, _mm512_extracti32x4_epi32(value, 2));
    _mm_storeu_si128(lanes + 9 + i, _mm512_extracti32x4_epi32(value, 3));
  }
}

#endif

void split(const uint8_t* rgb, uint8_t* const planes[3], int64_t n) {
  int64_t x = 0;
  for (; x + kBlock <= n; x += kBlock) split_block(rgb + 3 * x, planes, x);
  if (x < n) {
    uint8_t last[3 * kBlock] = {};
    std::memcpy(last, rgb + 3 * x, static_cast<std::size_t>(3 * (n - x)));
    split_block(last, planes, x);
  }
}

void join(const uint8_t* const planes[3], uint8_t* rgb, int64_t n) {
  int64_t x = 0;
  for (; x + kBlock <= n; x += kBlock) join_block(planes, x, rgb + 3 * x);
  if (x < n) {
    uint8_t last[3 * kBlock];
    join_block(planes, x, last);
    std::memcpy(rgb + 3 * x, last, static_cast<std::size_t>(3 * (n - x)));
  }
}

// --- RGB -> Lab -------------------------------------------------------------------------------

// Words in the order of `Words`: [chunk / 64][low, high][32].
struct alignas(64) WordRow {
  uint16_t at[kChunk];

  void put(int64_t x, const Words& value) {
    store(at + x, value.low);
    store(at + x + 32, value.high);
  }
};

void to_linear(const uint8_t* const rgb[3], int64_t from, int64_t n, WordRow linear[3]) {
  const LinearLight table;
  for (int64_t x = 0; x < n; x += kBlock) {
    for (int c = 0; c < 3; ++c) linear[c].put(x, table(load(rgb[c] + from + x)));
  }
}

// Linear light of R, G and B -> f of X, Y and Z, in place; n in whole blocks.
void to_f(WordRow row[3], int64_t n, const uint8_t* next) {
  const Polynomial cube_root(color::kCubeRootCubics);
  const __m512 scale = _mm512_set1_ps(color::kCubeRootCubics.scale);
  const __m512 offset = _mm512_set1_ps(color::kCubeRootCubics.offset);
  const __m512i red_green[3] = {pairs(1777, 1541), pairs(871, 2929), pairs(73, 448)};
  const __m512i blue[3] = {pairs(778, 0), pairs(296, 0), pairs(3575, 0)};
  const __m512i half = dwords(2048), zero = _mm512_setzero_si512();
  for (int64_t x = 0; x < n; x += 32) {
    if (next != nullptr) {
      _mm_prefetch(next + 3 * x, _MM_HINT_T0);
      _mm_prefetch(next + 3 * x + 48, _MM_HINT_T0);
    }
    const __m512i r = load(row[0].at + x), g = load(row[1].at + x), b = load(row[2].at + x);
    const __m512i rg_low = _mm512_unpacklo_epi16(r, g), rg_high = _mm512_unpackhi_epi16(r, g);
    const __m512i b_low = _mm512_unpacklo_epi16(b, zero), b_high = _mm512_unpackhi_epi16(b, zero);
    for (int axis = 0; axis < 3; ++axis) {
      const auto f = [&](__m512i rg, __m512i b0) {
        const __m512i sum =
            add_products(add_products(half, rg, red_green[axis]), b0, blue[axis]);
        const __m512 entry = _mm512_cvtepi32_ps(_mm512_srli_epi32(sum, 12));
        return cube_root(_mm512_fmadd_ps(entry, scale, offset));
      };
      store(row[axis].at + x, _mm512_packus_epi32(f(rg_low, b_low), f(rg_high, b_high)));
    }
  }
}

void f_to_lab(const WordRow f[3], int64_t from, int64_t n, uint8_t* const lab[3]) {
  // (296 f - 1336934 + 16384) >> 15 in words: the product's upper and lower half apart.
  const auto lightness = [](__m512i fy) {
    const __m512i factor = words(296);
    const __m512i upper = _mm512_sub_epi16(_mm512_mulhi_epu16(fy, factor), words(21));
    const __m512i lower = _mm512_avg_epu16(_mm512_mullo_epi16(fy, factor), words(55705));
    return _mm512_add_epi16(_mm512_add_epi16(upper, upper), _mm512_srli_epi16(lower, 14));
  };
  // 128 + (factor * (p - q) + 16384) >> 15.
  const auto chroma = [](__m512i p, __m512i q, int factor) {
    return _mm512_add_epi16(_mm512_mulhrs_epi16(_mm512_sub_epi16(p, q), words(factor)), words(128));
  };
  for (int64_t x = 0; x < n; x += kBlock) {
    __m512i l[2], a[2], b[2];
    for (int half = 0; half < 2; ++half) {
      const int64_t at = x + 32 * half;
      const __m512i fx = load(f[0].at + at), fy = load(f[1].at + at), fz = load(f[2].at + at);
      l[half] = lightness(fy);
      a[half] = chroma(fx, fy, 500);
      b[half] = chroma(fy, fz, 200);
    }
    store_first(n - x, lab[0] + from + x, _mm512_packus_epi16(l[0], l[1]));
    store_first(n - x, lab[1] + from + x, _mm512_packus_epi16(a[0], a[1]));
    store_first(n - x, lab[2] + from + x, _mm512_packus_epi16(b[0], b[1]));
  }
}

void to_lab(const uint8_t* const rgb[3], uint8_t* const lab[3], int64_t n, const uint8_t* next) {
  WordRow row[3];
  for (int64_t from = 0; from < n; from += kChunk) {
    const int64_t count = n - from < kChunk ? n - from : kChunk;
    to_linear(rgb, from, count, row);
    to_f(row, (count + kBlock - 1) / kBlock * kBlock, next == nullptr ? next : next + 3 * from);
    f_to_lab(row, from, count, lab);
  }
}

// --- Lab -> RGB -------------------------------------------------------------------------------

// X, Y and Z as pairs of words for the products: (X, Y) and (Z >> 2, Z & 3).
struct alignas(64) PairRow {
  uint16_t xy[2 * kChunk], z[2 * kChunk];
};

// trunc(f * 108 / 841) - 290 for f in -8145 .. 3390.
inline __m512i inverse_line(__m512i f) {
  const __m512i size = _mm512_abs_epi16(f);
  __m512i quotient = _mm512_mulhi_epu16(_mm512_slli_epi16(size, 3), words(1052));
  // That is the quotient or one less: the remainder tells.
  const __m512i rest = _mm512_sub_epi16(_mm512_mullo_epi16(size, words(108)),
                                        _mm512_mullo_epi16(quotient, words(841)));
  quotient = _mm512_mask_add_epi16(quotient, _mm512_cmpge_epu16_mask(rest, words(841)), quotient,
                                   words(1));
  const __m512i zero = _mm512_setzero_si512();
  quotient = _mm512_mask_sub_epi16(quotient, _mm512_movepi16_mask(f), zero, quotient);
  return _mm512_sub_epi16(quotient, words(290));
}

inline void lab_to_xyz(__m512i y, __m512i fy, __m512i a, __m512i b, uint16_t* xy, uint16_t* zz) {
  // ((5 * 53687 * a + 128) >> 13) - 4194
  __m512i chroma_a = _mm512_add_epi16(_mm512_slli_epi16(a, 5), _mm512_mulhi_epu16(a, words(50332)));
  chroma_a = _mm512_mask_add_epi16(chroma_a, _mm512_cmpeq_epi16_mask(a, words(69)), chroma_a,
                                   words(1));
  const __m512i fx = _mm512_add_epi16(_mm512_sub_epi16(fy, words(4194)), chroma_a);
  // ((41943 * b + 16) >> 9) - 10484
  const __m512i chroma_b =
      _mm512_add_epi16(_mm512_mullo_epi16(b, words(81)), _mm512_mulhi_epu16(b, words(60295)));
  const __m512i fz = _mm512_sub_epi16(_mm512_add_epi16(fy, words(10484)), chroma_b);

  // (f * f >> 14) * f >> 14
  const __m512i fx2 = _mm512_add_epi16(fx, fx), fz2 = _mm512_add_epi16(fz, fz);
  const __m512i square = _mm512_mulhi_epu16(fx2, fx2), square_z = _mm512_mulhi_epu16(fz2, fz2);
  __m512i x = _mm512_mulhi_epu16(_mm512_add_epi16(square, square), fx2);
  __m512i z_upper = _mm512_mulhi_epu16(square_z, fz);
  __m512i z_lower = _mm512_srli_epi16(_mm512_mullo_epi16(square_z, fz), 14);

  const __mmask32 dark_x = _mm512_cmple_epi16_mask(fx, words(3390));
  const __mmask32 dark_z = _mm512_cmple_epi16_mask(fz, words(3390));
  if (dark_x | dark_z) {
    x = _mm512_mask_mov_epi16(x, dark_x, inverse_line(fx));
    const __m512i line = inverse_line(fz);
    z_upper = _mm512_mask_srai_epi16(z_upper, dark_z, line, 2);
    z_lower = _mm512_mask_mov_epi16(z_lower, dark_z, _mm512_and_si512(line, words(3)));
  }
  store(xy, _mm512_unpacklo_epi16(x, y));
  store(xy + 32, _mm512_unpackhi_epi16(x, y));
  store(zz, _mm512_unpacklo_epi16(z_upper, z_lower));
  store(zz + 32, _mm512_unpackhi_epi16(z_upper, z_lower));
}

void to_xyz(const uint8_t* const lab[3], int64_t from, int64_t n, PairRow& row) {
  const Luma luma;
  for (int64_t x = 0; x < n; x += kBlock) {
    const __m512i l = load(lab[0] + from + x);
    Words y, fy;
    luma(l, y, fy);
    const Words a = widened(load(lab[1] + from + x)), b = widened(load(lab[2] + from + x));
    lab_to_xyz(y.low, fy.low, a.low, b.low, row.xy + 2 * x, row.z + 2 * x);
    lab_to_xyz(y.high, fy.high, a.high, b.high, row.xy + 2 * x + 64, row.z + 2 * x + 64);
  }
}

void xyz_to_rgb(const PairRow& row, const ByteTable& table, int64_t from, int64_t n,
                uint8_t* const rgb[3], const uint8_t* next) {
  constexpr int kShift = 14;
  constexpr int kFirst = static_cast<int>(color::kEncodeCubics.offset);  // entry + 16 is z
  const Polynomial encode(color::kEncodeCubics);
  const __m512i xy_factors[3] = {pairs(12615, -6296), pairs(-3773, 7684), pairs(217, -836)};
  const __m512i z_factors[3] = {pairs(4 * -2223, -2223), pairs(4 * 185, 185),
                                pairs(4 * 4715, 4715)};
  const __m512i start = dwords((kFirst << kShift) + 8192);
  const __m512i lowest = dwords(kFirst), highest = dwords(kFirst + 4095);
  for (int64_t x = 0; x < n; x += kBlock) {
    for (int c = 0; c < 3; ++c) {
      if (next != nullptr) __builtin_prefetch(next + 3 * x + 64 * c, 1);
      __m512i quarter[4];
      for (int i = 0; i < 4; ++i) {
        __m512i value = add_products(start, load(row.xy + 2 * x + 32 * i), xy_factors[c]);
        value = add_products(value, load(row.z + 2 * x + 32 * i), z_factors[c]);
        value = _mm512_srai_epi32(value, kShift);
        value = _mm512_min_epi32(_mm512_max_epi32(value, lowest), highest);
        quarter[i] = encode(_mm512_cvtepi32_ps(value));
      }
      const __m512i bytes = _mm512_packus_epi16(_mm512_packus_epi32(quarter[0], quarter[1]),
                                                _mm512_packus_epi32(quarter[2], quarter[3]));
      store(rgb[c] + from + x, table(bytes));
    }
  }
}

void to_rgb(const uint8_t* const lab[3], const uint8_t* table, uint8_t* const rgb[3], int64_t n,
            const uint8_t* next) {
  const ByteTable of_user(table);
  PairRow row;
  for (int64_t from = 0; from < n; from += kChunk) {
    const int64_t count = n - from < kChunk ? n - from : kChunk;
    to_xyz(lab, from, count, row);
    xyz_to_rgb(row, of_user, from, count, rgb, next == nullptr ? next : next + 3 * from);
  }
}

void prepare(const uint8_t* table, uint8_t* prepared) { std::memcpy(prepared, table, 256); }

void look_up(const uint8_t* table, const uint8_t* in, uint8_t* out, int64_t n) {
  const ByteTable of_user(table);
  for (int64_t x = 0; x < n; x += kBlock) store(out + x, of_user(load(in + x)));
}

}  // namespace
}  // namespace perfkit::clahe_gamma_median
