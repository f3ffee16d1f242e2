// RGB -> L, a, b, and what every tile makes of L: the kernels count_tiles and map_tiles.
#pragma once

#include "../color/tables.h"
#include "cuda_device.h"

namespace perfkit::clahe_gamma_median::cuda {

struct alignas(16) ToLab {
  uint16_t linear[256];
  uint16_t cube_root[2048];
};

constexpr ToLab to_lab_tables() {
  ToLab tables{};
  for (int i = 0; i < 256; ++i) tables.linear[i] = color::kLinear[i];
  for (int i = 0; i < 2041; ++i) tables.cube_root[i] = color::kCubeRoot[i];
  return tables;
}

struct alignas(16) Encode {
  uint8_t bytes[kEncodeSize];
};

constexpr Encode encode_table() {
  Encode table{};
  for (int i = 0; i < kEncodeSize; ++i) table.bytes[i] = color::kEncode[i];
  return table;
}

__device__ constexpr ToLab kToLab = to_lab_tables();
__device__ constexpr Encode kEncode = encode_table();

constexpr uint32_t kAllLanes = 0xffffffff;

// A tile that blocks work on, by its place in the grid.
struct Tile {
  uint32_t column, row;
};

__device__ Tile tile_of(const Plan& plan, uint32_t index) {
  const uint32_t across = narrow(plan.across.tiles);
  return {index % across, index / across};
}

// What a block of count_tiles has counted, where a tile has more than one.
__device__ uint32_t* counts_of(const Plan& plan, uint32_t part) {
  const int64_t tile = int64_t{blockIdx.y} * gridDim.x + blockIdx.x;
  return plan.counts + (tile * plan.parts + part) * kBins;
}

constexpr int kLaneBins = kBins / 32;

// The sum of `value` over the warp's lanes up to this one.
__device__ int sum_upto(int value) {
  const int lane = threadIdx.x % 32;
  for (int distance = 1; distance < 32; distance *= 2) {
    const int before = __shfl_up_sync(kAllLanes, value, distance);
    if (lane >= distance) value += before;
  }
  return value;
}

// By one warp, a lane having the counts of kLaneBins bins side by side.
__device__ void map_bins(const Plan& plan, uint32_t (&counts)[kLaneBins],
                         uint8_t (&mapping)[kBins]) {
  const int first = threadIdx.x % 32 * kLaneBins;
  if (plan.limit > 0) {
    const auto limit = static_cast<uint32_t>(plan.limit);
    int excess = 0;
    for (uint32_t& count : counts) {
      if (count > limit) {
        excess += static_cast<int>(count - limit);
        count = limit;
      }
    }
    excess = __shfl_sync(kAllLanes, sum_upto(excess), 31);
    for (int i = 0; i < kLaneBins; ++i) counts[i] += share_of_excess(first + i, excess);
  }
  int own = 0;
  for (const uint32_t count : counts) own += static_cast<int>(count);
  int upto = sum_upto(own) - own;
  for (int i = 0; i < kLaneBins; ++i) {
    upto += static_cast<int>(counts[i]);
    const int rounded = __float2int_rn(static_cast<float>(upto) * plan.scale);
    mapping[first + i] = static_cast<uint8_t>(clamp(rounded, 0, 255));
  }
}

// Puts what a tile makes of a bin where `filter` looks for it. A cell blends the tile before it and
// that behind it, or at the image's edge one of them twice.
__device__ void write_corners(const Plan& plan, const Tile& tile, int bin, uint8_t mapped) {
  const int64_t row_bytes = (plan.across.tiles + 1) * kBins * 4;
  uint8_t* first = plan.corners + blockIdx.y * (plan.down.tiles + 1) * row_bytes +
                   int64_t{tile.column} * kBins * 4 + bin * 4;
  const bool is_last = tile.column == narrow(plan.across.tiles) - 1;
  const auto write_row = [&](int64_t cell_row, int lower) {
    uint8_t* corner = first + cell_row * row_bytes + 2 * lower;
    corner[1] = mapped;
    corner[kBins * 4] = mapped;
    if (tile.column == 0) corner[0] = mapped;
    if (is_last) corner[kBins * 4 + 1] = mapped;
  };
  write_row(tile.row, 1);
  write_row(int64_t{tile.row} + 1, 0);
  if (tile.row == 0) write_row(0, 0);
  if (tile.row == narrow(plan.down.tiles) - 1) write_row(plan.down.tiles, 1);
}

struct Counting {
  ToLab tables;
  uint32_t counts[kCountThreads / 32][kBins];  // one a warp: warps would wait for each other
  uint8_t table[kBins], mapping[kBins];
};

// The group of pixels at x: [pixel][channel]. Beyond the row's end its last pixel repeats.
template <int C>
__device__ void read_group(const Plan& plan, const uint8_t* row, uint32_t x,
                           uint32_t (&group)[kGroup][C]) {
  const Source& source = plan.source;
  const uint32_t last = narrow(source.width) - 1;
  if (plan.reads == Access::any || x + (kGroup - 1) > last) {
    for (int i = 0; i < kGroup; ++i) {
      const uint8_t* pixel = row + at_most(x + i, last) * source.column_stride;
      for (int c = 0; c < C; ++c) group[i][c] = pixel[c * source.channel_stride];
    }
  } else if (plan.reads == Access::pixels) {
    const auto* words = reinterpret_cast<const uint32_t*>(row) + x / kGroup * C;
    uint32_t word[C];
    for (int c = 0; c < C; ++c) word[c] = words[c];
    for (int i = 0; i < kGroup * C; ++i) group[i / C][i % C] = byte_of(word[i / 4], i % 4);
  } else {
    for (int c = 0; c < C; ++c) {
      const auto word = *reinterpret_cast<const uint32_t*>(row + x + c * source.channel_stride);
      for (int i = 0; i < kGroup; ++i) group[i][c] = byte_of(word, i);
    }
  }
}

template <int C>
__device__ Lab lab_of(const ToLab& tables, const uint32_t (&pixel)[C]) {
  if constexpr (C == 1) {
    return {static_cast<uint8_t>(pixel[0]), 0, 0};
  } else {
    const int red = tables.linear[pixel[0]], green = tables.linear[pixel[1]],
              blue = tables.linear[pixel[2]];
    return lab_from_f(tables.cube_root[xyz_from_rgb(0, red, green, blue)],
                      tables.cube_root[xyz_from_rgb(1, red, green, blue)],
                      tables.cube_root[xyz_from_rgb(2, red, green, blue)]);
  }
}

// Composes what comes after L*a*b* -> linear RGB, once for all blocks of `filter`.
template <int C>
__device__ void write_encoded(const Plan& plan, const uint8_t (&table)[kBins]) {
  constexpr int kSize = C == 1 ? kBins : kEncodeSize;
  for (int first = 0; first < kSize; first += kCountThreads) {
    const int i = first + static_cast<int>(threadIdx.x);
    plan.encoded[i] = table[C == 1 ? i : kEncode.bytes[i]];
  }
}

template <int C>
__global__ void __launch_bounds__(kCountThreads)
    count_tiles(const Plan plan, const int64_t first_image) {
  auto& shared = shared_memory<Counting>();
  const bool is_first = blockIdx.x == 0 && blockIdx.y == 0 && blockIdx.z == 0;
  if (is_first) {
    for (int i = threadIdx.x; i < kBins; i += kCountThreads) shared.table[i] = plan.table[i];
  }
  if constexpr (C == 3) copy<kCountThreads>(shared.tables, &kToLab);
  for (auto& counts : shared.counts) {
    for (int i = 0; i < kBins; i += kCountThreads) counts[i + threadIdx.x] = 0;
  }
  __syncthreads();
  if (is_first) write_encoded<C>(plan, shared.table);

  const Tile tile = tile_of(plan, blockIdx.x);
  const uint32_t tile_px = narrow(plan.across.tile_px), tile_rows = narrow(plan.down.tile_px);
  const uint32_t left = tile.column * tile_px, right = left + tile_px;
  const uint32_t first_row = blockIdx.z * plan.part_rows;
  const uint32_t top = tile.row * tile_rows + first_row;
  const uint32_t bottom = top + at_most(plan.part_rows, tile_rows - first_row);
  const uint32_t width = narrow(plan.source.width), height = narrow(plan.source.height);
  const uint8_t* image =
      plan.source.data + (first_image + blockIdx.y) * plan.source.image_stride;
  uint32_t* counts = shared.counts[threadIdx.x / 32];

  // Pixels of the image, a column of groups to each thread. The tile at the right edge also fills
  // the planes up to whole groups.
  if (left < width && top < height) {
    const uint32_t counted = at_most(right, width) - left;
    const uint32_t kept = right < width ? tile_px : narrow(plan.pitch) - left;
    const uint32_t groups = (left + counted + kGroup - 1) / kGroup - left / kGroup;
    const uint32_t lanes = at_most<uint32_t>(groups, kCountThreads);
    const uint32_t row_step = kCountThreads / lanes, lane_row = threadIdx.x / lanes;
    const uint32_t rows = at_most(bottom, height) - top;
    const int64_t plane_bytes = plan.source.height * plan.pitch;
    uint8_t* planes = plan.planes + blockIdx.y * C * plane_bytes;
    for (uint32_t group = threadIdx.x % lanes; group < groups && lane_row < row_step;
         group += lanes) {
      const uint32_t x = (left / kGroup + group) * kGroup;
      const uint32_t place = x - left;  // a pixel before the tile lies far to the right of it
      const bool is_whole = place < kept && place + (kGroup - 1) < kept;
      const uint8_t* in = image + int64_t{top + lane_row} * plan.source.row_stride;
      uint8_t* out = planes + int64_t{top + lane_row} * plan.pitch + x;
      for (uint32_t row = lane_row; row < rows; row += row_step) {
        uint32_t colors[kGroup][C];
        read_group<C>(plan, in, x, colors);
        uint32_t words[C] = {};
        for (int i = 0; i < kGroup; ++i) {
          const Lab lab = lab_of<C>(shared.tables, colors[i]);
          if (place + i < counted) atomicAdd(&counts[lab.l], 1u);
          words[0] |= static_cast<uint32_t>(lab.l) << (8 * i);
          if constexpr (C == 3) {
            words[1] |= static_cast<uint32_t>(lab.a) << (8 * i);
            words[2] |= static_cast<uint32_t>(lab.b) << (8 * i);
          }
        }
        for (int c = 0; c < C; ++c) {
          uint8_t* group_out = out + c * plane_bytes;
          if (is_whole) {
            *reinterpret_cast<uint32_t*>(group_out) = words[c];
          } else {
            for (int i = 0; i < kGroup; ++i) {
              if (place + i < kept) group_out[i] = static_cast<uint8_t>(byte_of(words[c], i));
            }
          }
        }
        in += row_step * plan.source.row_stride;
        out += row_step * plan.pitch;
      }
    }
  }

  // Places beyond the image's right side, then below it, which its pixels feed by reflection.
  for (int below = 0; below < 2; ++below) {
    const uint32_t begin_x = below || left > width ? left : at_most(width, right);
    const uint32_t begin_y = below ? (top > height ? top : at_most(height, bottom)) : top;
    const uint32_t end_y = below ? bottom : at_most(bottom, height);
    if (begin_x >= right || begin_y >= end_y) continue;
    const uint32_t columns = right - begin_x;
    const int64_t places = int64_t{columns} * (end_y - begin_y);
    for (int64_t i = threadIdx.x; i < places; i += kCountThreads) {
      const uint8_t* pixel =
          image + reflected(begin_y + i / columns, height) * plan.source.row_stride +
          reflected(begin_x + i % columns, width) * plan.source.column_stride;
      uint32_t color[C];
      for (int c = 0; c < C; ++c) color[c] = pixel[c * plan.source.channel_stride];
      atomicAdd(&counts[lab_of<C>(shared.tables, color).l], 1u);
    }
  }
  __syncthreads();

  if (threadIdx.x < 32) {
    uint32_t sums[kLaneBins] = {};
    for (const auto& of_warp : shared.counts) {
      for (int i = 0; i < kLaneBins; ++i) sums[i] += of_warp[threadIdx.x * kLaneBins + i];
    }
    if (plan.parts > 1) {
      uint32_t* out = counts_of(plan, blockIdx.z) + threadIdx.x * kLaneBins;
      for (int i = 0; i < kLaneBins; ++i) out[i] = sums[i];
    } else {
      map_bins(plan, sums, shared.mapping);
    }
  }
  if (plan.parts > 1) return;
  __syncthreads();
  for (int bin = threadIdx.x; bin < kBins; bin += kCountThreads) {
    write_corners(plan, tile, bin, shared.mapping[bin]);
  }
}

struct Mapping {
  uint8_t mapping[kBins];
};

__global__ void __launch_bounds__(kMapThreads) map_tiles(const Plan plan) {
  auto& shared = shared_memory<Mapping>();
  if (threadIdx.x < 32) {
    uint32_t sums[kLaneBins] = {};
    for (uint32_t part = 0; part < plan.parts; ++part) {
      const uint32_t* counts = counts_of(plan, part) + threadIdx.x * kLaneBins;
      for (int i = 0; i < kLaneBins; ++i) sums[i] += counts[i];
    }
    map_bins(plan, sums, shared.mapping);
  }
  __syncthreads();
  const Tile tile = tile_of(plan, blockIdx.x);
  for (int bin = threadIdx.x; bin < kBins; bin += kMapThreads) {
    write_corners(plan, tile, bin, shared.mapping[bin]);
  }
}

}  // namespace perfkit::clahe_gamma_median::cuda
