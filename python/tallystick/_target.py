"""Where kernels run and where their results go: CPU or CUDA by where the updates live, into the
caller's kind of array.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from . import _core, arrays
from ._columns import Batch, Rows
from .arrays import numpy_dtype
from .errors import ArgumentError, DeviceError
from .update import Tensor, Update, open_update

__all__ = ["Target", "empty_beside", "kernels_for", "like"]

_NOT_ARRAYS = (str, Path, bytes, Update)


class Cpu:
    """The kernels of _core on one chunk; every call returns the clients found not finite."""

    def mean(self, rows: Rows, weights: Any, out: int) -> list[int]:
        return _core.mean(rows.pointers, rows.bounds, rows.dtype, weights, out)

    def median(self, rows: Rows, kind: str, out: int) -> list[int]:
        return _core.median(rows.pointers, rows.bounds, rows.dtype, kind, out)

    def trimmed_mean(self, rows: Rows, f: int, out: int) -> list[int]:
        return _core.trimmed_mean(rows.pointers, rows.bounds, rows.dtype, f, out)

    def combine(self, rows: Rows, weights: Any, out: int) -> list[int]:
        return _core.combine(rows.pointers, rows.bounds, rows.dtype, weights, out)

    def nonfinite(self, rows: Rows) -> list[int]:
        return _core.nonfinite(rows.pointers, rows.bounds, rows.dtype)

    def distances(self, rows: Rows, part: Any, total: Any) -> list[int]:
        return _core.distances(rows.pointers, rows.bounds, rows.dtype, rows.column, part, total)

    def meamed(self, rows: Rows, f: int, out: int) -> list[int]:
        return _core.meamed(rows.pointers, rows.bounds, rows.dtype, f, out)

    def phocas(self, rows: Rows, f: int, out: int) -> list[int]:
        return _core.phocas(rows.pointers, rows.bounds, rows.dtype, f, out)

    def majority(self, rows: Rows, out: int) -> list[int]:
        return _core.majority(rows.pointers, rows.bounds, rows.dtype, out)

    def mixed(self, rows: Rows, matrix: Any, rule: str, argument: Any, out: int) -> list[int]:
        argument = 0 if argument is None else argument  # a majority has none
        return _core.mixed(rows.pointers, rows.bounds, rows.dtype, matrix, rule, argument, out)


class Cuda:
    """The same kernels of _cuda, on the legacy default stream (which orders itself after the
    producer's work).
    """

    def __init__(self) -> None:
        from ._backend import cuda

        self.module = cuda()

    def _call(self, name: str, rows: Rows, *arguments: Any) -> list[int]:
        try:
            found: list[int] = getattr(self.module, name)(
                rows.pointers, rows.bounds, rows.dtype, *arguments, 0
            )
        except RuntimeError as error:
            raise DeviceError(str(error)) from error
        return found

    def mean(self, rows: Rows, weights: Any, out: int) -> list[int]:
        return self._call("mean", rows, weights, out)

    def median(self, rows: Rows, kind: str, out: int) -> list[int]:
        return self._call("median", rows, kind, out)

    def trimmed_mean(self, rows: Rows, f: int, out: int) -> list[int]:
        return self._call("trimmed_mean", rows, f, out)

    def combine(self, rows: Rows, weights: Any, out: int) -> list[int]:
        return self._call("combine", rows, weights, out)

    def nonfinite(self, rows: Rows) -> list[int]:
        return self._call("nonfinite", rows)

    def distances(self, rows: Rows, part: Any, total: Any) -> list[int]:
        return self._call("distances", rows, rows.column, part, total)

    def meamed(self, rows: Rows, f: int, out: int) -> list[int]:
        return self._call("meamed", rows, f, out)

    def phocas(self, rows: Rows, f: int, out: int) -> list[int]:
        return self._call("phocas", rows, f, out)

    def majority(self, rows: Rows, out: int) -> list[int]:
        return self._call("majority", rows, out)

    def mixed(self, rows: Rows, matrix: Any, rule: str, argument: Any, out: int) -> list[int]:
        return self._call("mixed", rows, matrix, rule, 0 if argument is None else argument, out)


def kernels_for(batch: Batch) -> Cpu | Cuda:
    return Cpu() if batch.device == "cpu" else Cuda()


class Target:
    """Where a result goes: one flat array per dtype segment, then cut into named tensors of the
    caller's kind.
    """

    def __init__(self, batch: Batch, out: Any = None) -> None:
        self.batch = batch
        self.out = out
        self.direct = False  # the kernel writes straight into the caller's array
        self.flat: list[Any] = []
        segments = batch.schema.segments
        if out is not None:
            self._check_out()
        if out is not None and len(segments) == 1 and sum(_count_of(t) > 0 for t in segments[0].tensors) == 1:
            view = arrays.view(next(o for t, o in self._outs() if _count_of(t) > 0))
            self.direct, self.flat = not view.copied, [view]
        if not self.direct:
            self.flat = [arrays.view(empty_beside(batch, s.size, s.dtype)) for s in segments]

    def fill(
        self,
        clients: Sequence[int],
        kernel: Callable[[Rows, int], list[int]],
        batch: Batch | None = None,
    ) -> list[int]:
        """Runs a column kernel over all segments; indices of clients found not finite.

        batch: where the clients are, if there are more than in the target's own.
        """
        bad: set[int] = set()
        for index, flat in enumerate(self.flat):
            for rows in (batch or self.batch).chunks(index, clients):
                at = flat.address + rows.column * numpy_dtype(rows.dtype).itemsize
                bad.update(clients[i] for i in kernel(rows, at))
        return sorted(bad)

    def value(self) -> Any:
        """The result as the caller's kind of array, or `out`."""
        named = {} if self.direct else self._named()
        if self.out is not None:
            for tensor, target in self._outs():
                if not self.direct:
                    _copy(target, named[tensor.name])
            return self.out
        template = self.batch.template
        if isinstance(template, Mapping):
            return {name: arrays.like(template[name], value) for name, value in named.items()}
        if len(named) == 1 and not isinstance(template, _NOT_ARRAYS):
            return arrays.like(template, next(iter(named.values())))
        return named

    def _named(self) -> dict[str, Any]:
        named = {}
        for segment, flat in zip(self.batch.schema.segments, self.flat, strict=True):
            values = flat.numpy() if self.batch.device == "cpu" else flat.owner
            for tensor, lo, hi in zip(segment.tensors, segment.bounds[:-1], segment.bounds[1:], strict=True):
                named[tensor.name] = values[lo:hi].reshape(tensor.shape)
        return named

    def _outs(self) -> list[tuple[Any, Any]]:
        tensors = [t for s in self.batch.schema.segments for t in s.tensors]
        if isinstance(self.out, Mapping):
            return [(t, self.out[t.name]) for t in tensors]
        return [(tensors[0], self.out)]

    def _check_out(self) -> None:
        tensors = {t.name: t for s in self.batch.schema.segments for t in s.tensors}
        if isinstance(self.out, Mapping) and set(self.out) != set(tensors):
            raise ArgumentError(f"out: the tensors {sorted(tensors)} expected, got {sorted(self.out)}")
        if not isinstance(self.out, Mapping) and len(tensors) != 1:
            raise ArgumentError("out: a dict of arrays expected for updates of several tensors")
        for tensor, target in self._outs():
            plain = type(target) is np.ndarray and self.batch.device == "cpu"
            if plain and target.dtype == numpy_dtype(tensor.dtype) and target.size == tensor.size:
                continue  # nothing else can be wrong
            view = arrays.view(target)
            if view.dtype != tensor.dtype or int(np.prod(view.shape)) != _count_of(tensor):
                raise ArgumentError(
                    f"out: {tensor.dtype}{list(tensor.shape)} expected, got {view.dtype}{list(view.shape)}"
                )
            if view.device != self.batch.device:
                raise DeviceError(f"out is on {view.device}, the updates are on {self.batch.device}")


def empty_beside(batch: Batch, size: int, dtype: str) -> Any:
    """A new flat array where the updates live."""
    if batch.device == "cpu":
        return np.empty(size, numpy_dtype(dtype))
    return _device_empty(_first_array(batch.template), size, dtype)


def like(batch: Batch, values: Callable[[int], Any] | None = None) -> Update:
    """An update that fits those of a batch, beside them: zeros, or values(size) for one tensor after another.

    Zeros on the CPU take no memory: pages that are only read are never made.
    """
    named: dict[str, Any] = {}
    for segment in batch.schema.segments:
        for tensor in segment.tensors:
            size = _count_of(tensor)
            wide = None if values is None else values(size)
            named[tensor.name] = _beside(batch, wide, size, tensor.dtype).reshape(tensor.shape)
            if batch.device != "cpu" and isinstance(named[tensor.name], np.ndarray):  # emulated: host memory
                named[tensor.name] = replace(arrays.view(named[tensor.name]), device=batch.device)
    return open_update(named)


def _beside(batch: Batch, wide: Any, size: int, dtype: str) -> Any:
    """float64 values in dtype, zeros for None, as a flat array where the updates live."""
    library = type(_first_array(batch.template)).__module__.split(".")[0]
    if batch.device != "cpu" and library == "torch":
        torch, device = sys.modules["torch"], _first_array(batch.template).device
        if wide is None:
            return torch.zeros(size, dtype=getattr(torch, dtype), device=device)
        return torch.from_numpy(wide).to(getattr(torch, dtype)).to(device)
    flat = np.zeros(size, numpy_dtype(dtype)) if wide is None else wide.astype(numpy_dtype(dtype))
    if batch.device == "cpu":
        return flat
    if library == "cupy":
        return sys.modules["cupy"].asarray(flat)
    from ._backend import cuda

    if cuda().emulated():
        return flat
    kind = type(_first_array(batch.template)).__name__
    raise DeviceError(f"a rule that needs a row beside {kind} arrays: torch or CuPy arrays expected")


def _count_of(tensor: Tensor) -> int:
    count = 1
    for length in tensor.shape:
        count *= int(length)
    return count


def _first_array(template: Any) -> Any:
    return next(iter(template.values())) if isinstance(template, Mapping) else template


def _device_empty(template: Any, size: int, dtype: str) -> Any:
    """A new array beside `template` on its device, made by the library it comes from."""
    library = type(template).__module__.split(".")[0]
    if library == "torch":
        torch = sys.modules["torch"]
        return torch.empty(size, dtype=getattr(torch, dtype), device=template.device)
    if library == "cupy":
        return sys.modules["cupy"].empty(size, dtype=numpy_dtype(dtype))
    from ._backend import cuda

    if cuda().emulated():
        return np.empty(size, numpy_dtype(dtype))
    raise DeviceError(
        f"results beside {type(template).__name__} arrays need out=: torch or CuPy arrays allocate them"
    )


def _copy(target: Any, value: Any) -> None:
    """target[...] = value for arrays of one library."""
    if isinstance(target, np.ndarray):
        target[...] = np.asarray(value).reshape(target.shape)
    elif not hasattr(target, "copy_"):
        arrays.view(target).numpy().reshape(-1)[...] = np.asarray(value).reshape(-1)
    else:
        target.copy_(arrays.like(target, value).reshape(target.shape))
