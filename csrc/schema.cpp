// Every tensor operator of perfkit, declared in one place. The CPU implementations are registered
// in <operator>/cpu.cpp, the CUDA ones in <operator>/cuda.cpp (a library of its own).
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(perfkit, m) {
  // images: uint8 [N, H, W, C], any strides; table: uint8 [256], contiguous; out: uint8, or, with
  // values [C, 256], their dtype; shape of images, any strides without overlap; all on one device.
  m.def(
      "clahe_gamma_median(Tensor images, Tensor table, Tensor? values, float clip_limit, "
      "int columns, int rows, Tensor(a!) out) -> ()");
}
