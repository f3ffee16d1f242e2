// For CPUs with AVX-512 F, BW, DQ and VL.
#include "avx512_clahe.h"
#include "avx512_color.h"
#include "counts.h"

namespace perfkit::clahe_gamma_median {

const Rows kAvx512Rows = {split, to_lab, count, map, blend, prepare, to_rgb, look_up, median, join};

}  // namespace perfkit::clahe_gamma_median
