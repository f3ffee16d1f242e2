// The loops for CPUs with AVX2.
//
// Arithmetic is of 16-bit lanes, as with AVX-512 (avx512_color.h says why), but all look-ups
// are scalar loads: with eight lanes neither permutations nor gathers are faster.
#include <immintrin.h>

#include <array>
#include <cstdint>
#include <cstring>

#include "../color/tables.h"
#include "counts.h"
#include "rows.h"
#include "shuffles.h"

namespace perfkit::clahe_gamma_median {
namespace {

using std::int64_t;
using std::uint16_t;
using std::uint32_t;
using std::uint8_t;

constexpr int64_t kChunk = 256;  // pixels whose intermediate values stay in the first level cache
constexpr int64_t kLanes = 32;   // bytes a register

inline __m256i load(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
inline void store(void* to, __m256i value) {
  _mm256_storeu_si256(static_cast<__m256i*>(to), value);
}
// At most n bytes.
inline void store_first(int64_t n, uint8_t* to, __m256i value) {
  if (n >= kLanes) return store(to, value);
  alignas(32) uint8_t bytes[kLanes];
  store(bytes, value);
  std::memcpy(to, bytes, static_cast<std::size_t>(n));
}
inline __m128i load_lane(const void* from) {
  return _mm_loadu_si128(static_cast<const __m128i*>(from));
}
inline void store_lane(void* to, __m128i value) {
  _mm_storeu_si128(static_cast<__m128i*>(to), value);
}
inline __m256i words(int value) { return _mm256_set1_epi16(static_cast<short>(value)); }
inline __m256i pairs(int low, int high) {
  return _mm256_set1_epi32(static_cast<int>(static_cast<unsigned>(high) << 16 | (low & 0xffff)));
}
// Packing works in lanes of 128 bits: this puts the quarters of its result in order.
inline __m256i in_order(__m256i packed) { return _mm256_permute4x64_epi64(packed, 0xd8); }

// --- Interleaved <-> planes -------------------------------------------------------------------

inline __m256i shuffled(const __m256i from[3], const uint8_t shuffles[3][16]) {
  const auto part = [&](int i) {
    return _mm256_shuffle_epi8(from[i], _mm256_broadcastsi128_si256(load_lane(shuffles[i])));
  };
  return _mm256_or_si256(_mm256_or_si256(part(0), part(1)), part(2));
}

inline void split_block(const uint8_t* rgb, uint8_t* const planes[3], int64_t at) {
  __m256i from[3];
  for (int j = 0; j < 3; ++j) {
    from[j] = _mm256_set_m128i(load_lane(rgb + 48 + 16 * j), load_lane(rgb + 16 * j));
  }
  for (int i = 0; i < 3; ++i) store(planes[i] + at, shuffled(from, kShuffles.split[i]));
}

void split(const uint8_t* rgb, uint8_t* const planes[3], int64_t n) {
  int64_t x = 0;
  for (; x + kLanes <= n; x += kLanes) split_block(rgb + 3 * x, planes, x);
  if (x < n) {
    uint8_t last[3 * kLanes] = {};
    std::memcpy(last, rgb + 3 * x, static_cast<std::size_t>(3 * (n - x)));
    split_block(last, planes, x);
  }
}

inline void join_block(const uint8_t* const planes[3], int64_t at, uint8_t* rgb) {
  const __m256i from[3] = {load(planes[0] + at), load(planes[1] + at), load(planes[2] + at)};
  for (int i = 0; i < 3; ++i) {
    const __m256i value = shuffled(from, kShuffles.join[i]);
    store_lane(rgb + 16 * i, _mm256_castsi256_si128(value));
    store_lane(rgb + 48 + 16 * i, _mm256_extracti128_si256(value, 1));
  }
}

void join(const uint8_t* const planes[3], uint8_t* rgb, int64_t n) {
  int64_t x = 0;
  for (; x + kLanes <= n; x += kLanes) join_block(planes, x, rgb + 3 * x);
  if (x < n) {
    uint8_t last[3 * kLanes];
    join_block(planes, x, last);
    std::memcpy(rgb + 3 * x, last, static_cast<std::size_t>(3 * (n - x)));
  }
}

// --- RGB -> Lab -------------------------------------------------------------------------------

// What a byte of red, green or blue adds to X, Y and Z, in 1/2040 times 4096: one load for three
// products. The rounding is in the first.
struct XyzTables {
  alignas(16) uint32_t of[3][256][4];
};

constexpr XyzTables make_xyz_tables() {
  constexpr uint32_t kMatrix[3][3] = {{1777, 871, 73}, {1541, 2929, 448}, {778, 296, 3575}};
  XyzTables tables{};
  for (int c = 0; c < 3; ++c) {
    for (int i = 0; i < 256; ++i) {
      for (int axis = 0; axis < 3; ++axis) {
        tables.of[c][i][axis] = kMatrix[c][axis] * color::kLinear[i] + (c == 0 ? 2048 : 0);
      }
    }
  }
  return tables;
}

constexpr XyzTables kXyzTables = make_xyz_tables();

struct alignas(32) WordRow {
  uint16_t at[kChunk];
};

void to_f(const uint8_t* const rgb[3], int64_t from, int64_t n, WordRow f[3],
          const uint8_t* next) {
  alignas(32) uint32_t entries[kChunk][4];
  for (int64_t block = 0; block < n; block += 16) {
    if (next != nullptr) __builtin_prefetch(next + 3 * (from + block));
    for (int64_t x = block; x < block + 16; ++x) {
      const auto part = [&](int c) { return load_lane(kXyzTables.of[c][rgb[c][from + x]]); };
      const __m128i sum = _mm_add_epi32(_mm_add_epi32(part(0), part(1)), part(2));
      store_lane(entries[x], _mm_srli_epi32(sum, 12));
    }
  }
  for (int64_t x = 0; x < n; ++x) {
    for (int axis = 0; axis < 3; ++axis) f[axis].at[x] = color::kCubeRoot[entries[x][axis]];
  }
}

void f_to_lab(const WordRow f[3], int64_t from, int64_t n, uint8_t* const lab[3]) {
  const auto lightness = [](__m256i fy) {
    const __m256i factor = words(296);
    const __m256i upper = _mm256_sub_epi16(_mm256_mulhi_epu16(fy, factor), words(21));
    const __m256i lower = _mm256_avg_epu16(_mm256_mullo_epi16(fy, factor), words(55705));
    return _mm256_add_epi16(_mm256_add_epi16(upper, upper), _mm256_srli_epi16(lower, 14));
  };
  const auto chroma = [](__m256i p, __m256i q, int factor) {
    return _mm256_add_epi16(_mm256_mulhrs_epi16(_mm256_sub_epi16(p, q), words(factor)), words(128));
  };
  for (int64_t x = 0; x < n; x += kLanes) {
    __m256i l[2], a[2], b[2];
    for (int half = 0; half < 2; ++half) {
      const int64_t at = x + 16 * half;
      const __m256i fx = load(f[0].at + at), fy = load(f[1].at + at), fz = load(f[2].at + at);
      l[half] = lightness(fy);
      a[half] = chroma(fx, fy, 500);
      b[half] = chroma(fy, fz, 200);
    }
    store_first(n - x, lab[0] + from + x, in_order(_mm256_packus_epi16(l[0], l[1])));
    store_first(n - x, lab[1] + from + x, in_order(_mm256_packus_epi16(a[0], a[1])));
    store_first(n - x, lab[2] + from + x, in_order(_mm256_packus_epi16(b[0], b[1])));
  }
}

void to_lab(const uint8_t* const rgb[3], uint8_t* const lab[3], int64_t n, const uint8_t* next) {
  WordRow f[3];
  for (int64_t from = 0; from < n; from += kChunk) {
    const int64_t count = n - from < kChunk ? n - from : kChunk;
    to_f(rgb, from, count, f, next);
    f_to_lab(f, from, count, lab);
  }
}

// --- Lab -> RGB -------------------------------------------------------------------------------

// Y and f(Y) of L, in one dword.
constexpr std::array<uint32_t, 256> make_y_table() {
  std::array<uint32_t, 256> table{};
  for (std::size_t i = 0; i < 256; ++i) {
    table[i] = static_cast<uint32_t>(color::kY[i]) | static_cast<uint32_t>(color::kFy[i]) << 16;
  }
  return table;
}

constexpr std::array<uint32_t, 256> kYTable = make_y_table();

inline __m256i inverse_line(__m256i f) {
  const __m256i size = _mm256_abs_epi16(f);
  __m256i quotient = _mm256_mulhi_epu16(_mm256_slli_epi16(size, 3), words(1052));
  const __m256i rest = _mm256_sub_epi16(_mm256_mullo_epi16(size, words(108)),
                                        _mm256_mullo_epi16(quotient, words(841)));
  quotient = _mm256_sub_epi16(quotient, _mm256_cmpgt_epi16(rest, words(840)));
  return _mm256_sub_epi16(_mm256_sign_epi16(quotient, f), words(290));
}

struct Xyz {
  __m256i x, y, z_upper, z_lower;  // Z = 4 * z_upper + z_lower
};

inline Xyz lab_to_xyz(const uint32_t* y_and_fy, __m256i a, __m256i b) {
  const __m256i low = load(y_and_fy), high = load(y_and_fy + 8), mask = pairs(-1, 0);
  const __m256i y = in_order(
      _mm256_packus_epi32(_mm256_and_si256(low, mask), _mm256_and_si256(high, mask)));
  const __m256i fy = in_order(
      _mm256_packus_epi32(_mm256_srli_epi32(low, 16), _mm256_srli_epi32(high, 16)));

  __m256i chroma_a = _mm256_add_epi16(_mm256_slli_epi16(a, 5), _mm256_mulhi_epu16(a, words(50332)));
  chroma_a = _mm256_sub_epi16(chroma_a, _mm256_cmpeq_epi16(a, words(69)));
  const __m256i fx = _mm256_add_epi16(_mm256_sub_epi16(fy, words(4194)), chroma_a);
  const __m256i chroma_b =
      _mm256_add_epi16(_mm256_mullo_epi16(b, words(81)), _mm256_mulhi_epu16(b, words(60295)));
  const __m256i fz = _mm256_sub_epi16(_mm256_add_epi16(fy, words(10484)), chroma_b);

  const __m256i fx2 = _mm256_add_epi16(fx, fx), fz2 = _mm256_add_epi16(fz, fz);
  const __m256i square = _mm256_mulhi_epu16(fx2, fx2), square_z = _mm256_mulhi_epu16(fz2, fz2);
  Xyz result = {_mm256_mulhi_epu16(_mm256_add_epi16(square, square), fx2), y,
                _mm256_mulhi_epu16(square_z, fz),
                _mm256_srli_epi16(_mm256_mullo_epi16(square_z, fz), 14)};

  const __m256i bright_x = _mm256_cmpgt_epi16(fx, words(3390));
  const __m256i bright_z = _mm256_cmpgt_epi16(fz, words(3390));
  if (_mm256_movemask_epi8(_mm256_and_si256(bright_x, bright_z)) != -1) {
    const __m256i line = inverse_line(fz);
    result.x = _mm256_blendv_epi8(inverse_line(fx), result.x, bright_x);
    result.z_upper = _mm256_blendv_epi8(_mm256_srai_epi16(line, 2), result.z_upper, bright_z);
    result.z_lower =
        _mm256_blendv_epi8(_mm256_and_si256(line, words(3)), result.z_lower, bright_z);
  }
  return result;
}

void to_rgb(const uint8_t* const lab[3], const uint8_t* encode, uint8_t* const rgb[3], int64_t n,
            const uint8_t* next) {
  const __m256i xy_factors[3] = {pairs(12615, -6296), pairs(-3773, 7684), pairs(217, -836)};
  const __m256i z_factors[3] = {pairs(4 * -2223, -2223), pairs(4 * 185, 185),
                                pairs(4 * 4715, 4715)};
  const __m256i half = _mm256_set1_epi32(8192);
  alignas(32) uint32_t y_and_fy[16];
  alignas(32) uint16_t entries[3][kChunk];
  for (int64_t from = 0; from < n; from += kChunk) {
    const int64_t count = n - from < kChunk ? n - from : kChunk;
    for (int64_t x = 0; x < count; x += 16) {
      if (next != nullptr) __builtin_prefetch(next + 3 * (from + x), 1);
      for (int i = 0; i < 16; ++i) y_and_fy[i] = kYTable[lab[0][from + x + i]];
      const Xyz p = lab_to_xyz(y_and_fy, _mm256_cvtepu8_epi16(load_lane(lab[1] + from + x)),
                               _mm256_cvtepu8_epi16(load_lane(lab[2] + from + x)));
      const __m256i xy[2] = {_mm256_unpacklo_epi16(p.x, p.y), _mm256_unpackhi_epi16(p.x, p.y)};
      const __m256i z[2] = {_mm256_unpacklo_epi16(p.z_upper, p.z_lower),
                            _mm256_unpackhi_epi16(p.z_upper, p.z_lower)};
      for (int c = 0; c < 3; ++c) {
        __m256i value[2];
        for (int i = 0; i < 2; ++i) {
          const __m256i sum = _mm256_add_epi32(_mm256_madd_epi16(xy[i], xy_factors[c]),
                                               _mm256_madd_epi16(z[i], z_factors[c]));
          value[i] = _mm256_srai_epi32(_mm256_add_epi32(sum, half), 14);
        }
        const __m256i packed = _mm256_packus_epi32(value[0], value[1]);
        store(entries[c] + x, _mm256_min_epu16(packed, words(4095)));
      }
    }
    for (int c = 0; c < 3; ++c) {
      uint8_t* out = rgb[c] + from;
      for (int64_t x = 0; x < count; ++x) out[x] = encode[entries[c][x]];
    }
  }
}

void prepare(const uint8_t* table, uint8_t* prepared) {
  for (int i = 0; i < 4096; ++i) prepared[i] = table[color::kEncode[i]];
}

void look_up(const uint8_t* table, const uint8_t* in, uint8_t* out, int64_t n) {
  for (int64_t x = 0; x < n; ++x) out[x] = table[in[x]];
}

// --- CLAHE ------------------------------------------------------------------------------------

// Lane i becomes the sum of lanes 0 .. i.
inline __m256i prefix_sums(__m256i value) {
  value = _mm256_add_epi32(value, _mm256_slli_si256(value, 4));
  value = _mm256_add_epi32(value, _mm256_slli_si256(value, 8));
  const __m256i of_low = _mm256_permutevar8x32_epi32(value, _mm256_set1_epi32(3));
  return _mm256_add_epi32(value, _mm256_blend_epi32(_mm256_setzero_si256(), of_low, 0xf0));
}

void map(const uint32_t* counts, int limit, float scale, uint8_t* mapping) {
  alignas(32) uint32_t bins[256];
  const __m256i highest = _mm256_set1_epi32(limit > 0 ? limit : -1);  // unsigned: the greatest
  __m256i cut = _mm256_setzero_si256();
  for (int bin = 0; bin < 256; bin += 8) {
    const __m256i count = load(counts + bin), clipped = _mm256_min_epu32(count, highest);
    cut = _mm256_add_epi32(cut, _mm256_sub_epi32(count, clipped));
    store(bins + bin, clipped);
  }
  alignas(32) int sums_of_cut[8];
  store(sums_of_cut, prefix_sums(cut));
  const int share = sums_of_cut[7] / 256, rest = sums_of_cut[7] % 256;
  const int step = rest > 0 ? 256 / rest : 1;
  for (int i = 0; i < rest; ++i) ++bins[i * step];

  __m256i before = _mm256_setzero_si256();
  for (int bin = 0; bin < 256; bin += 8) {
    const __m256i count = _mm256_add_epi32(load(bins + bin), _mm256_set1_epi32(share));
    const __m256i sums = _mm256_add_epi32(prefix_sums(count), before);
    before = _mm256_permutevar8x32_epi32(sums, _mm256_set1_epi32(7));
    const __m256i value =
        _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(sums), _mm256_set1_ps(scale)));
    const __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(value),
                                            _mm256_extracti128_si256(value, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(mapping + bin), _mm_packus_epi16(packed, packed));
  }
}

// The four mappings side by side: one load of a dword fetches what a pixel blends.
void pack_corners(const BlendRows& block, const Cell& cell, uint32_t* packed) {
  for (int i = 0; i < 256; i += 16) {
    const __m128i top_left = load_lane(block.upper + 256 * cell.left + i);
    const __m128i top_right = load_lane(block.upper + 256 * cell.right + i);
    const __m128i bottom_left = load_lane(block.lower + 256 * cell.left + i);
    const __m128i bottom_right = load_lane(block.lower + 256 * cell.right + i);
    const __m128i top[2] = {_mm_unpacklo_epi8(top_left, top_right),
                            _mm_unpackhi_epi8(top_left, top_right)};
    const __m128i bottom[2] = {_mm_unpacklo_epi8(bottom_left, bottom_right),
                               _mm_unpackhi_epi8(bottom_left, bottom_right)};
    for (int half = 0; half < 2; ++half) {
      store_lane(packed + i + 8 * half, _mm_unpacklo_epi16(top[half], bottom[half]));
      store_lane(packed + i + 8 * half + 4, _mm_unpackhi_epi16(top[half], bottom[half]));
    }
  }
}

// Eight pixels: dwords of four bytes -> what they blend to, as bytes.
inline int64_t blended(__m256i four, __m256 right, __m256 lower) {
  const __m256 one = _mm256_set1_ps(1.0f);
  const __m256 left = _mm256_sub_ps(one, right), upper = _mm256_sub_ps(one, lower);
  const auto corner = [&](int shift) {
    return _mm256_cvtepi32_ps(
        _mm256_and_si256(_mm256_srli_epi32(four, shift), _mm256_set1_epi32(255)));
  };
  const __m256 top = _mm256_add_ps(_mm256_mul_ps(corner(0), left), _mm256_mul_ps(corner(8), right));
  const __m256 bottom =
      _mm256_add_ps(_mm256_mul_ps(corner(16), left), _mm256_mul_ps(corner(24), right));
  const __m256i value =
      _mm256_cvtps_epi32(_mm256_add_ps(_mm256_mul_ps(top, upper), _mm256_mul_ps(bottom, lower)));
  const __m128i packed =
      _mm_packus_epi32(_mm256_castsi256_si128(value), _mm256_extracti128_si256(value, 1));
  return _mm_cvtsi128_si64(_mm_packus_epi16(packed, packed));
}

void blend(const BlendRows& block) {
  alignas(32) uint32_t packed[256], values[8];
  for (int64_t c = 0; c < block.cell_count; ++c) {
    const Cell& cell = block.cells[c];
    pack_corners(block, cell, packed);
    for (int64_t y = 0; y < block.rows; ++y) {
      const uint8_t* in = block.in + y * block.stride;
      uint8_t* out = block.out + y * block.stride;
      const __m256 lower = _mm256_set1_ps(block.lower_weights[y]);
      for (int64_t x = cell.begin; x < cell.end; x += 8) {
        for (int i = 0; i < 8; ++i) values[i] = packed[in[x + i]];
        const __m256 right = _mm256_loadu_ps(block.right_weights + x);
        const int64_t eight = blended(load(values), right, lower);
        if (cell.end - x >= 8) {
          std::memcpy(out + x, &eight, 8);
        } else {
          std::memcpy(out + x, &eight, static_cast<std::size_t>(cell.end - x));
        }
      }
    }
  }
}

// --- Median -----------------------------------------------------------------------------------

inline __m256i median_of_3(__m256i a, __m256i b, __m256i c) {
  return _mm256_max_epu8(_mm256_min_epu8(a, b), _mm256_min_epu8(_mm256_max_epu8(a, b), c));
}

void median(const uint8_t* middle, int64_t stride, uint8_t* out, int64_t n) {
  // Columns of three are sorted once and read three times.
  alignas(32) uint8_t sorted[3][kChunk + 2 * kLanes];
  for (int64_t from = 0; from < n; from += kChunk) {
    const int64_t count = n - from < kChunk ? n - from : kChunk;
    for (int64_t x = 0; x < count + 2; x += kLanes) {
      const uint8_t* at = middle + from + x - 1;
      const __m256i a = load(at - stride), b = load(at), c = load(at + stride);
      const __m256i less = _mm256_min_epu8(a, b), more = _mm256_max_epu8(a, b);
      store(sorted[0] + x, _mm256_min_epu8(less, c));
      store(sorted[1] + x, _mm256_max_epu8(less, _mm256_min_epu8(more, c)));
      store(sorted[2] + x, _mm256_max_epu8(more, c));
    }
    for (int64_t x = 0; x < count; x += kLanes) {
      const auto column = [&](int which, int shift) { return load(sorted[which] + x + shift); };
      const __m256i low = _mm256_max_epu8(_mm256_max_epu8(column(0, 0), column(0, 1)), column(0, 2));
      const __m256i middle = median_of_3(column(1, 0), column(1, 1), column(1, 2));
      const __m256i high =
          _mm256_min_epu8(_mm256_min_epu8(column(2, 0), column(2, 1)), column(2, 2));
      store(out + from + x, median_of_3(low, middle, high));
    }
  }
}

}  // namespace

const Rows kAvx2Rows = {split, to_lab, count, map, blend, prepare, to_rgb, look_up, median, join};

}  // namespace perfkit::clahe_gamma_median
