// The operator on the CPU: which kernels, how the work is spread, and the memory that it needs.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "../isa.h"
#include "kernel_table.h"
#include "layers.h"
#include "squeeze_excite.h"

namespace perfkit::squeeze_excite {
namespace {

constexpr std::int64_t kGrain = 32768;  // elements that are worth another thread

Kernels kernels_for(const Shape& shape, Element element, bool has_residual, bool has_relu) {
#if defined(__x86_64__)
  if (element != Element::f64) {
    if (isa() >= Isa::avx512) return avx512_kernels(shape, element, has_residual, has_relu);
    if (isa() >= Isa::avx2) return avx2_kernels(shape, element, has_residual, has_relu);
  }
#endif
  return scalar_kernels(shape, element, has_residual, has_relu);
}

// Memory for Real numbers, not initialised.
class Buffer {
 public:
  Buffer(Element element, std::int64_t count)
      : bytes_(new std::byte[static_cast<std::size_t>(count * bytes_of(real_of(element)))]) {}
  void* get() const { return bytes_.get(); }

 private:
  std::unique_ptr<std::byte[]> bytes_;
};

// A matrix or a bias as the kernels want it, in Real. Where it is so already it stays where it is.
class RealCopy {
 public:
  RealCopy(Element element, const void* outside, std::int64_t count)
      : element_(element), outside_(outside), count_(count),
        copy_(element, is_copied() ? count : 0) {}

  void* get() const { return is_copied() ? copy_.get() : const_cast<void*>(outside_); }

  const void* read() const {
    if (is_copied()) widen(outside_, element_, copy_.get(), count_);
    return get();
  }
  void write() const {
    if (is_copied()) round_to(copy_.get(), const_cast<void*>(outside_), element_, count_);
  }

 private:
  bool is_copied() const { return outside_ != nullptr && element_ != real_of(element_); }

  Element element_;
  const void* outside_;
  std::int64_t count_;
  Buffer copy_;
};

// Both layers, or their gradients.
struct LayersInReal {
  RealCopy w1, b1, w2, b2;
  LayersInReal(const Shape& shape, Element element, const void* w1, const void* b1, const void* w2,
               const void* b2)
      : w1(element, w1, shape.hidden * shape.channels), b1(element, b1, shape.hidden),
        w2(element, w2, shape.channels * shape.hidden), b2(element, b2, shape.channels) {}
};

Weights weights_of(const LayersInReal& layers) {
  return {layers.w1.read(), layers.b1.read(), layers.w2.read(), layers.b2.read()};
}

std::int64_t grain_of(const Shape& shape) {
  return std::max<std::int64_t>(1, kGrain / (shape.channels * shape.pixels));
}

}  // namespace

void run(const Forward& call, const Parallel& parallel) {
  const Shape& shape = call.shape;
  const Kernels kernels =
      kernels_for(shape, call.element, call.residual != nullptr, call.relu);
  const LayersInReal layers(shape, call.layers.element, call.layers.w1, call.layers.b1,
                            call.layers.w2, call.layers.b2);
  const Weights weights = weights_of(layers);
  parallel(shape.count, grain_of(shape), [&](std::int64_t begin, std::int64_t end) {
    const Buffer workspace(call.element, kWorkspace * shape.channels);
    kernels.forward(call, weights, begin, end, workspace.get());
  });
}

void run(const Backward& call, const Parallel& parallel) {
  const Shape& shape = call.shape;
  const Kernels kernels = kernels_for(shape, call.element, false, call.y != nullptr);
  const LayersInReal layers(shape, call.layers.element, call.layers.w1, nullptr, call.layers.w2,
                            nullptr);
  const Weights weights = weights_of(layers);
  const Buffer slopes(call.element, shape.count * (shape.channels + shape.hidden));
  parallel(shape.count, grain_of(shape), [&](std::int64_t begin, std::int64_t end) {
    const Buffer workspace(call.element, kWorkspace * shape.channels);
    kernels.backward(call, weights, slopes.get(), begin, end, workspace.get());
  });

  if (!(call.grad_w1 || call.grad_b1 || call.grad_w2 || call.grad_b2)) return;
  const LayersInReal sums(shape, call.layers.element, call.grad_w1, call.grad_b1, call.grad_w2,
                          call.grad_b2);
  const Gradients gradients{sums.w1.get(), sums.b1.get(), sums.w2.get(), sums.b2.get()};
  const std::int64_t row_work = shape.count * shape.channels;
  parallel(shape.hidden, std::max<std::int64_t>(1, kGrain / std::max<std::int64_t>(1, row_work)),
           [&](std::int64_t begin, std::int64_t end) {
             kernels.layers(call, slopes.get(), gradients, begin, end);
           });
  for (const RealCopy* sum : {&sums.w1, &sums.b1, &sums.w2, &sums.b2}) sum->write();
}

}  // namespace perfkit::squeeze_excite
