#include <pybind11/numpy.h>

#include "bind.h"
#include "running_mean.h"

namespace py = pybind11;
using tallystick::RunningSums;

namespace {

using Doubles = py::array_t<double, py::array::c_style>;

RunningSums sums_of(Doubles& state) {  // shape (3, d)
    double* first = state.mutable_data();
    const auto d = static_cast<std::size_t>(state.shape(1));
    return {first, first + d, first + 2 * d};
}

}  // namespace

void tallystick::bind_running_mean(py::module_& m) {
    m.def(
        "running_mean_add",
        [](const py::array_t<std::uint64_t, py::array::c_style>& pointers,
           const py::array_t<std::int64_t, py::array::c_style>& bounds, const std::string& dtype,
           double weight, Doubles state, std::size_t column) {
            const Rows rows{pointers.data(), bounds.data(), 1, static_cast<std::size_t>(pointers.shape(1)),
                            dtype_from_name(dtype)};
            RunningSums sums = sums_of(state);
            sums = {sums.high + column, sums.low + column, sums.lost + column};
            const py::gil_scoped_release release;
            return running_mean_add(rows, weight, sums);
        },
        py::arg("pointers"), py::arg("bounds"), py::arg("dtype"), py::arg("weight"),
        py::arg("state").noconvert(), py::arg("column"));
    m.def(
        "running_mean_finish",
        [](Doubles state, const Doubles& weights, const std::string& dtype, std::uintptr_t out) {
            const RunningSums sums = sums_of(state);
            const auto d = static_cast<std::size_t>(state.shape(1));
            const auto n = static_cast<std::size_t>(weights.size());
            const double* w = weights.data();
            const Dtype type = dtype_from_name(dtype);
            const py::gil_scoped_release release;
            return running_mean_finish(sums, d, w, n, type, reinterpret_cast<void*>(out));
        },
        py::arg("state").noconvert(), py::arg("weights"), py::arg("dtype"), py::arg("out"));
}
