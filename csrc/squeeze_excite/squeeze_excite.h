// Squeeze-and-Excitation (Hu et al., 2018, arXiv 1709.01507, section 3), forward and backward.
//
//   mean[n,c]   = sum over s of x[n,c,s] / S
//   hidden[n,r] = relu(b1[r] + sum over c of w1[r,c] mean[n,c])
//   gate[n,c]   = sigmoid(b2[c] + sum over r of w2[c,r] hidden[n,r])
//   y[n,c,s]    = activation(x[n,c,s] gate[n,c] + residual[n,c,s])
//
// with S pixels or tokens and the activation ReLU or nothing. With g the gradient of y, and of the
// activation's input where there is one (0 where y <= 0):
//
//   d2[n,c] = gate (1 - gate) * sum over s of g x         gradient of what the sigmoid takes
//   d1[n,r] = sum over c of w2[c,r] d2[n,c], 0 where hidden <= 0
//   gx      = g gate + (sum over r of w1[r,c] d1[n,r]) / S,  gresidual = g
//   gw1     = d1^T mean, gb1 = sum of d1, gw2 = d2^T hidden, gb2 = sum of d2, over samples
//
// Sums and everything of [N, C] are in float ("Real"), in double where x is double; what is written
// in the dtype of x is rounded once, to nearest, ties to even. A sample is summed in an order that
// depends on its shape, its dtype and the instruction set alone, and so are samples: results do not
// depend on the number of threads. (On CUDA the order depends on the device and on alignment too, and
// is the same from run to run.)
// Nothing here knows of torch.
#pragma once

#include <cstdint>
#include <functional>

namespace perfkit::squeeze_excite {

inline constexpr const char* kName = "squeeze_excite";

enum class Element { f16, bf16, f32, f64 };

struct Shape {
  std::int64_t count;     // N
  std::int64_t channels;  // C
  std::int64_t pixels;    // S, at least 1
  std::int64_t hidden;    // R, at least 1
  bool channels_last;     // memory is [N, S, C]; otherwise [N, C, S]
};

// The two layers, all of one dtype: that of x, or float. A bias may be nullptr.
struct Layers {
  Element element;
  const void* w1;  // [R, C]
  const void* b1;  // [R]
  const void* w2;  // [C, R]
  const void* b2;  // [C]
};

struct Forward {
  Shape shape;
  Element element;  // of x, residual, y
  Layers layers;
  const void* x;
  const void* residual;  // or nullptr
  void* y;
  void* state;  // Real [N, 2C + R]: mean, gate, hidden; for the backward
  bool relu;
};

struct Backward {
  Shape shape;
  Element element;  // of grad, x, y, grad_x, grad_residual
  Layers layers;    // their biases are not looked at
  const void* grad;
  const void* x;
  const void* y;  // nullptr where there was no ReLU
  const void* state;
  // nullptr where nobody asks for it:
  void* grad_x;
  void* grad_residual;  // only with y
  void* grad_w1;  // of the layers' dtype, as all that follow
  void* grad_b1;
  void* grad_w2;
  void* grad_b2;
};

// How a caller spreads work over threads: calls task(begin, end) for ranges that make up
// [0, count), none of them empty, of at least `grain` where there is more than one.
using Parallel = std::function<void(std::int64_t count, std::int64_t grain,
                                    const std::function<void(std::int64_t, std::int64_t)>& task)>;

// On the CPU, with the instruction set that `isa.h` chose. N may be 0. Throws std::bad_alloc.
void run(const Forward&, const Parallel&);
void run(const Backward&, const Parallel&);

}  // namespace perfkit::squeeze_excite
