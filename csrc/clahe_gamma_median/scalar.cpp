// The loops in plain C++: what every other instruction set is held to.
#include "../color/tables.h"
#include "arithmetic.h"
#include "counts.h"
#include "rows.h"

namespace perfkit::clahe_gamma_median {
namespace {

using std::int64_t;
using std::uint8_t;

uint8_t rounded(float value) {
  return static_cast<uint8_t>(clamp(static_cast<int>(__builtin_rintf(value)), 0, 255));
}

void split(const uint8_t* rgb, uint8_t* const planes[3], int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    for (int c = 0; c < 3; ++c) planes[c][i] = rgb[3 * i + c];
  }
}

void join(const uint8_t* const planes[3], uint8_t* rgb, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    for (int c = 0; c < 3; ++c) rgb[3 * i + c] = planes[c][i];
  }
}

void to_lab(const uint8_t* const rgb[3], uint8_t* const lab[3], int64_t n, const uint8_t*) {
  for (int64_t i = 0; i < n; ++i) {
    const int red = color::kLinear[rgb[0][i]];
    const int green = color::kLinear[rgb[1][i]];
    const int blue = color::kLinear[rgb[2][i]];
    int f[3];
    for (int axis = 0; axis < 3; ++axis) {
      f[axis] = color::kCubeRoot[xyz_from_rgb(axis, red, green, blue)];
    }
    const Lab pixel = lab_from_f(f[0], f[1], f[2]);
    lab[0][i] = pixel.l;
    lab[1][i] = pixel.a;
    lab[2][i] = pixel.b;
  }
}

void prepare(const uint8_t* table, uint8_t* encode) {
  for (int i = 0; i < 4096; ++i) encode[i] = table[color::kEncode[i]];
}

void to_rgb(const uint8_t* const lab[3], const uint8_t* encode, uint8_t* const rgb[3], int64_t n,
            const uint8_t*) {
  for (int64_t i = 0; i < n; ++i) {
    const int y = color::kY[lab[0][i]], fy = color::kFy[lab[0][i]];
    const int x = x_from_lab(fy, lab[1][i]), z = z_from_lab(fy, lab[2][i]);
    for (int c = 0; c < 3; ++c) rgb[c][i] = encode[rgb_from_xyz(c, x, y, z)];
  }
}

void look_up(const uint8_t* table, const uint8_t* in, uint8_t* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = table[in[i]];
}

void map(const std::uint32_t* counts, int limit, float scale, uint8_t* mapping) {
  int bins[kBins];
  int excess = 0;
  for (int bin = 0; bin < kBins; ++bin) {
    bins[bin] = static_cast<int>(counts[bin]);
    if (limit > 0 && bins[bin] > limit) {
      excess += bins[bin] - limit;
      bins[bin] = limit;
    }
  }
  int sum = 0;
  for (int bin = 0; bin < kBins; ++bin) {
    sum += bins[bin] + share_of_excess(bin, excess);
    mapping[bin] = rounded(static_cast<float>(sum) * scale);
  }
}

void blend(const BlendRows& block) {
  for (int64_t row = 0; row < block.rows; ++row) {
    const uint8_t* in = block.in + row * block.stride;
    uint8_t* out = block.out + row * block.stride;
    const float lower = block.lower_weights[row];
    for (int64_t c = 0; c < block.cell_count; ++c) {
      const Cell& cell = block.cells[c];
      const uint8_t* top_left = block.upper + cell.left * kBins;
      const uint8_t* top_right = block.upper + cell.right * kBins;
      const uint8_t* bottom_left = block.lower + cell.left * kBins;
      const uint8_t* bottom_right = block.lower + cell.right * kBins;
      for (int64_t x = cell.begin; x < cell.end; ++x) {
        const uint8_t v = in[x];
        out[x] = rounded(blended(top_left[v], top_right[v], bottom_left[v], bottom_right[v],
                                 block.right_weights[x], lower));
      }
    }
  }
}

void median(const uint8_t* middle, int64_t stride, uint8_t* out, int64_t n) {
  const auto column = [&](int64_t x) {
    return sorted(middle[x - stride], middle[x], middle[x + stride]);
  };
  Column<uint8_t> left = column(-1), centre = column(0);
  for (int64_t x = 0; x < n; ++x) {
    const Column<uint8_t> right = column(x + 1);
    out[x] = median_of_columns(left, centre, right);
    left = centre;
    centre = right;
  }
}

}  // namespace

const Rows kScalarRows = {split, to_lab, count, map, blend, prepare, to_rgb, look_up, median, join};

}  // namespace perfkit::clahe_gamma_median
