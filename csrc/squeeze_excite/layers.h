// Between the layers' dtype and Real.
#pragma once

#include <cstdint>

#include "squeeze_excite.h"

namespace perfkit::squeeze_excite {

inline Element real_of(Element element) {
  return element == Element::f64 ? Element::f64 : Element::f32;
}

std::int64_t bytes_of(Element);

// Copies a matrix [rows, columns], transposed on the way where that is asked for. One of the two
// elements is the `real_of` the other.
void copy_matrix(const void* from, Element from_element, void* to, Element to_element,
                 std::int64_t rows, std::int64_t columns, bool transpose);

}  // namespace perfkit::squeeze_excite
