#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>  // for invalid_argument

#include "aggregate.h"
#include "bind.h"
#include "distances.h"

namespace py = pybind11;

namespace {

using namespace tallystick;
using Release = py::call_guard<py::gil_scoped_release>;
template <class T>
using Array = py::array_t<T, py::array::c_style>;

// Rows over NumPy arrays; .noconvert() at every argument keeps them from being copied.
Rows make_rows(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
               const std::string& dtype) {
    if (pointers.ndim() != 2 || bounds.ndim() != 1 || pointers.shape(0) < 1 || pointers.shape(1) < 1 ||
        bounds.shape(0) != pointers.shape(1) + 1)
        throw std::invalid_argument("rows: pointers (n, p) and bounds (p + 1) expected, n and p at least 1");
    const std::int64_t* b = bounds.data();
    const auto pieces = static_cast<std::size_t>(pointers.shape(1));
    bool grows = b[0] == 0;
    for (std::size_t k = 0; k < pieces; ++k) grows = grows && (b[k] < b[k + 1] || b[pieces] == 0);
    if (!grows) throw std::invalid_argument("rows: bounds: 0, then growing values expected");
    return {pointers.data(), b, static_cast<std::size_t>(pointers.shape(0)), pieces, dtype_from_name(dtype)};
}

double* matrix(Array<double>& m, std::size_t n, const char* name) {
    if (m.ndim() != 2 || static_cast<std::size_t>(m.shape(0)) != n ||
        static_cast<std::size_t>(m.shape(1)) != n)
        throw std::invalid_argument(std::string("distances: ") + name + ": shape (" + std::to_string(n) +
                                    ", " + std::to_string(n) + ") expected");
    return m.mutable_data();
}

Middle middle_from_name(const std::string& kind) {
    if (kind == "mid") return Middle::mid;
    if (kind == "lower") return Middle::lower;
    if (kind == "upper") return Middle::upper;
    throw std::invalid_argument("median: mid, lower or upper expected, got '" + kind + "'");
}

void* address(std::uintptr_t out) { return reinterpret_cast<void*>(out); }

Clients py_mean(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
                const std::string& dtype, const std::optional<Array<double>>& weights, std::uintptr_t out) {
    const Rows rows = make_rows(pointers, bounds, dtype);
    if (weights && (weights->ndim() != 1 || static_cast<std::size_t>(weights->shape(0)) != rows.n))
        throw std::invalid_argument("mean: " + std::to_string(rows.n) + " weights expected");
    const double* w = weights ? weights->data() : nullptr;
    for (std::size_t i = 0; w && i < rows.n; ++i)
        if (!(w[i] >= 0x1p-500 && w[i] <= 0x1p+500))
            throw std::invalid_argument("mean: weights from 2^-500 to 2^500 expected, got " +
                                        std::to_string(w[i]));
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

Clients py_trimmed_mean(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
                        const std::string& dtype, std::size_t f, std::uintptr_t out) {
    const Rows rows = make_rows(pointers, bounds, dtype);
    const py::gil_scoped_release release;
    return trimmed_mean(rows, f, address(out));
}

Clients py_nonfinite(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
                     const std::string& dtype) {
    const Rows rows = make_rows(pointers, bounds, dtype);
    const py::gil_scoped_release release;
    return nonfinite(rows);
}

Clients py_distances(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
                     const std::string& dtype, std::size_t column, Array<double> part, Array<double> total) {
    const Rows rows = make_rows(pointers, bounds, dtype);
    double* p = matrix(part, rows.n, "part");
    double* t = matrix(total, rows.n, "total");
    const py::gil_scoped_release release;
    return distances(rows, column, p, t);
}

void py_distances_finish(Array<double> part, Array<double> total) {
    const auto n = static_cast<std::size_t>(part.ndim() == 2 ? part.shape(0) : 0);
    distances_finish(n, matrix(part, n, "part"), matrix(total, n, "total"));
}

}  // namespace

void tallystick::bind_aggregate(py::module_& m) {
    const auto pointers = py::arg("pointers").noconvert();
    const auto bounds = py::arg("bounds").noconvert();
    const auto part = py::arg("part").noconvert(), total = py::arg("total").noconvert();
    m.def("mean", &py_mean, pointers, bounds, py::arg("dtype"), py::arg("weights").noconvert().none(true),
          py::arg("out"));
    m.def("median", &py_median, pointers, bounds, py::arg("dtype"), py::arg("kind"), py::arg("out"));
    m.def("trimmed_mean", &py_trimmed_mean, pointers, bounds, py::arg("dtype"), py::arg("f"), py::arg("out"));
    m.def("nonfinite", &py_nonfinite, pointers, bounds, py::arg("dtype"));
    m.def("distances", &py_distances, pointers, bounds, py::arg("dtype"), py::arg("column"), part, total);
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
