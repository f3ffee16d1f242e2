// The operator from end to end, on the loops of whichever instruction set is chosen.
//
// An image is converted to planes of L, a and b and its tiles are counted; then rows are blended,
// converted back and filtered, three at a time. Images run side by side; where there are fewer of
// them than threads, an image is cut into ranges of rows.
#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "../isa.h"
#include "arithmetic.h"
#include "clahe_gamma_median.h"
#include "rows.h"

namespace perfkit::clahe_gamma_median {
namespace {

using std::int64_t;
using std::uint8_t;

constexpr int64_t kBlendedRows = 16;       // that stay in the first level cache until used
constexpr int64_t kKeptBytes = 64 << 20;   // of workspace, from call to call
constexpr int kPartialCounts = 4;

const Rows& rows_of(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::avx2:
      return kAvx2Rows;
    case Isa::avx512:
      return kAvx512Rows;
    case Isa::avx512_vbmi:
      return kAvx512VbmiRows;
#endif
    default:
      return kScalarRows;
  }
}

int64_t whole_blocks(int64_t n) { return (n + kBlock - 1) / kBlock * kBlock; }

// Memory that stays with its thread: fresh pages would cost more than the work on a small image.
class Workspace {
 public:
  uint8_t* at_least(int64_t bytes) {
    if (bytes > size_) {
      data_.reset();
      size_ = 0;
      data_.reset(new (std::align_val_t(kBlock)) uint8_t[static_cast<std::size_t>(bytes)]);
      size_ = bytes;
    }
    return data_.get();
  }

  void release_excess() {
    if (size_ > kKeptBytes) {
      data_.reset();
      size_ = 0;
    }
  }

 private:
  struct Free {
    void operator()(uint8_t* data) const { operator delete[](data, std::align_val_t(kBlock)); }
  };
  std::unique_ptr<uint8_t[], Free> data_;
  int64_t size_ = 0;
};

thread_local Workspace image_workspace, rows_workspace;

// What is the same for all images of a batch.
struct Plan {
  Plan(const Source& source, const Parameters& parameters, const Rows& rows)
      : width(source.width), height(source.height), stride(whole_blocks(width) + 2 * kBlock) {
    const bool extend = extends(height, width, parameters.rows, parameters.columns);
    across = axis_of(width, parameters.columns, extend);
    down = axis_of(height, parameters.rows, extend);
    lay(across, cells, right_weights);
    lay(down, row_cells, lower_weights);
    const int64_t area = across.tile_px * down.tile_px;
    limit = clip_count(parameters.clip_limit, area);
    scale = mapping_scale(area);
    rows.prepare(parameters.table, prepared);
  }

  static void lay(const Axis& axis, std::vector<Cell>& cells, std::vector<float>& weights) {
    const float inverse = 1.0f / static_cast<float>(axis.tile_px);
    weights.resize(static_cast<std::size_t>(whole_blocks(axis.size)));
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
  int64_t stride;  // of a row in the workspace, with a block on either side
  Axis across{}, down{};
  std::vector<Cell> cells, row_cells;
  std::vector<float> right_weights, lower_weights;
  int limit = 0;
  float scale = 0;
  alignas(kBlock) uint8_t prepared[kPreparedBytes];  // of the table
};

// One image on its way through the operator.
class Image {
 public:
  Image(const Source& source, const Target& target, const Parameters& parameters, const Plan& plan,
        const Rows& rows, int64_t index)
      : source_(source),
        target_(target),
        table_(parameters.table),
        plan_(plan),
        rows_(rows),
        in_(source.data + index * source.image_stride),
        out_offset_(index * target.image_stride),
        channels_(static_cast<int>(source.channels)) {
    const int64_t plane = plan.stride * plan.height;
    const int64_t mappings = plan.across.tiles * plan.down.tiles * kBins;
    uint8_t* memory = image_workspace.at_least(channels_ * plane + mappings);
    mappings_ = memory;
    for (int c = 0; c < channels_; ++c) planes_[c] = memory + mappings + c * plane + kBlock;
  }

  ~Image() { image_workspace.release_excess(); }
  Image(const Image&) = delete;
  Image& operator=(const Image&) = delete;

  // Fills rows [begin, end) of the planes.
  void convert(int64_t begin, int64_t end) const {
    uint8_t* memory = rows_workspace.at_least(3 * plan_.stride);
    uint8_t* const rgb[3] = {memory, memory + plan_.stride, memory + 2 * plan_.stride};
    for (int64_t y = begin; y < end; ++y) {
      if (channels_ == 1) {
        read_channel(y, 0, plane_row(0, y));
      } else {
        uint8_t* const lab[3] = {plane_row(0, y), plane_row(1, y), plane_row(2, y)};
        read_row(y, rgb);
        rows_.to_lab(rgb, lab, plan_.width);
      }
    }
  }

  // Makes the mappings of a row of tiles; the planes are full down to its last row.
  void map_tiles(int64_t tile_row) const {
    const Axis &across = plan_.across, &down = plan_.down;
    std::vector<const uint8_t*> rows(static_cast<std::size_t>(down.tile_px));
    for (int64_t i = 0; i < down.tile_px; ++i) {
      rows[static_cast<std::size_t>(i)] =
          plane_row(0, reflected(tile_row * down.tile_px + i, plan_.height));
    }
    for (int64_t tile = 0; tile < across.tiles; ++tile) {
      alignas(64) std::uint32_t counts[kBins];
      const int64_t begin = tile * across.tile_px, end = begin + across.tile_px;
      count(rows, begin, end, counts);
      rows_.map(counts, plan_.limit, plan_.scale, mapping(tile_row, tile));
    }
  }

  // Writes rows [begin, end) of the result.
  void finish(int64_t begin, int64_t end) const {
    const int64_t stride = plan_.stride;
    uint8_t* memory = rows_workspace.at_least((kBlendedRows + 4 * channels_) * stride);
    uint8_t* blended = memory + kBlock;
    uint8_t* ring = blended + kBlendedRows * stride;      // [3, channels]: rows before the median
    uint8_t* filtered = ring + 3 * channels_ * stride;    // [channels]
    const auto ring_row = [&](int64_t y, int c) { return ring + (y % 3 * channels_ + c) * stride; };

    const int64_t last = plan_.height - 1;
    const int64_t first_row = std::max<int64_t>(begin - 1, 0);
    const int64_t end_row = std::min(end + 1, plan_.height);
    const Cell* cell = plan_.row_cells.data();
    int64_t blended_begin = first_row, blended_end = first_row;
    for (int64_t y = first_row; y < end_row; ++y) {
      if (y == blended_end) {
        while (cell->end <= y) ++cell;
        blended_begin = y;
        blended_end = std::min({cell->end, end_row, y + kBlendedRows});
        blend(*cell, blended_begin, blended_end, blended);
      }
      const uint8_t* lightness = blended + (y - blended_begin) * stride;
      uint8_t* rgb[3] = {ring_row(y, 0), ring_row(y, 1 % channels_), ring_row(y, 2 % channels_)};
      if (channels_ == 1) {
        rows_.look_up(table_, lightness, rgb[0], plan_.width);
      } else {
        const uint8_t* const lab[3] = {lightness, plane_row(1, y), plane_row(2, y)};
        rows_.to_rgb(lab, plan_.prepared, rgb, plan_.width);
      }
      for (int c = 0; c < channels_; ++c) {
        rgb[c][-1] = rgb[c][0];
        rgb[c][plan_.width] = rgb[c][plan_.width - 1];
      }
      if (y > begin) filter(y - 1, y, ring_row, filtered);
    }
    if (end - 1 == last) filter(last, last, ring_row, filtered);
  }

 private:
  uint8_t* plane_row(int plane, int64_t y) const { return planes_[plane] + y * plan_.stride; }

  uint8_t* mapping(int64_t tile_row, int64_t tile) const {
    return mappings_ + (tile_row * plan_.across.tiles + tile) * kBins;
  }

  void read_channel(int64_t y, int channel, uint8_t* plane) const {
    const uint8_t* in = in_ + y * source_.row_stride + channel * source_.channel_stride;
    if (source_.column_stride == 1) {
      std::memcpy(plane, in, static_cast<std::size_t>(plan_.width));
    } else {
      for (int64_t x = 0; x < plan_.width; ++x) plane[x] = in[x * source_.column_stride];
    }
  }

  void read_row(int64_t y, uint8_t* const rgb[3]) const {
    if (source_.channel_stride == 1 && source_.column_stride == 3) {
      rows_.split(in_ + y * source_.row_stride, rgb, plan_.width);
    } else {
      for (int c = 0; c < 3; ++c) read_channel(y, c, rgb[c]);
    }
  }

  // Counts the pixels of columns [begin, end) of the rows; columns beyond the image are reflected.
  void count(const std::vector<const uint8_t*>& rows, int64_t begin, int64_t end,
             std::uint32_t* counts) const {
    // Equal pixels side by side would each wait for the sum before: they go to different counts.
    alignas(64) std::uint32_t partial[kPartialCounts][kBins] = {};
    const int64_t inside = std::min(end, plan_.width);
    for (const uint8_t* row : rows) {
      int64_t x = begin;
      for (; x + 8 <= inside; x += 8) {
        std::uint64_t pixels;
        std::memcpy(&pixels, row + x, 8);
        for (int i = 0; i < 8; ++i) ++partial[i % kPartialCounts][pixels >> (8 * i) & 255];
      }
      for (; x < inside; ++x) ++partial[0][row[x]];
      for (x = std::max(begin, inside); x < end; ++x) ++partial[1][row[reflected(x, plan_.width)]];
    }
    for (int bin = 0; bin < kBins; ++bin) {
      counts[bin] = partial[0][bin] + partial[1][bin] + partial[2][bin] + partial[3][bin];
    }
  }

  void blend(const Cell& cell, int64_t begin, int64_t end, uint8_t* blended) const {
    rows_.blend({plane_row(0, begin), blended, plan_.stride, end - begin, mapping(cell.left, 0),
                 mapping(cell.right, 0), plan_.cells.data(),
                 static_cast<int64_t>(plan_.cells.size()), plan_.right_weights.data(),
                 plan_.lower_weights.data() + begin});
  }

  // Writes row y; the ring holds the rows around it, down to `lowest`.
  template <typename RingRow>
  void filter(int64_t y, int64_t lowest, const RingRow& ring_row, uint8_t* filtered) const {
    const uint8_t* planes[3];
    for (int c = 0; c < channels_; ++c) {
      const uint8_t* const around[3] = {ring_row(std::max<int64_t>(y - 1, 0), c), ring_row(y, c),
                                        ring_row(lowest, c)};
      uint8_t* out = filtered + c * plan_.stride;
      rows_.median(around, out, plan_.width);
      planes[c] = out;
    }
    switch (target_.element) {
      case Element::u8:
        return write(y, planes);
      case Element::f32:
        return write_values<std::uint32_t>(y, planes);
      case Element::f16:
      case Element::bf16:
        return write_values<std::uint16_t>(y, planes);
    }
  }

  void write(int64_t y, const uint8_t* const planes[3]) const {
    uint8_t* out = static_cast<uint8_t*>(target_.data) + out_offset_ + y * target_.row_stride;
    if (channels_ == 3 && target_.channel_stride == 1 && target_.column_stride == 3) {
      rows_.join(planes, out, plan_.width);
      return;
    }
    for (int c = 0; c < channels_; ++c, out += target_.channel_stride) {
      if (target_.column_stride == 1) {
        std::memcpy(out, planes[c], static_cast<std::size_t>(plan_.width));
      } else {
        for (int64_t x = 0; x < plan_.width; ++x) out[x * target_.column_stride] = planes[c][x];
      }
    }
  }

  // Bits: an unsigned integer as wide as the element, whose bits are copied.
  template <typename Bits>
  void write_values(int64_t y, const uint8_t* const planes[3]) const {
    Bits* out = static_cast<Bits*>(target_.data) + out_offset_ + y * target_.row_stride;
    const Bits* values = static_cast<const Bits*>(target_.values);
    const int64_t step = target_.column_stride;
    for (int c = 0; c < channels_; ++c, out += target_.channel_stride, values += kBins) {
      for (int64_t x = 0; x < plan_.width; ++x) out[x * step] = values[planes[c][x]];
    }
  }

  const Source& source_;
  const Target& target_;
  const uint8_t* table_;
  const Plan& plan_;
  const Rows& rows_;
  const uint8_t* in_;
  int64_t out_offset_;
  int channels_;
  uint8_t* mappings_;    // [tile rows, tiles across, 256]
  uint8_t* planes_[3]{};  // [height, stride] each
};

}  // namespace

void run(const Source& source, const Target& target, const Parameters& parameters,
         const Parallel& parallel) {
  if (source.count == 0 || source.height == 0 || source.width == 0) return;
  const Rows& rows = rows_of(isa());
  const Plan plan(source, parameters, rows);
  const auto image = [&](int64_t index) {
    return Image(source, target, parameters, plan, rows, index);
  };
  const int64_t height = plan.height, tile_px = plan.down.tile_px;
  const auto convert_tiles = [&](const Image& one, int64_t tile_row) {
    one.convert(std::min(tile_row * tile_px, height), std::min((tile_row + 1) * tile_px, height));
  };

  if (source.count >= parallel.threads) {
    parallel.run(source.count, [&](int64_t index) {
      const Image one = image(index);
      for (int64_t tile_row = 0; tile_row < plan.down.tiles; ++tile_row) {
        convert_tiles(one, tile_row);
        one.map_tiles(tile_row);
      }
      one.finish(0, height);
    });
  } else {
    const int64_t bands = std::min<int64_t>(parallel.threads, height);
    for (int64_t index = 0; index < source.count; ++index) {
      const Image one = image(index);
      const auto band = [&](int64_t i) { return height * i / bands; };
      parallel.run(bands, [&](int64_t i) { one.convert(band(i), band(i + 1)); });
      parallel.run(plan.down.tiles, [&](int64_t tile_row) { one.map_tiles(tile_row); });
      parallel.run(bands, [&](int64_t i) { one.finish(band(i), band(i + 1)); });
    }
  }
}

}  // namespace perfkit::clahe_gamma_median
