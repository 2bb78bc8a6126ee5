#include <pybind11/stl.h>

#include "aggregate.h"
#include "bind.h"
#include "bind_rows.h"
#include "distances.h"

namespace py = pybind11;

namespace {

using namespace tallystick;
using Release = py::call_guard<py::gil_scoped_release>;

Clients py_mean(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
                const std::string& dtype, const std::optional<Array<double>>& weights, std::uintptr_t out) {
    const Rows rows = make_rows(pointers, bounds, dtype);
    const double* w = checked_weights(weights, rows.n);
    const py::gil_scoped_release release;
    return mean(rows, w, address(out));
}

Clients py_median(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
                  const std::string& dtype, const std::string& kind, std::uintptr_t out) {
    const Rows rows = make_rows(pointers, bounds, dtype);
    const Middle middle = middle_from_name(kind);
    const py::gil_scoped_release release;
    return median(rows, middle, address(out));
}

template <Clients (*kRule)(const Rows&, std::size_t, void*)>
Clients py_counted(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
                   const std::string& dtype, std::size_t f, std::uintptr_t out) {
    const Rows rows = make_rows(pointers, bounds, dtype);
    const py::gil_scoped_release release;
    return kRule(rows, f, address(out));
}

Clients py_majority(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
                    const std::string& dtype, std::uintptr_t out) {
    const Rows rows = make_rows(pointers, bounds, dtype);
    const py::gil_scoped_release release;
    return majority(rows, address(out));
}

Clients py_nonfinite(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
                     const std::string& dtype) {
    const Rows rows = make_rows(pointers, bounds, dtype);
    const py::gil_scoped_release release;
    return nonfinite(rows);
}

template <Clients (*kMeasure)(const Rows&, std::size_t, double*, double*)>
Clients py_pairs(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
                 const std::string& dtype, std::size_t column, Array<double> part, Array<double> total) {
    const Rows rows = make_rows(pointers, bounds, dtype);
    double* p = square_matrix(part, rows.n, "part");
    double* t = square_matrix(total, rows.n, "total");
    const py::gil_scoped_release release;
    return kMeasure(rows, column, p, t);
}

Clients py_norms(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
                 const std::string& dtype, std::size_t column, Array<double> part, Array<double> total) {
    const Rows rows = make_rows(pointers, bounds, dtype);
    double *p = values(part, rows.n, "part"), *t = values(total, rows.n, "total");
    const py::gil_scoped_release release;
    return norms(rows, column, p, t);
}

template <Clients (*kMeasure)(const Rows&, std::size_t, std::size_t, double*, double*), std::size_t kEach>
Clients py_row(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
               const std::string& dtype, std::size_t row, std::size_t column, Array<double> part,
               Array<double> total) {
    const Rows rows = make_rows(pointers, bounds, dtype);
    double *p = values(part, kEach * rows.n, "part"), *t = values(total, kEach * rows.n, "total");
    const py::gil_scoped_release release;
    return kMeasure(rows, row, column, p, t);
}

void py_distances_finish(Array<double> part, Array<double> total) {
    const auto count = static_cast<std::size_t>(part.size());
    distances_finish(count, values(part, count, "part"), values(total, count, "total"));
}

}  // namespace

void tallystick::bind_aggregate(py::module_& m) {
    const auto pointers = py::arg("pointers").noconvert();
    const auto bounds = py::arg("bounds").noconvert();
    const auto part = py::arg("part").noconvert(), total = py::arg("total").noconvert();
    m.def("mean", &py_mean, pointers, bounds, py::arg("dtype"), py::arg("weights").noconvert().none(true),
          py::arg("out"));
    m.def("median", &py_median, pointers, bounds, py::arg("dtype"), py::arg("kind"), py::arg("out"));
    const auto dtype = py::arg("dtype"), f = py::arg("f"), out = py::arg("out");
    m.def("trimmed_mean", &py_counted<&trimmed_mean>, pointers, bounds, dtype, f, out);
    m.def("meamed", &py_counted<&meamed>, pointers, bounds, dtype, f, out);
    m.def("phocas", &py_counted<&phocas>, pointers, bounds, dtype, f, out);
    m.def("majority", &py_majority, pointers, bounds, dtype, out);
    m.def("nonfinite", &py_nonfinite, pointers, bounds, py::arg("dtype"));
    const auto row = py::arg("row"), column = py::arg("column");
    m.def("distances", &py_pairs<&distances>, pointers, bounds, dtype, column, part, total);
    m.def("products", &py_pairs<&products>, pointers, bounds, dtype, column, part, total);
    m.def("norms", &py_norms, pointers, bounds, dtype, column, part, total);
    m.def("distances_to", &py_row<&distances_to, 1>, pointers, bounds, dtype, row, column, part, total);
    m.def("products_with", &py_row<&products_with, 2>, pointers, bounds, dtype, row, column, part, total);
    m.def("distances_finish", &py_distances_finish, part, total);
    m.def("redone", [] {
        const Redone r = redone();
        return py::make_tuple(r.second, r.third);
    });
    m.def(
        "stream_read",
        [](std::uintptr_t out, std::size_t bytes) {
            return stream_read(static_cast<const float*>(address(out)), bytes / sizeof(float));
        },
        py::arg("address"), py::arg("bytes"), Release());
}
