// Every tensor operator of perfkit, declared in one place. The CPU implementations are registered
// in <operator>/cpu.cpp, the CUDA ones in <operator>/cuda.cpp (a library of its own).
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(perfkit, m) {
  // images: uint8 [N, H, W, C], any strides; table: uint8 [256], contiguous; out: uint8, or, with
  // values [C, 256], their dtype; shape of images, any strides without overlap; all on one device.
  m.def(
      "clahe_gamma_median(Tensor images, Tensor table, Tensor? values, float clip_limit, "
      "int columns, int rows, Tensor(a!) out) -> ()");

  // x: [N, C, H, W], contiguous or channels_last, or tokens [N, L, C], contiguous; residual and y:
  // the same in shape, dtype and strides; w1 [R, C], b1 [R], w2 [C, R], b2 [C] (weights also with
  // two more sizes of 1), contiguous, all of the dtype of x or all float32 (float64 where x is);
  // state: float32 (float64 where x is) [N, 2C + R]: means, gates, hidden values.
  m.def(
      "squeeze_excite(Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, Tensor? residual, "
      "bool relu) -> (Tensor y, Tensor state)");
  // grad and y (where there was a ReLU) like x. The gradients that are wanted, in the order of the
  // forward's inputs, the residual's after x's; an unwanted one has no elements. Gradients have
  // the shape and dtype of what they belong to; those of biases the dtype of w1.
  m.def(
      "squeeze_excite_backward(Tensor grad, Tensor x, Tensor? y, Tensor state, Tensor w1, "
      "Tensor w2, bool[] wanted) -> "
      "(Tensor x, Tensor residual, Tensor w1, Tensor b1, Tensor w2, Tensor b2)");
}
