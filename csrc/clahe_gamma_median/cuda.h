// The operator on a CUDA device. Nothing here or in cuda.cu knows of torch: cuda.cpp brings the
// memory and the stream.
#pragma once

#include <cstdint>

#include "clahe_gamma_median.h"

namespace perfkit::clahe_gamma_median {

// Device memory that `launch` needs, aligned to 256 bytes. It grows with the batch up to half a
// gigabyte, or to what one image needs; larger batches take turns in it.
std::int64_t workspace_bytes(const Source&, const Parameters&);

// Starts the work on `stream` (a cudaStream_t) of the current device and returns at once. All
// pointers are to memory of that device, and `workspace` may be used again by whatever follows on
// the stream. Sizes may be 0: nothing is started. Returns nullptr, or CUDA's message on what went
// wrong with a launch.
const char* launch(const Source&, const Target&, const Parameters&, void* workspace, void* stream);

}  // namespace perfkit::clahe_gamma_median
