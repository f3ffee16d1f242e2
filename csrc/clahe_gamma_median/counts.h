// Counting pixels by value, for every instruction set: the loop itself is scalar.
#pragma once

#include <cstdint>

namespace perfkit::clahe_gamma_median {
namespace {

// Equal pixels side by side would each wait for the sum before: they go to different counts.
constexpr int kParts = 8;
constexpr std::int64_t kMostCounted = 65535;  // pixels, until the parts are added up

struct alignas(64) Parts {
  std::uint16_t at[kParts][256] = {};

  void add_to(std::uint32_t* counts) const {
    for (int bin = 0; bin < 256; ++bin) {
      std::uint16_t sum = 0;
      for (int part = 0; part < kParts; ++part) {
        sum = static_cast<std::uint16_t>(sum + at[part][bin]);
      }
      counts[bin] += sum;
    }
  }
};

void count(const std::uint8_t* const* rows, std::int64_t row_count, std::int64_t begin,
           std::int64_t end, std::uint32_t* counts) {
  Parts parts;
  std::int64_t counted = 0;
  for (std::int64_t y = 0; y < row_count; ++y) {
    for (std::int64_t from = begin; from < end; from += kMostCounted) {
      const std::int64_t to = end - from < kMostCounted ? end : from + kMostCounted;
      if (counted + to - from > kMostCounted) {
        parts.add_to(counts);
        parts = {};
        counted = 0;
      }
      counted += to - from;
      const std::uint8_t* row = rows[y];
      std::int64_t x = from;
      for (; x + kParts <= to; x += kParts) {
        for (int part = 0; part < kParts; ++part) ++parts.at[part][row[x + part]];
      }
      for (int part = 0; x < to; ++x, ++part) ++parts.at[part][row[x]];
    }
  }
  parts.add_to(counts);
}

}  // namespace
}  // namespace perfkit::clahe_gamma_median
