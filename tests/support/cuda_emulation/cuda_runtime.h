// Stands in for CUDA's own header, so that a kernel file compiles unchanged as plain C++ and runs
// on the CPU: as much of CUDA as the kernels here use, and no more. fibres.cpp runs the threads.
//
// A block's threads are fibres that hand over at barriers only. ThreadSanitizer is told of every
// fibre and barrier, and of nothing else: what two threads touch without a barrier between them,
// and what two blocks touch that may run at the same time, it reports as a race.
//
// Not modelled: warps in lockstep, masks of fewer than 32 lanes, blocks and clusters of more than
// one dimension, clusters of more than 8 blocks.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string_view>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ __thread  // a block stays on one thread of the system
#define __syncthreads() cuda_emulation::wait_for_block({__FILE__, __LINE__})
#define __cluster_barrier_arrive() cuda_emulation::arrive_at_cluster()
#define __cluster_barrier_wait() cuda_emulation::wait_for_cluster({__FILE__, __LINE__})

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
using cudaStream_t = void*;

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9 };
inline const char* cudaGetErrorString(cudaError_t) { return "invalid configuration argument"; }

extern __thread dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_emulation {

// What cudaDeviceGetAttribute says. A program may set it.
struct Device {
  int block_shared_bytes = 48 << 10, processor_shared_bytes = 64 << 10;
  int processors = 2, threads = 256, has_clusters = 1;
};
inline Device device;

// Runs `thread` for each thread of each block; so many blocks make a cluster.
void run_grid(dim3 blocks, unsigned cluster, unsigned threads, std::size_t shared_bytes,
              const std::function<void()>& thread);

struct Barrier {
  std::string_view file;
  int line;
};
void wait_for_block(const Barrier& barrier);
void arrive_at_cluster();
void wait_for_cluster(const Barrier& barrier);
void* in_block_of_cluster(const void* shared, unsigned block);
// The `value` of the lane whose index `source` is.
int from_lane(int value, unsigned source);

// What the program that includes the kernels provides: the calling system thread's shared memory.
struct SharedMemory {
  unsigned char* data;
  std::size_t bytes;
};
SharedMemory shared_memory();

// A barrier that is passed over, as if it were not there: its file's name and its line, or 0.
extern Barrier removed_barrier;

}  // namespace cuda_emulation

enum cudaDeviceAttr {
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor,
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxThreadsPerBlock,
  cudaDevAttrClusterLaunch,
};

inline cudaError_t cudaGetDevice(int* index) {
  *index = 0;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const cuda_emulation::Device& device = cuda_emulation::device;
  *value = attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? device.block_shared_bytes
           : attribute == cudaDevAttrMaxSharedMemoryPerMultiprocessor
               ? device.processor_shared_bytes
           : attribute == cudaDevAttrMultiProcessorCount ? device.processors
           : attribute == cudaDevAttrMaxThreadsPerBlock  ? device.threads
                                                         : device.has_clusters;
  return cudaSuccess;
}

enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize,
  cudaFuncAttributeNonPortableClusterSizeAllowed,
};

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute attribute, int value) {
  const bool is_too_much = attribute == cudaFuncAttributeMaxDynamicSharedMemorySize &&
                           value > cuda_emulation::device.block_shared_bytes;
  return is_too_much ? cudaErrorInvalidConfiguration : cudaSuccess;
}

inline cudaError_t cudaGetLastError() { return cudaSuccess; }

enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    dim3 clusterDim;
  } val;
};

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

// Only clusters of more than 8 blocks have to ask.
template <typename Kernel>
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, Kernel*, const cudaLaunchConfig_t*) {
  *clusters = 0;
  return cudaSuccess;
}

template <typename... Expected, typename... Given>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Expected...),
                               Given&&... arguments) {
  const dim3& grid = config->gridDim;
  const unsigned cluster = config->numAttrs == 0 ? 1 : config->attrs[0].val.clusterDim.x;
  const auto most_bytes =
      static_cast<std::size_t>(std::max(48 << 10, cuda_emulation::device.block_shared_bytes));
  if (grid.x == 0 || grid.x > 0x7fffffff || grid.y == 0 || grid.y > 65535 || grid.z == 0 ||
      grid.z > 65535 || config->blockDim.x > 1024 || config->dynamicSmemBytes > most_bytes ||
      grid.x % cluster != 0 || cluster > 8) {
    return cudaErrorInvalidConfiguration;
  }
  cuda_emulation::run_grid(grid, cluster, config->blockDim.x, config->dynamicSmemBytes,
                           [&] { kernel(arguments...); });
  return cudaSuccess;
}

inline int __shfl_sync(unsigned, int value, unsigned source) {
  return cuda_emulation::from_lane(value, source);
}
inline int __shfl_up_sync(unsigned, int value, unsigned distance) {
  const unsigned lane = threadIdx.x % 32;
  return cuda_emulation::from_lane(value, lane < distance ? lane : lane - distance);
}

inline float __shfl_xor_sync(unsigned, float value, unsigned distance) {
  int bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits = cuda_emulation::from_lane(bits, threadIdx.x % 32 ^ distance);
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}

inline void* __cluster_map_shared_rank(const void* shared, unsigned block) {
  return cuda_emulation::in_block_of_cluster(shared, block);
}

template <typename T>
T atomicAdd(T* sum, T value) {
  return __atomic_fetch_add(sum, value, __ATOMIC_RELAXED);
}

inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline int __float_as_int(float value) {
  int bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline int __float2int_rn(float value) { return static_cast<int>(std::nearbyint(value)); }

inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const std::uint64_t bytes = static_cast<std::uint64_t>(high) << 32 | low;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned from = selector >> (4 * i) & 7;
    result |= static_cast<unsigned>(bytes >> (8 * from) & 255) << (8 * i);
  }
  return result;
}

inline unsigned __vminu2(unsigned a, unsigned b) {
  const unsigned low = std::min(a & 0xffff, b & 0xffff), high = std::min(a >> 16, b >> 16);
  return high << 16 | low;
}

inline unsigned __vmaxu2(unsigned a, unsigned b) {
  const unsigned low = std::max(a & 0xffff, b & 0xffff), high = std::max(a >> 16, b >> 16);
  return high << 16 | low;
}
