// Between the layers' dtype and Real.
#pragma once

#include <cstdint>

#include "squeeze_excite.h"

namespace perfkit::squeeze_excite {

inline Element real_of(Element element) {
  return element == Element::f64 ? Element::f64 : Element::f32;
}

std::int64_t bytes_of(Element);

// Copies `count` numbers. One of the two elements is the `real_of` the other.
void copy_numbers(const void* from, Element from_element, void* to, Element to_element,
                  std::int64_t count);

}  // namespace perfkit::squeeze_excite
