// What the programs that feed random cases to the CPU kernels share.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <random>
#include <thread>
#include <vector>

inline std::mt19937_64 random_bits;

inline std::int64_t draw(std::int64_t low, std::int64_t high) {
  const auto count = static_cast<std::uint64_t>(high - low + 1);
  return low + static_cast<std::int64_t>(random_bits() % count);
}

inline void run_on_threads(int threads, std::int64_t count,
                           const std::function<void(std::int64_t)>& task) {
  std::atomic<std::int64_t> next{0};
  const auto work = [&] {
    for (std::int64_t i; (i = next.fetch_add(1)) < count;) task(i);
  };
  std::vector<std::jthread> helpers;
  for (int i = 1; i < threads; ++i) helpers.emplace_back(work);
  work();
}
