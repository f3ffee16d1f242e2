// The arithmetic of one pixel, one histogram and one axis, shared by the scalar CPU kernels and the
// CUDA kernels. Sources: opencv modules/imgproc/src/color_lab.cpp and clahe.cpp.
//
// Floats are never contracted: the CPU files are built with -ffp-contract=off, the CUDA files with
// -fmad=false, and where a sum follows a product, `product` and `sum` say so once more. All functions
// have internal linkage, because the CPU files of different instruction sets must not share code.
#pragma once

#include <math.h>

#include <cstdint>

#ifdef __CUDACC__
#define PERFKIT_FUNCTION __host__ __device__ __forceinline__ static
#else
#define PERFKIT_FUNCTION [[maybe_unused]] static inline
#endif

namespace perfkit::clahe_gamma_median {

constexpr int kBins = 256;

// Rounded each by itself, whatever the compiler is told.
PERFKIT_FUNCTION float product(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
PERFKIT_FUNCTION float sum(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

PERFKIT_FUNCTION int clamp(int value, int low, int high) {
  return value < low ? low : value > high ? high : value;
}

// --- RGB -> Lab -------------------------------------------------------------------------------

// Linear light of red, green and blue in 1/2040 -> that of X (axis 0), Y or Z, in 0..2040.
PERFKIT_FUNCTION int xyz_from_rgb(int axis, int red, int green, int blue) {
  constexpr int kMatrix[3][3] = {{1777, 1541, 778}, {871, 2929, 296}, {73, 448, 3575}};
  const int* row = kMatrix[axis];
  return (row[0] * red + row[1] * green + row[2] * blue + 2048) >> 12;
}

struct Lab {
  std::uint8_t l, a, b;
};

// fx, fy, fz: color::kCubeRoot of X, Y and Z. Of all 2 ** 24 colours none leaves 0..255.
PERFKIT_FUNCTION Lab lab_from_f(int fx, int fy, int fz) {
  constexpr int kHalf = 1 << 14, kOffset = 128 << 15;
  return {static_cast<std::uint8_t>((296 * fy - 1336934 + kHalf) >> 15),
          static_cast<std::uint8_t>((500 * (fx - fy) + kOffset + kHalf) >> 15),
          static_cast<std::uint8_t>((200 * (fy - fz) + kOffset + kHalf) >> 15)};
}

// --- Lab -> RGB -------------------------------------------------------------------------------

// f -> its argument, both times 16384; near black the inverse of the line, else the cube.
constexpr int kLastOfLine = 3390;
PERFKIT_FUNCTION int cube(int f) { return ((f * f >> 14) * f) >> 14; }
PERFKIT_FUNCTION int inverse_f(int f) { return f <= kLastOfLine ? f * 108 / 841 - 290 : cube(f); }

// y and fy: color::kY and color::kFy of L.
PERFKIT_FUNCTION int fx_from_lab(int fy, int a) {
  return fy + ((5 * a * 53687 + 128) >> 13) - 4194;
}
PERFKIT_FUNCTION int fz_from_lab(int fy, int b) { return fy - (((b * 41943 + 16) >> 9) - 10484); }
PERFKIT_FUNCTION int x_from_lab(int fy, int a) { return inverse_f(fx_from_lab(fy, a)); }
PERFKIT_FUNCTION int z_from_lab(int fy, int b) { return inverse_f(fz_from_lab(fy, b)); }

// X, Y and Z times 16384 -> linear light of red (channel 0), green or blue, in 0..4095.
PERFKIT_FUNCTION int rgb_from_xyz(int channel, int x, int y, int z) {
  constexpr int kMatrix[3][3] = {{12615, -6296, -2223}, {-3773, 7684, 185}, {217, -836, 4715}};
  const int* row = kMatrix[channel];
  return clamp((row[0] * x + row[1] * y + row[2] * z + 8192) >> 14, 0, 4095);
}

// --- CLAHE ------------------------------------------------------------------------------------

// How tiles lie along one side of an image. OpenCV extends both sides by reflection, for the
// histograms only, where the grid does not divide one of them.
struct Axis {
  std::int64_t size;
  std::int64_t tiles;    // that some pixel blends: of a grid finer than the image, not all are
  std::int64_t tile_px;  // after the extension
};

// Where a pixel blends: the tiles cell - 1 and cell, cut to 0 .. tiles - 1.
struct Place {
  std::int64_t cell;
  float weight;  // of tile `cell`; that of tile `cell - 1` is 1 - weight
};

// inverse: 1 / tile_px in float32.
PERFKIT_FUNCTION Place place_of(std::int64_t pixel, float inverse) {
  const float position = sum(product(static_cast<float>(pixel), inverse), -0.5f);
  const float low = floorf(position);
  return {static_cast<std::int64_t>(low) + 1, position - low};
}

PERFKIT_FUNCTION bool extends(std::int64_t height, std::int64_t width, std::int64_t rows,
                              std::int64_t columns) {
  return height % rows != 0 || width % columns != 0;
}

PERFKIT_FUNCTION Axis axis_of(std::int64_t size, std::int64_t tiles, bool extend) {
  // A side that the grid divides still grows by a whole tile count where the other does not fit.
  const std::int64_t extended = extend ? size + tiles - size % tiles : size;
  const std::int64_t tile_px = extended / tiles;
  const std::int64_t last = place_of(size - 1, 1.0f / static_cast<float>(tile_px)).cell;
  return {size, last + 1 < tiles ? last + 1 : tiles, tile_px};
}

// The pixel that feeds a place of the extended side (BORDER_REFLECT_101).
PERFKIT_FUNCTION std::int64_t reflected(std::int64_t place, std::int64_t size) {
  const std::int64_t period = size > 1 ? 2 * (size - 1) : 1;
  const std::int64_t offset = place % period;
  return offset < size ? offset : period - offset;
}

// The highest count of a bin; 0: no limit.
PERFKIT_FUNCTION int clip_count(double clip_limit, std::int64_t tile_area) {
  if (clip_limit <= 0) return 0;
  // 256 mean bins are the whole tile: a higher limit changes nothing, but may overflow.
  const double cut = clip_limit < 256.0 ? clip_limit : 256.0;
  const auto limit = static_cast<int>(cut * static_cast<double>(tile_area) / kBins);
  return limit > 1 ? limit : 1;
}

// What a bin gets of the `excess` that all bins together had above the limit: an equal share, and
// of the rest one at bins 0, step, 2 * step, ... until none is left.
PERFKIT_FUNCTION int share_of_excess(int bin, int excess) {
  const int rest = excess % kBins;
  const int step = rest > 0 ? kBins / rest : 1;
  const int before = bin * (65536 / step + 1) >> 16;  // bin / step, since both are at most 256
  return excess / kBins + (before * step == bin && before < rest ? 1 : 0);
}

PERFKIT_FUNCTION float mapping_scale(std::int64_t tile_area) {
  return 255.0f / static_cast<float>(tile_area);
}

// To be rounded half to even. The vector and CUDA kernels have their own, of the same operations.
PERFKIT_FUNCTION float blended(float top_left, float top_right, float bottom_left,
                               float bottom_right, float right, float lower) {
  const float left = 1.0f - right, upper = 1.0f - lower;
  const float above = sum(product(top_left, left), product(top_right, right));
  const float below = sum(product(bottom_left, left), product(bottom_right, right));
  return sum(product(above, upper), product(below, lower));
}

// --- Median -----------------------------------------------------------------------------------

template <typename T>
PERFKIT_FUNCTION T least(T a, T b) {
  return a < b ? a : b;
}

template <typename T>
PERFKIT_FUNCTION T greatest(T a, T b) {
  return a < b ? b : a;
}

template <typename T>
PERFKIT_FUNCTION T median_of_3(T a, T b, T c) {
  return greatest(least(a, b), least(greatest(a, b), c));
}

// A column of three, sorted.
template <typename T>
struct Column {
  T low, middle, high;
};

template <typename T>
PERFKIT_FUNCTION Column<T> sorted(T a, T b, T c) {
  const T less = least(a, b), more = greatest(a, b);
  return {least(less, c), greatest(less, least(more, c)), greatest(more, c)};
}

// The median of nine: of the greatest low, the median middle and the least high of the columns.
template <typename T>
PERFKIT_FUNCTION T median_of_columns(const Column<T>& a, const Column<T>& b, const Column<T>& c) {
  return median_of_3(greatest(greatest(a.low, b.low), c.low),
                     median_of_3(a.middle, b.middle, c.middle),
                     least(least(a.high, b.high), c.high));
}

}  // namespace perfkit::clahe_gamma_median
