// What an instruction set provides: the inner loops of the operator, over pixels that stay in the
// first level cache. image.cpp calls them in order; scalar.cpp says what each computes.
#pragma once

#include <cstdint>

namespace perfkit::clahe_gamma_median {

// Loops may read whole blocks of this many pixels from wherever they begin, up to 63 beyond the last
// that counts, and write them where that is said.
constexpr std::int64_t kBlock = 64;

constexpr std::int64_t kPreparedBytes = 4096;

// Adjacent pixels of a row that blend the same two tiles.
struct Cell {
  std::int64_t begin, end;   // pixels
  std::int64_t left, right;  // tiles
};

// Adjacent rows that blend the same two rows of tiles.
struct BlendRows {
  const std::uint8_t* in;      // [rows, stride]
  std::uint8_t* out;           // [rows, stride]
  std::int64_t stride, rows;
  const std::uint8_t* upper;   // [tiles across, 256]: the mappings above ...
  const std::uint8_t* lower;   // ... and below
  const Cell* cells;           // [cell_count], from left to right
  std::int64_t cell_count;
  const float* right_weights;  // [width]: the share of a pixel's right tile
  const float* lower_weights;  // [rows]: the share of the lower tiles
};

struct Rows {
  // Interleaved RGB [n, 3] -> planes [n], in whole blocks.
  void (*split)(const std::uint8_t* rgb, std::uint8_t* const planes[3], std::int64_t n);
  // Planes R, G, B -> L, a, b. `next`: 3n bytes that will be read, or nullptr; the arithmetic leaves
  // time to fetch them.
  void (*to_lab)(const std::uint8_t* const rgb[3], std::uint8_t* const lab[3], std::int64_t n,
                 const std::uint8_t* next);
  // Adds the pixels [begin, end) of each row to counts [256].
  void (*count)(const std::uint8_t* const* rows, std::int64_t row_count, std::int64_t begin,
                std::int64_t end, std::uint32_t* counts);
  // Counts [256] of a tile -> its mapping [256]; limit 0: no clipping.
  void (*map)(const std::uint32_t* counts, int limit, float scale, std::uint8_t* mapping);
  // Bytes -> the blend of what the mappings around make of them.
  void (*blend)(const BlendRows&);
  // A table [256] -> what `to_rgb` wants of it, up to kPreparedBytes.
  void (*prepare)(const std::uint8_t* table, std::uint8_t* prepared);
  // Planes L, a, b -> table[R], table[G], table[B], in whole blocks. `next`: 3n bytes that will be
  // written, or nullptr.
  void (*to_rgb)(const std::uint8_t* const lab[3], const std::uint8_t* prepared,
                 std::uint8_t* const rgb[3], std::int64_t n, const std::uint8_t* next);
  // table[in], in whole blocks.
  void (*look_up)(const std::uint8_t* table, const std::uint8_t* in, std::uint8_t* out,
                  std::int64_t n);
  // The 3x3 median, in whole blocks; the rows above and below are `stride` away. Reads one pixel
  // before each row.
  void (*median)(const std::uint8_t* middle, std::int64_t stride, std::uint8_t* out,
                 std::int64_t n);
  // Planes [n] -> interleaved [n, 3].
  void (*join)(const std::uint8_t* const planes[3], std::uint8_t* rgb, std::int64_t n);
};

extern const Rows kScalarRows, kAvx2Rows, kAvx512Rows, kAvx512VbmiRows;

}  // namespace perfkit::clahe_gamma_median
