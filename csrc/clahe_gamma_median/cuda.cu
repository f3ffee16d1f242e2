// Starts the kernels. Two launches serve a whole batch, three where tiles are few and large:
//
//   count_tiles   RGB -> planes of L, a, b, and the mapping of each tile. A block has one tile, or,
//                 so that a small batch fills the device, some rows of one: then
//   map_tiles     adds what the blocks of a tile have counted, and makes the mapping.
//   filter        blend -> RGB -> table, in shared memory with a border of one pixel -> median.
//
// The mappings are written in the order in which `filter` reads them: all four that meet in a cell
// side by side, so that one look-up of 32 bits serves a pixel. docs/cuda-kernels.md counts what
// bandwidth, instruction issue and shared memory allow.
//
// Each thread of the pixel loops takes a group of four pixels of a row, at a multiple of four.
#include "cuda.h"

#include <cuda_runtime.h>

#include "cuda_count.h"
#include "cuda_filter.h"
#include "cuda_plan.h"

namespace perfkit::clahe_gamma_median {
namespace cuda {
namespace {

// Starts kernels, one behind the other on the stream, until one cannot be started.
class Launches {
 public:
  explicit Launches(cudaStream_t stream) : stream_(stream) {}

  template <typename Shared, typename... Expected, typename... Given>
  void start(void (*kernel)(Expected...), dim3 blocks, int threads, Given... arguments) {
    static_assert(sizeof(Shared) <= 48 << 10, "more would have to be asked for");
    if (failure_ != cudaSuccess) return;
    cudaLaunchConfig_t config{};
    config.gridDim = blocks;
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = sizeof(Shared);
    config.stream = stream_;
    failure_ = cudaLaunchKernelEx(&config, kernel, arguments...);
  }

  cudaError_t failure() const { return failure_; }

 private:
  cudaStream_t stream_;
  cudaError_t failure_ = cudaSuccess;
};

template <int C>
void start_turn(Launches& launches, const Plan& plan, int64_t first) {
  const auto images = static_cast<unsigned>(std::min(plan.images, plan.source.count - first));
  const auto tiles = static_cast<unsigned>(tiles_of(plan));
  launches.start<Counting>(count_tiles<C>, dim3(tiles, images, plan.parts), kCountThreads, plan,
                           first);
  if (plan.parts > 1) launches.start<Mapping>(map_tiles, dim3(tiles, images), kMapThreads, plan);
  const auto start_filter = [&]<typename Bits>(Bits) {
    launches.start<Filtering<C, Bits>>(filter<C, Bits>,
                                       dim3(plan.blocks_across * plan.blocks_down, images),
                                       kFilterThreads, plan, first);
  };
  switch (plan.target.element) {
    case Element::u8:
      return start_filter(uint8_t{});
    case Element::f32:
      return start_filter(uint32_t{});
    case Element::f16:
    case Element::bf16:
      return start_filter(uint16_t{});
  }
}

}  // namespace
}  // namespace cuda

std::int64_t workspace_bytes(const Source& source, const Parameters& parameters) {
  return is_empty(source) ? 0 : cuda::layout_of(source, Target{}, parameters).bytes;
}

const char* launch(const Source& source, const Target& target, const Parameters& parameters,
                   void* workspace, void* stream) {
  if (is_empty(source)) return nullptr;
  const cuda::Layout layout = cuda::layout_of(source, target, parameters);
  cuda::Plan plan = layout.plan;
  auto* memory = static_cast<std::uint8_t*>(workspace);
  plan.encoded = memory + layout.encoded;
  plan.corners = memory + layout.corners;
  plan.planes = memory + layout.planes;
  plan.counts = reinterpret_cast<std::uint32_t*>(memory + layout.counts);

  cuda::Launches launches(static_cast<cudaStream_t>(stream));
  for (std::int64_t first = 0; first < source.count; first += plan.images) {
    if (source.channels == 3) {
      cuda::start_turn<3>(launches, plan, first);
    } else {
      cuda::start_turn<1>(launches, plan, first);
    }
  }
  return launches.failure() == cudaSuccess ? nullptr : cudaGetErrorString(launches.failure());
}

}  // namespace perfkit::clahe_gamma_median
