// The 16-bit floats as they lie in memory; the lanes of each instruction set load and store them.
#pragma once

#include <cstdint>

namespace perfkit::squeeze_excite {

struct Half {
  std::uint16_t bits;  // IEEE 754 binary16
};

struct Bfloat {
  std::uint16_t bits;  // the upper half of a float
};

}  // namespace perfkit::squeeze_excite
