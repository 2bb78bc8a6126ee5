// Module tallystick._cuda: the CUDA engine. Device addresses and the stream come as integers.
#include <pybind11/stl.h>

#include "aggregate.cuh"
#include "bind_rows.h"
#include "combine.cuh"
#include "distances.cuh"
#include "mixed.cuh"

namespace py = pybind11;

namespace {

using namespace tallystick;
using cuda::Stream;

Clients py_mean(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
                const std::string& dtype, const std::optional<Array<double>>& weights, std::uintptr_t out,
                Stream stream) {
    const Rows rows = make_rows(pointers, bounds, dtype);
    const double* w = checked_weights(weights, rows.n);
    const py::gil_scoped_release release;
    return cuda::mean(rows, w, address(out), stream);
}

Clients py_median(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
                  const std::string& dtype, const std::string& kind, std::uintptr_t out, Stream stream) {
    const Rows rows = make_rows(pointers, bounds, dtype);
    const Middle middle = middle_from_name(kind);
    const py::gil_scoped_release release;
    return cuda::median(rows, middle, address(out), stream);
}

Clients py_trimmed_mean(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
                        const std::string& dtype, std::size_t f, std::uintptr_t out, Stream stream) {
    const Rows rows = make_rows(pointers, bounds, dtype);
    const py::gil_scoped_release release;
    return cuda::trimmed_mean(rows, f, address(out), stream);
}

Clients py_meamed(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
                  const std::string& dtype, std::size_t f, std::uintptr_t out, Stream stream) {
    const Rows rows = make_rows(pointers, bounds, dtype);
    const py::gil_scoped_release release;
    return cuda::meamed(rows, f, address(out), stream);
}

Clients py_phocas(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
                  const std::string& dtype, std::size_t f, std::uintptr_t out, Stream stream) {
    const Rows rows = make_rows(pointers, bounds, dtype);
    const py::gil_scoped_release release;
    return cuda::phocas(rows, f, address(out), stream);
}

Clients py_majority(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
                    const std::string& dtype, std::uintptr_t out, Stream stream) {
    const Rows rows = make_rows(pointers, bounds, dtype);
    const py::gil_scoped_release release;
    return cuda::majority(rows, address(out), stream);
}

Clients py_nonfinite(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
                     const std::string& dtype, Stream stream) {
    const Rows rows = make_rows(pointers, bounds, dtype);
    const py::gil_scoped_release release;
    return cuda::nonfinite(rows, stream);
}

Clients py_combine(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
                   const std::string& dtype, const Array<double>& weights, std::uintptr_t out,
                   Stream stream) {
    const Rows rows = make_rows(pointers, bounds, dtype);
    const double* w = checked_coefficients(weights, rows.n);
    const py::gil_scoped_release release;
    return cuda::combine(rows, w, address(out), stream);
}

template <Clients (*kMeasure)(const Rows&, std::size_t, double*, double*, Stream)>
Clients py_pairs(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
                 const std::string& dtype, std::size_t column, Array<double> part, Array<double> total,
                 Stream stream) {
    const Rows rows = make_rows(pointers, bounds, dtype);
    double* p = square_matrix(part, rows.n, "part");
    double* t = square_matrix(total, rows.n, "total");
    const py::gil_scoped_release release;
    return kMeasure(rows, column, p, t, stream);
}

Clients py_norms(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
                 const std::string& dtype, std::size_t column, Array<double> part, Array<double> total,
                 Stream stream) {
    const Rows rows = make_rows(pointers, bounds, dtype);
    double *p = values(part, rows.n, "part"), *t = values(total, rows.n, "total");
    const py::gil_scoped_release release;
    return cuda::norms(rows, column, p, t, stream);
}

template <Clients (*kMeasure)(const Rows&, std::size_t, std::size_t, double*, double*, Stream),
          std::size_t kEach>
Clients py_row(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
               const std::string& dtype, std::size_t row, std::size_t column, Array<double> part,
               Array<double> total, Stream stream) {
    const Rows rows = make_rows(pointers, bounds, dtype);
    double *p = values(part, kEach * rows.n, "part"), *t = values(total, kEach * rows.n, "total");
    const py::gil_scoped_release release;
    return kMeasure(rows, row, column, p, t, stream);
}

Clients py_mixed(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
                 const std::string& dtype, const Array<double>& matrix, const std::string& name,
                 const std::variant<std::size_t, std::string>& argument, std::uintptr_t out, Stream stream) {
    const Rows rows = make_rows(pointers, bounds, dtype);
    const Matrix m = checked_matrix(matrix, rows.n);
    const ColumnRule rule = column_rule(name, argument);
    const py::gil_scoped_release release;
    return cuda::mixed(rows, m, rule, address(out), stream);
}

}  // namespace

PYBIND11_MODULE(_cuda, m, py::mod_gil_not_used()) {
    const auto pointers = py::arg("pointers").noconvert();
    const auto bounds = py::arg("bounds").noconvert();
    const auto dtype = py::arg("dtype"), out = py::arg("out"), stream = py::arg("stream");
    m.def("device_count", [] {
        std::string reason;
        const int count = cuda::device_count(reason);
        return py::make_tuple(count, reason);
    });
    m.def("emulated", &cuda::emulated);
    m.def("mean", &py_mean, pointers, bounds, dtype, py::arg("weights").noconvert().none(true), out, stream);
    m.def("median", &py_median, pointers, bounds, dtype, py::arg("kind"), out, stream);
    m.def("trimmed_mean", &py_trimmed_mean, pointers, bounds, dtype, py::arg("f"), out, stream);
    m.def("meamed", &py_meamed, pointers, bounds, dtype, py::arg("f"), out, stream);
    m.def("phocas", &py_phocas, pointers, bounds, dtype, py::arg("f"), out, stream);
    m.def("majority", &py_majority, pointers, bounds, dtype, out, stream);
    m.def("combine", &py_combine, pointers, bounds, dtype, py::arg("weights").noconvert(), out, stream);
    const auto row = py::arg("row"), column = py::arg("column");
    const auto part = py::arg("part").noconvert(), total = py::arg("total").noconvert();
    m.def("distances", &py_pairs<&cuda::distances>, pointers, bounds, dtype, column, part, total, stream);
    m.def("products", &py_pairs<&cuda::products>, pointers, bounds, dtype, column, part, total, stream);
    m.def("norms", &py_norms, pointers, bounds, dtype, column, part, total, stream);
    m.def("distances_to", &py_row<&cuda::distances_to, 1>, pointers, bounds, dtype, row, column, part, total,
          stream);
    m.def("products_with", &py_row<&cuda::products_with, 2>, pointers, bounds, dtype, row, column, part,
          total, stream);
    m.def("mixed", &py_mixed, pointers, bounds, dtype, py::arg("matrix").noconvert(), py::arg("rule"),
          py::arg("argument"), out, stream);
    m.def("nonfinite", &py_nonfinite, pointers, bounds, dtype, stream);
}
