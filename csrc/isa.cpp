#include "isa.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace perfkit {
namespace {

constexpr Isa kAll[] = {Isa::scalar, Isa::avx2, Isa::avx512, Isa::avx512_vbmi};

Isa choose() {
  const char* asked = std::getenv("PERFKIT_CPU_ISA");
  std::string known;
  Isa best = Isa::scalar;
  for (const Isa isa : kAll) {
    if (!available(isa)) continue;
    if (asked != nullptr && std::string(asked) == name(isa)) return isa;
    known += (known.empty() ? "" : ", ") + std::string(name(isa));
    best = isa;
  }
  if (asked != nullptr && *asked != '\0') {
    throw std::invalid_argument("PERFKIT_CPU_ISA=" + std::string(asked) +
                                " is not available here; this CPU and this build have " + known);
  }
  return best;
}

}  // namespace

Isa isa() {
  static const Isa chosen = choose();
  return chosen;
}

bool available(Isa isa) {
#if defined(__x86_64__)
  switch (isa) {
    case Isa::scalar:
      return true;
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("f16c");
    case Isa::avx512:
      return available(Isa::avx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl");
    case Isa::avx512_vbmi:
      return available(Isa::avx512) && __builtin_cpu_supports("avx512vbmi") &&
             __builtin_cpu_supports("avx512vnni");
  }
  return false;
#else
  return isa == Isa::scalar;
#endif
}

const char* name(Isa isa) {
  switch (isa) {
    case Isa::scalar:
      return "scalar";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512_vbmi:
      return "avx512_vbmi";
  }
  return "";
}

}  // namespace perfkit
