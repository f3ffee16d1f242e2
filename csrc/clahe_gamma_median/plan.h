// What is the same for all images of a batch, on the CPU.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "arithmetic.h"
#include "clahe_gamma_median.h"
#include "rows.h"

namespace perfkit::clahe_gamma_median {
namespace {

using std::int64_t;
using std::uint8_t;

constexpr int64_t kBatchPixels = 4096;  // that stay in the first level cache until used

inline int64_t whole_blocks(int64_t n) { return (n + kBlock - 1) / kBlock * kBlock; }

struct Plan {
  Plan(const Source& source, const Parameters& parameters, const Rows& rows)
      : width(source.width), height(source.height) {
    const bool extend = extends(height, width, parameters.rows, parameters.columns);
    across = axis_of(width, parameters.columns, extend);
    down = axis_of(height, parameters.rows, extend);
    lay(across, cells, right_weights);
    lay(down, row_cells, lower_weights);
    const int64_t area = across.tile_px * down.tile_px;
    limit = clip_count(parameters.clip_limit, area);
    scale = mapping_scale(area);
    batch_rows = std::max<int64_t>(kBatchPixels / width, 2);
    rows.prepare(parameters.table, prepared);
  }

  static void lay(const Axis& axis, std::vector<Cell>& cells, std::vector<float>& weights) {
    const float inverse = 1.0f / static_cast<float>(axis.tile_px);
    weights.resize(static_cast<std::size_t>(whole_blocks(axis.size) + kBlock));
    int64_t last = -1;
    for (int64_t pixel = 0; pixel < axis.size; ++pixel) {
      const Place place = place_of(pixel, inverse);
      weights[static_cast<std::size_t>(pixel)] = place.weight;
      if (place.cell != last) {
        cells.push_back({pixel, pixel, std::max<int64_t>(place.cell - 1, 0),
                         std::min(place.cell, axis.tiles - 1)});
        last = place.cell;
      }
      cells.back().end = pixel + 1;
    }
  }

  int64_t width, height;
  Axis across{}, down{};
  std::vector<Cell> cells, row_cells;
  std::vector<float> right_weights, lower_weights;
  int limit = 0;
  float scale = 0;
  int64_t batch_rows = 0;
  alignas(kBlock) uint8_t prepared[kPreparedBytes];  // of the table
};

}  // namespace
}  // namespace perfkit::clahe_gamma_median
