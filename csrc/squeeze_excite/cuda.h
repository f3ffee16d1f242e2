// The operator on a CUDA device. Nothing here or in cuda.cu knows of torch: cuda.cpp brings the
// memory and the stream. Elements are f16, bf16 or f32.
#pragma once

#include <cstdint>

#include "squeeze_excite.h"

namespace perfkit::squeeze_excite {

// Device memory that a backward pass needs, aligned to 4 bytes.
std::int64_t workspace_bytes(const Backward&);

// Starts the work on `stream` (a cudaStream_t) of the current device and returns at once: one
// launch, and one more where a backward pass is asked for gradients of the layers. All pointers are
// to memory of that device, and `workspace` may be used again by whatever follows on the stream. N
// is at least 1. Returns nullptr, or what went wrong with a launch.
const char* launch(const Forward&, void* stream);
const char* launch(const Backward&, void* workspace, void* stream);

}  // namespace perfkit::squeeze_excite
