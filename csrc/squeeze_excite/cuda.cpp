// perfkit::squeeze_excite and its backward on CUDA: memory from torch's allocator, on torch's
// current stream.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <stdexcept>
#include <string>

#include "cuda.h"
#include "operator.h"

// A torch without CUDA lacks it, and must still be able to load this library.
#pragma weak aoti_torch_get_current_cuda_stream

namespace perfkit::squeeze_excite {
namespace {

void* stream_of(const torch::stable::Tensor& x) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
  return stream;
}

void check(const char* failure) {
  if (failure != nullptr) {
    throw std::runtime_error(std::string(kName) + ": CUDA says: " + failure);
  }
}

std::tuple<torch::stable::Tensor, torch::stable::Tensor> cuda(
    const torch::stable::Tensor& x, const torch::stable::Tensor& w1, const MaybeTensor& b1,
    const torch::stable::Tensor& w2, const MaybeTensor& b2, const MaybeTensor& residual,
    bool relu) {
  return forward(x, w1, b1, w2, b2, residual, relu, [&](const Forward& call) {
    const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
    check(launch(call, stream_of(x)));
  });
}

Gradients6 cuda_backward(const torch::stable::Tensor& grad, const torch::stable::Tensor& x,
                         const MaybeTensor& y, const torch::stable::Tensor& state,
                         const torch::stable::Tensor& w1, const torch::stable::Tensor& w2,
                         const std::vector<bool>& wanted) {
  return backward(grad, x, y, state, w1, w2, wanted, [&](const Backward& call) {
    const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
    // Freed on return, while the kernels may not have begun: the allocator gives it to nothing
    // that does not follow them on this stream.
    torch::stable::Tensor workspace = torch::stable::new_empty(
        x, {workspace_bytes(call)}, torch::headeronly::ScalarType::Byte);
    check(launch(call, workspace.mutable_data_ptr(), stream_of(x)));
  });
}

}  // namespace
}  // namespace perfkit::squeeze_excite

STABLE_TORCH_LIBRARY_IMPL(perfkit, CUDA, m) {
  m.impl("squeeze_excite", TORCH_BOX(&perfkit::squeeze_excite::cuda));
  m.impl("squeeze_excite_backward", TORCH_BOX(&perfkit::squeeze_excite::cuda_backward));
}
