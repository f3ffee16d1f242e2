#include "layers.h"

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
void copy_all(const void* from, void* to, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    copy(static_cast<const From*>(from) + i, static_cast<To*>(to) + i);
  }
}

}  // namespace

std::int64_t bytes_of(Element element) {
  return element == Element::f64 ? 8 : element == Element::f32 ? 4 : 2;
}

void copy_numbers(const void* from, Element from_element, void* to, Element to_element,
                  std::int64_t count) {
  const auto run = [&](auto copier) { copier(from, to, count); };
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
