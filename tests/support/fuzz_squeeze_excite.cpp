// Runs Squeeze-and-Excitation's CPU kernels over random shapes, layouts, elements and threads, for
// the sanitizers (scripts/sanitize.sh). Each input and output is an allocation of exactly its
// bytes, so that a step beyond it is seen.
//
//     fuzz_squeeze_excite CASES SEED
//
// Exit code 1 for a number that is not what plain loops in double make of the same input, and for
// bytes that depend on how the work is spread over threads.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <vector>

#include "fuzz.h"
#include "squeeze_excite/fresh_pages.h"
#include "squeeze_excite/lanes_scalar.h"
#include "squeeze_excite/layers.h"
#include "squeeze_excite/squeeze_excite.h"

namespace {

using namespace perfkit::squeeze_excite;

// Numbers in memory.
struct Array {
  Array(Element element, std::int64_t count)
      : element(element), bytes(static_cast<std::size_t>(count * bytes_of(element)), 0xA5) {}

  double operator[](std::int64_t i) const {
    switch (element) {
      case Element::f16:
        return widened(place<Half>(i));
      case Element::bf16:
        return widened(place<Bfloat>(i));
      case Element::f32:
        return place<float>(i);
      default:
        return place<double>(i);
    }
  }
  void fill(double most) {
    const auto count = static_cast<std::int64_t>(bytes.size()) / bytes_of(element);
    for (std::int64_t i = 0; i < count; ++i) {
      const double number = static_cast<double>(draw(-1000, 1000)) / 1000 * most;
      switch (element) {
        case Element::f16:
          place<Half>(i) = to_half(static_cast<float>(number));
          break;
        case Element::bf16:
          place<Bfloat>(i) = to_bfloat(static_cast<float>(number));
          break;
        case Element::f32:
          place<float>(i) = static_cast<float>(number);
          break;
        default:
          place<double>(i) = number;
      }
    }
  }
  template <class T>
  T& place(std::int64_t i) { return reinterpret_cast<T*>(bytes.data())[i]; }
  template <class T>
  const T& place(std::int64_t i) const { return reinterpret_cast<const T*>(bytes.data())[i]; }

  Element element;
  std::vector<std::uint8_t> bytes;
};

struct Case {
  Shape shape;
  bool has_residual, has_biases, relu;
  Array x, residual, grad, w1, b1, w2, b2;

  Case(const Shape& shape, Element element, Element layers)
      : shape(shape), has_residual(draw(0, 1)), has_biases(draw(0, 1)), relu(draw(0, 1)),
        x(element, elements()), residual(element, elements()), grad(element, elements()),
        w1(layers, shape.hidden * shape.channels), b1(layers, shape.hidden),
        w2(layers, shape.hidden * shape.channels), b2(layers, shape.channels) {
    for (Array* array : {&x, &residual, &w1, &b1, &w2, &b2}) array->fill(1);
    grad.fill(0.125);  // the layers' gradients stay within float16
  }
  std::int64_t elements() const { return shape.count * shape.channels * shape.pixels; }
  std::int64_t at(std::int64_t n, std::int64_t c, std::int64_t s) const {
    return shape.channels_last ? (n * shape.pixels + s) * shape.channels + c
                               : (n * shape.channels + c) * shape.pixels + s;
  }
};

// Results, and the gradients in the order of the forward's inputs, the residual's after x's.
struct Results {
  Array y, state;
  std::vector<Array> gradients;
  bool operator==(const Results& other) const {
    return y.bytes == other.y.bytes && state.bytes == other.state.bytes &&
           std::ranges::equal(gradients, other.gradients, {}, &Array::bytes, &Array::bytes);
  }
};

// Cuts the work anywhere, for two threads: the grain is about speed alone.
void parallel(std::int64_t count, std::int64_t,
              const std::function<void(std::int64_t, std::int64_t)>& task) {
  std::vector<std::int64_t> cuts{0, count};
  for (std::int64_t more = draw(0, 3); more > 0; --more) cuts.push_back(draw(0, count));
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  run_on_threads(2, std::ssize(cuts) - 1, [&](std::int64_t i) {
    const auto cut = static_cast<std::size_t>(i);
    task(cuts[cut], cuts[cut + 1]);
  });
}

Results run(const Case& c, const std::vector<bool>& wanted) {
  const Element element = c.x.element, layers = c.w1.element;
  const std::int64_t row = 2 * c.shape.channels + c.shape.hidden;
  Results made{Array(element, c.elements()), Array(real_of(element), c.shape.count * row), {}};
  const Layers parameters{layers, c.w1.bytes.data(), c.has_biases ? c.b1.bytes.data() : nullptr,
                          c.w2.bytes.data(), c.has_biases ? c.b2.bytes.data() : nullptr};
  run(Forward{c.shape, element, parameters, c.x.bytes.data(),
              c.has_residual ? c.residual.bytes.data() : nullptr, made.y.bytes.data(),
              made.state.bytes.data(), c.relu},
      parallel);

  std::vector<void*> places;
  for (const Array* like : {&c.x, &c.x, &c.w1, &c.b1, &c.w2, &c.b2}) {
    const bool asked = wanted[made.gradients.size()];
    made.gradients.push_back(*like);
    std::ranges::fill(made.gradients.back().bytes, 0xA5);
    if (!asked) made.gradients.back().bytes.clear();
    places.push_back(asked ? made.gradients.back().bytes.data() : nullptr);
  }
  run(Backward{c.shape, element, parameters, c.grad.bytes.data(), c.x.bytes.data(),
               c.relu ? made.y.bytes.data() : nullptr, made.state.bytes.data(), places[0],
               places[1], places[2], places[3], places[4], places[5]},
      parallel);
  return made;
}

// A number, and a bound on the terms that it is the sum of: rounding is relative to that.
struct Sum {
  double value = 0, bound = 0;
  Sum& operator+=(const Sum& term) {
    value += term.value;
    bound += term.bound;
    return *this;
  }
  friend Sum operator*(const Sum& a, const Sum& b) {
    return {a.value * b.value, a.bound * b.bound};
  }
};
using Sums = std::vector<Sum>;

Sum exactly(double number) { return {number, std::abs(number)}; }

void require_close(const char* name, const Array& got, const Sums& want, const Shape& shape) {
  const double rounding = got.element == Element::f16    ? 0x1p-11
                          : got.element == Element::bf16 ? 0x1p-8
                                                         : 0;
  const double least = got.element == Element::f16 ? 0x1p-24 : 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double allowed = (real_of(got.element) == Element::f64 ? 1e-14 : 4e-6) * want[i].bound +
                           rounding * std::abs(want[i].value) + least;
    const double number = got[static_cast<std::int64_t>(i)];
    if (std::abs(number - want[i].value) <= allowed) continue;
    std::printf("%s[%zu] is %.9g instead of %.9g; N %ld, C %ld, S %ld, R %ld, channels last: %d\n",
                name, i, number, want[i].value, static_cast<long>(shape.count),
                static_cast<long>(shape.channels), static_cast<long>(shape.pixels),
                static_cast<long>(shape.hidden), shape.channels_last);
    std::exit(1);
  }
}

// The formulas of squeeze_excite.h. Where a ReLU cut is read from the results.
void check(const Case& c, const std::vector<bool>& wanted, const Results& made) {
  const auto [count, channels, pixels, hidden, channels_last] = c.shape;
  const auto sums = [](std::int64_t size) { return Sums(static_cast<std::size_t>(size)); };
  Sums y = sums(c.elements()), grad_x = y, grad_residual = y, state;
  Sums w1 = sums(hidden * channels), w2 = w1, b1 = sums(hidden), b2 = sums(channels);
  const Sum share = exactly(1 / static_cast<double>(pixels));
  for (std::int64_t n = 0; n < count; ++n) {
    Sums mean = sums(channels), gate = mean, d2 = mean, units = sums(hidden), d1 = units;
    const auto grad_at = [&](std::int64_t i) {
      return exactly(c.relu && made.y[i] <= 0 ? 0 : c.grad[i]);
    };
    for (std::int64_t k = 0; k < channels; ++k) {
      for (std::int64_t s = 0; s < pixels; ++s) mean[k] += share * exactly(c.x[c.at(n, k, s)]);
    }
    for (std::int64_t r = 0; r < hidden; ++r) {
      if (c.has_biases) units[r] = exactly(c.b1[r]);
      for (std::int64_t k = 0; k < channels; ++k) {
        units[r] += exactly(c.w1[r * channels + k]) * mean[k];
      }
      units[r].value = std::max(units[r].value, 0.0);
    }
    for (std::int64_t k = 0; k < channels; ++k) {
      Sum logit = c.has_biases ? exactly(c.b2[k]) : Sum{};
      for (std::int64_t r = 0; r < hidden; ++r) {
        logit += exactly(c.w2[k * hidden + r]) * units[r];
      }
      gate[k].value = 1 / (1 + std::exp(-logit.value));
      gate[k].bound = 1 + logit.bound;
      for (std::int64_t s = 0; s < pixels; ++s) {
        const std::int64_t i = c.at(n, k, s);
        y[i] = exactly(c.x[i]) * gate[k];
        if (c.has_residual) y[i] += exactly(c.residual[i]);
        if (c.relu) y[i].value = std::max(y[i].value, 0.0);
        grad_residual[i] = grad_at(i);
        grad_x[i] = grad_residual[i] * gate[k];
        d2[k] += grad_residual[i] * exactly(c.x[i]);
      }
      d2[k] = d2[k] * Sum{gate[k].value * (1 - gate[k].value), gate[k].bound};
      b2[k] += d2[k];
    }
    for (std::int64_t r = 0; r < hidden; ++r) {
      const double kept = made.state[(n + 1) * (2 * channels + hidden) - hidden + r];
      for (std::int64_t k = 0; k < channels; ++k) {
        if (kept > 0) d1[r] += exactly(c.w2[k * hidden + r]) * d2[k];
        w2[k * hidden + r] += d2[k] * units[r];
      }
      b1[r] += d1[r];
      for (std::int64_t k = 0; k < channels; ++k) {
        w1[r * channels + k] += d1[r] * mean[k];
        const Sum shift = exactly(c.w1[r * channels + k]) * d1[r] * share;
        for (std::int64_t s = 0; s < pixels; ++s) grad_x[c.at(n, k, s)] += shift;
      }
    }
    for (const Sums* part : {&mean, &gate, &units}) {
      state.insert(state.end(), part->begin(), part->end());
    }
  }
  require_close("y", made.y, y, c.shape);
  require_close("state", made.state, state, c.shape);
  const char* names[] = {"grad_x", "grad_residual", "grad_w1", "grad_b1", "grad_w2", "grad_b2"};
  const Sums* want[] = {&grad_x, &grad_residual, &w1, &b1, &w2, &b2};
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (wanted[i]) require_close(names[i], made.gradients[i], *want[i], c.shape);
  }
}

std::int64_t draw_size(std::int64_t most) {
  const std::int64_t kind = draw(0, 9);
  return kind == 0 ? 1 : kind < 8 ? draw(1, most / 8) : draw(1, most);
}

void fuzz_one() {
  const Shape shape{draw(0, 9) == 0 ? draw(0, 6) : draw(1, 3), draw_size(300), draw_size(600),
                    draw(1, 12), draw(0, 1) == 0};
  const auto element = static_cast<Element>(draw(0, 3));
  const bool real_layers = draw(0, 1) == 0;
  Case c(shape, element, real_layers ? real_of(element) : element);
  std::vector<bool> wanted(6);
  for (std::size_t i = 0; i < wanted.size(); ++i) wanted[i] = draw(0, 3) != 0;
  if (!c.relu) wanted[1] = false;  // it is the gradient of y

  const Results made = run(c, wanted);
  check(c, wanted, made);
  if (run(c, wanted) == made) return;
  std::puts("the results depend on how the work is spread");
  std::exit(1);
}

// Pages that are asked for are there and hold what they held; the first one alone tells.
void check_fresh_pages() {
  constexpr std::size_t kPages = 80, kPage = 4096;
  const auto fail = [](const char* words) {
    std::puts(words);
    std::exit(1);
  };
  void* memory = mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED || sysconf(_SC_PAGESIZE) != kPage) return;
  char* const bytes = static_cast<char*>(memory);
  const auto present = [&](std::size_t page) {
    unsigned char answer = 0;
    return mincore(bytes + page * kPage, kPage, &answer) == 0 && (answer & 1) != 0;
  };
  // So old a kernel makes nothing present: nothing to see here.
  const bool can = madvise(bytes + (kPages - 1) * kPage, kPage, 23) == 0;
  bytes[0] = 'a';
  make_present(bytes + 1, 10 * kPage);  // from the second page on
  if (can && !(present(1) && present(10))) fail("pages that were asked for are not there");
  if (present(11)) fail("pages are there that nobody asked for");
  bytes[20 * kPage] = 'b';
  make_present(bytes + 20 * kPage, 10 * kPage);
  if (present(21)) fail("pages were made although the first is there");
  FreshPages small(bytes + 40 * kPage, bytes + 80 * kPage, 40 * kPage);
  small.reach(bytes + 80 * kPage);
  if (present(40)) fail("the pages of a small tensor were asked for");
  FreshPages large(bytes + 40 * kPage, bytes + 44 * kPage, 1 << 20);
  large.reach(bytes + 40 * kPage);
  if (present(40)) fail("pages were asked for before they are reached");
  large.reach(bytes + 41 * kPage);
  if (can && !present(43)) fail("pages that are reached are not there");
  if (present(44)) fail("pages beyond the end were asked for");
  if (bytes[0] != 'a' || bytes[20 * kPage] != 'b' || bytes[kPage] != 0) fail("contents changed");
  munmap(memory, kPages * kPage);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
  check_fresh_pages();
  const long cases = std::atol(arguments[1]);
  const std::uint64_t seed = std::strtoull(arguments[2], nullptr, 10);
  for (long i = 0; i < cases; ++i) {
    random_bits.seed(seed * 1000003 + static_cast<std::uint64_t>(i));
    fuzz_one();
  }
  std::printf("%ld cases\n", cases);
  return 0;
}
