// perfkit.ops._native: what is no tensor operator. Facts about the build and the CPU, and the
// operators on NumPy arrays, for programs that never see a tensor. Knows nothing of torch.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "checks.h"
#include "clahe_gamma_median/checks.h"
#include "clahe_gamma_median/clahe_gamma_median.h"
#include "isa.h"

// A JSON object, written by setup.py into a file of its own.
extern const char* const kBuildFacts;

namespace perfkit {
namespace {

namespace py = pybind11;

using Bytes = py::array_t<std::uint8_t, 0>;  // 0: any strides, never a copy

// Which threads a caller gives to a kernel is his to say, so that loaders do not multiply them.
void run_on_threads(int threads, std::int64_t count,
                    const std::function<void(std::int64_t)>& task) {
  std::atomic<std::int64_t> next{0};
  std::exception_ptr error;
  std::mutex first;
  const auto work = [&] {
    try {
      for (std::int64_t i; (i = next.fetch_add(1)) < count;) task(i);
    } catch (...) {
      const std::lock_guard lock(first);
      if (!error) error = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> helpers;
    for (std::int64_t i = 1; i < std::min<std::int64_t>(threads, count); ++i) {
      try {
        helpers.emplace_back(work);
      } catch (const std::system_error& failure) {
        next = count;  // those that have started stop
        refuse(clahe_gamma_median::kName, "threads", "no more than can be started here now",
               std::to_string(threads) + " (" + failure.what() + ")");
      }
    }
    work();
  }
  if (error) std::rethrow_exception(error);
}

std::vector<std::int64_t> sizes_of(const py::array& array) {
  return {array.shape(), array.shape() + array.ndim()};
}

void run_on_arrays(const Bytes& images, const Bytes& table, double clip_limit,
                   std::int64_t columns, std::int64_t rows, Bytes& out, int threads) {
  namespace op = clahe_gamma_median;
  const auto sizes = sizes_of(images);
  if (sizes.size() != 4) refuse(op::kName, "images", "[N, H, W, C]", text(sizes));
  if (sizes_of(out) != sizes) refuse(op::kName, "out", text(sizes), text(sizes_of(out)));
  if (table.ndim() != 1 || table.shape(0) != 256 || table.strides(0) != 1) {
    refuse(op::kName, "lut", "contiguous [256]", text(sizes_of(table)));
  }
  if (threads < 1) refuse(op::kName, "threads", "at least 1", std::to_string(threads));

  const op::Source source{.data = images.data(),
                          .count = sizes[0],
                          .height = sizes[1],
                          .width = sizes[2],
                          .channels = sizes[3],
                          .image_stride = images.strides(0),
                          .row_stride = images.strides(1),
                          .column_stride = images.strides(2),
                          .channel_stride = images.strides(3)};
  const op::Target target{.data = out.mutable_data(),
                          .element = op::Element::u8,
                          .values = nullptr,
                          .image_stride = out.strides(0),
                          .row_stride = out.strides(1),
                          .column_stride = out.strides(2),
                          .channel_stride = out.strides(3)};
  const op::Parameters parameters{clip_limit, columns, rows, table.data()};
  op::check(source, target, parameters);
  if (op::is_empty(source)) return;
  const op::Parallel parallel{threads, [threads](std::int64_t count, const auto& task) {
                                run_on_threads(threads, count, task);
                              }};
  const py::gil_scoped_release release;
  op::run(source, target, parameters, parallel);
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512, Isa::avx512_vbmi}) {
    if (available(isa)) names.emplace_back(name(isa));
  }
  return names;
}

}  // namespace
}  // namespace perfkit

PYBIND11_MODULE(_native, module) {
  namespace py = pybind11;
  module.doc() = "Build and CPU facts, and operators on NumPy arrays (perfkit.ops is their face).";
  module.def("build_facts", [] { return std::string(kBuildFacts); }, "What setup.py decided: JSON.");
  module.def("isa", [] { return std::string(perfkit::name(perfkit::isa())); },
             "The instruction set in use. Raises ValueError for a wrong PERFKIT_CPU_ISA.");
  module.def("available_isas", &perfkit::available_isas, "What PERFKIT_CPU_ISA may name here.");
  module.def("clahe_gamma_median", &perfkit::run_on_arrays,
             "uint8 [N, H, W, C], any strides, into `out`; releases the GIL.",
             py::arg("images").noconvert(), py::arg("table").noconvert(), py::arg("clip_limit"),
             py::arg("columns"), py::arg("rows"), py::arg("out").noconvert(), py::arg("threads"));
}
