// Many NumPy arrays at once, for tallystick.update: where they lie and of what form they are.
#include <pybind11/numpy.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>  // for memcpy
#include <numeric>  // for accumulate

#include "bind.h"

namespace py = pybind11;

namespace {

constexpr int kBuiltinTypes = 24;  // type numbers of NumPy's own numeric types are below it
constexpr int kMostDimensions = 64;

// What the first word of a form says of the values: kind << 8 | bytes of one; 0 for a dtype to be looked at
// more closely. bfloat16: its type number, which is not known before ml_dtypes is imported.
std::int64_t code_of(const py::dtype& dtype, int bfloat16) {
    const int number = dtype.num();
    if (number >= 0 && number == bfloat16) return std::int64_t{'V'} << 8 | 2;
    const char kind = dtype.kind(), order = dtype.byteorder();
    if (number < 0 || number >= kBuiltinTypes || (order != '=' && order != '|')) return 0;
    const auto size = dtype.itemsize();
    const bool known = kind == 'b' || ((kind == 'i' || kind == 'u') && size <= 8) ||
                       (kind == 'f' && (size == 2 || size == 4 || size == 8));
    return known ? std::int64_t{kind} << 8 | size : 0;
}

// (names, arrays, addresses, forms, others) of a dict that nobody else has; None if a name is not a str.
// forms[k]: as bytes the int64 words code, lengths of the dimensions. others: those k for which arrays[k] is
// not exactly an ndarray of such a dtype and C-contiguous; addresses[k] and forms[k] are then 0 and None.
py::object scan(const py::dict& named, int bfloat16) {
    const auto count = static_cast<py::ssize_t>(named.size());
    py::tuple names(count);
    py::list arrays(count), forms(count), others;
    py::array_t<std::uint64_t> addresses(count);
    std::uint64_t* address = addresses.mutable_data();
    PyTypeObject* const plain = py::detail::npy_api::get().PyArray_Type_;
    PyObject *name = nullptr, *value = nullptr;
    Py_ssize_t at = 0;
    for (py::ssize_t k = 0; k < count && PyDict_Next(named.ptr(), &at, &name, &value); ++k) {
        if (!PyUnicode_CheckExact(name)) return py::none();
        PyTuple_SET_ITEM(names.ptr(), k, Py_NewRef(name));
        PyList_SET_ITEM(arrays.ptr(), k, Py_NewRef(value));
        address[k] = 0;
        std::int64_t code = 0;
        std::array<std::int64_t, kMostDimensions + 1> form;
        py::ssize_t words = 0;
        if (Py_TYPE(value) == plain) {
            const auto array = py::reinterpret_borrow<py::array>(value);
            if ((array.flags() & py::array::c_style) && array.ndim() <= kMostDimensions)
                code = code_of(array.dtype(), bfloat16);
            if (code) {
                form[words++] = code;
                for (py::ssize_t n = 0; n < array.ndim(); ++n) form[words++] = array.shape(n);
                address[k] = reinterpret_cast<std::uintptr_t>(array.data());
            }
        }
        if (code) {
            const py::bytes packed(reinterpret_cast<const char*>(form.data()), 8 * words);
            PyList_SET_ITEM(forms.ptr(), k, Py_NewRef(packed.ptr()));
        } else {
            PyList_SET_ITEM(forms.ptr(), k, Py_NewRef(Py_None));
            others.append(k);
        }
    }
    return py::make_tuple(names, arrays, addresses, forms, others);
}

// The bytes at some addresses, one after another.
py::bytes join(const py::array_t<std::uint64_t, py::array::c_style>& addresses,
               const py::array_t<std::uint64_t, py::array::c_style>& lengths) {
    const std::uint64_t *from = addresses.data(), *size = lengths.data();
    const auto count = std::min(addresses.size(), lengths.size());
    const auto total = std::accumulate(size, size + count, std::uint64_t{0});
    py::bytes joined(nullptr, total);
    char* to = PyBytes_AS_STRING(joined.ptr());
    for (py::ssize_t k = 0; k < count; ++k) {
        if (size[k]) std::memcpy(to, reinterpret_cast<const char*>(from[k]), size[k]);
        to += size[k];
    }
    return joined;
}

}  // namespace

void tallystick::bind_arrays(py::module_& m) {
    m.def("scan", &scan, py::arg("named"), py::arg("bfloat16"));
    m.def("join", &join, py::arg("addresses").noconvert(), py::arg("lengths").noconvert());
}
