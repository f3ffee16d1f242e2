// perfkit::clahe_gamma_median on CUDA: memory from torch's allocator, on torch's current stream.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <stdexcept>
#include <string>

#include "cuda.h"
#include "operator.h"

// A torch without CUDA lacks them, and must still be able to load this library.
#pragma weak aoti_torch_get_current_cuda_stream

namespace perfkit::clahe_gamma_median {
namespace {

void cuda(const torch::stable::Tensor& images, const torch::stable::Tensor& table,
          const std::optional<torch::stable::Tensor>& values, double clip_limit,
          std::int64_t columns, std::int64_t rows, const torch::stable::Tensor& out) {
  const Call call = unpack(images, table, values, clip_limit, columns, rows, out);
  if (is_empty(call.source)) return;

  const auto device = images.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  // Freed on return, while the kernels may not have begun: the allocator gives it to nothing that
  // does not follow them on this stream.
  torch::stable::Tensor workspace =
      torch::stable::new_empty(table, {workspace_bytes(call.source, call.parameters)});
  const char* failure = launch(call.source, call.target, call.parameters,
                               workspace.mutable_data_ptr(), stream);
  if (failure != nullptr) {
    throw std::runtime_error(std::string(kName) + ": CUDA says: " + failure);
  }
}

}  // namespace
}  // namespace perfkit::clahe_gamma_median

STABLE_TORCH_LIBRARY_IMPL(perfkit, CUDA, m) {
  m.impl("clahe_gamma_median", TORCH_BOX(&perfkit::clahe_gamma_median::cuda));
}
