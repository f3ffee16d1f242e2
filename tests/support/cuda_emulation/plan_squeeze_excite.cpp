// The host's planning of squeeze_excite, for Python: cuda_squeeze_excite.py.
#include "squeeze_excite/cuda_plan.h"

extern "C" void plan(const std::int64_t* in, std::int64_t* out) {
  namespace cuda = perfkit::squeeze_excite::cuda;
  const perfkit::squeeze_excite::Shape shape{in[0], in[1], in[2], in[3], in[4] != 0};
  const cuda::Device device{in[8], in[9], in[10], static_cast<int>(in[11]),
                            static_cast<int>(in[12])};
  const cuda::Plan plan = cuda::plan_of(shape, in[5], in[6], in[7] != 0, device);
  const std::int64_t fields[] = {plan.shape.channels_last, plan.vector, plan.threads, plan.blocks,
                                 plan.samples, plan.channels, plan.lanes, plan.pieces, plan.parts,
                                 plan.folded, plan.held, plan.held_at, plan.shared_bytes};
  for (const std::int64_t field : fields) {
    *out++ = field;
  }
}
