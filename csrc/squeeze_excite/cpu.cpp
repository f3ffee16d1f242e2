// perfkit::squeeze_excite and its backward on the CPU, on torch's own threads.
#include <torch/csrc/stable/ops.h>

#include "operator.h"

namespace perfkit::squeeze_excite {
namespace {

void parallel(std::int64_t count, std::int64_t grain,
              const std::function<void(std::int64_t, std::int64_t)>& task) {
  torch::stable::parallel_for(0, count, grain, task);
}

std::tuple<torch::stable::Tensor, torch::stable::Tensor> cpu(
    const torch::stable::Tensor& x, const torch::stable::Tensor& w1, const MaybeTensor& b1,
    const torch::stable::Tensor& w2, const MaybeTensor& b2, const MaybeTensor& residual,
    bool relu) {
  return forward(x, w1, b1, w2, b2, residual, relu,
                 [](const Forward& call) { run(call, parallel); });
}

Gradients6 cpu_backward(const torch::stable::Tensor& grad, const torch::stable::Tensor& x,
                        const MaybeTensor& y, const torch::stable::Tensor& state,
                        const torch::stable::Tensor& w1, const torch::stable::Tensor& w2,
                        const std::vector<bool>& wanted) {
  return backward(grad, x, y, state, w1, w2, wanted,
                  [](const Backward& call) { run(call, parallel); });
}

}  // namespace
}  // namespace perfkit::squeeze_excite

STABLE_TORCH_LIBRARY_IMPL(perfkit, CPU, m) {
  m.impl("squeeze_excite", TORCH_BOX(&perfkit::squeeze_excite::cpu));
  m.impl("squeeze_excite_backward", TORCH_BOX(&perfkit::squeeze_excite::cpu_backward));
}
