#include "layers.h"

#include <algorithm>
#include <type_traits>

#include "lanes_scalar.h"

namespace perfkit::squeeze_excite {
namespace {

template <class From, class To>
void copy(const From* from, To* to) {
  using Real = std::conditional_t<std::is_floating_point_v<From>, From, To>;
  Single<Real>::load(from).store(to);
}

template <class From, class To>
void copy_all(const void* source, void* target, std::int64_t rows, std::int64_t columns,
              bool transpose) {
  constexpr std::int64_t kBlock = 16;  // both sides of a block stay in cache
  const auto* from = static_cast<const From*>(source);
  auto* to = static_cast<To*>(target);
  const std::int64_t row_stride = transpose ? 1 : columns, column_stride = transpose ? rows : 1;
  for (std::int64_t top = 0; top < rows; top += kBlock) {
    for (std::int64_t left = 0; left < columns; left += kBlock) {
      const std::int64_t right = std::min(columns, left + kBlock);
      for (std::int64_t r = top; r < std::min(rows, top + kBlock); ++r) {
        for (std::int64_t c = left; c < right; ++c) {
          copy(from + r * columns + c, to + r * row_stride + c * column_stride);
        }
      }
    }
  }
}

}  // namespace

std::int64_t bytes_of(Element element) {
  return element == Element::f64 ? 8 : element == Element::f32 ? 4 : 2;
}

void copy_matrix(const void* from, Element from_element, void* to, Element to_element,
                 std::int64_t rows, std::int64_t columns, bool transpose) {
  const auto run = [&](auto copier) { copier(from, to, rows, columns, transpose); };
  if (from_element == Element::f64) {
    run(copy_all<double, double>);
  } else if (from_element == Element::f16) {
    run(copy_all<Half, float>);
  } else if (from_element == Element::bf16) {
    run(copy_all<Bfloat, float>);
  } else if (to_element == Element::f16) {
    run(copy_all<float, Half>);
  } else if (to_element == Element::bf16) {
    run(copy_all<float, Bfloat>);
  } else {
    run(copy_all<float, float>);
  }
}

}  // namespace perfkit::squeeze_excite
