// How bytes move between interleaved RGB and planes.
#pragma once

#include <cstdint>

namespace perfkit::clahe_gamma_median {
namespace {

// Sixteen pixels lie in three lanes of 128 bits. For each plane and each of the lanes: where a byte
// comes from, or 0x80 for none.
struct Shuffles {
  alignas(16) std::uint8_t split[3][3][16];  // [plane][lane]
  alignas(16) std::uint8_t join[3][3][16];   // [lane][plane]
};

constexpr Shuffles make_shuffles() {
  Shuffles shuffles{};
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) {
      for (int k = 0; k < 16; ++k) {
        const int from = 3 * k + i - 16 * j;  // byte k of plane i is byte 3k + i of the pixels
        shuffles.split[i][j][k] = from >= 0 && from < 16 ? static_cast<std::uint8_t>(from) : 0x80;
        const int at = 16 * i + k;  // byte k of lane i is of plane (16i + k) % 3
        shuffles.join[i][j][k] = at % 3 == j ? static_cast<std::uint8_t>(at / 3) : 0x80;
      }
    }
  }
  return shuffles;
}

constexpr Shuffles kShuffles = make_shuffles();

}  // namespace
}  // namespace perfkit::clahe_gamma_median
