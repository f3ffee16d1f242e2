// Starts the kernels. One launch serves a forward or backward pass over a whole batch: the pixels
// are summed, the layers computed and the pixels scaled while they are still in shared memory. One
// more adds up the gradients of the layers, over all samples. docs/cuda-kernels.md counts what that
// costs.
#include "cuda.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <initializer_list>

#include "cuda_backward.h"
#include "cuda_forward.h"
#include "cuda_gradients.h"
#include "cuda_plan.h"

namespace perfkit::squeeze_excite {
namespace cuda {
namespace {

constexpr const char* kTooManyChannels =
    "the channels of one sample do not fit into the shared memory of this device";

constexpr const char* kTooManySamples = "the batch has more samples than a grid has blocks";
constexpr std::int64_t kMostBlocks = 0x7fffffff;

// What CUDA says of a failure, or nullptr.
const char* message_of(cudaError_t code) {
  return code == cudaSuccess ? nullptr : cudaGetErrorString(code);
}

cudaError_t describe(Device& device) {
  int index = 0;
  cudaError_t code = cudaGetDevice(&index);
  const auto ask = [&](cudaDeviceAttr attribute) {
    int value = 0;
    if (code == cudaSuccess) code = cudaDeviceGetAttribute(&value, attribute, index);
    return value;
  };
  device.shared_bytes = ask(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  device.processor_shared_bytes = ask(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  device.processors = ask(cudaDevAttrMultiProcessorCount);
  device.threads = ask(cudaDevAttrMaxThreadsPerBlock);
  device.cluster = ask(cudaDevAttrClusterLaunch) != 0 ? kLargestCluster : 1;
  return code;
}

// A launch of whole clusters, as cudaLaunchKernelEx takes it.
class Launch {
 public:
  Launch(const Plan& plan, void* stream) {
    const auto blocks = static_cast<unsigned>(plan.blocks);
    attribute_.id = cudaLaunchAttributeClusterDimension;
    attribute_.val.clusterDim = {blocks, 1, 1};
    config_.gridDim = dim3(static_cast<unsigned>(clusters_of(plan) * blocks));
    config_.blockDim = dim3(static_cast<unsigned>(plan.threads));
    config_.dynamicSmemBytes = static_cast<std::size_t>(plan.shared_bytes);
    config_.stream = static_cast<cudaStream_t>(stream);
    config_.attrs = &attribute_;
    config_.numAttrs = blocks > 1;
  }
  Launch(const Launch&) = delete;

  const cudaLaunchConfig_t* config() const { return &config_; }

 private:
  cudaLaunchAttribute attribute_{};
  cudaLaunchConfig_t config_{};
};

template <typename T, template <typename, int, bool> class Kernel>
auto* kernel_of(const Plan& plan) {
  constexpr int kVector = kVectorBytes / sizeof(T);
  if (plan.shape.channels_last) {
    return plan.vector == 1 ? Kernel<T, 1, true>::kStart : Kernel<T, kVector, true>::kStart;
  }
  return plan.vector == 1 ? Kernel<T, 1, false>::kStart : Kernel<T, kVector, false>::kStart;
}
template <typename T, int V, bool kChannelsLast>
struct ForwardKernel {
  static constexpr auto* kStart = forward<T, V, kChannelsLast>;
};
template <typename T, int V, bool kChannelsLast>
struct BackwardKernel {
  static constexpr auto* kStart = backward<T, V, kChannelsLast>;
};

// Starts a kernel that a cluster of blocks runs for each group of samples.
template <typename T, template <typename, int, bool> class Kernel, typename Call, typename... Given>
const char* start(const Call& call, bool aligned, void* stream, const Given&... arguments) {
  Device device{};
  cudaError_t code = describe(device);
  if (code != cudaSuccess) return message_of(code);
  const std::int64_t weight_bytes = call.layers.element == Element::f32 ? 4 : 2;
  Plan plan = plan_of(call.shape, sizeof(T), weight_bytes, aligned, device);
  auto* const kernel = kernel_of<T, Kernel>(plan);
  const auto permit = [&](cudaFuncAttribute attribute, std::int64_t value) {
    if (code == cudaSuccess) {
      code = cudaFuncSetAttribute(kernel, attribute, static_cast<int>(value));
    }
  };
  if (plan.blocks > kPortableCluster) {
    permit(cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    permit(cudaFuncAttributeMaxDynamicSharedMemorySize, plan.shared_bytes);
    int clusters = 0;
    if (code == cudaSuccess) {
      code = cudaOccupancyMaxActiveClusters(&clusters, kernel, Launch(plan, stream).config());
    }
    if (code != cudaSuccess || clusters == 0) {
      // Not every device can place so large a cluster. CUDA is to forget that it was asked.
      cudaGetLastError();
      code = cudaSuccess;
      device.cluster = kPortableCluster;
      plan = plan_of(call.shape, sizeof(T), weight_bytes, aligned, device);
    }
  }
  if (plan.shared_bytes > device.shared_bytes) return kTooManyChannels;
  if (clusters_of(plan) > kMostBlocks / plan.blocks) return kTooManySamples;
  permit(cudaFuncAttributeMaxDynamicSharedMemorySize, plan.shared_bytes);
  if (code == cudaSuccess) {
    code = cudaLaunchKernelEx(Launch(plan, stream).config(), kernel, plan, call, arguments...);
  }
  return message_of(code);
}

template <typename Weight>
const char* start_gradients(const Backward& call, const float* slopes, cudaStream_t stream) {
  const auto blocks = [](std::int64_t outputs, std::int64_t tile) {
    return static_cast<unsigned>(quotient_up(outputs, tile));
  };
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks(call.shape.channels + 1, kTileColumns),
                        blocks(call.shape.hidden + 1, kTileRows), 2);
  config.blockDim = dim3(kGradientWarps * kWarp);
  config.dynamicSmemBytes = sizeof(WarpSums);
  config.stream = stream;
  return message_of(cudaLaunchKernelEx(&config, layer_gradients<Weight>, call, slopes));
}

template <typename Task>
const char* with_type(Element element, const Task& task) {
  switch (element) {
    case Element::f16:
      return task(__half{});
    case Element::bf16:
      return task(__nv_bfloat16{});
    case Element::f32:
      return task(float{});
    case Element::f64:
      break;
  }
  return "float64 has no kernels";
}

bool are_aligned(std::initializer_list<const void*> arrays) {
  return std::ranges::all_of(arrays, [](const void* array) {
    return reinterpret_cast<std::uintptr_t>(array) % kVectorBytes == 0;
  });
}

}  // namespace
}  // namespace cuda

std::int64_t workspace_bytes(const Backward& call) {
  return call.shape.count * (call.shape.channels + call.shape.hidden) * 4;
}

const char* launch(const Forward& call, void* stream) {
  const bool aligned = cuda::are_aligned({call.x, call.residual, call.y});
  return cuda::with_type(call.element, [&]<typename T>(T) {
    return cuda::start<T, cuda::ForwardKernel>(call, aligned, stream);
  });
}

const char* launch(const Backward& call, void* workspace, void* stream) {
  auto* const slopes = static_cast<float*>(workspace);
  const bool aligned =
      cuda::are_aligned({call.grad, call.x, call.y, call.grad_x, call.grad_residual});
  const char* failure = cuda::with_type(call.element, [&]<typename T>(T) {
    return cuda::start<T, cuda::BackwardKernel>(call, aligned, stream, slopes);
  });
  const bool of_layers = call.grad_w1 != nullptr || call.grad_b1 != nullptr ||
                         call.grad_w2 != nullptr || call.grad_b2 != nullptr;
  if (failure != nullptr || !of_layers) return failure;
  return cuda::with_type(call.layers.element, [&]<typename Weight>(Weight) {
    return cuda::start_gradients<Weight>(call, slopes, static_cast<cudaStream_t>(stream));
  });
}

}  // namespace perfkit::squeeze_excite
