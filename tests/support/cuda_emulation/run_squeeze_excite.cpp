// Runs the CUDA kernels of squeeze_excite on the CPU, forward and backward:
//
//   run_squeeze_excite CASES RESULTS [FILE LINE]
//
// CASES holds one case after another as cuda_squeeze_excite.py writes them; RESULTS gets the
// results of each. FILE and LINE are those of a barrier that is passed over.
#include "squeeze_excite/cuda.cu"

#include "memory.h"

namespace perfkit::squeeze_excite::cuda {

alignas(256) __thread uint4 block_memory[3072];

}  // namespace perfkit::squeeze_excite::cuda

namespace perfkit::squeeze_excite {
namespace {

using cuda_emulation::Memory;
using std::int64_t;

// The fields of a case, in the order of the file.
struct Case {
  int64_t count, channels, pixels, hidden, channels_last, element, weight_element;
  int64_t relu, residual, biases, gradients;                     // whether there are such
  int64_t shift;                                                 // of x, in bytes
  int64_t shared_bytes, processors, threads, has_clusters;       // of the device
};

void check(const char* failure) {
  if (failure == nullptr) return;
  std::fprintf(stderr, "%s\n", failure);
  std::exit(3);
}

int64_t bytes_of(int64_t element) {
  return static_cast<Element>(element) == Element::f32 ? 4 : 2;
}

void run(const Case& one, std::FILE* cases, std::FILE* results) {
  cuda_emulation::device.block_shared_bytes = static_cast<int>(one.shared_bytes);
  cuda_emulation::device.processor_shared_bytes = static_cast<int>(2 * one.shared_bytes);
  cuda_emulation::device.processors = static_cast<int>(one.processors);
  cuda_emulation::device.threads = static_cast<int>(one.threads);
  cuda_emulation::device.has_clusters = static_cast<int>(one.has_clusters);

  const int64_t bytes = one.count * one.channels * one.pixels * bytes_of(one.element);
  const int64_t weight = bytes_of(one.weight_element);
  const int64_t matrix = one.channels * one.hidden * weight;
  const auto if_any = [](int64_t condition, int64_t size) { return condition != 0 ? size : 0; };

  const Memory x(bytes, one.shift), residual(if_any(one.residual, bytes)), grad(bytes);
  const Memory w1(matrix), b1(if_any(one.biases, one.hidden * weight));
  const Memory w2(matrix), b2(if_any(one.biases, one.channels * weight));
  for (const Memory* memory : {&x, &residual, &grad, &w1, &b1, &w2, &b2}) memory->read(cases);

  const Shape shape{one.count, one.channels, one.pixels, one.hidden, one.channels_last != 0};
  const auto element = static_cast<Element>(one.element);
  const Layers layers{static_cast<Element>(one.weight_element), w1.get(), b1.get_if_any(),
                      w2.get(), b2.get_if_any()};
  const Memory y(bytes), state(one.count * (2 * one.channels + one.hidden) * 4);
  check(launch(Forward{.shape = shape,
                       .element = element,
                       .layers = layers,
                       .x = x.get(),
                       .residual = residual.get_if_any(),
                       .y = y.get(),
                       .state = state.get(),
                       .relu = one.relu != 0},
               nullptr));

  const Memory grad_x(if_any(one.gradients, bytes));
  const Memory grad_residual(if_any(one.gradients && one.residual, bytes));
  const Memory grad_w1(if_any(one.gradients, matrix)), grad_w2(if_any(one.gradients, matrix));
  const Memory grad_b1(if_any(one.gradients && one.biases, one.hidden * weight));
  const Memory grad_b2(if_any(one.gradients && one.biases, one.channels * weight));
  const Backward backward{.shape = shape,
                          .element = element,
                          .layers = layers,
                          .grad = grad.get(),
                          .x = x.get(),
                          .y = one.relu != 0 ? y.get() : nullptr,
                          .state = state.get(),
                          .grad_x = grad_x.get_if_any(),
                          .grad_residual = grad_residual.get_if_any(),
                          .grad_w1 = grad_w1.get_if_any(),
                          .grad_b1 = grad_b1.get_if_any(),
                          .grad_w2 = grad_w2.get_if_any(),
                          .grad_b2 = grad_b2.get_if_any()};
  const Memory workspace(workspace_bytes(backward));
  check(launch(backward, workspace.get(), nullptr));
  for (const Memory* memory :
       {&y, &state, &grad_x, &grad_residual, &grad_w1, &grad_b1, &grad_w2, &grad_b2}) {
    memory->write(results);
  }
}

}  // namespace
}  // namespace perfkit::squeeze_excite

cuda_emulation::SharedMemory cuda_emulation::shared_memory() {
  auto& memory = perfkit::squeeze_excite::cuda::block_memory;
  return {reinterpret_cast<unsigned char*>(memory), sizeof memory};
}

int main(int count, char** arguments) {
  using namespace perfkit::squeeze_excite;
  if (count < 3) return 2;
  if (count > 4) cuda_emulation::removed_barrier = {arguments[3], std::atoi(arguments[4])};
  std::FILE* cases = cuda_emulation::opened(arguments[1], "rb");
  std::FILE* results = cuda_emulation::opened(arguments[2], "wb");
  for (Case one; std::fread(&one, sizeof one, 1, cases) == 1;) run(one, cases, results);
  std::fclose(cases);
  return std::fclose(results) == 0 ? 0 : 2;
}
