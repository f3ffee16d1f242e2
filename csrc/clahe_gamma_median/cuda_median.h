// The median of 3x3, of four adjacent pixels at once.
#pragma once

#include "cuda_device.h"

namespace perfkit::clahe_gamma_median::cuda {

// A pixel or a pair of channel values: 16 bits to each, compared and chosen at once.
struct Pair {
  uint32_t bits;
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
// Before Hopper the halves are compared as float16: of two bytes, seen as subnormal numbers, the
// order is the same.
__device__ Pair least(Pair a, Pair b) {
  Pair result;
  asm("min.f16x2 %0, %1, %2;" : "=r"(result.bits) : "r"(a.bits), "r"(b.bits));
  return result;
}
__device__ Pair greatest(Pair a, Pair b) {
  Pair result;
  asm("max.f16x2 %0, %1, %2;" : "=r"(result.bits) : "r"(a.bits), "r"(b.bits));
  return result;
}
#else
__device__ Pair least(Pair a, Pair b) { return {__vminu2(a.bits, b.bits)}; }
__device__ Pair greatest(Pair a, Pair b) { return {__vmaxu2(a.bits, b.bits)}; }
#endif

// Channel values of pixels, two to a Pair, such that a column of pixels becomes one of Pairs:
// red and blue of each, and green of two neighbours.
__device__ Pair red_blue(uint32_t pixel) { return {pixel & 0x00ff00ff}; }
__device__ Pair greens(uint32_t pixel, uint32_t next) { return {__byte_perm(pixel, next, 0x7531)}; }

// The upper half of one and the lower half of the next.
__device__ Pair bridge(Pair a, Pair b) { return {__byte_perm(a.bits, b.bits, 0x5432)}; }
__device__ Column<Pair> bridge(const Column<Pair>& a, const Column<Pair>& b) {
  return {bridge(a.low, b.low), bridge(a.middle, b.middle), bridge(a.high, b.high)};
}

// The medians of a group: three rows of it with one pixel more on each side -> [pixel][channel].
template <int C>
__device__ void medians(const uint32_t (&above)[kGroup + 2], const uint32_t (&here)[kGroup + 2],
                        const uint32_t (&below)[kGroup + 2], uint8_t (&result)[kGroup][C]) {
  Column<Pair> columns[kGroup + 2];
  for (int i = 0; i < kGroup + 2; ++i) {
    columns[i] = sorted(red_blue(here[i]), red_blue(below[i]), red_blue(above[i]));
  }
  for (int i = 0; i < kGroup; ++i) {
    const uint32_t bits = median_of_columns(columns[i], columns[i + 1], columns[i + 2]).bits;
    result[i][0] = static_cast<uint8_t>(bits);
    if constexpr (C == 3) result[i][2] = static_cast<uint8_t>(bits >> 16);
  }
  if constexpr (C == 3) {
    Column<Pair> green[kGroup / 2 + 1];
    for (int i = 0; i < kGroup / 2 + 1; ++i) {
      const int at = 2 * i;
      green[i] = sorted(greens(here[at], here[at + 1]), greens(below[at], below[at + 1]),
                        greens(above[at], above[at + 1]));
    }
    for (int i = 0; i < kGroup / 2; ++i) {
      const uint32_t bits =
          median_of_columns(green[i], bridge(green[i], green[i + 1]), green[i + 1]).bits;
      result[2 * i][1] = static_cast<uint8_t>(bits);
      result[2 * i + 1][1] = static_cast<uint8_t>(bits >> 16);
    }
  }
}

}  // namespace perfkit::clahe_gamma_median::cuda
