// CLAHE on the lightness, a byte table and a 3x3 median of 8-bit images, with the bytes of OpenCV 5.
//
// Three channels (RGB), per image:
//   1. Lab = RGB -> L*a*b*, 8 bits each           (opencv modules/imgproc/src/color_lab.cpp, RGB2Lab_b)
//   2. L   = CLAHE(L)                             (opencv modules/imgproc/src/clahe.cpp)
//   3. RGB = table[L*a*b* -> RGB]                 (color_lab.cpp, Lab2RGBinteger)
//   4. out = median of 3x3, each channel by itself, edge pixels repeated
// One channel: CLAHE, table, median.
//
// Rounding: colour in integers as OpenCV has them; CLAHE in float32, every product and every sum
// rounded by itself (no contraction), the result half to even. `arithmetic.h` has the formulas.
//
// This header and all kernels know nothing of torch: the tensor operators (cpu.cpp, cuda.cpp) and
// the NumPy entry (csrc/module.cpp) describe their memory in `Source` and `Target`.
#pragma once

#include <cstdint>
#include <functional>

namespace perfkit::clahe_gamma_median {

// uint8 images [count, height, width, channels] in any layout: strides in elements, per dimension.
struct Source {
  const std::uint8_t* data;
  std::int64_t count, height, width, channels;  // channels: 1 or 3
  std::int64_t image_stride, row_stride, column_stride, channel_stride;
};

enum class Element : int { u8, f32, f16, bf16 };

// Where the result goes: the shape of the source, any layout without overlap.
struct Target {
  void* data;
  Element element;
  // nullptr for u8; otherwise [channels, 256] of `element`: what each byte of a channel becomes.
  const void* values;
  std::int64_t image_stride, row_stride, column_stride, channel_stride;  // in elements
};

struct Parameters {
  double clip_limit;           // in mean bins of a tile; 0: no clipping
  std::int64_t columns, rows;  // tiles across and down, at least 1; may exceed the image
  const std::uint8_t* table;   // [256], applied to every channel after CLAHE
};

// How a caller runs independent tasks. `run(n, task)` calls task(0) ... task(n - 1), on as many as
// `threads` threads, and returns when all are done.
struct Parallel {
  int threads;
  std::function<void(std::int64_t, const std::function<void(std::int64_t)>&)> run;
};

// On the CPU, with the instruction set that `isa.h` chose. Sizes may be 0: nothing is done.
// Throws std::bad_alloc.
void run(const Source&, const Target&, const Parameters&, const Parallel&);

}  // namespace perfkit::clahe_gamma_median
