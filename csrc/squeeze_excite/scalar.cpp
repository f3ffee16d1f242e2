#include "lanes_scalar.h"
// Lanes first: the kernels are written in terms of them.
#include "kernels.h"

namespace perfkit::squeeze_excite {

Kernels scalar_kernels(const Shape& shape, Element element, bool has_residual, bool has_relu) {
  if (element == Element::f64) {
    return kernels_of<Single<double>, double>(shape, has_residual, has_relu);
  }
  return kernels_of<Single<float>>(shape, element, has_residual, has_relu);
}

}  // namespace perfkit::squeeze_excite
