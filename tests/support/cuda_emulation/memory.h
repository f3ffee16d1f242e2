// What the programs that run kernels read their cases into.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace cuda_emulation {

inline std::FILE* opened(const char* path, const char* mode) {
  std::FILE* file = std::fopen(path, mode);
  if (file == nullptr) {
    std::perror(path);
    std::exit(2);
  }
  return file;
}

// Heap memory of exactly `bytes`, so that AddressSanitizer sees its ends. It begins `shift` bytes
// behind a multiple of 16.
class Memory {
 public:
  explicit Memory(std::int64_t bytes, std::int64_t shift = 0)
      : shift_(shift),
        bytes_(static_cast<std::size_t>(bytes)),
        data_(static_cast<std::uint8_t*>(std::malloc(bytes_ + static_cast<std::size_t>(shift)))) {
    if (data_ == nullptr) std::abort();
    std::memset(data_, 0xa5, bytes_ + static_cast<std::size_t>(shift));
  }
  ~Memory() { std::free(data_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  std::uint8_t* get() const { return data_ + shift_; }
  // nullptr where there is nothing.
  std::uint8_t* get_if_any() const { return bytes_ == 0 ? nullptr : get(); }

  void read(std::FILE* file) const {
    if (bytes_ != 0 && std::fread(get(), bytes_, 1, file) != 1) std::abort();
  }
  void write(std::FILE* file) const {
    if (bytes_ != 0 && std::fwrite(get(), bytes_, 1, file) != 1) std::abort();
  }

 private:
  std::int64_t shift_;
  std::size_t bytes_;
  std::uint8_t* data_;
};

}  // namespace cuda_emulation
