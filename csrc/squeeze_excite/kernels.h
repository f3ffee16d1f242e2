// The operator on a range of samples, for one instruction set, whose lanes L the including file
// brings. While a sample is scaled, from cache, the next one is summed, from memory: neither the
// reads nor the writes wait for the other.
#pragma once

#include <cstdint>

#include "elements.h"
#include "kernel_table.h"
#include "squeeze_excite.h"
#include "traversal.h"

namespace perfkit::squeeze_excite {
namespace {

// Calls, for each sample of [begin, end), first(n, all units), ready(n), second(n, all units), where
// first of the next sample goes along with second, a few kilobytes in turn.
template <class Layout, class First, class Ready, class Second>
void in_pairs(const Layout& layout, std::int64_t begin, std::int64_t end, const First& first,
              const Ready& ready, const Second& second) {
  constexpr std::int64_t kTurnElements = 2048;
  const std::int64_t units = layout.units(), turn = layout.units_of(kTurnElements);
  if (begin < end) first(begin, 0, units);
  for (std::int64_t n = begin; n < end; ++n) {
    ready(n);
    for (std::int64_t unit = 0; unit < units; unit += turn) {
      const std::int64_t past = least(units, unit + turn);
      if (n + 1 < end) first(n + 1, unit, past);
      second(n, unit, past);
    }
  }
}

// Sum over c of a[c] b[c].
template <class L>
typename L::Real dot(const typename L::Real* a, const typename L::Real* b, std::int64_t count) {
  return sum<L>(count, [&](std::int64_t i, auto part) { return part.load(a + i) * part.load(b + i); });
}

// Sum over i of factors[i] rows[i, c .. ].
template <class L, class Part>
L combination(const typename L::Real* factors, std::int64_t factor_stride,
              const typename L::Real* rows, std::int64_t row_stride, std::int64_t count, Part part) {
  return chained(L::all(0), count, [&](std::int64_t i, L total) {
    return L::fma(L::all(factors[i * factor_stride]), part.load(rows + i * row_stride), total);
  });
}

// A [N, 2C + R] row of the state.
template <class Real>
struct State {
  Real *mean, *gate, *hidden;
  State(const void* state, const Shape& shape, std::int64_t n)
      : mean(static_cast<Real*>(const_cast<void*>(state)) +
             n * (2 * shape.channels + shape.hidden)),
        gate(mean + shape.channels),
        hidden(gate + shape.channels) {}
};

// Means -> hidden values and gates.
template <class L>
void excite(const Shape& shape, const Weights& weights, State<typename L::Real> state) {
  using Real = typename L::Real;
  const auto [count, channels, pixels, hidden, channels_last] = shape;
  const auto* w1 = static_cast<const Real*>(weights.w1);
  const auto* b1 = static_cast<const Real*>(weights.b1);
  const auto* w2 = static_cast<const Real*>(weights.w2_transposed);
  const auto* b2 = static_cast<const Real*>(weights.b2);
  for (std::int64_t r = 0; r < hidden; ++r) {
    const Real value = dot<L>(w1 + r * channels, state.mean, channels) + (b1 ? b1[r] : Real(0));
    state.hidden[r] = value <= 0 ? Real(0) : value;  // a NaN stays
  }
  for_registers<L>(channels, [&](std::int64_t c, auto part) {
    const L bias = b2 ? part.load(b2 + c) : L::all(0);
    const L logit = bias + combination<L>(state.hidden, 1, w2 + c, channels, hidden, part);
    const L one = L::all(1);
    part.store(state.gate + c, one / (one + exp(L::all(0) - logit)));
  });
}

template <class L, class T, class Layout, bool kResidual, bool kRelu>
void forward_range(const Forward& call, const Weights& weights, std::int64_t begin,
                   std::int64_t end, void* workspace) {
  using Real = typename L::Real;
  const Shape& shape = call.shape;
  const std::int64_t sample = shape.channels * shape.pixels;
  Layout layout(shape, static_cast<Real*>(workspace));

  const auto pool = [&](std::int64_t n, std::int64_t from, std::int64_t to) {
    const T* x = static_cast<const T*>(call.x) + n * sample;
    layout.add(from, to, State<Real>(call.state, shape, n).mean,
               [&](std::int64_t offset, auto part) { return part.load(x + offset); });
  };
  const auto scale = [&](std::int64_t n, std::int64_t from, std::int64_t to) {
    const T* x = static_cast<const T*>(call.x) + n * sample;
    const T* residual = kResidual ? static_cast<const T*>(call.residual) + n * sample : nullptr;
    T* y = static_cast<T*>(call.y) + n * sample;
    const Real* gate = State<Real>(call.state, shape, n).gate;
    layout.map(from, to, gate, gate,
               [&](std::int64_t offset, L gate, L, auto part) {
                 L value = part.load(x + offset) * gate;
                 if constexpr (kResidual) value = value + part.load(residual + offset);
                 if constexpr (kRelu) value = L::where_above_zero(value, value);
                 part.store(y + offset, value);
               });
  };
  const auto ready = [&](std::int64_t n) {
    const State<Real> state(call.state, shape, n);
    for (std::int64_t c = 0; c < shape.channels; ++c) {
      state.mean[c] /= static_cast<Real>(shape.pixels);
    }
    excite<L>(shape, weights, state);
  };
  in_pairs(layout, begin, end, pool, ready, scale);
}

template <class L, class T, class Layout, bool kRelu>
void backward_range(const Backward& call, const Weights& weights, void* all_slopes,
                    std::int64_t begin, std::int64_t end, void* workspace) {
  using Real = typename L::Real;
  const Shape& shape = call.shape;
  const auto [count, channels, pixels, hidden, channels_last] = shape;
  const std::int64_t sample = channels * pixels;
  const auto* w1 = static_cast<const Real*>(weights.w1);
  const auto* w2 = static_cast<const Real*>(weights.w2_transposed);
  Layout layout(shape, static_cast<Real*>(workspace));
  Real* shift = static_cast<Real*>(workspace) + 2 * channels;
  const auto slopes = [&](std::int64_t n) {
    return static_cast<Real*>(all_slopes) + n * (channels + hidden);
  };
  // The gradient at the ReLU's input is that of the residual: where it is asked for, it is read
  // again from there.
  const bool through_residual = kRelu && call.grad_residual != nullptr;

  const auto reduce = [&](std::int64_t n, std::int64_t from, std::int64_t to) {
    const T* x = static_cast<const T*>(call.x) + n * sample;
    const T* grad = static_cast<const T*>(call.grad) + n * sample;
    const T* y = kRelu ? static_cast<const T*>(call.y) + n * sample : nullptr;
    if (!through_residual) {
      layout.add(from, to, slopes(n), [&](std::int64_t offset, auto part) {
        L g = part.load(grad + offset);
        if constexpr (kRelu) g = L::where_above_zero(part.load(y + offset), g);
        return g * part.load(x + offset);
      });
    } else if constexpr (kRelu) {
      T* grad_residual = static_cast<T*>(call.grad_residual) + n * sample;
      layout.add(from, to, slopes(n), [&](std::int64_t offset, auto part) {
        const L g = L::where_above_zero(part.load(y + offset), part.load(grad + offset));
        part.store(grad_residual + offset, g);
        return g * part.load(x + offset);
      });
    }
  };
  const auto apply = [&](std::int64_t n, std::int64_t from, std::int64_t to) {
    if (call.grad_x == nullptr) return;
    const T* grad = static_cast<const T*>(through_residual ? call.grad_residual : call.grad);
    const T* y = static_cast<const T*>(call.y) + n * sample;
    T* grad_x = static_cast<T*>(call.grad_x) + n * sample;
    grad += n * sample;
    const bool masked = kRelu && !through_residual;
    layout.map(from, to, State<Real>(call.state, shape, n).gate, shift,
               [&](std::int64_t offset, L gate, L shift, auto part) {
                 L g = part.load(grad + offset);
                 if (masked) g = L::where_above_zero(part.load(y + offset), g);
                 part.store(grad_x + offset, L::fma(g, gate, shift));
               });
  };
  const auto ready = [&](std::int64_t n) {
    const State<Real> state(call.state, shape, n);
    Real* d2 = slopes(n);
    Real* d1 = d2 + channels;
    for_registers<L>(channels, [&](std::int64_t c, auto part) {
      const L gate = part.load(state.gate + c);
      part.store(d2 + c, part.load(d2 + c) * (gate * (L::all(1) - gate)));
    });
    for (std::int64_t r = 0; r < hidden; ++r) {
      const Real slope = dot<L>(w2 + r * channels, d2, channels);
      d1[r] = state.hidden[r] <= 0 ? Real(0) : slope;
    }
    const L share = L::all(Real(1) / static_cast<Real>(pixels));
    for_registers<L>(channels, [&](std::int64_t c, auto part) {
      const L slope = combination<L>(d1, 1, w1 + c, channels, hidden, part);
      part.store(shift + c, slope * share);
    });
  };
  in_pairs(layout, begin, end, reduce, ready, apply);
}

// Row r: sum over n of d1[n,r] mean[n, .] and of hidden[n,r] d2[n, .]; with it entry r of the
// bias's gradient, and with row 0 all of the other bias's.
template <class L>
void layer_rows(const Backward& call, const void* slopes, const Gradients& gradients,
                std::int64_t begin, std::int64_t end) {
  using Real = typename L::Real;
  const auto [count, channels, pixels, hidden, channels_last] = call.shape;
  const State<Real> state(call.state, call.shape, 0);
  const std::int64_t state_stride = 2 * channels + hidden, slope_stride = channels + hidden;
  const Real* d2 = static_cast<const Real*>(slopes);
  const Real* d1 = d2 + channels;
  const auto add = [&](void* to, std::int64_t r, const Real* factors, std::int64_t factor_stride,
                       const Real* rows, std::int64_t row_stride) {
    if (to == nullptr) return;
    for_registers<L>(channels, [&](std::int64_t c, auto part) {
      part.store(static_cast<Real*>(to) + r * channels + c,
                 combination<L>(factors, factor_stride, rows + c, row_stride, count, part));
    });
  };
  for (std::int64_t r = begin; r < end; ++r) {
    add(gradients.w1, r, d1 + r, slope_stride, state.mean, state_stride);
    add(gradients.w2_transposed, r, state.hidden + r, state_stride, d2, slope_stride);
    if (gradients.b1 == nullptr) continue;
    static_cast<Real*>(gradients.b1)[r] =
        chained(Real(0), count, [&](std::int64_t n, Real total) {
          return total + d1[n * slope_stride + r];
        });
  }
  const Real one = 1;
  if (begin == 0) add(gradients.b2, 0, &one, 0, d2, slope_stride);
}

template <class L, class T, class Layout>
Kernels kernels_of(bool has_residual, bool has_relu) {
  Kernels kernels{nullptr, has_relu ? backward_range<L, T, Layout, true>
                                    : backward_range<L, T, Layout, false>,
                  layer_rows<L>};
  if (has_residual) {
    kernels.forward = has_relu ? forward_range<L, T, Layout, true, true>
                               : forward_range<L, T, Layout, true, false>;
  } else {
    kernels.forward = has_relu ? forward_range<L, T, Layout, false, true>
                               : forward_range<L, T, Layout, false, false>;
  }
  return kernels;
}

template <class L, class T>
Kernels kernels_of(const Shape& shape, bool has_residual, bool has_relu) {
  return shape.channels_last ? kernels_of<L, T, Pixels<L>>(has_residual, has_relu)
                             : kernels_of<L, T, Planes<L>>(has_residual, has_relu);
}

// Of floats in three formats.
template <class L>
Kernels kernels_of(const Shape& shape, Element element, bool has_residual, bool has_relu) {
  switch (element) {
    case Element::f16:
      return kernels_of<L, Half>(shape, has_residual, has_relu);
    case Element::bf16:
      return kernels_of<L, Bfloat>(shape, has_residual, has_relu);
    default:
      return kernels_of<L, float>(shape, has_residual, has_relu);
  }
}

}  // namespace
}  // namespace perfkit::squeeze_excite
