// Arguments of the aggregation functions as Python gives them, for modules _core and _cuda.
#pragma once
#include <pybind11/numpy.h>

#include <cstdint>
#include <optional>
#include <stdexcept>  // for invalid_argument
#include <string>
#include <variant>

#include "aggregate.h"
#include "mixed.h"

namespace tallystick {

template <class T>
using Array = pybind11::array_t<T, pybind11::array::c_style>;

// Rows over NumPy arrays; .noconvert() at every argument keeps them from being copied.
inline Rows make_rows(const Array<std::uint64_t>& pointers, const Array<std::int64_t>& bounds,
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

inline Middle middle_from_name(const std::string& kind) {
    if (kind == "mid") return Middle::mid;
    if (kind == "lower") return Middle::lower;
    if (kind == "upper") return Middle::upper;
    throw std::invalid_argument("median: mid, lower or upper expected, got '" + kind + "'");
}

inline void* address(std::uintptr_t out) { return reinterpret_cast<void*>(out); }

// One weight per client, or null.
inline const double* checked_weights(const std::optional<Array<double>>& weights, std::size_t n) {
    if (weights && (weights->ndim() != 1 || static_cast<std::size_t>(weights->shape(0)) != n))
        throw std::invalid_argument("mean: " + std::to_string(n) + " weights expected");
    const double* w = weights ? weights->data() : nullptr;
    for (std::size_t i = 0; w && i < n; ++i)
        if (!(w[i] >= 0x1p-500 && w[i] <= 0x1p+500))
            throw std::invalid_argument("mean: weights from 2^-500 to 2^500 expected, got " +
                                        std::to_string(w[i]));
    return w;
}

// The values of an n x n matrix that the callee writes.
inline double* square_matrix(Array<double>& m, std::size_t n, const char* name) {
    if (m.ndim() != 2 || static_cast<std::size_t>(m.shape(0)) != n ||
        static_cast<std::size_t>(m.shape(1)) != n)
        throw std::invalid_argument(std::string(name) + ": shape (" + std::to_string(n) + ", " +
                                    std::to_string(n) + ") expected");
    return m.mutable_data();
}

// The values of an array that the callee writes.
inline double* values(Array<double>& array, std::size_t count, const char* name) {
    if (static_cast<std::size_t>(array.size()) != count)
        throw std::invalid_argument(std::string(name) + ": " + std::to_string(count) + " values expected");
    return array.mutable_data();
}

// One finite coefficient per client, of any sign.
inline const double* checked_coefficients(const Array<double>& weights, std::size_t n) {
    if (weights.ndim() != 1 || static_cast<std::size_t>(weights.shape(0)) != n)
        throw std::invalid_argument("combine: " + std::to_string(n) + " weights expected");
    const double* w = weights.data();
    for (std::size_t i = 0; i < n; ++i)
        if (!(w[i] - w[i] == 0))
            throw std::invalid_argument("combine: finite weights expected, got " + std::to_string(w[i]));
    return w;
}

// m >= 1 rows of n finite entries.
inline Matrix checked_matrix(const Array<double>& matrix, std::size_t n) {
    if (matrix.ndim() != 2 || matrix.shape(0) < 1 || static_cast<std::size_t>(matrix.shape(1)) != n)
        throw std::invalid_argument("mixed: a matrix of " + std::to_string(n) + " columns expected");
    const double* values = matrix.data();
    for (std::size_t k = 0; k < static_cast<std::size_t>(matrix.size()); ++k)
        if (!(values[k] - values[k] == 0))
            throw std::invalid_argument("mixed: finite entries expected, got " + std::to_string(values[k]));
    return {values, static_cast<std::size_t>(matrix.shape(0))};
}

// A column rule and its argument: the kind of a median, f of the others (a majority has none: any will do).
inline ColumnRule column_rule(const std::string& name,
                              const std::variant<std::size_t, std::string>& argument) {
    using Kind = ColumnRule::Kind;
    const std::size_t* f = std::get_if<std::size_t>(&argument);
    const std::string* kind = std::get_if<std::string>(&argument);
    if (name == "median" && kind) return {Kind::median, middle_from_name(*kind), 0};
    if (name == "majority") return {Kind::majority, Middle::mid, 0};
    if (name == "trimmed_mean" && f) return {Kind::trimmed_mean, Middle::mid, *f};
    if (name == "meamed" && f) return {Kind::meamed, Middle::mid, *f};
    if (name == "phocas" && f) return {Kind::phocas, Middle::mid, *f};
    throw std::invalid_argument(
        "mixed: median with its kind, trimmed_mean, meamed or phocas with f, or majority expected, got " +
        name);
}

}  // namespace tallystick
