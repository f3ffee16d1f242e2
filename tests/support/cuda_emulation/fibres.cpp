// Runs the threads of CUDA blocks as fibres. Built without ThreadSanitizer, which would otherwise
// see the order that the scheduler happens to run them in as one that the kernels may rely on.
#include <sys/mman.h>
#include <ucontext.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <utility>
#include <vector>

#include "cuda_runtime.h"

// Absent where ThreadSanitizer is not linked.
extern "C" {
__attribute__((weak)) void* __tsan_create_fiber(unsigned flags);
__attribute__((weak)) void* __tsan_get_current_fiber();
__attribute__((weak)) void __tsan_switch_to_fiber(void* fiber, unsigned flags);
__attribute__((weak)) void __tsan_acquire(void* address);
__attribute__((weak)) void __tsan_release(void* address);
}

__thread dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_emulation {

Barrier removed_barrier{{}, 0};

namespace {

constexpr unsigned kLanes = 32, kMostThreads = 256;
constexpr unsigned kNoOrder = 1;  // __tsan_switch_to_fiber_no_sync
constexpr unsigned kMostBlocks = 8;  // of a cluster
// Neighbouring clusters must not be on the same system threads: what one runs is ordered. Each of a
// cluster's blocks has a system thread of its own.
constexpr unsigned kStreams = 2;
constexpr std::size_t kStackBytes = 64 << 10;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "cuda_emulation: %s\n", what);
  std::_Exit(70);
}

void acquire(void* address) {
  if (__tsan_acquire != nullptr) __tsan_acquire(address);
}
void release(void* address) {
  if (__tsan_release != nullptr) __tsan_release(address);
}

enum class State { ready, at_block_barrier, at_warp_barrier, at_cluster_barrier, done };

// What the blocks of a cluster have in common, for one cluster after another.
struct Cluster {
  std::atomic<unsigned long> arrivals[kMostBlocks];  // at cluster barriers, of a block's threads
  SharedMemory memory[kMostBlocks];
  char keys[2];
};

struct Fibre {
  ucontext_t context;
  void* tsan = nullptr;
  State state = State::ready;
  const Barrier* barrier = nullptr;  // that it waits at, unless a warp's
  unsigned barriers = 0, shuffles = 0;  // passed in this block
  unsigned long arrivals = 0;           // at cluster barriers, in this grid
};

unsigned count(dim3 blocks) { return blocks.x * blocks.y * blocks.z; }

// The fibres of a block, for one block after another of a grid on one system thread. They are kept
// from grid to grid: ThreadSanitizer takes long to make them.
class Blocks {
 public:
  Blocks() {
    // Pages of their own: an allocator under a sanitizer would mark every byte of them.
    void* stacks = mmap(nullptr, kMostThreads * kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stacks == MAP_FAILED) fail("no memory for stacks");
    stacks_ = static_cast<char*>(stacks);
  }

  // The block of this rank in the clusters first, first + kStreams, ...
  void run(Cluster& cluster, unsigned rank, unsigned first, dim3 blocks, unsigned cluster_blocks,
           unsigned threads, std::size_t shared_bytes, const std::function<void()>& thread) {
    if (threads > kMostThreads || threads % kLanes != 0) fail("blocks of a size not provided for");
    if (shared_bytes > shared_memory().bytes) fail("more shared memory than there is");
    if (__tsan_create_fiber != nullptr) own_tsan_ = __tsan_get_current_fiber();
    for (; made_ < threads; ++made_) prepare(fibres_[made_], stacks_ + made_ * kStackBytes);
    for (Fibre& fibre : fibres_) fibre.arrivals = 0;
    cluster_ = &cluster;
    rank_ = rank;
    cluster_blocks_ = cluster_blocks;
    cluster.memory[rank] = shared_memory();
    threads_ = threads;
    shared_bytes_ = shared_bytes;
    thread_ = &thread;
    current_ = this;
    gridDim = blocks;
    blockDim = {threads, 1, 1};
    for (unsigned block = first * cluster_blocks + rank; block < count(blocks);
         block += kStreams * cluster_blocks) {
      blockIdx = {block % blocks.x, block / blocks.x % blocks.y, block / blocks.x / blocks.y};
      run_block(block);
    }
  }
  static Blocks& current() { return *current_; }

  void wait(State state, const Barrier* barrier) {
    Fibre& fibre = fibres_[running_];
    fibre.state = state;
    fibre.barrier = barrier;
    // One key for the odd and one for the even barriers: a thread that has gone ahead to the next
    // must not be taken for one that others have waited for at this.
    void* key = &keys_[fibre.barriers % 2];
    if (state == State::at_block_barrier) release(key);
    switch_to_scheduler(fibre);
    if (state == State::at_block_barrier) {
      acquire(key);
      ++fibre.barriers;
    }
  }

  void arrive_at_cluster() {
    release(&cluster_->keys[fibres_[running_].arrivals++ % 2]);
    cluster_->arrivals[rank_]++;
  }

  void wait_for_cluster() {
    const unsigned long arrivals = fibres_[running_].arrivals;
    wait(State::at_cluster_barrier, nullptr);
    acquire(&cluster_->keys[(arrivals - 1) % 2]);
  }

  void* in_block_of_cluster(const void* shared, unsigned block) {
    const auto offset = static_cast<const unsigned char*>(shared) - cluster_->memory[rank_].data;
    return cluster_->memory[block].data + offset;
  }

  int from_lane(int value, unsigned source) {
    const unsigned self = running_;
    // Alternately one of two arrays: others may still read what a lane that has gone ahead gave.
    int* lanes = lanes_[fibres_[self].shuffles++ % 2];
    lanes[self] = value;
    wait(State::at_warp_barrier, nullptr);
    return lanes[self / kLanes * kLanes + source];
  }

 private:
  static void prepare(Fibre& fibre, char* stack) {
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = stack;
    fibre.context.uc_stack.ss_size = kStackBytes;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, reinterpret_cast<void (*)()>(enter), 0);
    if (__tsan_create_fiber != nullptr) fibre.tsan = __tsan_create_fiber(0);
  }

  static void enter() { current_->live(); }

  void live() {
    const unsigned self = running_;
    for (;;) {
      acquire(&begin_);
      (*thread_)();
      release(&end_);
      fibres_[self].state = State::done;
      switch_to_scheduler(fibres_[self]);
    }
  }

  void switch_to_scheduler(Fibre& fibre) {
    if (own_tsan_ != nullptr) __tsan_switch_to_fiber(own_tsan_, kNoOrder);
    swapcontext(&fibre.context, &scheduler_);
  }

  void run_block(unsigned block) {
    const SharedMemory shared = shared_memory();
    // Shared memory begins with anything.
    unsigned noise = block + 1;
    for (std::size_t i = 0; i < shared.bytes; ++i) {
      noise = noise * 1664525 + 1013904223;
      shared.data[i] = i < shared_bytes_ ? static_cast<unsigned char>(noise >> 24) : kBeyond;
    }
    for (unsigned i = 0; i < threads_; ++i) {
      fibres_[i].state = State::ready;
      fibres_[i].barriers = fibres_[i].shuffles = 0;
    }
    release(&begin_);
    do {
      for (running_ = 0; running_ < threads_; ++running_) {
        Fibre& fibre = fibres_[running_];
        if (fibre.state != State::ready) continue;
        threadIdx = {running_, 0, 0};
        if (fibre.tsan != nullptr) __tsan_switch_to_fiber(fibre.tsan, kNoOrder);
        swapcontext(&scheduler_, &fibre.context);
      }
    } while (let_warps_go() || let_cluster_go() || let_block_go());
    acquire(&end_);
    for (std::size_t i = shared_bytes_; i < shared.bytes; ++i) {
      if (shared.data[i] != kBeyond) fail("a write beyond the shared memory");
    }
  }

  bool let_warps_go() {
    bool went = false;
    for (unsigned warp = 0; warp < threads_; warp += kLanes) {
      unsigned waiting = 0;
      for (unsigned i = warp; i < warp + kLanes; ++i) {
        waiting += fibres_[i].state == State::at_warp_barrier;
      }
      if (waiting == 0) continue;
      if (waiting != kLanes) fail("lanes of a warp part ways before a shuffle");
      for (unsigned i = warp; i < warp + kLanes; ++i) fibres_[i].state = State::ready;
      went = true;
    }
    return went;
  }

  bool let_cluster_go() {
    bool went = false;
    for (unsigned i = 0; i < threads_; ++i) {
      if (fibres_[i].state != State::at_cluster_barrier) continue;
      const unsigned long awaited = fibres_[i].arrivals * threads_;
      if (cluster_->arrivals[rank_] < awaited) {
        fail("threads of a block wait for a cluster at which others have not arrived");
      }
      for (unsigned block = 0; block < cluster_blocks_; ++block) {
        while (cluster_->arrivals[block] < awaited) std::this_thread::yield();
      }
      fibres_[i].state = State::ready;
      went = true;
    }
    return went;
  }

  bool let_block_go() {
    const Barrier* barrier = nullptr;
    for (unsigned i = 0; i < threads_; ++i) {
      const Fibre& fibre = fibres_[i];
      if (fibre.state == State::done) continue;
      if (barrier != nullptr && fibre.barrier->line != barrier->line) {
        fail("threads of a block wait at different barriers");
      }
      barrier = fibre.barrier;
    }
    for (unsigned i = 0; i < threads_; ++i) {
      if (fibres_[i].state != State::done) fibres_[i].state = State::ready;
    }
    return barrier != nullptr;
  }

  static constexpr unsigned char kBeyond = 0xbd;
  static thread_local Blocks* current_;

  char* stacks_;
  unsigned made_ = 0, threads_ = 0;
  Cluster* cluster_ = nullptr;
  unsigned rank_ = 0, cluster_blocks_ = 1;
  std::size_t shared_bytes_ = 0;
  const std::function<void()>* thread_ = nullptr;
  Fibre fibres_[kMostThreads];
  int lanes_[2][kMostThreads];
  ucontext_t scheduler_;
  void* own_tsan_ = nullptr;
  unsigned running_ = 0;
  char begin_ = 0, end_ = 0, keys_[2] = {};
};

thread_local Blocks* Blocks::current_ = nullptr;

}  // namespace

void run_grid(dim3 blocks, unsigned cluster, unsigned threads, std::size_t shared_bytes,
              const std::function<void()>& thread) {
  static Blocks kept[kStreams][kMostBlocks];
  Cluster clusters[kStreams]{};
  std::vector<std::thread> system_threads;
  for (unsigned first = 0; first < std::min(kStreams, count(blocks) / cluster); ++first) {
    for (unsigned rank = 0; rank < cluster; ++rank) {
      system_threads.emplace_back([=, &thread, &clusters] {
        kept[first][rank].run(clusters[first], rank, first, blocks, cluster, threads, shared_bytes,
                              thread);
      });
    }
  }
  for (std::thread& one : system_threads) one.join();
}

namespace {

bool is_removed(const Barrier& barrier) {
  return barrier.line == removed_barrier.line && barrier.file.ends_with(removed_barrier.file);
}

}  // namespace

void wait_for_block(const Barrier& barrier) {
  if (!is_removed(barrier)) Blocks::current().wait(State::at_block_barrier, &barrier);
}

void arrive_at_cluster() { Blocks::current().arrive_at_cluster(); }

void wait_for_cluster(const Barrier& barrier) {
  if (!is_removed(barrier)) Blocks::current().wait_for_cluster();
}

void* in_block_of_cluster(const void* shared, unsigned block) {
  return Blocks::current().in_block_of_cluster(shared, block);
}

int from_lane(int value, unsigned source) { return Blocks::current().from_lane(value, source); }

}  // namespace cuda_emulation
