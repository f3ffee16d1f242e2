// Runs the CPU kernels over random shapes, layouts, parameters and threads, for the sanitizers
// (scripts/sanitize.sh). Each input and output is an allocation of exactly the bytes it spans, so
// that a step beyond it is seen.
//
//     fuzz_kernels CASES SEED
//
// Prints a hash of all results, the same for every PERFKIT_CPU_ISA; exit code 1 for a byte changed
// between the elements of an output, or a bad parameter that is let pass.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <vector>

#include "clahe_gamma_median/checks.h"
#include "clahe_gamma_median/clahe_gamma_median.h"
#include "fuzz.h"

namespace {

using namespace perfkit::clahe_gamma_median;
using Dims = std::array<std::int64_t, 4>;

// A layout of N, H, W, C in memory: any order of the dimensions, gaps between their elements, some
// of them backwards; an input may also repeat a dimension.
struct Layout {
  Layout(const Dims& sizes, bool may_repeat) {
    std::array<int, 4> order{3, 2, 1, 0};  // innermost first
    const std::int64_t kind = draw(0, 3);
    if (kind == 1) order = {2, 1, 3, 0};
    if (kind == 2) std::shuffle(order.begin(), order.end(), random_bits);
    std::int64_t step = kind == 3 ? draw(1, 3) : 1;
    for (const int dim : order) {
      strides[dim] = step;
      step *= sizes[dim];
      if (draw(0, 3) == 0) step += draw(0, 5);
      if (may_repeat && draw(0, 15) == 0) strides[dim] = 0;
      if (draw(0, 7) == 0) strides[dim] = -strides[dim];
    }
    for (int dim = 0; dim < 4; ++dim) {
      const std::int64_t reach = (sizes[dim] - 1) * strides[dim];
      elements += std::abs(reach);
      if (reach < 0) origin -= reach;
    }
  }

  Dims strides{};
  std::int64_t elements = 1;  // from the lowest to the highest
  std::int64_t origin = 0;    // of the first of each dimension
};

template <typename Visit>
void each_element(const Dims& sizes, const Layout& layout, const Visit& visit) {
  const Dims& s = layout.strides;
  for (std::int64_t n = 0; n < sizes[0]; ++n)
    for (std::int64_t y = 0; y < sizes[1]; ++y)
      for (std::int64_t x = 0; x < sizes[2]; ++x)
        for (std::int64_t c = 0; c < sizes[3]; ++c)
          visit(layout.origin + n * s[0] + y * s[1] + x * s[2] + c * s[3]);
}

void require_refusal(const Source& source, const Target& target, const Parameters& parameters) {
  try {
    check(source, target, parameters);
  } catch (const std::runtime_error&) {
    return;
  }
  std::puts("a bad parameter was let pass");
  std::exit(1);
}

void check_refusals(const Source& source, const Target& target, const Parameters& good) {
  for (const double clip : {-1.0, -1e-300, std::nan(""), HUGE_VAL, -HUGE_VAL}) {
    Parameters bad = good;
    bad.clip_limit = clip;
    require_refusal(source, target, bad);
  }
  constexpr std::int64_t kLeast = std::numeric_limits<std::int64_t>::min();
  for (const std::int64_t tiles : {std::int64_t{0}, std::int64_t{-1}, kLeast, ~kLeast}) {
    Parameters bad = good;
    (draw(0, 1) == 0 ? bad.columns : bad.rows) = tiles;
    require_refusal(source, target, bad);
  }
  Target onto_input = target;
  onto_input.data = const_cast<std::uint8_t*>(source.data);
  require_refusal(source, onto_input, good);
  if (source.width > 1) {
    Target folded = target;
    folded.column_stride = 0;
    require_refusal(source, folded, good);
  }
}

void fuzz_one(std::uint64_t& hash) {
  const std::int64_t most = draw(0, 9) == 0 ? 300 : 40;
  const Dims sizes{draw(0, 9) == 0 ? draw(0, 5) : 1, draw(1, most), draw(1, most),
                   draw(0, 2) == 0 ? 1 : 3};
  const auto element = static_cast<Element>(draw(0, 3));
  const std::int64_t element_bytes = bytes_of(element);

  const Layout in(sizes, true), out(sizes, false);
  std::vector<std::uint8_t> images(static_cast<std::size_t>(in.elements));
  const std::int64_t levels = draw(0, 3) == 0 ? 2 : 256, darkest = draw(0, 256 - levels);
  for (auto& byte : images) byte = static_cast<std::uint8_t>(darkest + draw(0, levels - 1));
  std::vector<std::uint8_t> table(kBins);
  for (auto& byte : table) byte = static_cast<std::uint8_t>(draw(0, 255));
  std::vector<std::uint8_t> values(static_cast<std::size_t>(sizes[3] * kBins * element_bytes));
  for (auto& byte : values) byte = static_cast<std::uint8_t>(draw(0, 255));
  constexpr std::uint8_t kUntouched = 0xA5;
  std::vector<std::uint8_t> result(static_cast<std::size_t>(out.elements * element_bytes),
                                   kUntouched);

  const Source source{images.data() + in.origin, sizes[0],      sizes[1],      sizes[2], sizes[3],
                      in.strides[0],             in.strides[1], in.strides[2], in.strides[3]};
  const Target target{result.data() + out.origin * element_bytes,
                      element,
                      element == Element::u8 ? nullptr : values.data(),
                      out.strides[0],
                      out.strides[1],
                      out.strides[2],
                      out.strides[3]};
  const std::array<double, 7> clips{0, 0.01, 1, 2, 40, 1e300, static_cast<double>(draw(0, 80)) / 8};
  const std::int64_t most_tiles = draw(0, 19) == 0 ? 2147483647 : 2 * most;
  const Parameters parameters{clips[static_cast<std::size_t>(draw(0, 6))], draw(1, most_tiles),
                              draw(1, most_tiles), table.data()};
  const int threads = static_cast<int>(draw(1, 4));
  const Parallel parallel{threads, [threads](std::int64_t count, const auto& task) {
                            run_on_threads(threads, count, task);
                          }};
  check(source, target, parameters);
  if (!is_empty(source) && draw(0, 9) == 0) check_refusals(source, target, parameters);
  run(source, target, parameters, parallel);

  std::vector<bool> written(static_cast<std::size_t>(out.elements));
  each_element(sizes, out, [&](std::int64_t at) {
    written[static_cast<std::size_t>(at)] = true;
    for (std::int64_t i = 0; i < element_bytes; ++i) {
      hash = (hash ^ result[static_cast<std::size_t>(at * element_bytes + i)]) * 0x100000001b3;
    }
  });
  for (std::size_t i = 0; i < result.size(); ++i) {
    if (!written[i / static_cast<std::size_t>(element_bytes)] && result[i] != kUntouched) {
      std::puts("a byte between the elements of the output was changed");
      std::exit(1);
    }
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
  const long cases = std::atol(arguments[1]);
  const std::uint64_t seed = std::strtoull(arguments[2], nullptr, 10);
  std::uint64_t hash = 0xcbf29ce484222325;
  for (long i = 0; i < cases; ++i) {
    random_bits.seed(seed * 1000003 + static_cast<std::uint64_t>(i));
    fuzz_one(hash);
  }
  std::printf("%ld cases, results %016llx\n", cases, static_cast<unsigned long long>(hash));
  return 0;
}
