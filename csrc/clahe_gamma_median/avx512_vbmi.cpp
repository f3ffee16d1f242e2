// For CPUs that have AVX-512 VBMI and VNNI too.
#include "avx512_clahe.h"
#include "avx512_color.h"
#include "counts.h"

namespace perfkit::clahe_gamma_median {

const Rows kAvx512VbmiRows = {split, to_lab, count, map, blend, prepare, to_rgb, look_up, median, join};

}  // namespace perfkit::clahe_gamma_median
