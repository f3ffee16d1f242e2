// What all kernels use: warps, clusters, the block's tile and shared memory.
#pragma once

#include <cuda_runtime.h>

#include "cuda_plan.h"
#include "cuda_vector.h"

namespace perfkit::squeeze_excite::cuda {

constexpr unsigned kAllLanes = 0xffffffff;

// NaN stays.
__device__ inline float relu(float value) { return value < 0.0f ? 0.0f : value; }

// The sum over each `lanes` neighbours, or over every `stride`-th of them; powers of two. By whole
// warps.
__device__ inline float sum_over(float value, int lanes, int stride = 1) {
  for (int distance = lanes / 2; distance >= stride; distance /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, distance);
  }
  return value;
}

// A cluster's barrier, in two steps. `plan.blocks` is 1 where the device has no clusters.
__device__ inline void arrive_at_cluster(const Plan& plan) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  if (plan.blocks > 1) __cluster_barrier_arrive();
#endif
}
__device__ inline void wait_for_cluster(const Plan& plan) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  if (plan.blocks > 1) __cluster_barrier_wait();
#endif
}

// The same place in the shared memory of another block of the cluster.
__device__ inline const float* of_block(const Plan& plan, const float* shared, int block) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  if (plan.blocks > 1) {
    return static_cast<const float*>(
        __cluster_map_shared_rank(shared, static_cast<unsigned>(block)));
  }
#endif
  return shared;
}

// The pixels of some channels of some samples: what a block works on. A row is a channel of a
// sample; rows are counted sample by sample.
struct Tile {
  int64_t sample, channel;  // the first
  int samples, channels;
  __device__ int rows() const { return samples * channels; }
};

__device__ inline Tile tile_of(const Plan& plan) {
  const int64_t sample = int64_t{blockIdx.x / plan.blocks} * plan.samples;
  const int64_t channel = blockIdx.x % plan.blocks * plan.channels;
  const int64_t samples = plan.shape.count - sample, channels = plan.shape.channels - channel;
  return {sample, channel,
          static_cast<int>(samples < plan.samples ? samples : plan.samples),
          static_cast<int>(channels < plan.channels ? channels : plan.channels)};
}

// The block's shared memory; float_bytes() of the plan counts the floats.
template <typename Held>
struct Shared {
  float* sums;     // [parts, rows]
  float* values;   // [rows]: what the first layer takes
  float* scale;    // [rows]
  float* shift;    // [rows]
  float* partial;  // [samples, R]: the first layer, of the block's channels alone
  float* hidden;   // [samples, R]: what the second layer takes
  Held* held;
};

template <typename Held>
__device__ Shared<Held> shared_of(const Plan& plan) {
  extern __shared__ uint4 block_memory[];
  const int64_t rows = plan.samples * plan.channels, hidden = plan.samples * plan.shape.hidden;
  auto* sums = reinterpret_cast<float*>(block_memory);
  float* values = sums + plan.parts * rows;
  float* partial = values + 3 * rows;
  auto* held = reinterpret_cast<char*>(block_memory) + plan.held_at;
  return {sums,    values, values + rows, values + 2 * rows, partial, partial + hidden,
          reinterpret_cast<Held*>(held)};
}

}  // namespace perfkit::squeeze_excite::cuda
