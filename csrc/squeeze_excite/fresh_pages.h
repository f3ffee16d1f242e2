// Memory that a walk is about to write, perhaps for the first time. A large tensor is often new from
// the kernel (beyond glibc's largest M_MMAP_THRESHOLD, 32 MiB, in every call), and the first touch of
// each of its pages of 4 KiB is an exception: half of the call. Asked for by the hundred, just before
// they are written, pages cost two thirds of that.
#pragma once

#include <cstdint>

namespace perfkit::squeeze_excite {

// The pages from `begin` on, so many bytes, made present and writable if the first is not; what they
// hold stays. Where the kernel cannot do so (before Linux 5.14) nothing happens.
void make_present(void* begin, std::int64_t bytes);

// Of smaller tensors the pages are not asked about.
constexpr std::int64_t kFreshBytes = std::int64_t{1} << 20;

namespace {

// The part [begin, end) of a tensor of `tensor_bytes`, which is written from begin to end.
class FreshPages {
 public:
  FreshPages(void* begin, void* end, std::int64_t tensor_bytes)
      : next_(static_cast<char*>(begin)),
        end_(static_cast<char*>(tensor_bytes < kFreshBytes ? begin : end)) {}

  // What lies before `past` is written next.
  void reach(const void* past) {
    while (next_ < past && next_ < end_) {
      const std::int64_t bytes = end_ - next_ < kBytes ? end_ - next_ : kBytes;
      make_present(next_, bytes);
      next_ += bytes;
    }
  }

 private:
  static constexpr std::int64_t kBytes = 256 << 10;  // stays in L2 until it is written

  char *next_, *end_;
};

}  // namespace
}  // namespace perfkit::squeeze_excite
