// What an instruction set provides: the operator on the samples [begin, end), and the sums over
// samples that make gradients of weights. Written once, in kernels.h, and compiled for each.
#pragma once

#include <cstdint>

#include "squeeze_excite.h"

namespace perfkit::squeeze_excite {

// The layers in Real.
template <class Pointer>
struct RealLayers {
  Pointer w1 = nullptr;  // [R, C]
  Pointer b1 = nullptr;  // [R]
  Pointer w2 = nullptr;  // [C, R]
  Pointer b2 = nullptr;  // [C]
};
using Weights = RealLayers<const void*>;
using Gradients = RealLayers<void*>;  // nullptr: not asked for

constexpr std::int64_t kWorkspace = 3;  // two of sums under way, one of shifts

struct Kernels {
  // `workspace`: kWorkspace * C of Real.
  void (*forward)(const Forward&, const Weights&, std::int64_t begin, std::int64_t end,
                  void* workspace);
  // Leaves d2 and d1 in `slopes`, Real [N, C + R].
  void (*backward)(const Backward&, const Weights&, void* slopes, std::int64_t begin,
                   std::int64_t end, void* workspace);
  // Of the gradients the part [begin, end) of R, and as much of C; with 0 the biases'.
  void (*layers)(const Backward&, const void* slopes, const Gradients&, std::int64_t begin,
                 std::int64_t end);
};

Kernels scalar_kernels(const Shape&, Element, bool has_residual, bool has_relu);
Kernels avx2_kernels(const Shape&, Element, bool has_residual, bool has_relu);
Kernels avx512_kernels(const Shape&, Element, bool has_residual, bool has_relu);

}  // namespace perfkit::squeeze_excite
