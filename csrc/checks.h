// Checks that the operators share; they know nothing of torch. A refusal names argument,
// expectation and value, in one line.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace perfkit {

[[noreturn]] inline void refuse(const std::string& operation, const std::string& argument,
                                const std::string& expected, const std::string& got) {
  throw std::runtime_error(operation + ": `" + argument + "` must be " + expected + ", got " +
                              got);
}

inline std::string text(std::span<const std::int64_t> numbers) {
  std::string joined;
  for (const std::int64_t number : numbers) {
    joined += (joined.empty() ? "" : ", ") + std::to_string(number);
  }
  return "[" + joined + "]";
}

// The bytes that an array touches: [first, past).
struct Extent {
  std::uintptr_t first, past;
};

// Sizes and strides (of either sign, in elements) of an array of at least one element.
inline Extent extent(const void* data, std::span<const std::int64_t> sizes,
                     std::span<const std::int64_t> strides, std::int64_t element_bytes) {
  const auto origin = reinterpret_cast<std::uintptr_t>(data);
  std::int64_t below = 0, above = 0;
  for (std::size_t dim = 0; dim < sizes.size(); ++dim) {
    (strides[dim] < 0 ? below : above) += (sizes[dim] - 1) * strides[dim];
  }
  // Unsigned arithmetic wraps, so that a negative distance counts down.
  return {origin + static_cast<std::uintptr_t>(below * element_bytes),
          origin + static_cast<std::uintptr_t>((above + 1) * element_bytes)};
}

inline bool overlap(const Extent& a, const Extent& b) {
  return a.first < b.past && b.first < a.past;
}

// Whether each element surely has a place of its own: every dimension steps over all that the
// dimensions of smaller stride reach. All views cut, permuted or flipped from one dense array do.
inline bool is_nested(std::span<const std::int64_t> sizes, std::span<const std::int64_t> strides) {
  std::vector<std::size_t> order(sizes.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::abs(strides[a]) < std::abs(strides[b]);
  });
  std::int64_t reach = 0;
  for (const std::size_t dim : order) {
    if (sizes[dim] <= 1) continue;
    if (std::abs(strides[dim]) <= reach) return false;
    reach += (sizes[dim] - 1) * std::abs(strides[dim]);
  }
  return true;
}

}  // namespace perfkit
