// Elements of memory as floats, one or several side by side that are loaded and stored at once.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

namespace perfkit::squeeze_excite::cuda {

__device__ inline float real(float value) { return value; }
__device__ inline float real(__half value) { return __half2float(value); }
__device__ inline float real(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename T>
__device__ T rounded(float value) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(value);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(value);
  } else {
    return value;
  }
}

template <typename T, int V>
struct Vector;

template <typename T>
struct Vector<T, 1> {
  T element;

  __device__ float get(int) const { return real(element); }
  __device__ void clear(int) { element = rounded<T>(0.0f); }
  __device__ static Vector of(const float (&values)[1]) { return {rounded<T>(values[0])}; }
};

template <>
struct alignas(16) Vector<float, 4> {
  float elements[4];

  __device__ float get(int i) const { return elements[i]; }
  __device__ void clear(int i) { elements[i] = 0.0f; }
  __device__ static Vector of(const float (&values)[4]) {
    return {{values[0], values[1], values[2], values[3]}};
  }
};

// Elements of 16 bits stay packed in words, which take half as many registers.
template <typename T>
struct alignas(16) Vector<T, 8> {
  std::uint32_t words[4];

  __device__ float get(int i) const {
    const std::uint32_t word = words[i / 2];
    if constexpr (std::is_same_v<T, __half>) {
      const auto bits = static_cast<unsigned short>(i % 2 == 0 ? word : word >> 16);
      return __half2float(__ushort_as_half(bits));
    } else {
      return __uint_as_float(i % 2 == 0 ? word << 16 : word & 0xffff0000);
    }
  }
  __device__ void clear(int i) { words[i / 2] &= i % 2 == 0 ? 0xffff0000 : 0xffff; }
  __device__ static Vector of(const float (&values)[8]) {
    Vector made;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (std::is_same_v<T, __half>) {
        const __half2 pair = __floats2half2_rn(values[2 * i], values[2 * i + 1]);
        made.words[i] = reinterpret_cast<const std::uint32_t&>(pair);
      } else {
        const __nv_bfloat162 pair = __floats2bfloat162_rn(values[2 * i], values[2 * i + 1]);
        made.words[i] = reinterpret_cast<const std::uint32_t&>(pair);
      }
    }
    return made;
  }
};

// The vector whose first element is array[offset].
template <int V, typename T>
__device__ Vector<T, V> load(const T* array, std::int64_t offset) {
  return *reinterpret_cast<const Vector<T, V>*>(array + offset);
}
template <typename T, int V>
__device__ void store(T* array, std::int64_t offset, const Vector<T, V>& vector) {
  *reinterpret_cast<Vector<T, V>*>(array + offset) = vector;
}

}  // namespace perfkit::squeeze_excite::cuda
