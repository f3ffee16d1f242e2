// The operator on a range of samples, for one instruction set, whose lanes L the including file
// brings. While a sample is scaled, from cache, the next one is summed, from memory: neither the
// reads nor the writes wait for the other.
#pragma once

#include <cstdint>

#include "elements.h"
#include "fresh_pages.h"
#include "kernel_table.h"
#include "matrices.h"
#include "squeeze_excite.h"
#include "traversal.h"

namespace perfkit::squeeze_excite {
namespace {

// Calls, for each sample of [begin, end), first(n, all units), ready(n), second(n, all units), a few
// kilobytes at a time, where first of the next sample goes in turn with second.
template <class Layout, class First, class Ready, class Second>
void in_pairs(const Layout& layout, std::int64_t begin, std::int64_t end, const First& first,
              const Ready& ready, const Second& second) {
  constexpr std::int64_t kTurnElements = 2048;
  const std::int64_t units = layout.units(), turn = layout.units_of(kTurnElements);
  const auto in_turns = [&](const auto& body) {
    for (std::int64_t unit = 0; unit < units; unit += turn) body(unit, least(units, unit + turn));
  };
  if (begin == end) return;
  in_turns([&](std::int64_t from, std::int64_t to) { first(begin, from, to); });
  for (std::int64_t n = begin; n < end; ++n) {
    ready(n);
    in_turns([&](std::int64_t from, std::int64_t to) {
      if (n + 1 < end) first(n + 1, from, to);
      second(n, from, to);
    });
  }
}

// Of a tensor like x, which may be nullptr, the samples [begin, end).
template <class T>
FreshPages fresh_samples(void* tensor, const Shape& shape, std::int64_t begin, std::int64_t end) {
  const std::int64_t sample = shape.channels * shape.pixels;
  T* first = static_cast<T*>(tensor);
  if (tensor == nullptr) return {nullptr, nullptr, 0};
  return {first + begin * sample, first + end * sample,
          shape.count * sample * static_cast<std::int64_t>(sizeof(T))};
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
  const auto* b1 = static_cast<const Real*>(weights.b1);
  const auto* b2 = static_cast<const Real*>(weights.b2);
  multiply<L>(hidden, channels, static_cast<const Real*>(weights.w1), state.mean, state.hidden);
  for_registers<L>(hidden, [&](std::int64_t r, auto part) {
    L value = part.load(state.hidden + r);
    if (b1) value = value + part.load(b1 + r);
    part.store(state.hidden + r, L::where_above_zero(value, value));
  });
  multiply<L>(channels, hidden, static_cast<const Real*>(weights.w2), state.hidden, state.gate);
  for_registers<L>(channels, [&](std::int64_t c, auto part) {
    L logit = part.load(state.gate + c);
    if (b2) logit = logit + part.load(b2 + c);
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
  FreshPages fresh_y = fresh_samples<T>(call.y, shape, begin, end);

  const auto pool = [&](std::int64_t n, std::int64_t from, std::int64_t to) {
    const T* x = static_cast<const T*>(call.x) + n * sample;
    layout.add(from, to, State<Real>(call.state, shape, n).mean,
               [&](std::int64_t offset, auto part) { return part.read(x + offset); });
  };
  const auto scale = [&](std::int64_t n, std::int64_t from, std::int64_t to) {
    const T* x = static_cast<const T*>(call.x) + n * sample;
    const T* residual = kResidual ? static_cast<const T*>(call.residual) + n * sample : nullptr;
    T* y = static_cast<T*>(call.y) + n * sample;
    fresh_y.reach(y + layout.elements_of(to));
    const Real* gate = State<Real>(call.state, shape, n).gate;
    layout.map(from, to, gate, gate,
               [&](std::int64_t offset, L gate, L, auto part) {
                 L value = part.load(x + offset) * gate;
                 if constexpr (kResidual) value = value + part.read(residual + offset);
                 if constexpr (kRelu) value = L::where_above_zero(value, value);
                 part.write(y + offset, value);
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
  const auto* w2 = static_cast<const Real*>(weights.w2);
  Layout layout(shape, static_cast<Real*>(workspace));
  Real* shift = static_cast<Real*>(workspace) + 2 * channels;
  FreshPages fresh_grad_x = fresh_samples<T>(call.grad_x, shape, begin, end);
  FreshPages fresh_grad_residual = fresh_samples<T>(call.grad_residual, shape, begin, end);
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
        L g = part.read(grad + offset);
        if constexpr (kRelu) g = L::where_above_zero(part.read(y + offset), g);
        return g * part.read(x + offset);
      });
    } else if constexpr (kRelu) {
      T* grad_residual = static_cast<T*>(call.grad_residual) + n * sample;
      fresh_grad_residual.reach(grad_residual + layout.elements_of(to));
      layout.add(from, to, slopes(n), [&](std::int64_t offset, auto part) {
        const L g = L::where_above_zero(part.read(y + offset), part.read(grad + offset));
        part.write(grad_residual + offset, g);
        return g * part.read(x + offset);
      });
    }
  };
  const auto apply = [&](std::int64_t n, std::int64_t from, std::int64_t to) {
    if (call.grad_x == nullptr) return;
    const T* grad =
        static_cast<const T*>(through_residual ? call.grad_residual : call.grad) + n * sample;
    const T* y = kRelu ? static_cast<const T*>(call.y) + n * sample : nullptr;
    T* grad_x = static_cast<T*>(call.grad_x) + n * sample;
    fresh_grad_x.reach(grad_x + layout.elements_of(to));
    const bool masked = kRelu && !through_residual;
    layout.map(from, to, State<Real>(call.state, shape, n).gate, shift,
               [&](std::int64_t offset, L gate, L shift, auto part) {
                 L g = part.load(grad + offset);
                 if (masked) g = L::where_above_zero(part.load(y + offset), g);
                 part.write(grad_x + offset, L::fma(g, gate, shift));
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
    combine<L>({.count = channels, .factors = d2, .factor_stride = 1, .rows = w2,
                .row_stride = hidden},
               hidden, d1);
    for_registers<L>(hidden, [&](std::int64_t r, auto part) {
      part.store(d1 + r, L::where_above_zero(part.load(state.hidden + r), part.load(d1 + r)));
    });
    if (call.grad_x == nullptr) return;
    combine<L>({.count = hidden, .factors = d1, .factor_stride = 1, .rows = w1,
                .row_stride = channels},
               channels, shift);
    const L share = L::all(Real(1) / static_cast<Real>(pixels));
    for_registers<L>(channels, [&](std::int64_t c, auto part) {
      part.store(shift + c, part.load(shift + c) * share);
    });
  };
  in_pairs(layout, begin, end, reduce, ready, apply);
}

// Rows [begin, end) of w1's gradient, sum over n of d1[n,r] mean[n, .], as large a part of w2's, sum
// over n of d2[n,c] hidden[n, .], and with the first rows all of the biases'.
template <class L>
void layer_gradients(const Backward& call, const void* slopes, const Gradients& gradients,
                     std::int64_t begin, std::int64_t end) {
  using Real = typename L::Real;
  const auto [count, channels, pixels, hidden, channels_last] = call.shape;
  const State<Real> state(call.state, call.shape, 0);
  const std::int64_t state_stride = 2 * channels + hidden, slope_stride = channels + hidden;
  const Real* d2 = static_cast<const Real*>(slopes);
  const Real* d1 = d2 + channels;
  if (auto* w1 = static_cast<Real*>(gradients.w1)) {
    for (std::int64_t r = begin; r < end; ++r) {
      combine<L>({.count = count, .factors = d1 + r, .factor_stride = slope_stride,
                  .rows = state.mean, .row_stride = state_stride},
                 channels, w1 + r * channels);
    }
  }
  if (auto* w2 = static_cast<Real*>(gradients.w2)) {
    const std::int64_t past = end * channels / hidden;  // where the next range begins
    for (std::int64_t c = begin * channels / hidden; c < past; ++c) {
      combine<L>({.count = count, .factors = d2 + c, .factor_stride = slope_stride,
                  .rows = state.hidden, .row_stride = state_stride},
                 hidden, w2 + c * hidden);
    }
  }
  if (begin > 0) return;
  const Real one = 1;
  const auto add = [&](const Real* rows, std::int64_t columns, void* to) {
    if (to == nullptr) return;
    combine<L>({.count = count, .factors = &one, .factor_stride = 0, .rows = rows,
                .row_stride = slope_stride},
               columns, static_cast<Real*>(to));
  };
  add(d1, hidden, gradients.b1);
  add(d2, channels, gradients.b2);
}

template <class L, class T, class Layout>
Kernels kernels_of(bool has_residual, bool has_relu) {
  Kernels kernels{nullptr, has_relu ? backward_range<L, T, Layout, true>
                                    : backward_range<L, T, Layout, false>,
                  layer_gradients<L>};
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
