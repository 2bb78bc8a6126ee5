#include <pybind11/stl.h>

#include "bind.h"
#include "bind_rows.h"
#include "column_rules.h"
#include "mixed.h"

namespace py = pybind11;

namespace {

using namespace tallystick;

Clients py_mixed(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
                 const std::string& dtype, const Array<double>& matrix, const std::string& name,
                 const std::variant<std::size_t, std::string>& argument, std::uintptr_t out) {
    const Rows rows = make_rows(pointers, bounds, dtype);
    const Matrix m = checked_matrix(matrix, rows.n);
    const ColumnRule rule = column_rule(name, argument);
    const py::gil_scoped_release release;
    return mixed(rows, m, rule, address(out));
}

}  // namespace

void tallystick::bind_mixed(py::module_& m) {
    m.def("mixed", &py_mixed, py::arg("pointers").noconvert(), py::arg("bounds").noconvert(),
          py::arg("dtype"), py::arg("matrix").noconvert(), py::arg("rule"), py::arg("argument"),
          py::arg("out"));
}
