// Memory that a walk is about to write, perhaps for the first time. A large tensor is often new from
// the kernel (beyond glibc's largest M_MMAP_THRESHOLD, 32 MiB, in every call), and the first touch of
// each of its pages of 4 KiB is an exception: about half of a copy. Asked for 64 at a time, shortly
// before they are written, they take a copy from 64 to 45 ms (docs/results/squeeze-excite-cpu.md).
#pragma once

#include <cstdint>

namespace perfkit::squeeze_excite {

// The pages that begin in [begin, begin + bytes), made present and writable if the first of them is
// not; what they hold stays. Where the kernel cannot do so (before Linux 5.14) nothing happens.
void make_present(void* begin, std::int64_t bytes);

namespace {

// The part [begin, end) of a tensor of `tensor_bytes`, which is written from begin to end.
class FreshPages {
 public:
  FreshPages(void* begin, void* end, std::int64_t tensor_bytes)
      : next_(static_cast<char*>(begin)),
        end_(static_cast<char*>(tensor_bytes < kLeastBytes ? begin : end)) {}

  // What lies before `past` is written next.
  void reach(const void* past) {
    while (next_ < past && next_ < end_) {
      const std::int64_t bytes = end_ - next_ < kAtOnce ? end_ - next_ : kAtOnce;
      make_present(next_, bytes);
      next_ += bytes;
    }
  }

 private:
  static constexpr std::int64_t kLeastBytes = 1 << 20;  // the pages of smaller tensors may fault
  static constexpr std::int64_t kAtOnce = 256 << 10;    // the kernel's zeros stay in L2 so long

  char *next_, *end_;
};

}  // namespace
}  // namespace perfkit::squeeze_excite
