// perfkit::clahe_gamma_median on the CPU: the kernels of `run` on torch's own threads.
#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <exception>

#include "operator.h"

namespace perfkit::clahe_gamma_median {
namespace {

void run_tasks(std::int64_t count, const std::function<void(std::int64_t)>& task) {
  // An exception that leaves torch's loop comes back without its type and message.
  std::exception_ptr failure;
  std::atomic_flag has_failed;
  torch::stable::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
    try {
      for (std::int64_t index = begin; index < end; ++index) task(index);
    } catch (...) {
      if (!has_failed.test_and_set()) failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
}

void cpu(const torch::stable::Tensor& images, const torch::stable::Tensor& table,
         const std::optional<torch::stable::Tensor>& values, double clip_limit,
         std::int64_t columns, std::int64_t rows, const torch::stable::Tensor& out) {
  const Call call = unpack(images, table, values, clip_limit, columns, rows, out);
  if (is_empty(call.source)) return;
  const int threads = static_cast<int>(torch::stable::get_num_threads());
  run(call.source, call.target, call.parameters, {threads, run_tasks});
}

}  // namespace
}  // namespace perfkit::clahe_gamma_median

STABLE_TORCH_LIBRARY_IMPL(perfkit, CPU, m) {
  m.impl("clahe_gamma_median", TORCH_BOX(&perfkit::clahe_gamma_median::cpu));
}
