#include "lanes_avx2.h"
// Lanes first: the kernels are written in terms of them.
#include "lanes_exp.h"

#include "kernels.h"

namespace perfkit::squeeze_excite {

Kernels avx2_kernels(const Shape& shape, Element element, bool has_residual, bool has_relu) {
  return kernels_of<Lanes>(shape, element, has_residual, has_relu);
}

}  // namespace perfkit::squeeze_excite
