// Walking over a sample in either layout: sums by channel, and maps with two numbers a channel.
// Included by the file of each instruction set, which brings the lanes L; so there are no functions
// of the standard library here, which the linker would take from any one of these files for all.
#pragma once

#include <cstdint>

#include "squeeze_excite.h"

namespace perfkit::squeeze_excite {
namespace {

// Samples come from memory and go there. The CPU asks for what comes next in a page by itself, but
// not beyond it, and stores wait for the lines that they overwrite: so whole registers ask for what
// comes so much later (up to 1.7 times as fast; a single number would ask for each line many times).
// Beyond the end nothing happens.
constexpr std::uintptr_t kAheadBytes = 4096;

template <class T>
const void* ahead_of(const T* here) {
  return reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(here) + kAheadBytes);
}

// A whole register of elements, or the first few: how a term or a map loads and stores; `read` and
// `write` are for the tensors that are walked through.
template <class L>
struct Whole {
  template <class T>
  L load(const T* from) const { return L::load(from); }
  template <class T>
  void store(T* to, L lanes) const { lanes.store(to); }
  template <class T>
  L read(const T* from) const {
    if constexpr (L::kCount > 1) __builtin_prefetch(ahead_of(from), 0, 2);  // into L2
    return load(from);
  }
  // Into L1, and as if to read: to ask to write was slower.
  template <class T>
  void write(T* to, L lanes) const {
    if constexpr (L::kCount > 1) __builtin_prefetch(ahead_of(to), 0, 3);
    store(to, lanes);
  }
};

template <class L>
struct First {
  std::int64_t count;
  template <class T>
  L load(const T* from) const { return L::load(from, count); }
  template <class T>
  void store(T* to, L lanes) const { lanes.store(to, count); }
  template <class T>
  L read(const T* from) const { return load(from); }
  template <class T>
  void write(T* to, L lanes) const { store(to, lanes); }
};

inline std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// `store_sums` of the lanes takes so many registers.
constexpr std::int64_t kSummedAtOnce = 4;

// Calls body(i, part) for all of [0, count) in registers, the last one perhaps in part.
template <class L, class Body>
void for_registers(std::int64_t count, const Body& body) {
  std::int64_t i = 0;
  for (; i + L::kCount <= count; i += L::kCount) body(i, Whole<L>{});
  if (i < count) body(i, First<L>{count - i});
}

// Long sums are made of sums of so many: rounding grows with the longest chain.
constexpr std::int64_t kChain = 16;

// Sum over [0, count) of term(i, part), which gives 0 beyond a part.
template <class L, class Term>
typename L::Real sum(std::int64_t count, const Term& term) {
  constexpr std::int64_t kStep = 4 * L::kCount;
  constexpr std::int64_t kRun = kChain * kStep;
  const L zero = L::all(0);
  L total = zero;
  std::int64_t i = 0;
  while (i + kStep <= count) {
    L middle = zero;
    for (std::int64_t run = 0; run < kChain && i + kStep <= count; ++run) {
      const std::int64_t past = least(count, i + kRun);
      L a = zero, b = zero, c = zero, d = zero;
      for (; i + kStep <= past; i += kStep) {
        a = a + term(i, Whole<L>{});
        b = b + term(i + L::kCount, Whole<L>{});
        c = c + term(i + 2 * L::kCount, Whole<L>{});
        d = d + term(i + 3 * L::kCount, Whole<L>{});
      }
      middle = middle + ((a + b) + (c + d));
    }
    total = total + middle;
  }
  L rest = zero;
  for_registers<L>(count - i, [&](std::int64_t j, auto part) { rest = rest + term(i + j, part); });
  return (total + rest).sum();
}

// [N, C, S]: a unit is a plane.
template <class L>
class Planes {
 public:
  using Real = typename L::Real;

  Planes(const Shape& shape, Real*) : channels_(shape.channels), pixels_(shape.pixels) {}

  std::int64_t units() const { return channels_; }
  std::int64_t elements_of(std::int64_t units) const { return units * pixels_; }
  // So many make up about this many elements.
  std::int64_t units_of(std::int64_t elements) const {
    const std::int64_t step = are_small() ? kSummedAtOnce : 1;
    return (1 + elements / (pixels_ * step)) * step;
  }

  // sums[c] of the planes [begin, end); term(offset, part) of an element of the sample. Small planes
  // begin and end at multiples of kSummedAtOnce, or at the last.
  template <class Term>
  void add(std::int64_t begin, std::int64_t end, Real* sums, const Term& term) {
    std::int64_t c = begin;
    // Of a small plane a large part is to sum a register.
    for (; are_small() && c + kSummedAtOnce <= end; c += kSummedAtOnce) {
      L totals[kSummedAtOnce];
      for (L& total : totals) total = L::all(0);
      for_registers<L>(pixels_, [&](std::int64_t s, auto part) {
        for (std::int64_t i = 0; i < kSummedAtOnce; ++i) {
          totals[i] = totals[i] + term((c + i) * pixels_ + s, part);
        }
      });
      L::store_sums(totals, sums + c);
    }
    for (; c < end; ++c) {
      const std::int64_t offset = c * pixels_;
      sums[c] = sum<L>(pixels_, [&](std::int64_t s, auto part) { return term(offset + s, part); });
    }
  }

  // map(offset, a[c], b[c], part) for all elements of the planes [begin, end).
  template <class Map>
  void map(std::int64_t begin, std::int64_t end, const Real* a, const Real* b,
           const Map& map) const {
    for (std::int64_t c = begin; c < end; ++c) {
      const L scale = L::all(a[c]), shift = L::all(b[c]);
      const std::int64_t offset = c * pixels_;
      for_registers<L>(pixels_, [&](std::int64_t s, auto part) {
        map(offset + s, scale, shift, part);
      });
    }
  }

 private:
  // Their sums are one chain.
  bool are_small() const { return pixels_ <= kChain * L::kCount; }

  std::int64_t channels_, pixels_;
};

// [N, S, C]: a unit is a pixel.
template <class L>
class Pixels {
 public:
  using Real = typename L::Real;

  // Works in `partial` [2C].
  Pixels(const Shape& shape, Real* partial)
      : channels_(shape.channels),
        pixels_(shape.pixels),
        partial_(partial),
        middle_(partial + shape.channels) {}

  std::int64_t units() const { return pixels_; }
  std::int64_t elements_of(std::int64_t units) const { return units * channels_; }
  std::int64_t units_of(std::int64_t elements) const {
    return (1 + elements / (channels_ * kRows)) * kRows;
  }

  // As in Planes; `sums` is complete when the last pixel has been added.
  template <class Term>
  void add(std::int64_t begin, std::int64_t end, Real* sums, const Term& term) {
    if (begin == 0) {
      clear(sums);
      clear(partial_);
      clear(middle_);
    }
    for (std::int64_t s = begin; s < end;) {
      if (end - s >= kRows) {
        add_rows<kRows>(s, term);
        s += kRows;
      } else {
        add_rows<1>(s, term);
        s += 1;
      }
      if (s % kRun == 0 || s == pixels_) move(partial_, middle_);
      if (s % (kChain * kRun) == 0 || s == pixels_) move(middle_, sums);
    }
  }

  template <class Map>
  void map(std::int64_t begin, std::int64_t end, const Real* a, const Real* b,
           const Map& map) const {
    for (std::int64_t s = begin; s < end; ++s) {
      for_registers<L>(channels_, [&](std::int64_t c, auto part) {
        map(s * channels_ + c, part.load(a + c), part.load(b + c), part);
      });
    }
  }

 private:
  static constexpr std::int64_t kRows = 8;  // so many rows are added before memory is touched
  static constexpr std::int64_t kRun = kChain * kRows;

  template <std::int64_t kAdded, class Term>
  void add_rows(std::int64_t s, const Term& term) {
    for_registers<L>(channels_, [&](std::int64_t c, auto part) {
      L rows[kAdded];
      for (std::int64_t i = 0; i < kAdded; ++i) rows[i] = term((s + i) * channels_ + c, part);
      for (std::int64_t half = kAdded / 2; half > 0; half /= 2) {
        for (std::int64_t i = 0; i < half; ++i) rows[i] = rows[i] + rows[i + half];
      }
      part.store(partial_ + c, part.load(partial_ + c) + rows[0]);
    });
  }

  void clear(Real* sums) const {
    for_registers<L>(channels_, [&](std::int64_t c, auto part) { part.store(sums + c, L::all(0)); });
  }

  void move(Real* from, Real* to) const {
    for_registers<L>(channels_, [&](std::int64_t c, auto part) {
      part.store(to + c, part.load(to + c) + part.load(from + c));
      part.store(from + c, L::all(0));
    });
  }

  std::int64_t channels_, pixels_;
  Real *partial_, *middle_;
};

}  // namespace
}  // namespace perfkit::squeeze_excite
