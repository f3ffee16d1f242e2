// Which of the CPU's instruction sets the kernels use.
#pragma once

namespace perfkit {

enum class Isa { scalar, avx2, avx512, avx512_vbmi };

// The widest that this CPU and this build have, or the one that PERFKIT_CPU_ISA names; read once.
// Throws std::invalid_argument where PERFKIT_CPU_ISA is not a name or not available here: its
// message names the variable, its value and what is available.
Isa isa();

bool available(Isa);
const char* name(Isa);  // "scalar", "avx2", "avx512", "avx512_vbmi"

}  // namespace perfkit
