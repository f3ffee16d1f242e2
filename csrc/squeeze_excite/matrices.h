// Products with the small matrices of the layers, in their own memory layout, for the lanes L. As in
// traversal.h: no functions of the standard library.
#pragma once

#include <cstdint>

#include "traversal.h"

namespace perfkit::squeeze_excite {
namespace {

// The dot products of kRows rows of `matrix` with `vector`, a register of partial sums each.
template <class L, std::int64_t kRows>
void dots(std::int64_t columns, const typename L::Real* matrix, const typename L::Real* vector,
          L (&totals)[kRows]) {
  for (L& total : totals) total = L::all(0);
  for (std::int64_t begin = 0; begin < columns; begin += kChain * L::kCount) {
    L runs[kRows];
    for (L& run : runs) run = L::all(0);
    for_registers<L>(least(columns - begin, kChain * L::kCount), [&](std::int64_t i, auto part) {
      const L factor = part.load(vector + begin + i);
      for (std::int64_t r = 0; r < kRows; ++r) {
        runs[r] = L::fma(part.load(matrix + r * columns + begin + i), factor, runs[r]);
      }
    });
    for (std::int64_t r = 0; r < kRows; ++r) totals[r] = totals[r] + runs[r];
  }
}

// to[r] = sum over c of matrix[r, c] vector[c].
template <class L>
void multiply(std::int64_t rows, std::int64_t columns, const typename L::Real* matrix,
              const typename L::Real* vector, typename L::Real* to) {
  std::int64_t r = 0;
  for (; r + kSummedAtOnce <= rows; r += kSummedAtOnce) {
    L totals[kSummedAtOnce];
    dots<L>(columns, matrix + r * columns, vector, totals);
    L::store_sums(totals, to + r);
  }
  for (; r < rows; ++r) {
    L total[1];
    dots<L>(columns, matrix + r * columns, vector, total);
    to[r] = total[0].sum();
  }
}

// `count` factors and as many rows of a matrix; strides are in numbers, and may be 0.
template <class Real>
struct Weighted {
  std::int64_t count;
  const Real* factors;
  std::int64_t factor_stride;
  const Real* rows;
  std::int64_t row_stride;
};

// kWide registers of to[c] = sum over i of factors[i] rows[i, c]. There are kWide x kDeep sums at a
// time, for one would wait for its own last addition.
template <class L, std::int64_t kWide, std::int64_t kDeep, class Part>
void combine_registers(const Weighted<typename L::Real>& sum, std::int64_t c,
                       typename L::Real* to, Part part) {
  L totals[kWide];
  for (L& total : totals) total = L::all(0);
  for (std::int64_t i = 0; i < sum.count;) {
    L runs[kDeep][kWide];
    for (auto& deep : runs) {
      for (L& run : deep) run = L::all(0);
    }
    const auto add = [&](std::int64_t row, L(&wide)[kWide]) {
      const L factor = L::all(sum.factors[row * sum.factor_stride]);
      for (std::int64_t w = 0; w < kWide; ++w) {
        const auto* from = sum.rows + row * sum.row_stride + c + w * L::kCount;
        wide[w] = L::fma(factor, part.load(from), wide[w]);
      }
    };
    const std::int64_t past = least(sum.count, i + kChain * kDeep);
    for (; i + kDeep <= past; i += kDeep) {
      for (std::int64_t d = 0; d < kDeep; ++d) add(i + d, runs[d]);
    }
    for (; i < past; ++i) add(i, runs[0]);
    for (std::int64_t w = 0; w < kWide; ++w) {
      L run = runs[0][w];
      for (std::int64_t d = 1; d < kDeep; ++d) run = run + runs[d][w];
      totals[w] = totals[w] + run;
    }
  }
  for (std::int64_t w = 0; w < kWide; ++w) part.store(to + c + w * L::kCount, totals[w]);
}

// to[c] = sum over i of factors[i] rows[i, c], for c in [0, columns).
template <class L>
void combine(const Weighted<typename L::Real>& sum, std::int64_t columns, typename L::Real* to) {
  constexpr std::int64_t kSums = 4;  // as many additions as are under way at a time
  std::int64_t c = 0;
  for (; c + kSums * L::kCount <= columns; c += kSums * L::kCount) {
    combine_registers<L, kSums, 1>(sum, c, to, Whole<L>{});
  }
  for_registers<L>(columns - c, [&](std::int64_t more, auto part) {
    combine_registers<L, 1, kSums>(sum, c + more, to, part);
  });
}

}  // namespace
}  // namespace perfkit::squeeze_excite
