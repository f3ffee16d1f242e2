#include "fresh_pages.h"

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace perfkit::squeeze_excite {

// Whatever the kernel answers: pages come when they are written at the latest.
void make_present([[maybe_unused]] void* begin, [[maybe_unused]] std::int64_t bytes) {
#ifdef __linux__
  constexpr int kPopulateWrite = 23;  // MADV_POPULATE_WRITE, which older headers lack
  static const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<std::uintptr_t>(begin);
  // A page that begins before may hold what was written there: the next one tells.
  const std::uintptr_t first = (address + page - 1) / page * page;
  const std::uintptr_t past = address + static_cast<std::uintptr_t>(bytes);
  unsigned char residence = 0;
  if (first >= past || mincore(reinterpret_cast<void*>(first), page, &residence) != 0) return;
  if (residence & 1) return;
  static_cast<void>(madvise(reinterpret_cast<void*>(first), past - first, kPopulateWrite));
#endif
}

}  // namespace perfkit::squeeze_excite
