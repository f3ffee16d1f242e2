// Runs the CUDA kernels of clahe_gamma_median on the CPU:
//
//   run_clahe_gamma_median CASES RESULTS [FILE LINE]
//
// CASES holds one case after another as cuda_kernels.py writes them; RESULTS gets the memory of
// each result. FILE and LINE are those of a barrier that is passed over.
#include "clahe_gamma_median/cuda.cu"

#include <cstdio>
#include <cstdlib>

namespace perfkit::clahe_gamma_median::cuda {

alignas(256) __thread uint4 block_memory[3072];

}  // namespace perfkit::clahe_gamma_median::cuda

namespace perfkit::clahe_gamma_median {
namespace {

using std::int64_t;
using std::uint8_t;

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

std::FILE* opened(const char* path, const char* mode) {
  std::FILE* file = std::fopen(path, mode);
  if (file == nullptr) {
    std::perror(path);
    std::exit(2);
  }
  return file;
}

// Heap memory of exactly `bytes`, so that AddressSanitizer sees its ends.
class Memory {
 public:
  explicit Memory(int64_t bytes, int64_t shift = 0)
      : shift_(shift),
        bytes_(static_cast<std::size_t>(bytes)),
        data_(static_cast<uint8_t*>(std::malloc(bytes_ + static_cast<std::size_t>(shift)))) {
    if (data_ == nullptr) std::abort();
    std::memset(data_, 0xa5, bytes_ + static_cast<std::size_t>(shift));
  }
  ~Memory() { std::free(data_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  uint8_t* get() const { return data_ + shift_; }

  void read(std::FILE* file) const {
    if (bytes_ != 0 && std::fread(get(), bytes_, 1, file) != 1) std::abort();
  }
  void write(std::FILE* file) const {
    if (bytes_ != 0 && std::fwrite(get(), bytes_, 1, file) != 1) std::abort();
  }

 private:
  int64_t shift_;
  std::size_t bytes_;
  uint8_t* data_;
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
  std::FILE* cases = opened(arguments[1], "rb");
  std::FILE* results = opened(arguments[2], "wb");
  for (Case one; std::fread(&one, sizeof one, 1, cases) == 1;) run(one, cases, results);
  std::fclose(cases);
  return std::fclose(results) == 0 ? 0 : 2;
}
