#include "layers.h"

#include "lanes_scalar.h"

namespace perfkit::squeeze_excite {
namespace {

template <class From, class To>
void copy_all(const void* from, void* to, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    Single<float>::load(static_cast<const From*>(from) + i).store(static_cast<To*>(to) + i);
  }
}

}  // namespace

std::int64_t bytes_of(Element element) {
  return element == Element::f64 ? 8 : element == Element::f32 ? 4 : 2;
}

void widen(const void* from, Element element, void* floats, std::int64_t count) {
  (element == Element::f16 ? copy_all<Half, float> : copy_all<Bfloat, float>)(from, floats, count);
}

void round_to(const void* floats, void* to, Element element, std::int64_t count) {
  (element == Element::f16 ? copy_all<float, Half> : copy_all<float, Bfloat>)(floats, to, count);
}

}  // namespace perfkit::squeeze_excite
