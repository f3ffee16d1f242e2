// What the operators' edges ask of torch's tensors, and how they name them in messages.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>

#include "checks.h"

namespace perfkit {

inline std::span<const std::int64_t> sizes_of(const torch::stable::Tensor& tensor) {
  return {tensor.sizes().data(), static_cast<std::size_t>(tensor.dim())};
}

inline std::string dtype_name(torch::headeronly::ScalarType dtype) {
  switch (dtype) {
    case torch::headeronly::ScalarType::Byte:
      return "uint8";
    case torch::headeronly::ScalarType::Float:
      return "float32";
    case torch::headeronly::ScalarType::Half:
      return "float16";
    case torch::headeronly::ScalarType::BFloat16:
      return "bfloat16";
    case torch::headeronly::ScalarType::Double:
      return "float64";
    default:
      return torch::headeronly::toString(dtype);
  }
}

inline std::string device_name(const torch::stable::Tensor& tensor) {
  if (tensor.is_cpu()) return "cpu";
  return (tensor.is_cuda() ? "cuda:" : "device ") + std::to_string(tensor.get_device_index());
}

inline std::string describe(const torch::stable::Tensor& tensor) {
  return dtype_name(tensor.scalar_type()) + " " + text(sizes_of(tensor)) + " on " +
         device_name(tensor);
}

inline bool has_sizes(const torch::stable::Tensor& tensor, std::span<const std::int64_t> sizes) {
  return std::ranges::equal(sizes_of(tensor), sizes);
}

// A storage may have been resized under its tensors.
inline void check_memory(const char* operation, const char* argument,
                         const torch::stable::Tensor& tensor) {
  if (tensor.numel() == 0) return;
  std::int64_t bytes = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(tensor.get(), &bytes));
  const std::span<const std::int64_t> strides{tensor.strides().data(),
                                              static_cast<std::size_t>(tensor.dim())};
  const auto element = static_cast<std::int64_t>(tensor.element_size());
  // Strides of tensors are not negative: the extent begins at the data.
  const Extent touched = extent(nullptr, sizes_of(tensor), strides, element);
  const std::int64_t needed =
      tensor.storage_offset() * element + static_cast<std::int64_t>(touched.past);
  if (needed > bytes) {
    refuse(operation, argument, "a tensor within its storage",
           std::to_string(bytes) + " bytes where " + std::to_string(needed) + " are needed");
  }
}

}  // namespace perfkit
