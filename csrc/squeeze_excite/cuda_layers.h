// The two layers between the passes over the pixels: small products of matrices with the vectors of
// a cluster's samples, divided over its blocks by channels.
#pragma once

#include "cuda_walk.h"

namespace perfkit::squeeze_excite::cuda {

constexpr int kTermLanes = 8;  // threads that add the terms of one output
constexpr int kTogether = 4;   // samples for which a weight is loaded once

// Calls task with a value of the type that the layers' elements have.
template <typename T, typename Task>
__device__ void with_weight_type(const Layers& layers, const Task& task) {
  if constexpr (!std::is_same_v<T, float>) {
    if (layers.element != Element::f32) return task(T{});
  }
  task(float{});
}

// 0 where there are no biases.
template <typename T>
__device__ float bias(const Layers& layers, const void* biases, int64_t index) {
  float value = 0.0f;
  if (biases != nullptr) {
    with_weight_type<T>(layers, [&]<typename Weight>(Weight) {
      value = real(static_cast<const Weight*>(biases)[index]);
    });
  }
  return value;
}

// out(sample, i, sum over t of matrix[i * across + t * along] * in[sample * terms + t]) for each
// sample and output i.
template <typename Weight, typename Out>
__device__ void multiply(const Weight* matrix, int64_t across, int64_t along, int outputs,
                         int terms, const float* in, int samples, const Out& out) {
  const int lane = static_cast<int>(threadIdx.x) % kTermLanes;
  const int group = static_cast<int>(threadIdx.x) / kTermLanes;
  const int groups = static_cast<int>(blockDim.x) / kTermLanes;
  for (int first = 0; first < outputs; first += groups) {
    const int output = first + group;
    for (int sample = 0; sample < samples; sample += kTogether) {
      float sums[kTogether] = {};
      if (output < outputs) {
#pragma unroll 4
        for (int term = lane; term < terms; term += kTermLanes) {
          const float weight = real(matrix[output * across + term * along]);
#pragma unroll
          for (int i = 0; i < kTogether; ++i) {
            if (sample + i < samples) {
              sums[i] = __fmaf_rn(weight, in[(sample + i) * terms + term], sums[i]);
            }
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        const float sum = sum_over(sums[i], kTermLanes);
        if (lane == i && output < outputs && sample + i < samples) out(sample + i, output, sum);
      }
    }
  }
}

// What all blocks of the cluster have added to a hidden value, in the blocks' order.
__device__ inline float sum_of_blocks(const Plan& plan, const float* partial, int index) {
  float sum = 0.0f;
  for (int block = 0; block < plan.blocks; ++block) {
    sum += of_block(plan, partial, block)[index];
  }
  return sum;
}

// Calls row(index, sample, channel, sum) for each row of the tile with the sum of its parts, once
// the whole block has written them.
template <typename Row>
__device__ void for_each_row(const Plan& plan, const Tile& tile, const float* sums,
                             const Row& row) {
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < tile.rows(); i += static_cast<int>(blockDim.x)) {
    float sum = 0.0f;
    for (int part = 0; part < plan.parts; ++part) sum += sums[part * tile.rows() + i];
    const int sample = i / tile.channels;
    row(i, tile.sample + sample, tile.channel + (i - sample * tile.channels), sum);
  }
  __syncthreads();
}

// Calls value(index, sample, r, sum) for each hidden value of the tile's samples, with the sum over
// all channels, once all blocks of the cluster have written `partial`. Each block does so; the
// cluster's first may write to memory. wait_for_cluster() has to follow: until then other blocks
// read this one's `partial`.
template <typename Value>
__device__ void for_each_hidden(const Plan& plan, const Tile& tile, const float* partial,
                                const Value& value) {
  arrive_at_cluster(plan);
  wait_for_cluster(plan);
  __syncthreads();
  const int hidden = static_cast<int>(plan.shape.hidden);
  for (int i = static_cast<int>(threadIdx.x); i < tile.samples * hidden;
       i += static_cast<int>(blockDim.x)) {
    const int sample = i / hidden;
    value(i, tile.sample + sample, i - sample * hidden, sum_of_blocks(plan, partial, i));
  }
  arrive_at_cluster(plan);
  __syncthreads();
}

}  // namespace perfkit::squeeze_excite::cuda
