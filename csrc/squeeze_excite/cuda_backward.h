// The backward pass but for the layers' gradients: sums of g x, slopes, and the gradients of x and
// of the residual, in one kernel.
#pragma once

#include "cuda_layers.h"

namespace perfkit::squeeze_excite::cuda {

template <typename T, int V>
struct Differentiating {
  static constexpr int kUnderWay = 2;
  using Elements = Vector<T, V>;
  struct Fetched {
    Elements grad, x, y;
  };
  using Again = Elements;

  const T* grad;
  const T* x;
  const T* y;
  T* grad_x;
  T* grad_residual;
  Elements* held;
  int64_t held_count;

  __device__ Fetched fetch(const Place& place) const {
    Fetched loaded;
    loaded.grad = load<V>(grad, place.offset);
    loaded.x = load<V>(x, place.offset);
    if (y != nullptr) loaded.y = load<V>(y, place.offset);
    return loaded;
  }

  __device__ void keep(Fetched& fetched, const Place& place, bool is_owned) const {
    if (y != nullptr) fetched.grad = through_relu(fetched.grad, fetched.y);
    if (!is_owned) return;
    if (place.slot < held_count) held[place.slot] = fetched.grad;
    if (grad_residual != nullptr) store(grad_residual, place.offset, fetched.grad);
  }

  __device__ float add(const Fetched& fetched, int i, float sum) const {
    return __fmaf_rn(fetched.grad.get(i), fetched.x.get(i), sum);
  }

  __device__ Again again(const Place& place) const {
    if (place.slot < held_count) return held[place.slot];
    const Elements loaded = load<V>(grad, place.offset);
    return y == nullptr ? loaded : through_relu(loaded, load<V>(y, place.offset));
  }

  __device__ void finish(const Again& loaded, const Place& place, const float (&scales)[V],
                         const float (&shifts)[V]) const {
    float results[V];
#pragma unroll
    for (int i = 0; i < V; ++i) results[i] = __fmaf_rn(loaded.get(i), scales[i], shifts[i]);
    store(grad_x, place.offset, Elements::of(results));
  }

  __device__ static Elements through_relu(Elements grad, const Elements& y) {
#pragma unroll
    for (int i = 0; i < V; ++i) {
      if (y.get(i) <= 0.0f) grad.clear(i);
    }
    return grad;
  }
};

// slopes: [N, C + R], the gradients of what the sigmoid and the hidden ReLU take.
template <typename T, int V, bool kChannelsLast>
__global__ void __launch_bounds__(kMostThreads, 2)
    backward(const Plan plan, const Backward call, float* const slopes) {
  const auto shared = shared_of<Vector<T, V>>(plan);
  const Tile tile = tile_of(plan);
  const Walk<V, kChannelsLast> walk(plan, tile);
  const Differentiating<T, V> differentiating{static_cast<const T*>(call.grad),
                                              static_cast<const T*>(call.x),
                                              static_cast<const T*>(call.y),
                                              static_cast<T*>(call.grad_x),
                                              static_cast<T*>(call.grad_residual),
                                              shared.held,
                                              plan.held};
  walk.sum(differentiating, shared.sums);

  const int64_t channels = plan.shape.channels, hidden = plan.shape.hidden;
  const auto state_of = [&](int64_t sample) {
    return static_cast<const float*>(call.state) + sample * (2 * channels + hidden);
  };
  const auto slopes_of = [&](int64_t sample) { return slopes + sample * (channels + hidden); };
  for_each_row(plan, tile, shared.sums, [&](int i, int64_t sample, int64_t channel, float sum) {
    const float gate = state_of(sample)[channels + channel];
    const float slope = sum * (1.0f - gate) * gate;
    shared.values[i] = slope;
    shared.scale[i] = gate;
    slopes_of(sample)[channel] = slope;
  });
  with_weight_type<T>(call.layers, [&]<typename Weight>(Weight) {
    const auto* w2 = static_cast<const Weight*>(call.layers.w2) + tile.channel * hidden;
    multiply(w2, 1, hidden, static_cast<int>(hidden), tile.channels, shared.values, tile.samples,
             [&](int sample, int r, float sum) { shared.partial[sample * hidden + r] = sum; });
  });
  for_each_hidden(plan, tile, shared.partial, [&](int i, int64_t sample, int r, float sum) {
    const float slope = state_of(sample)[2 * channels + r] <= 0.0f ? 0.0f : sum;
    shared.hidden[i] = slope;
    if (tile.channel == 0) slopes_of(sample)[channels + r] = slope;
  });
  if (call.grad_x != nullptr) {
    with_weight_type<T>(call.layers, [&]<typename Weight>(Weight) {
      const auto* w1 = static_cast<const Weight*>(call.layers.w1) + tile.channel;
      multiply(w1, 1, channels, tile.channels, static_cast<int>(hidden), shared.hidden,
               tile.samples, [&](int sample, int c, float sum) {
                 shared.shift[sample * tile.channels + c] =
                     sum / static_cast<float>(plan.shape.pixels);
               });
    });
    __syncthreads();
    walk.apply(differentiating, shared.scale, shared.shift);
  }
  wait_for_cluster(plan);
}

}  // namespace perfkit::squeeze_excite::cuda
