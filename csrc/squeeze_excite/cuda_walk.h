// How the threads of a block go over its tile: along rows of pixels, or along the channels of a
// pixel. Both walks take a vector to the same thread in `sum` and in `apply`: what a thread has put
// aside in shared memory is its own.
//
// What is done with vectors is a Visitor's business:
//
//   fetch(place)                     begins to load one: kUnderWay of them are under way at a time
//   keep(fetched, place, is_owned)   before it is summed; the owner of a vector puts it aside
//   add(fetched, i, sum)             the sum with element i in it
//   again(place)                     loads it for the second time, and what else is needed
//   finish(fetched, place, scales, shifts)
#pragma once

#include "cuda_device.h"

namespace perfkit::squeeze_excite::cuda {

constexpr int kAgainUnderWay = 2;  // most of them come from shared memory

struct Place {
  int64_t offset;  // of the vector's first element in the whole array
  int64_t slot;    // of the vector in the tile
};

// Memory is [N, C, S]. Some threads side by side go along each row of pixels. A vector that two
// rows share is summed by both, each its part, and owned by the row in which it begins.
template <int V>
class Planes {
 public:
  __device__ Planes(const Plan& plan, const Tile& tile)
      : tile_(tile),
        pixels_(plan.shape.pixels),
        first_((tile.sample * plan.shape.channels + tile.channel) * pixels_),
        gap_((plan.shape.channels - tile.channels) * pixels_),
        lanes_(plan.lanes),
        pieces_(plan.pieces),
        lane_(static_cast<int>(threadIdx.x) % lanes_),
        group_(static_cast<int>(threadIdx.x) / lanes_),
        groups_(static_cast<int>(blockDim.x) / lanes_) {}

  // sums: [parts, rows].
  template <typename Visitor>
  __device__ void sum(Visitor& visitor, float* sums) const {
    float sum = 0.0f;
    for (Step first{}; is_left(first);) {
      typename Visitor::Fetched fetched[Visitor::kUnderWay];
      Step step = first;
#pragma unroll
      for (int i = 0; i < Visitor::kUnderWay; ++i, advance(step)) {
        if (const Position at = position(step); at.inside > 0) fetched[i] = visitor.fetch(at.place);
      }
      step = first;
#pragma unroll
      for (int i = 0; i < Visitor::kUnderWay; ++i, advance(step)) {
        const Position at = position(step);
        if (at.inside > 0) {
          visitor.keep(fetched[i], at.place, at.before <= 0);
#pragma unroll
          for (int e = 0; e < V; ++e) {
            if (at.before <= e && e < at.inside) sum = visitor.add(fetched[i], e, sum);
          }
        }
        if (step.piece == pieces_ - 1) {
          sum = sum_over(sum, lanes_ < kWarp ? lanes_ : kWarp);
          if (at.inside > kNone && lane_ % kWarp == 0) {
            sums[lane_ / kWarp * tile_.rows() + at.row] = sum;
          }
          sum = 0.0f;
        }
      }
      first = step;
    }
  }

  template <typename Visitor>
  __device__ void apply(const Visitor& visitor, const float* scale, const float* shift) const {
    for (Step first{}; is_left(first);) {
      typename Visitor::Again fetched[kAgainUnderWay];
      Step step = first;
#pragma unroll
      for (int i = 0; i < kAgainUnderWay; ++i, advance(step)) {
        if (const Position at = position(step); at.is_owned()) fetched[i] = visitor.again(at.place);
      }
      step = first;
#pragma unroll
      for (int i = 0; i < kAgainUnderWay; ++i, advance(step)) {
        const Position at = position(step);
        if (!at.is_owned()) continue;
        const int next = at.inside < V ? at.row + 1 : at.row;
        const float scale_of[] = {scale[at.row], scale[next]};
        const float shift_of[] = {shift[at.row], shift[next]};
        float scales[V], shifts[V];
#pragma unroll
        for (int e = 0; e < V; ++e) {
          scales[e] = e < at.inside ? scale_of[0] : scale_of[1];
          shifts[e] = e < at.inside ? shift_of[0] : shift_of[1];
        }
        visitor.finish(fetched[i], at.place, scales, shifts);
      }
      first = step;
    }
  }

 private:
  // Each group of lanes takes every groups_-th row, piece by piece; so all keep in step.
  struct Step {
    int turn = 0, piece = 0;
  };
  struct Position {
    Place place;
    int row;
    int before;  // elements of the vector that belong to the row before
    int inside;  // elements before the row's end
    __device__ bool is_owned() const { return before <= 0 && inside > 0; }
  };
  static constexpr int kNone = -1;  // `inside` where there is no such row

  __device__ bool is_left(const Step& step) const { return step.turn * groups_ < tile_.rows(); }
  __device__ void advance(Step& step) const {
    if (++step.piece == pieces_) step = {step.turn + 1, 0};
  }

  __device__ Position position(const Step& step) const {
    const int row = group_ + step.turn * groups_;
    if (row >= tile_.rows()) return {{}, row, 0, kNone};
    const int64_t begin = row * pixels_;
    const int64_t slot = begin / V + (int64_t{step.piece} * lanes_ + lane_);
    const int64_t left = begin + pixels_ - slot * V;
    const int sample = tile_.samples == 1 ? 0 : row / tile_.channels;
    return {{first_ + sample * gap_ + slot * V, slot},
            row,
            static_cast<int>(begin % V) - (slot == begin / V ? 0 : V),
            static_cast<int>(left < 0 ? 0 : left < V ? left : V)};
  }

  Tile tile_;
  int64_t pixels_, first_, gap_;
  int lanes_, pieces_, lane_, group_, groups_;
};

// Memory is [N, S, C]. Some threads side by side, a stripe, have the channels of a pixel, and other
// stripes the pixels between.
template <int V>
class Pixels {
 public:
  __device__ Pixels(const Plan& plan, const Tile& tile)
      : tile_(tile),
        pixels_(plan.shape.pixels),
        all_channels_(plan.shape.channels),
        first_(tile.sample * pixels_ * all_channels_ + tile.channel),
        lanes_(plan.lanes),
        folded_(plan.folded),
        stripes_(plan.parts * plan.folded),
        lane_(static_cast<int>(threadIdx.x) % lanes_),
        stripe_(static_cast<int>(threadIdx.x) / lanes_ % stripes_),
        turn_(static_cast<int>(blockDim.x) / lanes_ / stripes_) {
    const int turn = static_cast<int>(threadIdx.x) / lanes_ / stripes_;
    first_turn_ = turn < turn_ ? turn : tile.samples;  // the last threads may be too few
  }

  template <typename Visitor>
  __device__ void sum(Visitor& visitor, float* sums) const {
    for (int sample = first_turn_; sample < tile_.samples; sample += turn_) {
      // Lanes without a column stay: they take part in the addition.
      for (int first_column = 0; first_column < columns(); first_column += lanes_) {
        const int column = first_column + lane_;
        float sum[V] = {};
        const int64_t begin = column < columns() ? stripe_ : pixels_;
        for (int64_t first = begin; first < pixels_; first += Visitor::kUnderWay * stripes_) {
          typename Visitor::Fetched fetched[Visitor::kUnderWay];
#pragma unroll
          for (int i = 0; i < Visitor::kUnderWay; ++i) {
            const int64_t pixel = first + i * stripes_;
            if (pixel < pixels_) fetched[i] = visitor.fetch(place(sample, pixel, column));
          }
#pragma unroll
          for (int i = 0; i < Visitor::kUnderWay; ++i) {
            const int64_t pixel = first + i * stripes_;
            if (pixel >= pixels_) break;
            visitor.keep(fetched[i], place(sample, pixel, column), true);
#pragma unroll
            for (int e = 0; e < V; ++e) sum[e] = visitor.add(fetched[i], e, sum[e]);
          }
        }
        if (folded_ > 1) {
#pragma unroll
          for (int e = 0; e < V; ++e) sum[e] = sum_over(sum[e], kWarp, lanes_);
        }
        if (column >= columns() || stripe_ % folded_ != 0) continue;
        const int part = stripe_ / folded_;
        float* sums_of_part = sums + part * tile_.rows() + sample * tile_.channels + column * V;
#pragma unroll
        for (int e = 0; e < V; ++e) sums_of_part[e] = sum[e];
      }
    }
  }

  template <typename Visitor>
  __device__ void apply(const Visitor& visitor, const float* scale, const float* shift) const {
    for (int sample = first_turn_; sample < tile_.samples; sample += turn_) {
      for (int column = lane_; column < columns(); column += lanes_) {
        const int row = sample * tile_.channels + column * V;
        float scales[V], shifts[V];
#pragma unroll
        for (int e = 0; e < V; ++e) {
          scales[e] = scale[row + e];
          shifts[e] = shift[row + e];
        }
        for (int64_t first = stripe_; first < pixels_; first += kAgainUnderWay * stripes_) {
          typename Visitor::Again fetched[kAgainUnderWay];
#pragma unroll
          for (int i = 0; i < kAgainUnderWay; ++i) {
            const int64_t pixel = first + i * stripes_;
            if (pixel < pixels_) fetched[i] = visitor.again(place(sample, pixel, column));
          }
#pragma unroll
          for (int i = 0; i < kAgainUnderWay; ++i) {
            const int64_t pixel = first + i * stripes_;
            if (pixel >= pixels_) break;
            visitor.finish(fetched[i], place(sample, pixel, column), scales, shifts);
          }
        }
      }
    }
  }

 private:
  __device__ int columns() const { return tile_.channels / V; }
  __device__ Place place(int sample, int64_t pixel, int column) const {
    const int64_t line = sample * pixels_ + pixel;
    return {first_ + line * all_channels_ + column * V, line * columns() + column};
  }

  Tile tile_;
  int64_t pixels_, all_channels_, first_;
  int lanes_, folded_, stripes_, lane_, stripe_, turn_, first_turn_;
};

template <int V, bool kChannelsLast>
using Walk = std::conditional_t<kChannelsLast, Pixels<V>, Planes<V>>;

}  // namespace perfkit::squeeze_excite::cuda
