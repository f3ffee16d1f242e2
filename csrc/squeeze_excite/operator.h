// From the tensors of perfkit::squeeze_excite and its backward to what the kernels take, on any
// device. Every input is refused, with std::runtime_error, or safe to run on: this is the edge.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "../tensors.h"
#include "squeeze_excite.h"

namespace perfkit::squeeze_excite {

using MaybeTensor = std::optional<torch::stable::Tensor>;

namespace detail {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Element element_of(const char* argument, const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Half:
      return Element::f16;
    case ScalarType::BFloat16:
      return Element::bf16;
    case ScalarType::Float:
      return Element::f32;
    case ScalarType::Double:
      if (tensor.is_cpu()) return Element::f64;
      break;
    default:
      break;
  }
  refuse(kName, argument, "float32, float16, bfloat16, or on the CPU float64", describe(tensor));
}

// Whether the strides are those of a dense tensor whose dimensions have this order, the outermost
// first; those of a dimension of one element do not matter, nor do any where there are no elements.
inline bool is_dense(const Tensor& tensor, std::initializer_list<std::int64_t> order) {
  if (tensor.numel() == 0) return true;
  std::int64_t expected = 1;
  for (auto dim = std::rbegin(order); dim != std::rend(order); ++dim) {
    if (tensor.size(*dim) != 1 && tensor.stride(*dim) != expected) return false;
    expected *= tensor.size(*dim);
  }
  return true;
}

inline bool has_layout(const Tensor& tensor, bool channels_last) {
  if (tensor.dim() == 3) return is_dense(tensor, {0, 1, 2});
  return channels_last ? is_dense(tensor, {0, 2, 3, 1}) : is_dense(tensor, {0, 1, 2, 3});
}

// Everything of x but the number of hidden values.
inline Shape shape_of(const Tensor& x) {
  if (x.dim() != 3 && x.dim() != 4) {
    refuse(kName, "x", "[N, C, H, W] or [N, L, C]", describe(x));
  }
  const bool tokens = x.dim() == 3;
  const Shape shape{.count = x.size(0),
                    .channels = x.size(tokens ? 2 : 1),
                    .pixels = tokens ? x.size(1) : x.size(2) * x.size(3),
                    .hidden = 0,
                    .channels_last = tokens || !has_layout(x, false)};
  if (shape.channels == 0 || shape.pixels == 0) {
    refuse(kName, "x", "of at least one channel and one pixel or token", describe(x));
  }
  if (!has_layout(x, shape.channels_last)) {
    refuse(kName, "x", tokens ? "contiguous" : "contiguous or channels_last",
           describe(x) + ", with gaps");
  }
  check_memory(kName, "x", x);
  return shape;
}

// Refuses what is not like x in dtype, shape, device and layout.
inline const void* same_as_x(const char* argument, const Tensor& tensor, const Tensor& x,
                             const Shape& shape) {
  if (tensor.scalar_type() != x.scalar_type() || !has_sizes(tensor, sizes_of(x)) ||
      tensor.device() != x.device()) {
    refuse(kName, argument, describe(x) + ", like `x`", describe(tensor));
  }
  if (!has_layout(tensor, shape.channels_last)) {
    refuse(kName, argument, "of the memory layout of `x`", describe(tensor) + " of another");
  }
  check_memory(kName, argument, tensor);
  return tensor.const_data_ptr();
}

// `sizes`, and perhaps as many more of 1.
inline const void* parameter(const char* argument, const Tensor& tensor, ScalarType dtype,
                             std::initializer_list<std::int64_t> sizes, const Tensor& x) {
  const std::span<const std::int64_t> given = sizes_of(tensor);
  std::vector<std::int64_t> long_form(sizes);
  long_form.insert(long_form.end(), {1, 1});
  const bool fits = std::ranges::equal(given, sizes) ||
                    (sizes.size() == 2 && std::ranges::equal(given, long_form));
  if (tensor.scalar_type() != dtype || !fits || !tensor.is_contiguous() ||
      tensor.device() != x.device()) {
    refuse(kName, argument,
           "contiguous " + dtype_name(dtype) + " " + text(std::vector<std::int64_t>(sizes)) +
               " on " + device_name(x),
           describe(tensor) + (tensor.is_contiguous() ? "" : ", not contiguous"));
  }
  check_memory(kName, argument, tensor);
  return tensor.const_data_ptr();
}

// Checks the layers, and completes the shape.
inline Layers layers_of(const Tensor& x, const Tensor& w1, const MaybeTensor& b1, const Tensor& w2,
                        const MaybeTensor& b2, Shape& shape) {
  const ScalarType dtype = w1.scalar_type();
  if (dtype != x.scalar_type() &&
      !(dtype == ScalarType::Float && x.scalar_type() != ScalarType::Double)) {
    const bool low = x.scalar_type() != ScalarType::Float && x.scalar_type() != ScalarType::Double;
    refuse(kName, "w1", "of the dtype of `x`" + std::string(low ? " or float32" : "") + " (" +
                            dtype_name(x.scalar_type()) + ")",
           describe(w1));
  }
  shape.hidden = w1.dim() == 0 ? 0 : w1.size(0);
  if (shape.hidden == 0) refuse(kName, "w1", "[R, C] with R of at least 1", describe(w1));
  const std::int64_t c = shape.channels, r = shape.hidden;
  return {.element = element_of("w1", w1),
          .w1 = parameter("w1", w1, dtype, {r, c}, x),
          .b1 = b1 ? parameter("b1", *b1, dtype, {r}, x) : nullptr,
          .w2 = parameter("w2", w2, dtype, {c, r}, x),
          .b2 = b2 ? parameter("b2", *b2, dtype, {c}, x) : nullptr};
}

inline ScalarType real_dtype(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

}  // namespace detail

// The operator, with what a device's `run(const Forward&)` does; it is not called for an empty
// batch. Returns y and the state.
template <class Run>
std::tuple<torch::stable::Tensor, torch::stable::Tensor> forward(
    const torch::stable::Tensor& x, const torch::stable::Tensor& w1, const MaybeTensor& b1,
    const torch::stable::Tensor& w2, const MaybeTensor& b2, const MaybeTensor& residual, bool relu,
    const Run& run) {
  Shape shape = detail::shape_of(x);
  const Element element = detail::element_of("x", x);
  const Layers layers = detail::layers_of(x, w1, b1, w2, b2, shape);
  const void* added = residual ? detail::same_as_x("residual", *residual, x, shape) : nullptr;
  torch::stable::Tensor y = torch::stable::empty_like(x);
  torch::stable::Tensor state = torch::stable::new_empty(
      x, {shape.count, 2 * shape.channels + shape.hidden}, detail::real_dtype(x));
  if (shape.count > 0) {
    run(Forward{.shape = shape,
                .element = element,
                .layers = layers,
                .x = x.const_data_ptr(),
                .residual = added,
                .y = y.mutable_data_ptr(),
                .state = state.mutable_data_ptr(),
                .relu = relu});
  }
  return {std::move(y), std::move(state)};
}

using Gradients6 = std::tuple<torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor,
                              torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor>;

// Its backward, likewise; an empty batch gives zeros.
template <class Run>
Gradients6 backward(const torch::stable::Tensor& grad, const torch::stable::Tensor& x,
                    const MaybeTensor& y, const torch::stable::Tensor& state,
                    const torch::stable::Tensor& w1, const torch::stable::Tensor& w2,
                    const std::vector<bool>& wanted, const Run& run) {
  Shape shape = detail::shape_of(x);
  const Element element = detail::element_of("x", x);
  const Layers layers = detail::layers_of(x, w1, std::nullopt, w2, std::nullopt, shape);
  const std::int64_t row = 2 * shape.channels + shape.hidden;
  if (state.scalar_type() != detail::real_dtype(x) || state.device() != x.device() ||
      !has_sizes(state, std::array<std::int64_t, 2>{shape.count, row}) || !state.is_contiguous()) {
    refuse(kName, "state", "what the forward returned", describe(state));
  }
  check_memory(kName, "state", state);
  if (wanted.size() != 6) {
    refuse(kName, "wanted", "six flags", std::to_string(wanted.size()));
  }
  if (wanted[1] && !y) {
    refuse(kName, "wanted", "false for the residual where there is no `y`", "true");
  }
  const auto none = [&] { return torch::stable::new_empty(x, {0}); };
  const auto like = [&](std::size_t index, const torch::stable::Tensor& of) {
    return wanted[index] ? torch::stable::empty_like(of) : none();
  };
  const auto bias = [&](std::size_t index, std::int64_t size) {
    return wanted[index] ? torch::stable::new_empty(w1, {size}) : none();
  };
  std::array<torch::stable::Tensor, 6> made{like(0, x),  like(1, x),
                                            like(2, w1), bias(3, shape.hidden),
                                            like(4, w2), bias(5, shape.channels)};
  const auto place = [&](std::size_t index) {
    return wanted[index] ? made[index].mutable_data_ptr() : nullptr;
  };
  const Backward call{
      .shape = shape,
      .element = element,
      .layers = layers,
      .grad = detail::same_as_x("grad", grad, x, shape),
      .x = x.const_data_ptr(),
      .y = y ? detail::same_as_x("y", *y, x, shape) : nullptr,
      .state = state.const_data_ptr(),
      .grad_x = place(0),
      .grad_residual = place(1),
      .grad_w1 = place(2),
      .grad_b1 = place(3),
      .grad_w2 = place(4),
      .grad_b2 = place(5)};
  if (shape.count > 0) {
    run(call);
  } else {
    for (std::size_t index = 2; index < made.size(); ++index) torch::stable::zero_(made[index]);
  }
  return std::tuple_cat(made);
}

}  // namespace perfkit::squeeze_excite
