// Blend, L, a, b -> RGB, table, median: the kernel filter.
#pragma once

#include "../color/tables.h"
#include "cuda_device.h"
#include "cuda_median.h"

namespace perfkit::clahe_gamma_median::cuda {

struct alignas(16) FromLab {
  uint32_t lightness[256];  // kY | kFy << 16
};

constexpr FromLab from_lab_tables() {
  FromLab tables{};
  for (int i = 0; i < 256; ++i) {
    tables.lightness[i] = color::kY[i] | static_cast<uint32_t>(color::kFy[i]) << 16;
  }
  return tables;
}

__device__ constexpr FromLab kFromLab = from_lab_tables();

// Where the pixels of a column or a row blend; lines beyond the image repeat those at its edge.
struct Across {
  int cell;      // counted from the block's first
  float second;  // weight of the second tile; that of the first is 1 - second
};
struct Down {
  int64_t corners;  // from plan.corners, in cells' entries, to the block's first cell in it
  int64_t planes;   // from plan.planes to its beginning
  float second;
};

template <int C, typename Bits>
struct Filtering {
  // Red, green and blue in bytes 0, 1 and 2, or the grey value in byte 0, of the block's pixels and
  // one more on each side. A row is the block's width + 8 long; pixel x of the block is at x + 4.
  uint32_t pixels[(kHighestBlock + 2) * (kWidestBlock + 8)];
  FromLab tables;
  uint8_t encoded[C == 1 ? kBins : kEncodeSize];
  Bits values[sizeof(Bits) == 1 ? 16 : C * kBins];
  Down rows[kHighestBlock + 2];
  Across columns[kWidestBlock + 2];
};

// What a thread keeps for all pixels of a column: also the weights times -2 ** 23.
struct Blend {
  int cell;
  float first, second, minus_first, minus_second;
};

__device__ Blend blend_of(const Across& column) {
  constexpr float kShift = -8388608.0f;
  const float first = 1.0f - column.second;
  return {column.cell, first, column.second, first * kShift, column.second * kShift};
}

// byte * weight, rounded once. The byte becomes the low bits of the float 2 ** 23 + byte; then
// (2 ** 23 + byte) * weight - 2 ** 23 * weight is exact before the one rounding of a fused
// multiply-add. This saves the conversion.
__device__ float product(uint32_t word, int index, float weight, float minus_weight) {
  const uint32_t bits = __byte_perm(word, 0x4b000000, 0x7440 + index);
  return __fmaf_rn(__uint_as_float(bits), weight, minus_weight);
}

// `blended` of arithmetic.h, rounded half to even.
__device__ int rounded_blend(uint32_t corners, const Blend& blend, float lower) {
  const float above = __fadd_rn(product(corners, 0, blend.first, blend.minus_first),
                                product(corners, 1, blend.second, blend.minus_second));
  const float below = __fadd_rn(product(corners, 2, blend.first, blend.minus_first),
                                product(corners, 3, blend.second, blend.minus_second));
  const float sum = __fadd_rn(__fmul_rn(above, 1.0f - lower), __fmul_rn(below, lower));
  // At 1.5 * 2 ** 23 the floats are the integers: the addition rounds.
  return __float_as_int(__fadd_rn(sum, 12582912.0f)) - 0x4b400000;
}

// Adjacent pixels of a row on the way to shared memory: L (before the mapping), a and b.
template <int C, int N, typename Shared>
__device__ void convert(const Shared& shared, const uint32_t* corners, const Blend (&blends)[N],
                        float lower, const uint32_t (&lab)[N][C], uint32_t (&pixels)[N]) {
  int lightness[N];
  for (int i = 0; i < N; ++i) {
    const uint32_t corner = corners[blends[i].cell * kBins + lab[i][0]];
    lightness[i] = rounded_blend(corner, blends[i], lower);
  }
  if constexpr (C == 1) {
    for (int i = 0; i < N; ++i) pixels[i] = shared.encoded[lightness[i]];
  } else {
    int x[N], y[N], z[N];
    int darkest = kLastOfLine + 1;
    for (int i = 0; i < N; ++i) {
      const uint32_t entry = shared.tables.lightness[lightness[i]];
      const int fy = static_cast<int>(entry >> 16);
      y[i] = static_cast<int>(entry & 0xffff);
      x[i] = fx_from_lab(fy, static_cast<int>(lab[i][1]));
      z[i] = fz_from_lab(fy, static_cast<int>(lab[i][2]));
      darkest = at_most(darkest, at_most(x[i], z[i]));
    }
    // Few pixels are so dark that they lie on the line: most threads pass over its division.
    if (darkest > kLastOfLine) {
      for (int i = 0; i < N; ++i) {
        x[i] = cube(x[i]);
        z[i] = cube(z[i]);
      }
    } else {
      for (int i = 0; i < N; ++i) {
        x[i] = inverse_f(x[i]);
        z[i] = inverse_f(z[i]);
      }
    }
    for (int i = 0; i < N; ++i) {
      pixels[i] = 0;
      for (int c = 0; c < 3; ++c) {
        pixels[i] |= static_cast<uint32_t>(shared.encoded[rgb_from_xyz(c, x[i], y[i], z[i])])
                     << (8 * c);
      }
    }
  }
}

// Four elements, written at once.
template <typename Bits>
struct alignas(kGroup * sizeof(Bits)) Chunk {
  Bits elements[kGroup];
};

template <int C, typename Bits>
__device__ void write_group(const Plan& plan, Bits* row, uint32_t x,
                            const Bits (&group)[kGroup][C]) {
  const Target& target = plan.target;
  const uint32_t width = narrow(plan.source.width);
  if (plan.writes == Access::any || x + kGroup > width) {
    for (int i = 0; i < kGroup && x + i < width; ++i) {
      Bits* pixel = row + int64_t{x + i} * target.column_stride;
      for (int c = 0; c < C; ++c) pixel[c * target.channel_stride] = group[i][c];
    }
  } else if (plan.writes == Access::pixels) {
    auto* chunks = reinterpret_cast<Chunk<Bits>*>(row) + x / kGroup * C;
    for (int c = 0; c < C; ++c) {
      Chunk<Bits> chunk;
      for (int i = 0; i < kGroup; ++i) {
        chunk.elements[i] = group[(kGroup * c + i) / C][(kGroup * c + i) % C];
      }
      chunks[c] = chunk;
    }
  } else {
    for (int c = 0; c < C; ++c) {
      Chunk<Bits> chunk;
      for (int i = 0; i < kGroup; ++i) chunk.elements[i] = group[i][c];
      *reinterpret_cast<Chunk<Bits>*>(row + c * target.channel_stride + x) = chunk;
    }
  }
}

// Bits: an unsigned integer as wide as the element, whose bits are copied.
template <int C, typename Bits>
__global__ void __launch_bounds__(kFilterThreads)
    filter(const Plan plan, const int64_t first_image) {
  auto& shared = shared_memory<Filtering<C, Bits>>();
  const int block_px = 1 << plan.block_px_log2, groups_log2 = plan.block_px_log2 - 2;
  const uint32_t width = narrow(plan.source.width), height = narrow(plan.source.height);
  const uint32_t left = blockIdx.x % plan.blocks_across * block_px;
  const uint32_t top = blockIdx.x / plan.blocks_across * plan.block_rows;
  const auto rows = static_cast<int>(at_most<uint32_t>(plan.block_rows, height - top));
  const int row_pairs = (rows + 1) / 2;
  const int bordered_rows = 2 * row_pairs + 2;  // the second row of the last pair may be idle
  const int stride = block_px + 8;
  const int64_t plane_bytes = plan.source.height * plan.pitch;

  if constexpr (C == 3) copy<kFilterThreads>(shared.tables, &kFromLab);
  copy<kFilterThreads>(shared.encoded, plan.encoded);
  if constexpr (sizeof(Bits) > 1) {
    // Not by `copy`: any contiguous tensor may bring the values, aligned as its elements are.
    for (int i = threadIdx.x; i < C * kBins; i += kFilterThreads) {
      shared.values[i] = static_cast<const Bits*>(plan.target.values)[i];
    }
  }
  const uint32_t left_border = left == 0 ? 0 : left - 1, top_border = top == 0 ? 0 : top - 1;
  const int64_t first_cell = place_of(left_border, plan.across_inverse).cell;
  if (static_cast<int>(threadIdx.x) < block_px + 2) {
    const uint32_t x = threadIdx.x == 0 ? left_border : at_most(left + threadIdx.x - 1, width - 1);
    const Place place = place_of(x, plan.across_inverse);
    shared.columns[threadIdx.x] = {static_cast<int>(place.cell - first_cell), place.weight};
  }
  if (const int i = kFilterThreads - 1 - static_cast<int>(threadIdx.x); i < bordered_rows) {
    const uint32_t y = i == 0 ? top_border : at_most(top + i - 1, height - 1);
    const Place place = place_of(y, plan.down_inverse);
    const int64_t cell_row = blockIdx.y * (plan.down.tiles + 1) + place.cell;
    const int64_t cell = cell_row * (plan.across.tiles + 1) + first_cell;
    shared.rows[i] = {cell * kBins, blockIdx.y * C * plane_bytes + y * plan.pitch, place.weight};
  }
  __syncthreads();

  // The pixels before the median.
  const auto* corners = reinterpret_cast<const uint32_t*>(plan.corners);
  const int group = threadIdx.x & ((1 << groups_log2) - 1);
  const int first_row = threadIdx.x >> groups_log2, row_step = kFilterThreads >> groups_log2;
  const uint32_t x = left + group * kGroup;
  if (x < width) {
    Blend blends[kGroup];
    for (int i = 0; i < kGroup; ++i) blends[i] = blend_of(shared.columns[group * kGroup + i + 1]);
    for (int row = first_row; row < bordered_rows; row += row_step) {
      const Down down = shared.rows[row];
      const uint8_t* in = plan.planes + down.planes + x;
      uint32_t lab[kGroup][C], pixels[kGroup];
      for (int c = 0; c < C; ++c) {
        const auto word = *reinterpret_cast<const uint32_t*>(in + c * plane_bytes);
        for (int i = 0; i < kGroup; ++i) lab[i][c] = byte_of(word, i);
      }
      convert(shared, corners + down.corners, blends, down.second, lab, pixels);
      *reinterpret_cast<uint4*>(&shared.pixels[row * stride + group * kGroup + 4]) = {
          pixels[0], pixels[1], pixels[2], pixels[3]};
    }
  }
  // The border's columns: before the block, and behind it or behind the last group.
  if (const int row = threadIdx.x / 2; row < bordered_rows) {
    const auto behind = static_cast<int>(at_most<uint32_t>(block_px, narrow(plan.pitch) - left));
    const int column = threadIdx.x % 2 == 0 ? -1 : behind;
    const Down down = shared.rows[row];
    const uint8_t* in = plan.planes + down.planes +
                        (column < 0 ? left_border : at_most(left + column, width - 1));
    const Blend blends[1] = {blend_of(shared.columns[column + 1])};
    uint32_t lab[1][C], pixels[1];
    for (int c = 0; c < C; ++c) lab[0][c] = in[c * plane_bytes];
    convert(shared, corners + down.corners, blends, down.second, lab, pixels);
    shared.pixels[row * stride + column + 4] = pixels[0];
  }
  __syncthreads();

  if (x >= width) return;
  Bits* out = static_cast<Bits*>(plan.target.data) +
              (first_image + blockIdx.y) * plan.target.image_stride + top * plan.target.row_stride;
  for (int pair = first_row; pair < row_pairs; pair += row_step) {
    uint32_t around[4][kGroup + 2];
    for (int i = 0; i < 4; ++i) {
      const uint32_t* pixels = &shared.pixels[(2 * pair + i) * stride + group * kGroup + 3];
      const uint4 middle = *reinterpret_cast<const uint4*>(pixels + 1);
      around[i][0] = pixels[0];
      around[i][1] = middle.x;
      around[i][2] = middle.y;
      around[i][3] = middle.z;
      around[i][4] = middle.w;
      around[i][5] = pixels[5];
    }
    uint8_t bytes[2][kGroup][C];
    medians<C>(around[0], around[1], around[2], bytes[0]);
    medians<C>(around[3], around[2], around[1], bytes[1]);
    for (int i = 0; i < 2 && 2 * pair + i < rows; ++i) {
      Bits elements[kGroup][C];
      for (int j = 0; j < kGroup; ++j) {
        for (int c = 0; c < C; ++c) {
          if constexpr (sizeof(Bits) == 1) {
            elements[j][c] = bytes[i][j][c];
          } else {
            elements[j][c] = shared.values[c * kBins + bytes[i][j][c]];
          }
        }
      }
      write_group<C, Bits>(plan, out + (2 * pair + i) * plan.target.row_stride, x, elements);
    }
  }
}

}  // namespace perfkit::clahe_gamma_median::cuda
