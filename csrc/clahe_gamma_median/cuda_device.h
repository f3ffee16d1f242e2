// What all kernels use.
#pragma once

#include <cuda_runtime.h>

#include "cuda_plan.h"

namespace perfkit::clahe_gamma_median::cuda {

// The block's shared memory, which each kernel lays out in a struct of its own.
template <typename Layout>
__device__ Layout& shared_memory() {
  extern __shared__ uint4 block_memory[];
  return *reinterpret_cast<Layout*>(block_memory);
}

// By all threads of a block; sizes in whole uint4.
template <int kThreads, typename T>
__device__ void copy(T& to, const void* from) {
  static_assert(sizeof(T) % sizeof(uint4) == 0);
  constexpr int kSize = sizeof(T) / sizeof(uint4);
  for (int first = 0; first < kSize; first += kThreads) {
    const int i = first + static_cast<int>(threadIdx.x);
    if (i < kSize) reinterpret_cast<uint4*>(&to)[i] = static_cast<const uint4*>(from)[i];
  }
}

__device__ uint32_t byte_of(uint32_t word, int index) { return word >> (8 * index) & 255; }

template <typename T>
__device__ T at_most(T value, T limit) {
  return value < limit ? value : limit;
}

// Sides of images are below 2 ** 31, those of images after the extension below 2 ** 32.
__device__ uint32_t narrow(int64_t side) { return static_cast<uint32_t>(side); }

}  // namespace perfkit::clahe_gamma_median::cuda
