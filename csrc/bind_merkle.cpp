#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <string>
#include <string_view>
#include <vector>

#include "bind.h"
#include "checksum.h"
#include "merkle.h"

namespace py = pybind11;

namespace tallystick {
namespace {

const std::uint8_t* bytes_at(std::uintptr_t address) {
    return reinterpret_cast<const std::uint8_t*>(address);
}

py::bytes to_bytes(const std::uint8_t* data, std::size_t size) {
    return {reinterpret_cast<const char*>(data), size};
}

py::list to_list(const std::vector<Digest>& digests) {
    py::list out;
    for (const Digest& digest : digests) out.append(to_bytes(digest.data(), kDigest));
    return out;
}

// The bytes of every item of a tuple, held until the end: bytes objects and contiguous buffers of bytes.
class Buffers {
  public:
    Buffers(const py::tuple& items, std::size_t width) {
        pieces_.reserve(items.size());
        for (const py::handle item : items) {
            add(item.ptr());
            if (width && pieces_.back().size != width)
                fail("a hash of " + std::to_string(width) + " bytes expected, got " +
                     std::to_string(pieces_.back().size));
        }
    }
    Buffers(const Buffers&) = delete;
    ~Buffers() { release(); }
    const std::vector<Piece>& pieces() const { return pieces_; }

  private:
    void add(PyObject* item) {
        if (PyBytes_CheckExact(item)) {  // the tuple keeps it alive
            pieces_.push_back({reinterpret_cast<const std::uint8_t*>(PyBytes_AS_STRING(item)),
                               static_cast<std::size_t>(PyBytes_GET_SIZE(item))});
            return;
        }
        Py_buffer view;  // without strides: contiguous or an error
        if (PyObject_GetBuffer(item, &view, PyBUF_ND | PyBUF_FORMAT)) {
            PyErr_Clear();
            fail(std::string("bytes expected, got ") + Py_TYPE(item)->tp_name);
        }
        views_.push_back(view);
        pieces_.push_back({static_cast<const std::uint8_t*>(view.buf), static_cast<std::size_t>(view.len)});
        if (view.format && std::string_view(view.format) != "B")
            fail(std::string("bytes expected, got values of format ") + view.format);
    }
    [[noreturn]] void fail(const std::string& why) {
        release();
        throw py::value_error(why);
    }
    void release() {
        for (Py_buffer& view : views_) PyBuffer_Release(&view);
        views_.clear();
    }
    std::vector<Piece> pieces_;
    std::vector<Py_buffer> views_;
};

std::vector<Piece> pieces_at(const std::vector<std::uintptr_t>& addresses,
                             const std::vector<std::size_t>& lengths) {
    if (addresses.size() != lengths.size())
        throw std::invalid_argument("as many addresses as lengths expected");
    std::vector<Piece> pieces;
    for (std::size_t i = 0; i < lengths.size(); ++i) pieces.push_back({bytes_at(addresses[i]), lengths[i]});
    return pieces;
}

std::vector<std::uint8_t> hashes_of_chunks(const std::vector<std::uintptr_t>& addresses,
                                           const std::vector<std::size_t>& lengths, std::size_t chunk) {
    if (chunk == 0) throw std::invalid_argument("chunk 0: at least 1 byte expected");
    const std::vector<Piece> pieces = pieces_at(addresses, lengths);
    py::gil_scoped_release nogil;
    return chunk_hashes(pieces.data(), pieces.size(), chunk);
}

void bind_tree(py::module_& m) {
    // The GIL is given up before the tree's lock is taken: never both, in either order.
    py::class_<Tree>(m, "MerkleTree")
        .def(py::init<>())
        .def("size", &Tree::size, py::call_guard<py::gil_scoped_release>())
        .def("extend",
             [](Tree& tree, const py::tuple& leaves) {
                 const Buffers held(leaves, 0);
                 py::gil_scoped_release nogil;
                 return tree.extend_leaves(held.pieces().data(), held.pieces().size());
             })
        .def("extend_hashes",
             [](Tree& tree, const py::tuple& hashes) {
                 std::vector<std::uint8_t> rows;
                 {
                     const Buffers held(hashes, kDigest);
                     rows.reserve(kDigest * held.pieces().size());
                     for (const Piece& piece : held.pieces())
                         rows.insert(rows.end(), piece.data, piece.data + kDigest);
                 }
                 py::gil_scoped_release nogil;
                 return tree.extend_hashes(rows.data(), rows.size() / kDigest);
             })
        .def(
            "extend_rows",
            [](Tree& tree, std::uintptr_t address, std::size_t width, std::size_t n, bool hashed) {
                py::gil_scoped_release nogil;
                return hashed ? tree.extend_hashes(bytes_at(address), n)
                              : tree.extend_rows(bytes_at(address), width, n);
            },
            py::arg("address"), py::arg("width"), py::arg("n"), py::arg("hashed"))
        .def(
            "root",
            [](const Tree& tree, std::size_t size) {
                Digest digest;
                {
                    py::gil_scoped_release nogil;
                    digest = tree.root(size);
                }
                return to_bytes(digest.data(), kDigest);
            },
            py::arg("size"))
        .def(
            "prove",
            [](const Tree& tree, std::size_t index, std::size_t size) {
                std::vector<Digest> path;
                {
                    py::gil_scoped_release nogil;
                    path = tree.prove(index, size);
                }
                return to_list(path);
            },
            py::arg("index"), py::arg("size"))
        .def(
            "prove_consistency",
            [](const Tree& tree, std::size_t old_size, std::size_t size) {
                std::vector<Digest> path;
                {
                    py::gil_scoped_release nogil;
                    path = tree.prove_consistency(old_size, size);
                }
                return to_list(path);
            },
            py::arg("old_size"), py::arg("size"));
}

}  // namespace
}  // namespace tallystick

void tallystick::bind_merkle(py::module_& m) {
    bind_tree(m);
    m.def(
        "chunk_hashes",
        [](const std::vector<std::uintptr_t>& addresses, const std::vector<std::size_t>& lengths,
           std::size_t chunk) {
            const std::vector<std::uint8_t> hashes = hashes_of_chunks(addresses, lengths, chunk);
            return to_bytes(hashes.data(), hashes.size());
        },
        py::arg("addresses"), py::arg("lengths"), py::arg("chunk"));
    m.def(
        "hash_chunks",
        [](const std::vector<std::uintptr_t>& addresses, const std::vector<std::size_t>& lengths,
           std::size_t chunk) {
            const std::vector<std::uint8_t> hashes = hashes_of_chunks(addresses, lengths, chunk);
            Digest root;
            {
                py::gil_scoped_release nogil;
                Tree tree;
                tree.extend_hashes(hashes.data(), hashes.size() / kDigest);
                root = tree.root(tree.size());
            }
            return to_bytes(root.data(), kDigest);
        },
        py::arg("addresses"), py::arg("lengths"), py::arg("chunk"));
    m.def("sha256_kernels", &sha256_kernels);
    m.def("sha256_force", &sha256_force, py::arg("kernel"));
    m.def(
        "crc32c",
        [](std::uintptr_t address, std::size_t length, std::uint32_t crc) {
            py::gil_scoped_release nogil;
            return crc32c(bytes_at(address), length, crc);
        },
        py::arg("address"), py::arg("length"), py::arg("crc") = 0);
}
