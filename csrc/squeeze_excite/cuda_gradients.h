// The layers' gradients: sums over the samples of outer products, for both layers in one kernel.
#pragma once

#include "cuda_device.h"

namespace perfkit::squeeze_excite::cuda {

constexpr int kGradientWarps = 8;
constexpr int kTileColumns = 32, kTileRows = kGradientWarps;  // of a block: an output a thread

// What the sums take for a sample: for the first layer d1 and the means, for the second the hidden
// values and d2; row by row of length `pitch`. One row or column past the end is of ones, and gives
// the bias.
struct Factors {
  const float* down;    // R of them; for the second layer one more
  const float* across;  // C of them; for the first layer one more
  int64_t down_pitch, across_pitch;
};

// What each warp has summed.
using WarpSums = float[kGradientWarps][kTileRows][kTileColumns];

template <typename Weight>
__global__ void __launch_bounds__(kGradientWarps* kWarp)
    layer_gradients(const Backward call, const float* const slopes) {
  const int64_t channels = call.shape.channels, hidden = call.shape.hidden;
  const bool is_first = blockIdx.z == 0;
  const auto* state = static_cast<const float*>(call.state);
  const int64_t state_pitch = 2 * channels + hidden, slope_pitch = channels + hidden;
  const Factors factors =
      is_first ? Factors{slopes + channels, state, slope_pitch, state_pitch}
               : Factors{state + 2 * channels, slopes, state_pitch, slope_pitch};
  const int64_t first_row = int64_t{blockIdx.y} * kTileRows;
  const int64_t first_column = int64_t{blockIdx.x} * kTileColumns;
  const int lane = static_cast<int>(threadIdx.x % kWarp);
  const int warp = static_cast<int>(threadIdx.x / kWarp);

  float sums[kTileRows] = {};
  const int64_t column = first_column + lane;
#pragma unroll 4
  for (int64_t sample = warp; sample < call.shape.count; sample += kGradientWarps) {
    const float across =
        column < channels ? factors.across[sample * factors.across_pitch + column] : 1.0f;
#pragma unroll
    for (int i = 0; i < kTileRows; ++i) {
      const int64_t row = first_row + i;
      const float down = row < hidden ? factors.down[sample * factors.down_pitch + row] : 1.0f;
      sums[i] = __fmaf_rn(down, across, sums[i]);
    }
  }

  extern __shared__ uint4 block_memory[];
  auto& sums_of_warps = *reinterpret_cast<WarpSums*>(block_memory);
  for (int i = 0; i < kTileRows; ++i) sums_of_warps[warp][i][lane] = sums[i];
  __syncthreads();
  // Threads side by side store side by side: grad_w1 is [R, C], grad_w2 [C, R].
  const auto thread = static_cast<int>(threadIdx.x);
  const int i = is_first ? thread / kTileColumns : thread % kTileRows;
  const int j = is_first ? thread % kTileColumns : thread / kTileRows;
  float sum = 0.0f;
  for (int w = 0; w < kGradientWarps; ++w) sum += sums_of_warps[w][i][j];

  const int64_t r = first_row + i, c = first_column + j;
  const auto store = [&](void* gradient, int64_t at) {
    if (gradient != nullptr) static_cast<Weight*>(gradient)[at] = rounded<Weight>(sum);
  };
  if (r < hidden && c < channels) {
    store(is_first ? call.grad_w1 : call.grad_w2, is_first ? r * channels + c : c * hidden + r);
  } else if (is_first && r < hidden && c == channels) {
    store(call.grad_b1, r);
  } else if (!is_first && r == hidden && c < channels) {
    store(call.grad_b2, c);
  }
}

}  // namespace perfkit::squeeze_excite::cuda
