// How the work is cut: what the CUDA kernels are told, computed on the host from the shape and a
// few facts about the device.
//
// A cluster of blocks has some samples, and each of its blocks some of their channels: its tile.
// As much of the tile as fits stays in the block's shared memory between the pass that sums it and
// the pass that scales it; the rest is read again, from the second level cache if it is there yet.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "squeeze_excite.h"

namespace perfkit::squeeze_excite::cuda {

using std::int64_t;

constexpr int kMostThreads = 512, kFewThreads = 256;
constexpr int64_t kLargeTile = 64 << 10;  // bytes that are worth kMostThreads
constexpr int64_t kReserved = 1 << 10;    // bytes of shared memory that CUDA takes for each block
constexpr int64_t kVectorBytes = 16;      // a thread's load
constexpr int64_t kSectorBytes = 32;      // what the caches move at least
constexpr int kWarp = 32;
constexpr int kMostSamples = 8;
constexpr int kPortableCluster = 8;  // blocks that every device with clusters can place
constexpr int kLargestCluster = 16;

struct Device {
  int64_t shared_bytes;            // of a block, at most
  int64_t processor_shared_bytes;  // of all blocks on a multiprocessor
  int64_t processors;
  int threads;  // of a block, at most
  int cluster;  // blocks of a cluster, at most; 1 where there are no clusters
};

struct Plan {
  Shape shape;
  int vector;            // elements that are loaded at once
  int threads;           // of a block
  int blocks;            // of a cluster
  int samples;           // of a cluster; the last one may have fewer
  int64_t channels;      // of a block; the last one of a cluster may have fewer
  int lanes;             // threads side by side along a row of pixels, or a pixel's channels
  int pieces;            // in which `lanes` go along a row of pixels
  int parts;             // partial sums of a channel
  int folded;            // threads of a warp that make one of them, where lanes are channels
  int64_t held;          // vectors of the tile that stay in shared memory
  int64_t held_at;       // byte of the shared memory: floats are in front of them
  int64_t shared_bytes;  // of a block
};

inline int64_t quotient_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline int64_t clusters_of(const Plan& plan) {
  return quotient_up(plan.shape.count, plan.samples);
}

// What a block keeps as floats, in front of the vectors: partial sums; mean or slope, scale and
// shift of each channel; and of the hidden layer its own contribution and the values.
inline int64_t float_bytes(const Plan& plan) {
  const int64_t floats = plan.channels * (plan.parts + int64_t{3}) + 2 * plan.shape.hidden;
  return quotient_up(plan.samples * floats * 4, kVectorBytes) * kVectorBytes;
}

inline int64_t vectors_of(const Plan& plan) {
  return quotient_up(plan.samples * plan.channels * plan.shape.pixels, plan.vector);
}

class Planner {
 public:
  Planner(const Shape& shape, int64_t element_bytes, int64_t weight_bytes, bool aligned,
          const Device& device)
      : shape_(shape), device_(device), element_bytes_(element_bytes) {
    shape_.channels_last |= shape.pixels == 1;
    const int64_t vector = kVectorBytes / element_bytes;
    const int64_t run = shape_.channels_last ? shape.channels : shape.channels * shape.pixels;
    const bool long_enough = shape_.channels_last || shape.pixels >= vector;
    vector_ = aligned && run % vector == 0 && long_enough ? vector : 1;
    // The channels of a block are a multiple of these, so that its vectors are no other block's.
    granule_ = shape_.channels_last ? vector_ : vector_ / std::gcd(vector_, shape.pixels);
    sector_ = shape_.channels_last ? std::max(kSectorBytes / element_bytes, granule_) : granule_;
    sample_bytes_ = shape.channels * shape.pixels * element_bytes;
    weights_bytes_ = 2 * shape.channels * shape.hidden * weight_bytes;
  }

  Plan plan() const {
    const int64_t quarter = device_.processor_shared_bytes / 4 - kReserved;
    const int64_t half = device_.processor_shared_bytes / 2 - kReserved;
    // Several blocks share a multiprocessor, so that one computes its gates while others load and
    // store; and a small batch fills the device.
    const int most = std::min(device_.cluster, kPortableCluster);
    Plan plan = cut(1, 1, sector_);
    for (int blocks = 2; blocks <= most; blocks *= 2) {
      if (plan.shared_bytes <= quarter && shape_.count * plan.blocks >= device_.processors) break;
      plan = cut(blocks, 1, sector_);
    }
    // The weights are read once a cluster: where they are not small beside a sample, several
    // samples share them.
    while (plan.samples < kMostSamples && 4 * weights_bytes_ > plan.samples * sample_bytes_) {
      const Plan more = cut(std::min(2 * plan.blocks, most), 2 * plan.samples, sector_);
      const bool fills = clusters_of(more) * more.blocks >= 2 * device_.processors;
      if (!fills || more.shared_bytes > half) break;
      plan = more;
    }
    if (plan.shared_bytes > device_.shared_bytes && device_.cluster >= kLargestCluster) {
      plan = cut(kLargestCluster, plan.samples, granule_);
    }
    const int64_t left = std::min(plan.shared_bytes, device_.shared_bytes) - plan.held_at;
    plan.held = std::max<int64_t>(left, 0) / (vector_ * element_bytes_);
    plan.shared_bytes = plan.held_at + plan.held * vector_ * element_bytes_;
    return plan;
  }

 private:
  // Into so many blocks, or as few as have all channels. With the whole tile in shared memory, be
  // there as much or not.
  Plan cut(int blocks, int samples, int64_t granule) const {
    Plan plan{};
    plan.shape = shape_;
    plan.vector = static_cast<int>(vector_);
    plan.samples = samples;
    const int64_t share = quotient_up(quotient_up(shape_.channels, blocks), granule) * granule;
    plan.channels = std::min(share, shape_.channels);
    plan.blocks = static_cast<int>(quotient_up(shape_.channels, plan.channels));
    plan.held = vectors_of(plan);
    const int64_t tile_bytes = plan.held * vector_ * element_bytes_;
    plan.threads = std::min(tile_bytes >= kLargeTile ? kMostThreads : kFewThreads, device_.threads);
    if (shape_.channels_last) {
      spread_along_channels(plan);
    } else {
      spread_along_pixels(plan);
    }
    plan.held_at = float_bytes(plan);
    plan.shared_bytes = plan.held_at + tile_bytes;
    return plan;
  }

  void spread_along_channels(Plan& plan) const {
    plan.lanes = static_cast<int>(std::min<int64_t>(plan.channels / vector_, plan.threads));
    plan.pieces = 1;
    const int64_t all = std::max(plan.threads / plan.lanes / plan.samples, 1);
    const int64_t of_sample = std::min(all, shape_.pixels);
    // Where whole warps are at a sample, their lanes add up what they have of a channel.
    const int64_t fold = kWarp % plan.lanes == 0 ? kWarp / plan.lanes : 1;
    plan.folded = static_cast<int>(of_sample >= fold ? fold : 1);
    plan.parts = static_cast<int>(of_sample / plan.folded);
  }

  // With the fewest steps of the block.
  void spread_along_pixels(Plan& plan) const {
    const int64_t rows = plan.samples * plan.channels;
    // Vectors that touch a row; one that does not begin with a vector may touch one more.
    const int64_t touched = shape_.pixels % vector_ == 0 ? shape_.pixels / vector_
                                                         : (shape_.pixels - 2) / vector_ + 2;
    int64_t fewest = 0;
    for (int64_t lanes = 1; lanes <= plan.threads; lanes *= 2) {
      if (lanes < std::min<int64_t>(touched, kWarp)) continue;  // a warp's loads would lie apart
      const int64_t pieces = quotient_up(touched, lanes);
      const int64_t steps = quotient_up(rows * lanes, plan.threads) * pieces;
      if (fewest != 0 && steps >= fewest) continue;
      fewest = steps;
      plan.lanes = static_cast<int>(lanes);
      plan.pieces = static_cast<int>(pieces);
    }
    plan.parts = std::max(plan.lanes / kWarp, 1);
    plan.folded = 1;
  }

  Shape shape_;
  Device device_;
  int64_t element_bytes_, vector_, granule_, sector_, sample_bytes_, weights_bytes_;
};

// `aligned`: whether all arrays begin at multiples of 16 bytes. More shared_bytes than the device
// has: the operator cannot run there.
inline Plan plan_of(const Shape& shape, int64_t element_bytes, int64_t weight_bytes, bool aligned,
                    const Device& device) {
  return Planner(shape, element_bytes, weight_bytes, aligned, device).plan();
}

}  // namespace perfkit::squeeze_excite::cuda
