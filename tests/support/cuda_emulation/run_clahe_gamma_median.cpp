// Runs the CUDA kernels of clahe_gamma_median on the CPU:
//
//   run_clahe_gamma_median CASES RESULTS [FILE LINE]
//
// CASES holds one case after another as cuda_kernels.py writes them; RESULTS gets the memory of
// each result. FILE and LINE are those of a barrier that is passed over.
#include "clahe_gamma_median/cuda.cu"

#include "memory.h"

namespace perfkit::clahe_gamma_median::cuda {

alignas(256) __thread uint4 block_memory[3072];

}  // namespace perfkit::clahe_gamma_median::cuda

namespace perfkit::clahe_gamma_median {
namespace {

using cuda_emulation::Memory;
using std::int64_t;

// The fields of a case, in the order of the file.
struct Strided {
  int64_t image_stride, row_stride, column_stride, channel_stride;  // in elements
  int64_t first;  // byte of the memory at which the array begins
  int64_t bytes;
  int64_t shift;  // of the memory's beginning from an address that is a multiple of 16
};
struct Case {
  int64_t count, height, width, channels, columns, rows, element, values_bytes;
  double clip_limit;
  Strided in, out;
};

void run(const Case& one, std::FILE* cases, std::FILE* results) {
  const Memory in(one.in.bytes, one.in.shift), out(one.out.bytes, one.out.shift), table(kBins),
      values(one.values_bytes);
  for (const Memory* memory : {&in, &table, &values}) memory->read(cases);
  const Source source{in.get() + one.in.first, one.count,           one.height,
                      one.width,               one.channels,        one.in.image_stride,
                      one.in.row_stride,       one.in.column_stride, one.in.channel_stride};
  const Target target{out.get() + one.out.first,
                      static_cast<Element>(one.element),
                      one.values_bytes != 0 ? values.get() : nullptr,
                      one.out.image_stride,
                      one.out.row_stride,
                      one.out.column_stride,
                      one.out.channel_stride};
  const Parameters parameters{one.clip_limit, one.columns, one.rows, table.get()};
  const Memory workspace(workspace_bytes(source, parameters));
  if (const char* message = launch(source, target, parameters, workspace.get(), nullptr)) {
    std::fprintf(stderr, "%s\n", message);
    std::exit(3);
  }
  out.write(results);
}

}  // namespace
}  // namespace perfkit::clahe_gamma_median

cuda_emulation::SharedMemory cuda_emulation::shared_memory() {
  auto& memory = perfkit::clahe_gamma_median::cuda::block_memory;
  return {reinterpret_cast<unsigned char*>(memory), sizeof memory};
}

int main(int count, char** arguments) {
  using namespace perfkit::clahe_gamma_median;
  if (count < 3) return 2;
  if (count > 4) cuda_emulation::removed_barrier = {arguments[3], std::atoi(arguments[4])};
  std::FILE* cases = cuda_emulation::opened(arguments[1], "rb");
  std::FILE* results = cuda_emulation::opened(arguments[2], "wb");
  for (Case one; std::fread(&one, sizeof one, 1, cases) == 1;) run(one, cases, results);
  std::fclose(cases);
  return std::fclose(results) == 0 ? 0 : 2;
}
