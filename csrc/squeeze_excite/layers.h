// Between the layers' dtype and Real.
#pragma once

#include <cstdint>

#include "squeeze_excite.h"

namespace perfkit::squeeze_excite {

inline Element real_of(Element element) {
  return element == Element::f64 ? Element::f64 : Element::f32;
}

std::int64_t bytes_of(Element);

// Of `count` numbers, f16 or bf16 on the one side.
void widen(const void* from, Element, void* floats, std::int64_t count);
void round_to(const void* floats, void* to, Element, std::int64_t count);

}  // namespace perfkit::squeeze_excite
