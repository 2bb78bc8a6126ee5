#include <pybind11/stl.h>

#include "bind.h"
#include "bind_rows.h"
#include "combine.h"

namespace py = pybind11;

namespace {

using namespace tallystick;

Clients py_combine(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
                   const std::string& dtype, const Array<double>& weights, std::uintptr_t out) {
    const Rows rows = make_rows(pointers, bounds, dtype);
    const double* w = checked_coefficients(weights, rows.n);
    const py::gil_scoped_release release;
    return combine(rows, w, address(out));
}

}  // namespace

void tallystick::bind_combine(py::module_& m) {
    m.def("combine", &py_combine, py::arg("pointers").noconvert(), py::arg("bounds").noconvert(),
          py::arg("dtype"), py::arg("weights").noconvert(), py::arg("out"));
}
