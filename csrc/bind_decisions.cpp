#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstring>  // for memcpy
#include <memory>   // for unique_ptr
#include <stdexcept>
#include <string>

#include "bind.h"
#include "decisions.h"
#include "eigen.h"
#include "parallel.h"
#include "random.h"

namespace py = pybind11;

namespace {

using namespace tallystick;
using Matrix = py::array_t<double, py::array::c_style>;
using Vector = py::array_t<double, py::array::c_style>;

std::size_t side(const Matrix& m, const char* name) {
    if (m.ndim() != 2 || m.shape(0) != m.shape(1) || m.shape(0) < 1)
        throw std::invalid_argument(std::string(name) + ": a square matrix expected");
    return static_cast<std::size_t>(m.shape(0));
}

Matrix square(std::size_t n) { return Matrix({n, n}); }
Vector vector(std::size_t n) { return Vector(static_cast<py::ssize_t>(n)); }

const double* shares_of(const Vector& shares, std::size_t n, std::size_t start, std::size_t last) {
    if (shares.ndim() != 1 || static_cast<std::size_t>(shares.shape(0)) != n || start > last)
        throw std::invalid_argument("shares: " + std::to_string(n) + " values, start: a row expected");
    return shares.data();
}

py::tuple py_gram(const Matrix& table, std::size_t base) {
    const std::size_t n = side(table, "gram");
    if (base >= n) throw std::invalid_argument("gram: base: a row expected");
    Matrix out = square(n);
    const auto far = std::make_unique<bool[]>(n);
    gram(table.data(), n, base, out.mutable_data(), far.get());
    return py::make_tuple(out, std::vector<bool>(far.get(), far.get() + n));
}

Matrix py_product(const Matrix& a, const Matrix& b) {
    if (a.ndim() != 2 || b.ndim() != 2 || a.shape(1) != b.shape(0))
        throw std::invalid_argument("product: (m, k) and (k, n) expected");
    const auto m = static_cast<std::size_t>(a.shape(0)), k = static_cast<std::size_t>(a.shape(1));
    const auto n = static_cast<std::size_t>(b.shape(1));
    Matrix out({m, n});
    product(a.data(), b.data(), m, k, n, out.mutable_data());
    return out;
}

Matrix py_mixed_distances(const Matrix& table, const Matrix& matrix) {
    const std::size_t n = side(table, "mixed_distances");
    if (matrix.ndim() != 2 || static_cast<std::size_t>(matrix.shape(1)) != n)
        throw std::invalid_argument("mixed_distances: matrix: " + std::to_string(n) + " columns expected");
    const auto m = static_cast<std::size_t>(matrix.shape(0));
    Matrix out = square(m);
    double* to = out.mutable_data();
    const py::gil_scoped_release release;
    mixed_distances(table.data(), n, matrix.data(), m, to);
    return out;
}

py::tuple py_bulyan(const Matrix& table, std::size_t f, std::size_t away, std::size_t count) {
    const std::size_t n = side(table, "bulyan");
    if (count > n) throw std::invalid_argument("bulyan: count: at most n expected");
    Vector scores = vector(n);
    double* to = scores.mutable_data();
    Indices chosen;
    {
        const py::gil_scoped_release release;
        chosen = bulyan(table.data(), n, f, away, count, to);
    }
    return py::make_tuple(chosen, scores);
}

template <Indices (*select)(const double*, std::size_t, std::size_t)>
Indices py_select(const Matrix& table, std::size_t f) {
    const std::size_t n = side(table, "table");
    if (2 * f >= n) throw std::invalid_argument("f: 2 f < n expected");
    const py::gil_scoped_release release;
    return select(table.data(), n, f);
}

py::tuple py_weiszfeld(const Matrix& table, std::size_t start, const Vector& shares, double nu,
                       std::size_t iterations) {
    const std::size_t n = side(table, "weiszfeld");
    const double* alpha = shares_of(shares, n, start, n);
    Vector weights = vector(n), scores = vector(n);
    weiszfeld(table.data(), n, start, alpha, nu, iterations, weights.mutable_data(), scores.mutable_data());
    return py::make_tuple(weights, scores);
}

py::tuple py_centered_clipping(const Matrix& table, std::size_t start, const Vector& shares, double tau,
                               std::size_t iterations) {
    const std::size_t n = side(table, "centered_clipping");
    const double* alpha = shares_of(shares, n, start, n - 1);
    Vector weights = vector(n), scores = vector(n);
    centered_clipping(table.data(), n, start, alpha, tau, iterations, weights.mutable_data(),
                      scores.mutable_data());
    return py::make_tuple(weights, scores);
}

py::tuple py_top_eigenpair(const Matrix& matrix) {
    const std::size_t n = side(matrix, "top_eigenpair");
    Doubles copy(matrix.data(), matrix.data() + n * n);
    Vector out = vector(n);
    const double value = top_eigenpair(copy.data(), n, out.mutable_data());
    return py::make_tuple(value, out);
}

Vector py_caf(const Matrix& g, std::size_t f) {
    const std::size_t n = side(g, "caf");
    Vector out = vector(n);
    double* to = out.mutable_data();
    const py::gil_scoped_release release;
    caf(g.data(), n, f, to);
    return out;
}

Vector py_principal_scores(const Matrix& g) {
    const std::size_t n = side(g, "principal_scores");
    Vector out = vector(n);
    principal_scores(g.data(), n, out.mutable_data());
    return out;
}

py::array_t<std::uint64_t> py_random_words(std::uint64_t seed, std::uint64_t stream, std::uint64_t first,
                                           std::size_t count) {
    py::array_t<std::uint64_t> out(static_cast<py::ssize_t>(count));
    std::uint64_t* to = out.mutable_data();
    for (std::size_t j = 0; j < count; ++j) to[j] = random_word(seed, stream, first + j);
    return out;
}

void py_normals(std::uint64_t seed, std::uint64_t stream, std::uint64_t first, Vector out) {
    double* to = out.mutable_data();
    const auto count = static_cast<std::size_t>(out.size());
    const py::gil_scoped_release release;
    parallel_for(count, 4096, [&](std::size_t lo, std::size_t hi) {
        for (std::size_t j = lo; j < hi; ++j) to[j] = normal(random_word(seed, stream, first + j));
    });
}

// Copies the value at every address to out, one after another.
void py_gather(const py::array_t<std::uint64_t, py::array::c_style>& addresses, std::size_t itemsize,
               std::uintptr_t out) {
    const std::uint64_t* from = addresses.data();
    auto* to = reinterpret_cast<char*>(out);
    for (py::ssize_t k = 0; k < addresses.size(); ++k, to += itemsize)
        std::memcpy(to, reinterpret_cast<const void*>(from[k]), itemsize);
}

}  // namespace

void tallystick::bind_decisions(py::module_& m) {
    const auto table = py::arg("table").noconvert(), g = py::arg("g").noconvert();
    const auto shares = py::arg("shares").noconvert();
    m.def("medoid", [](const Matrix& t) { return medoid(t.data(), side(t, "medoid")); }, table);
    m.def("gram", &py_gram, table, py::arg("base"));
    m.def("product", &py_product, py::arg("a").noconvert(), py::arg("b").noconvert());
    m.def("mixed_distances", &py_mixed_distances, table, py::arg("matrix").noconvert());
    m.def("bulyan", &py_bulyan, table, py::arg("f"), py::arg("away"), py::arg("count"));
    m.def("mda", &py_select<&mda>, table, py::arg("f"));
    m.def("smea", &py_select<&smea>, g, py::arg("f"));
    m.def("weiszfeld", &py_weiszfeld, table, py::arg("start"), shares, py::arg("nu"), py::arg("iterations"));
    m.def("centered_clipping", &py_centered_clipping, table, py::arg("start"), shares, py::arg("tau"),
          py::arg("iterations"));
    m.def("top_eigenpair", &py_top_eigenpair, py::arg("matrix").noconvert());
    m.def("caf", &py_caf, g, py::arg("f"));
    m.def("principal_scores", &py_principal_scores, g);
    m.def("random_words", &py_random_words, py::arg("seed"), py::arg("stream"), py::arg("first"),
          py::arg("count"));
    m.def("normals", &py_normals, py::arg("seed"), py::arg("stream"), py::arg("first"),
          py::arg("out").noconvert());
    m.def("gather", &py_gather, py::arg("addresses").noconvert(), py::arg("itemsize"), py::arg("out"));
}
