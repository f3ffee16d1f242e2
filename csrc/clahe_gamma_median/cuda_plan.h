// What the CUDA kernels are told: how the work is cut, and where everything lies.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "arithmetic.h"
#include "checks.h"
#include "clahe_gamma_median.h"

namespace perfkit::clahe_gamma_median::cuda {

using std::int64_t;
using std::uint16_t;
using std::uint32_t;
using std::uint8_t;

// Of a block. What a block of count_tiles does once, all of its threads do: few of them.
constexpr int kCountThreads = 128, kMapThreads = 128, kFilterThreads = 256;
constexpr int kGroup = 4;                         // pixels
constexpr int kWidestBlock = 128;                 // pixels of the result, in a block of `filter`
constexpr int kHighestBlock = 64, kLowestBlock = 16;
constexpr int kEncodeSize = 4096;
constexpr int64_t kMostImages = 65535;            // in a turn: the grid's second dimension
constexpr int64_t kWorkspace = int64_t{1} << 29;  // bytes, beyond which images take turns
constexpr int64_t kBlocksToFill = 1024;           // several a multiprocessor, of any device
constexpr int64_t kLeastPixels = 2048;            // that are worth a block of count_tiles

// Where the pixels of a group lie, seen from the first.
enum class Access : int {
  pixels,  // interleaved, without gap, aligned
  planes,  // each channel by itself, without gap, aligned
  any,
};

struct Plan {
  Source source;
  Target target;
  const uint8_t* table;
  Access reads, writes;
  Axis across, down;
  float across_inverse, down_inverse;
  int limit;
  float scale;
  int64_t images;  // of one turn
  int64_t pitch;   // of a row of the planes: the width in whole groups
  // A block of count_tiles: so many rows of a tile.
  uint32_t parts, part_rows;
  // A block of `filter`: so many columns (as a power of two) and rows of the result.
  int block_px_log2, block_rows;
  uint32_t blocks_across, blocks_down;
  // In the workspace:
  uint8_t* encoded;  // [4096], for one channel [256]: table[color::kEncode], or the table
  uint8_t* corners;  // [images, down.tiles + 1, across.tiles + 1, 256, 4]
  uint8_t* planes;   // [images, channels, height, pitch]
  uint32_t* counts;  // [images, tiles, parts, 256], where there are several parts
};

inline int64_t aligned(int64_t bytes) { return (bytes + 255) / 256 * 256; }

inline int64_t quotient_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A dimension of one element has no stride to speak of.
template <typename Strided>
Strided without_idle_strides(Strided strided, const Source& shape) {
  if (shape.count == 1) strided.image_stride = 0;
  if (shape.height == 1) strided.row_stride = 0;
  if (shape.channels == 1) strided.channel_stride = 0;
  return strided;
}

// `bytes` of an element; groups of four are read or written at once where all of them are aligned.
template <typename Strided>
Access access_of(const Strided& strided, int64_t channels, int64_t bytes) {
  const auto is_whole = [](int64_t elements) { return elements % kGroup == 0; };
  if (reinterpret_cast<std::uintptr_t>(strided.data) % (kGroup * bytes) != 0 ||
      !is_whole(strided.image_stride) || !is_whole(strided.row_stride)) {
    return Access::any;
  }
  if (strided.column_stride == 1 && is_whole(strided.channel_stride)) return Access::planes;
  if (strided.column_stride == channels && strided.channel_stride == 1) return Access::pixels;
  return Access::any;
}

inline int64_t tiles_of(const Plan& plan) { return plan.across.tiles * plan.down.tiles; }

struct Layout {
  Plan plan;
  int64_t encoded, corners, planes, counts;  // where they begin in the workspace
  int64_t bytes;
};

inline Layout layout_of(const Source& source, const Target& target, const Parameters& parameters) {
  Layout layout{};
  Plan& plan = layout.plan;
  plan.source = without_idle_strides(source, source);
  plan.target = without_idle_strides(target, source);
  plan.table = parameters.table;
  plan.reads = access_of(plan.source, source.channels, 1);
  plan.writes = access_of(plan.target, source.channels, bytes_of(target.element));

  const bool extend = extends(source.height, source.width, parameters.rows, parameters.columns);
  plan.across = axis_of(source.width, parameters.columns, extend);
  plan.down = axis_of(source.height, parameters.rows, extend);
  plan.across_inverse = 1.0f / static_cast<float>(plan.across.tile_px);
  plan.down_inverse = 1.0f / static_cast<float>(plan.down.tile_px);
  const int64_t area = plan.across.tile_px * plan.down.tile_px;
  plan.limit = clip_count(parameters.clip_limit, area);
  plan.scale = mapping_scale(area);
  plan.pitch = quotient_up(source.width, kGroup) * kGroup;

  const int64_t tiles = tiles_of(plan);
  const int64_t image_corners = (plan.across.tiles + 1) * (plan.down.tiles + 1) * kBins * 4;
  const int64_t image_planes = source.channels * source.height * plan.pitch;
  const int64_t fitting = kWorkspace / (image_corners + image_planes);
  plan.images = std::clamp<int64_t>(fitting, 1, std::min(source.count, kMostImages));

  int64_t parts = kBlocksToFill / (plan.images * tiles);
  parts = std::max<int64_t>(std::min({parts, area / kLeastPixels, plan.down.tile_px}), 1);
  plan.part_rows = static_cast<uint32_t>(quotient_up(plan.down.tile_px, parts));
  plan.parts = static_cast<uint32_t>(quotient_up(plan.down.tile_px, plan.part_rows));

  // Of 32, 64 and 128 columns those that compute the fewest pixels: whole blocks, and borders.
  int64_t fewest = std::numeric_limits<int64_t>::max();
  for (int log2 = 5; 1 << log2 <= kWidestBlock; ++log2) {
    const int64_t across = quotient_up(source.width, 1 << log2);
    const int64_t computed = across * ((1 << log2) + 2);
    if (computed <= fewest) {
      fewest = computed;
      plan.block_px_log2 = log2;
      plan.blocks_across = static_cast<uint32_t>(across);
    }
  }
  plan.block_rows = kHighestBlock;
  const auto blocks = [&] {
    return plan.images * plan.blocks_across * quotient_up(source.height, plan.block_rows);
  };
  while (plan.block_rows > kLowestBlock && blocks() < kBlocksToFill) plan.block_rows /= 2;
  plan.blocks_down = static_cast<uint32_t>(quotient_up(source.height, plan.block_rows));

  layout.encoded = 0;
  layout.corners = kEncodeSize;
  layout.planes = layout.corners + aligned(plan.images * image_corners);
  layout.counts = layout.planes + aligned(plan.images * image_planes);
  layout.bytes = layout.counts;
  if (plan.parts > 1) layout.bytes += plan.images * tiles * plan.parts * kBins * 4;
  return layout;
}

}  // namespace perfkit::clahe_gamma_median::cuda
