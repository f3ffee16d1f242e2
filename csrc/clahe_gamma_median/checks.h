// What every caller of the kernels must have checked, tensors and NumPy arrays alike.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

#include "../checks.h"
#include "arithmetic.h"
#include "clahe_gamma_median.h"

namespace perfkit::clahe_gamma_median {

inline constexpr const char* kName = "clahe_gamma_median";

inline std::int64_t bytes_of(Element element) {
  switch (element) {
    case Element::u8:
      return 1;
    case Element::f32:
      return 4;
    case Element::f16:
    case Element::bf16:
      return 2;
  }
  return 0;
}

inline bool is_empty(const Source& source) {
  return source.count == 0 || source.height == 0 || source.width == 0;
}

// Throws std::runtime_error. That the memory holds what sizes and strides say is the caller's
// to know.
inline void check(const Source& source, const Target& target, const Parameters& parameters) {
  // OpenCV counts pixels and tiles in int; the kernels count a tile's pixels so.
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  const std::array<std::int64_t, 4> sizes{source.count, source.height, source.width,
                                          source.channels};
  const auto is_count = [](std::int64_t tiles) { return tiles >= 1 && tiles <= kMost; };

  if ((source.channels != 1 && source.channels != 3) || source.height > kMost ||
      source.width > kMost) {
    refuse(kName, "images", "[N, H, W, C] with C = 1 or 3 and H, W <= 2147483647", text(sizes));
  }
  if (!(std::isfinite(parameters.clip_limit) && parameters.clip_limit >= 0)) {
    refuse(kName, "clip_limit", "a finite number, 0 (no clipping) or more",
           std::to_string(parameters.clip_limit));
  }
  if (!is_count(parameters.columns) || !is_count(parameters.rows)) {
    refuse(kName, "tile_grid", "two ints (columns, rows) from 1 to 2147483647",
           "(" + std::to_string(parameters.columns) + ", " + std::to_string(parameters.rows) + ")");
  }
  if (is_empty(source)) return;

  const bool extend = extends(source.height, source.width, parameters.rows, parameters.columns);
  const Axis across = axis_of(source.width, parameters.columns, extend);
  const Axis down = axis_of(source.height, parameters.rows, extend);
  if (across.tile_px * down.tile_px > kMost) {
    refuse(kName, "tile_grid", "so fine that a tile has at most 2147483647 pixels",
           std::to_string(across.tile_px) + " x " + std::to_string(down.tile_px) +
               " pixels a tile");
  }
  // Where pixels lie between tiles is counted in float32, which is exact up to 2 ** 23 tiles.
  constexpr std::int64_t kMostTiles = 1 << 22;
  if (across.tiles > kMostTiles || down.tiles > kMostTiles) {
    refuse(kName, "tile_grid", "so coarse that at most 4194304 tiles lie along a side",
           std::to_string(across.tiles) + " x " + std::to_string(down.tiles) + " tiles");
  }

  const std::array<std::int64_t, 4> in_strides{source.image_stride, source.row_stride,
                                               source.column_stride, source.channel_stride};
  const std::array<std::int64_t, 4> out_strides{target.image_stride, target.row_stride,
                                                target.column_stride, target.channel_stride};
  if (!is_nested(sizes, out_strides)) {
    refuse(kName, "out", "an array whose elements do not overlap",
           "shape " + text(sizes) + " with strides " + text(out_strides));
  }
  const std::int64_t element_bytes = bytes_of(target.element);
  const Extent written = extent(target.data, sizes, out_strides, element_bytes);
  const auto check_apart = [&](const Extent& read, const char* what) {
    if (overlap(written, read)) {
      refuse(kName, "out", std::string("in memory apart from `") + what + "`",
             "two ranges of memory that overlap");
    }
  };
  check_apart(extent(source.data, sizes, in_strides, 1), "images");
  const auto table = reinterpret_cast<std::uintptr_t>(parameters.table);
  check_apart({table, table + kBins}, "lut");
  if (target.values != nullptr) {
    const auto values = reinterpret_cast<std::uintptr_t>(target.values);
    const std::int64_t bytes = source.channels * kBins * element_bytes;
    check_apart({values, values + static_cast<std::uintptr_t>(bytes)}, "values");
  }
}

}  // namespace perfkit::clahe_gamma_median
