"""Device memory for tests: CuPy's on a GPU, plain host memory where the CUDA module is emulated."""

from __future__ import annotations

import numpy as np

from tallystick import _backend


def emulated() -> bool:
    return bool(_backend.cuda().emulated())


class Memory:
    """A copy of an array's bytes in device memory, `shift` bytes off any alignment, filled up with 0xA5."""

    GUARD = 64

    def __init__(self, array: np.ndarray, shift: int = 0) -> None:
        self.shape, self.dtype = array.shape, array.dtype
        self.first = self.GUARD + shift
        content = np.full(2 * self.GUARD + shift + array.nbytes, 0xA5, np.uint8)
        content[self.first : self.first + array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)
        if emulated():
            self.bytes = content
            base = content.ctypes.data
        else:
            import cupy

            self.bytes = cupy.asarray(content)
            base = self.bytes.data.ptr
        self.address = base + self.first

    def get(self) -> np.ndarray:
        """The values, back on the host; what stands around them must be as it was."""
        content = self.bytes if emulated() else self.bytes.get()
        end = self.first + int(np.prod(self.shape)) * self.dtype.itemsize
        assert (content[: self.first] == 0xA5).all(), "bytes before the array were written"
        assert (content[end:] == 0xA5).all(), "bytes after the array were written"
        return content[self.first : end].copy().view(self.dtype).reshape(self.shape)


class Array:
    """What another array library hands over: an object with __cuda_array_interface__."""

    def __init__(self, array: np.ndarray) -> None:
        self.memory = Memory(array)
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (self.memory.address, False),
            "strides": None,
            "stream": 1,
        }


def hand_over(array: np.ndarray):
    """The same values as an array on the device, of a library that the user may have."""
    if emulated():
        return Array(array)
    import cupy

    return cupy.asarray(array)


def host(result) -> np.ndarray:
    """A result, or an array of hand_over, back on the host."""
    if isinstance(result, Array):
        return result.memory.get()
    return result if isinstance(result, np.ndarray) else result.get()


class Rows:
    """Clients' rows as the native modules take them, cut into pieces: on the CPU and on the device."""

    def __init__(self, rows: np.ndarray, cuts=(), shift: int = 0) -> None:
        self.rows = np.ascontiguousarray(rows)
        n, d = rows.shape
        self.dtype = rows.dtype.name
        self.bounds = np.array([0, *cuts, d], np.int64)
        spans = list(zip(self.bounds[:-1], self.bounds[1:], strict=True))
        self.pieces = [[Memory(rows[i, lo:hi], shift) for lo, hi in spans] for i in range(n)]
        self.pointers = np.array([[piece.address for piece in row] for row in self.pieces], np.uint64)
        self.pointers = self.pointers.reshape(n, len(spans))

    def on_device(self, name: str, *arguments):
        from tallystick import _cuda

        function = getattr(_cuda, name)
        if name == "nonfinite":
            return function(self.pointers, self.bounds, self.dtype, 0)
        out = Memory(np.zeros(self.rows.shape[1], self.rows.dtype))
        bad = function(self.pointers, self.bounds, self.dtype, *arguments, out.address, 0)
        return out.get(), bad

    def on_cpu(self, name: str, *arguments):
        from tallystick import _core

        d = self.rows.shape[1]
        pointers = np.array([[row.ctypes.data] for row in self.rows], np.uint64)
        bounds = np.array([0, d], np.int64)
        out = np.zeros(d, self.rows.dtype)
        bad = getattr(_core, name)(pointers, bounds, self.dtype, *arguments, out.ctypes.data)
        return out, bad

    def distances_on_device(self):
        return self.measured_on_device("distances")

    def distances_on_cpu(self):
        return self.measured_on_cpu("distances")

    def measured_on_device(self, kind, *row):
        """One of the sums over whole rows of csrc/distances.h."""
        from tallystick import _cuda

        function = getattr(_cuda, kind)
        return self._measured(
            kind, lambda *sums: function(self.pointers, self.bounds, self.dtype, *row, 0, *sums, 0)
        )

    def measured_on_cpu(self, kind, *row):
        from tallystick import _core

        function = getattr(_core, kind)
        pointers = np.array([[row.ctypes.data] for row in self.rows], np.uint64)
        bounds = np.array([0, self.rows.shape[1]], np.int64)
        return self._measured(kind, lambda *sums: function(pointers, bounds, self.dtype, *row, 0, *sums))

    def _measured(self, kind, measure):
        from tallystick import _core

        n = len(self.rows)
        shape = {"distances": (n, n), "products": (n, n), "products_with": (2, n)}.get(kind, (n,))
        part, total = np.zeros(shape), np.zeros(shape)
        bad = measure(part, total)
        _core.distances_finish(part, total)
        return total, bad
