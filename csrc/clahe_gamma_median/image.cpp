// The operator from end to end, on the loops of whichever instruction set is chosen.
//
// An image is converted to planes of L, a and b and its tiles are counted; then it is blended,
// converted back and filtered, a few rows at a time. Rows lie one after the other without gaps, so
// that the loops run over all of them at once. Images run side by side; where there are fewer of
// them than threads, an image is cut into ranges of rows.
#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "../isa.h"
#include "arithmetic.h"
#include "clahe_gamma_median.h"
#include "plan.h"
#include "rows.h"

namespace perfkit::clahe_gamma_median {
namespace {

constexpr int64_t kEdgeRows = 16;
constexpr int64_t kKeptBytes = 64 << 20;  // of each workspace of a thread, from call to call

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

thread_local Workspace image_workspace, convert_workspace, finish_workspace;

// One image on its way through the operator.
class Image {
 public:
  Image(const Source& source, const Target& target, const Parameters& parameters, const Plan& plan,
        const Rows& rows, int64_t index, int64_t kept_rows)
      : source_(source),
        target_(target),
        table_(parameters.table),
        plan_(plan),
        rows_(rows),
        in_(source.data + index * source.image_stride),
        out_offset_(index * target.image_stride),
        channels_(static_cast<int>(source.channels)),
        kept_rows_(kept_rows),
        in_line_(source.channel_stride == 1 && source.column_stride == 3 &&
                 source.row_stride == 3 * source.width),
        out_line_(target.element == Element::u8 && channels_ == 3 && target.channel_stride == 1 &&
                  target.column_stride == 3 && target.row_stride == 3 * source.width) {
    const int64_t plane = whole_blocks(plan.width * kept_rows) + kBlock;
    const int64_t mappings = plan.across.tiles * plan.down.tiles * kBins;
    uint8_t* memory = image_workspace.at_least(channels_ * plane + mappings);
    mappings_ = memory;
    for (int c = 0; c < channels_; ++c) planes_[c] = memory + mappings + c * plane;
  }

  ~Image() { image_workspace.release_excess(); }
  Image(const Image&) = delete;
  Image& operator=(const Image&) = delete;

  // How many rows from y on lie one after the other in the planes.
  int64_t rows_in_line(int64_t y) const { return kept_rows_ - y % kept_rows_; }

  // Fills rows [begin, end) of the planes.
  void convert(int64_t begin, int64_t end) const {
    if (channels_ == 1) {
      for (int64_t y = begin; y < end; ++y) read_channel(y, 0, plane_row(0, y));
      return;
    }
    const int64_t room = whole_blocks(plan_.batch_rows * plan_.width) + kBlock;
    uint8_t* memory = convert_workspace.at_least(3 * room);
    uint8_t* const rgb[3] = {memory, memory + room, memory + 2 * room};
    for (int64_t y = begin, rows; y < end; y += rows) {
      rows = std::min({plan_.batch_rows, end - y, rows_in_line(y)});
      uint8_t* const lab[3] = {plane_row(0, y), plane_row(1, y), plane_row(2, y)};
      read(y, rows, rgb);
      const bool more = in_line_ && y + 2 * rows <= plan_.height;
      rows_.to_lab(rgb, lab, rows * plan_.width,
                   more ? in_ + (y + rows) * source_.row_stride : nullptr);
    }
    convert_workspace.release_excess();
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
      alignas(kBlock) std::uint32_t counts[kBins] = {};
      const int64_t begin = tile * across.tile_px, end = begin + across.tile_px;
      const int64_t inside = std::min(end, plan_.width);
      rows_.count(rows.data(), down.tile_px, begin, inside, counts);
      for (int64_t x = std::max(begin, inside); x < end; ++x) {
        for (const uint8_t* row : rows) ++counts[row[reflected(x, plan_.width)]];
      }
      rows_.map(counts, plan_.limit, plan_.scale,
                mappings_ + (tile_row * across.tiles + tile) * kBins);
    }
  }

  int channels() const { return channels_; }

  // Rows of planes, all of one cell row -> blended lightness.
  void blend(const Cell& cell, int64_t y, int64_t rows, uint8_t* blended) const {
    const int64_t row_of_tiles = plan_.across.tiles * kBins;
    rows_.blend({plane_row(0, y), blended, plan_.width, rows, mappings_ + cell.left * row_of_tiles,
                 mappings_ + cell.right * row_of_tiles, plan_.cells.data(),
                 static_cast<int64_t>(plan_.cells.size()), plan_.right_weights.data(),
                 plan_.lower_weights.data() + y});
  }

  // Blended lightness -> channels after the table.
  void unmap(int64_t y, int64_t rows, const uint8_t* blended, uint8_t* const rgb[3]) const {
    if (channels_ == 1) {
      rows_.look_up(table_, blended, rgb[0], rows * plan_.width);
    } else {
      const uint8_t* const lab[3] = {blended, plane_row(1, y), plane_row(2, y)};
      rows_.to_rgb(lab, plan_.prepared, rgb, rows * plan_.width,
                   out_line_ && y > 0 ? out_row<uint8_t>(y - 1) : nullptr);
    }
  }

  // The median of rows that have a row above and below them.
  void filter(const uint8_t* in, int64_t rows, uint8_t* out) const {
    const int64_t width = plan_.width;
    rows_.median(in, width, out, rows * width);
    // At the ends of a row that took the neighbours of other rows: there the edge repeats.
    filter_edge(in, std::min<int64_t>(1, width - 1), rows, out);
    filter_edge(in + width - 1, -std::min<int64_t>(1, width - 1), rows, out + width - 1);
  }

  // Filtered rows -> the result.
  void write(int64_t y, int64_t rows, const uint8_t* const planes[3]) const {
    const int64_t width = plan_.width;
    if (out_line_) return rows_.join(planes, out_row<uint8_t>(y), rows * width);
    const bool interleaved =
        channels_ == 3 && target_.channel_stride == 1 && target_.column_stride == 3;
    for (int64_t i = 0; i < rows; ++i) {
      const uint8_t* row[3];
      for (int c = 0; c < channels_; ++c) row[c] = planes[c] + i * width;
      switch (target_.element) {
        case Element::u8:
          write_bytes(y + i, row, interleaved);
          break;
        case Element::f32:
          write_values<std::uint32_t>(y + i, row);
          break;
        case Element::f16:
        case Element::bf16:
          write_values<std::uint16_t>(y + i, row);
          break;
      }
    }
  }

 private:
  // The median of the pixels of a column at an edge; `inwards` is where its neighbours are.
  void filter_edge(const uint8_t* in, int64_t inwards, int64_t rows, uint8_t* out) const {
    const int64_t width = plan_.width;
    for (int64_t first = 0; first < rows; first += kEdgeRows) {
      const int64_t n = std::min(kEdgeRows, rows - first);
      uint8_t edge[kEdgeRows + 2] = {}, inner[kEdgeRows + 2] = {}, medians[kEdgeRows];
      for (int64_t i = 0; i < n + 2; ++i) {
        edge[i] = in[(first + i - 1) * width];
        inner[i] = in[(first + i - 1) * width + inwards];
      }
      for (int64_t i = 0; i < kEdgeRows; ++i) {
        const Column<uint8_t> a = sorted(edge[i], edge[i + 1], edge[i + 2]);
        medians[i] = median_of_columns(a, a, sorted(inner[i], inner[i + 1], inner[i + 2]));
      }
      for (int64_t i = 0; i < n; ++i) out[(first + i) * width] = medians[i];
    }
  }

  uint8_t* plane_row(int plane, int64_t y) const {
    return planes_[plane] + y % kept_rows_ * plan_.width;
  }

  void read_channel(int64_t y, int channel, uint8_t* plane) const {
    const uint8_t* in = in_ + y * source_.row_stride + channel * source_.channel_stride;
    if (source_.column_stride == 1) {
      std::memcpy(plane, in, static_cast<std::size_t>(plan_.width));
    } else {
      for (int64_t x = 0; x < plan_.width; ++x) plane[x] = in[x * source_.column_stride];
    }
  }

  void read(int64_t y, int64_t rows, uint8_t* const rgb[3]) const {
    const int64_t width = plan_.width;
    const bool interleaved = source_.channel_stride == 1 && source_.column_stride == 3;
    if (in_line_) {
      return rows_.split(in_ + y * source_.row_stride, rgb, rows * width);
    }
    for (int64_t i = 0; i < rows; ++i) {
      uint8_t* const row[3] = {rgb[0] + i * width, rgb[1] + i * width, rgb[2] + i * width};
      if (interleaved) {
        rows_.split(in_ + (y + i) * source_.row_stride, row, width);
      } else {
        for (int c = 0; c < 3; ++c) read_channel(y + i, c, row[c]);
      }
    }
  }

  template <typename T>
  T* out_row(int64_t y) const {
    return static_cast<T*>(target_.data) + out_offset_ + y * target_.row_stride;
  }

  void write_bytes(int64_t y, const uint8_t* const row[3], bool interleaved) const {
    uint8_t* out = out_row<uint8_t>(y);
    if (interleaved) return rows_.join(row, out, plan_.width);
    for (int c = 0; c < channels_; ++c, out += target_.channel_stride) {
      if (target_.column_stride == 1) {
        std::memcpy(out, row[c], static_cast<std::size_t>(plan_.width));
      } else {
        for (int64_t x = 0; x < plan_.width; ++x) out[x * target_.column_stride] = row[c][x];
      }
    }
  }

  // Bits: an unsigned integer as wide as the element, whose bits are copied.
  template <typename Bits>
  void write_values(int64_t y, const uint8_t* const row[3]) const {
    Bits* out = out_row<Bits>(y);
    const Bits* values = static_cast<const Bits*>(target_.values);
    const int64_t step = target_.column_stride;
    for (int c = 0; c < channels_; ++c, out += target_.channel_stride, values += kBins) {
      for (int64_t x = 0; x < plan_.width; ++x) out[x * step] = values[row[c][x]];
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
  uint8_t* mappings_;     // [tile rows, tiles across, 256]
  int64_t kept_rows_;
  bool in_line_, out_line_;  // interleaved RGB without gaps
  uint8_t* planes_[3]{};  // [kept_rows, width] each: row y is at y % kept_rows
};

// Rows [begin, end) of an image on their way from its planes to the result.
class Finish {
 public:
  Finish(const Image& image, const Plan& plan, int64_t begin, int64_t end)
      : image_(image),
        plan_(plan),
        begin_(begin),
        end_(end),
        last_(std::min(end + 1, plan.height)),
        y_(std::max<int64_t>(begin - 1, 0)),
        cell_(plan.row_cells.data()) {
    const int64_t room = whole_blocks((plan.batch_rows + 3) * plan.width) + 2 * kBlock;
    const int channels = image.channels();
    blended_ = finish_workspace.at_least((1 + 2 * channels) * room);
    for (int c = 0; c < channels; ++c) {
      ring_[c] = blended_ + (1 + c) * room + kBlock;
      filtered_[c] = blended_ + (1 + channels + c) * room;
    }
  }

  ~Finish() { finish_workspace.release_excess(); }
  Finish(const Finish&) = delete;
  Finish& operator=(const Finish&) = delete;

  // Goes on down to a row; the mappings that rows above it blend are made.
  void advance(int64_t until) {
    const int64_t width = plan_.width, stop = std::min(until, last_);
    while (y_ < stop) {
      while (cell_->end <= y_) ++cell_;
      const int64_t rows = std::min(
          {plan_.batch_rows, cell_->end - y_, stop - y_, image_.rows_in_line(y_)});
      uint8_t* rgb[3];
      for (int c = 0; c < image_.channels(); ++c) rgb[c] = ring_[c] + 2 * width;
      image_.blend(*cell_, y_, rows, blended_);
      image_.unmap(y_, rows, blended_, rgb);

      // Row y_ is at place 2 of the ring. Above the first row and below the last they repeat.
      const bool at_top = y_ == 0, at_bottom = y_ + rows == plan_.height;
      const int64_t from = std::max<int64_t>(begin_ - y_ + 2, 1);
      const int64_t to = std::min(rows + (at_bottom ? 2 : 1), end_ - y_ + 2);
      for (int c = 0; c < image_.channels(); ++c) {
        if (at_top) copy_rows(c, 2, 1, 1);
        if (at_bottom) copy_rows(c, rows + 1, rows + 2, 1);
        if (to > from) image_.filter(ring_[c] + from * width, to - from, filtered_[c]);
        copy_rows(c, rows, 0, 2);
      }
      if (to > from) image_.write(y_ + from - 2, to - from, filtered_);
      y_ += rows;
    }
  }

 private:
  void copy_rows(int channel, int64_t from, int64_t to, int64_t rows) {
    const int64_t width = plan_.width;
    std::memmove(ring_[channel] + to * width, ring_[channel] + from * width,
                 static_cast<std::size_t>(rows * width));
  }

  const Image& image_;
  const Plan& plan_;
  int64_t begin_, end_, last_;
  int64_t y_;  // the next row
  const Cell* cell_;
  uint8_t* blended_;
  // Per channel: the two rows before the batch, the batch, and one row more below the image.
  uint8_t* ring_[3]{};
  uint8_t* filtered_[3]{};
};

}  // namespace

void run(const Source& source, const Target& target, const Parameters& parameters,
         const Parallel& parallel) {
  if (source.count == 0 || source.height == 0 || source.width == 0) return;
  const Rows& rows = rows_of(isa());
  const Plan plan(source, parameters, rows);
  const auto image = [&](int64_t index, int64_t kept_rows) {
    return Image(source, target, parameters, plan, rows, index, kept_rows);
  };
  const int64_t height = plan.height, tile_px = plan.down.tile_px;

  if (source.count >= parallel.threads) {
    parallel.run(source.count, [&](int64_t index) {
      // Of the planes, the rows of two tiles are needed at a time; the extension below the last
      // row reaches one and a half tiles back.
      const Image one = image(index, std::min(height, 3 * tile_px));
      Finish finish(one, plan, 0, height);
      for (int64_t tile_row = 0; tile_row < plan.down.tiles; ++tile_row) {
        one.convert(std::min(tile_row * tile_px, height),
                    std::min((tile_row + 1) * tile_px, height));
        one.map_tiles(tile_row);
        finish.advance(plan.row_cells[static_cast<std::size_t>(tile_row)].end);
      }
      finish.advance(height);
    });
    return;
  }
  const int64_t bands = std::min<int64_t>(parallel.threads, height);
  const auto band = [&](int64_t i) { return height * i / bands; };
  for (int64_t index = 0; index < source.count; ++index) {
    const Image one = image(index, height);
    parallel.run(bands, [&](int64_t i) { one.convert(band(i), band(i + 1)); });
    parallel.run(plan.down.tiles, [&](int64_t tile_row) { one.map_tiles(tile_row); });
    parallel.run(bands, [&](int64_t i) {
      Finish(one, plan, band(i), band(i + 1)).advance(height);
    });
  }
}

}  // namespace perfkit::clahe_gamma_median
