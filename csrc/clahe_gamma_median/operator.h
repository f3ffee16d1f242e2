// From the tensors of perfkit::clahe_gamma_median to what the kernels take, on any device. Every
// input is refused, with std::runtime_error, or safe to run on: this is the operator's edge.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "../tensors.h"
#include "checks.h"
#include "clahe_gamma_median.h"

namespace perfkit::clahe_gamma_median {

// Nothing is to be done where the source `is_empty`: its pointers may then be null.
struct Call {
  Source source;
  Target target;
  Parameters parameters;
};

namespace detail {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline void check_table(const char* argument, const Tensor& table, ScalarType dtype,
                        std::span<const std::int64_t> sizes, const Tensor& images) {
  if (table.scalar_type() != dtype || !has_sizes(table, sizes) || !table.is_contiguous() ||
      table.device() != images.device()) {
    refuse(kName, argument,
           "contiguous " + dtype_name(dtype) + " " + text(sizes) + " on " + device_name(images),
           describe(table) + (table.is_contiguous() ? "" : ", not contiguous"));
  }
  check_memory(kName, argument, table);
}

inline Element element_of(const Tensor& out, bool has_values) {
  switch (out.scalar_type()) {
    case ScalarType::Byte:
      if (!has_values) return Element::u8;
      break;
    case ScalarType::Float:
      if (has_values) return Element::f32;
      break;
    case ScalarType::Half:
      if (has_values) return Element::f16;
      break;
    case ScalarType::BFloat16:
      if (has_values) return Element::bf16;
      break;
    default:
      break;
  }
  refuse(kName, "out", has_values ? "float32, float16 or bfloat16 where `values` are given"
                                  : "uint8 where no `values` are given",
         describe(out));
}

}  // namespace detail

// images: uint8 [N, H, W, C]; table: uint8 [256]; values: [C, 256] of out's dtype, or nothing;
// out: [N, H, W, C]. Throws std::runtime_error.
inline Call unpack(const torch::stable::Tensor& images, const torch::stable::Tensor& table,
                   const std::optional<torch::stable::Tensor>& values, double clip_limit,
                   std::int64_t columns, std::int64_t rows, const torch::stable::Tensor& out) {
  using detail::ScalarType;
  if (images.scalar_type() != ScalarType::Byte || images.dim() != 4) {
    refuse(kName, "images", "uint8 [N, H, W, C]", describe(images));
  }
  const std::span<const std::int64_t> sizes = sizes_of(images);
  if (!has_sizes(out, sizes) || out.device() != images.device()) {
    refuse(kName, "out", text(sizes) + " on " + device_name(images),
           describe(out));
  }
  const Element element = detail::element_of(out, values.has_value());
  detail::check_table("lut", table, ScalarType::Byte, std::array<std::int64_t, 1>{kBins}, images);
  if (values.has_value()) {
    detail::check_table("values", *values, out.scalar_type(),
                        std::array<std::int64_t, 2>{sizes[3], kBins}, images);
  }
  check_memory(kName, "images", images);
  check_memory(kName, "out", out);

  const Call call{
      .source = {.data = static_cast<const std::uint8_t*>(images.const_data_ptr()),
                 .count = sizes[0],
                 .height = sizes[1],
                 .width = sizes[2],
                 .channels = sizes[3],
                 .image_stride = images.stride(0),
                 .row_stride = images.stride(1),
                 .column_stride = images.stride(2),
                 .channel_stride = images.stride(3)},
      .target = {.data = out.mutable_data_ptr(),
                 .element = element,
                 .values = values.has_value() ? values->const_data_ptr() : nullptr,
                 .image_stride = out.stride(0),
                 .row_stride = out.stride(1),
                 .column_stride = out.stride(2),
                 .channel_stride = out.stride(3)},
      .parameters = {.clip_limit = clip_limit,
                     .columns = columns,
                     .rows = rows,
                     .table = static_cast<const std::uint8_t*>(table.const_data_ptr())}};
  check(call.source, call.target, call.parameters);
  return call;
}

}  // namespace perfkit::clahe_gamma_median
