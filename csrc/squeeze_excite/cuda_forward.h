// The forward pass: sums, gates, and the scaled elements, in one kernel.
#pragma once

#include "cuda_layers.h"

namespace perfkit::squeeze_excite::cuda {

template <typename T, int V>
struct Scaling {
  static constexpr int kUnderWay = 4;
  using Elements = Vector<T, V>;
  using Fetched = Elements;
  struct Again {
    Elements x, residual;
  };

  const T* x;
  const T* residual;
  T* y;
  bool relu_follows;
  Elements* held;
  int64_t held_count;

  __device__ Fetched fetch(const Place& place) const { return load<V>(x, place.offset); }

  __device__ void keep(const Fetched& fetched, const Place& place, bool is_owned) const {
    if (is_owned && place.slot < held_count) held[place.slot] = fetched;
  }

  __device__ float add(const Fetched& fetched, int i, float sum) const {
    return sum + fetched.get(i);
  }

  __device__ Again again(const Place& place) const {
    Again loaded;
    loaded.x = place.slot < held_count ? held[place.slot] : load<V>(x, place.offset);
    if (residual != nullptr) loaded.residual = load<V>(residual, place.offset);
    return loaded;
  }

  __device__ void finish(const Again& loaded, const Place& place, const float (&scales)[V],
                         const float (&)[V]) const {
    float results[V];
#pragma unroll
    for (int i = 0; i < V; ++i) {
      results[i] = loaded.x.get(i) * scales[i];
      if (residual != nullptr) {
        results[i] = __fmaf_rn(loaded.x.get(i), scales[i], loaded.residual.get(i));
      }
      if (relu_follows) results[i] = relu(results[i]);
    }
    store(y, place.offset, Elements::of(results));
  }
};

template <typename T, int V, bool kChannelsLast>
__global__ void __launch_bounds__(kMostThreads, 2) forward(const Plan plan, const Forward call) {
  const auto shared = shared_of<Vector<T, V>>(plan);
  const Tile tile = tile_of(plan);
  const Walk<V, kChannelsLast> walk(plan, tile);
  const Scaling<T, V> scaling{static_cast<const T*>(call.x),
                              static_cast<const T*>(call.residual),
                              static_cast<T*>(call.y),
                              call.relu,
                              shared.held,
                              plan.held};
  walk.sum(scaling, shared.sums);

  const int64_t channels = plan.shape.channels, hidden = plan.shape.hidden;
  const auto state_of = [&](int64_t sample) {
    return static_cast<float*>(call.state) + sample * (2 * channels + hidden);
  };
  for_each_row(plan, tile, shared.sums, [&](int i, int64_t sample, int64_t channel, float sum) {
    const float mean = sum / static_cast<float>(plan.shape.pixels);
    shared.values[i] = mean;
    state_of(sample)[channel] = mean;
  });
  with_weight_type<T>(call.layers, [&]<typename Weight>(Weight) {
    const auto* w1 = static_cast<const Weight*>(call.layers.w1) + tile.channel;
    multiply(w1, channels, 1, static_cast<int>(hidden), tile.channels, shared.values, tile.samples,
             [&](int sample, int r, float sum) { shared.partial[sample * hidden + r] = sum; });
  });
  for_each_hidden(plan, tile, shared.partial, [&](int i, int64_t sample, int r, float sum) {
    const float value = relu(sum + bias<T>(call.layers, call.layers.b1, r));
    shared.hidden[i] = value;
    if (tile.channel == 0) state_of(sample)[2 * channels + r] = value;
  });
  with_weight_type<T>(call.layers, [&]<typename Weight>(Weight) {
    const auto* w2 = static_cast<const Weight*>(call.layers.w2) + tile.channel * hidden;
    multiply(w2, hidden, 1, tile.channels, static_cast<int>(hidden), shared.hidden, tile.samples,
             [&](int sample, int c, float sum) {
               const float z = sum + bias<T>(call.layers, call.layers.b2, tile.channel + c);
               const float gate = 1.0f / (1.0f + expf(-z));
               shared.scale[sample * tile.channels + c] = gate;
               state_of(tile.sample + sample)[channels + tile.channel + c] = gate;
             });
  });
  __syncthreads();
  walk.apply(scaling, shared.scale, shared.shift);
  wait_for_cluster(plan);
}

}  // namespace perfkit::squeeze_excite::cuda
