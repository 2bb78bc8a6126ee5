"""Where kernels run and where their results go: CPU or CUDA by where the updates live, into the
caller's kind of array.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from . import _core, arrays
from ._columns import Batch, Rows
from .arrays import ITEMSIZE, numpy_dtype
from .errors import ArgumentError, DeviceError
from .update import Tensor, Update, open_update

__all__ = ["Target", "beside", "empty_beside", "kernels_for", "like"]

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

    def __init__(self, batch: Batch, out: Any = None, inputs: Sequence[Update] = ()) -> None:
        """inputs: updates beside those of the batch that `out` must not overlap either."""
        self.batch = batch
        self.out = out
        self.direct = False  # the kernel writes straight into the caller's array
        self.flat: list[Any] = []
        segments = batch.schema.segments
        if out is not None:
            self._check_out([*batch.updates, *inputs])
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

    def _check_out(self, inputs: Sequence[Update]) -> None:
        tensors = {t.name: t for s in self.batch.schema.segments for t in s.tensors}
        if isinstance(self.out, Mapping) and set(self.out) != set(tensors):
            names = sorted(map(str, self.out))
            raise ArgumentError(f"out: the tensors {sorted(tensors)} expected, got {names}")
        if not isinstance(self.out, Mapping) and len(tensors) != 1:
            raise ArgumentError("out: a dict of arrays expected for updates of several tensors")
        spans = [_checked_span(tensor, target, self.batch.device) for tensor, target in self._outs()]
        _check_apart(self._outs(), spans, inputs)
        for given in () if all(getattr(u, "plain", False) for u in inputs) else self.batch.scattered():
            if any(isinstance(o, np.ndarray) and _share(o, given) for _, o in self._outs()):
                raise ArgumentError(
                    "out: an array apart from all inputs expected, got one that shares memory"
                )


def _checked_span(tensor: Tensor, target: Any, device: str) -> tuple[int, int]:
    """The addresses from .. to that a result for this tensor goes to; an error if it cannot be written."""
    view = arrays.view(target)
    name = f"out: a writeable array {tensor.dtype}{list(tensor.shape)} expected, got"
    if view.dtype != tensor.dtype or view.size != _count_of(tensor):
        raise ArgumentError(
            f"out: {tensor.dtype}{list(tensor.shape)} expected, got {view.dtype}{list(view.shape)}"
        )
    if view.device != device:
        raise DeviceError(f"out is on {view.device}, the updates are on {device}")
    if bool(getattr(target, "requires_grad", False)):
        raise ArgumentError(f"{name} a tensor that requires a gradient: give its .detach()")
    plain, torch = isinstance(target, np.ndarray), hasattr(target, "copy_")
    if not (target.flags.writeable if plain else view.writable):
        raise ArgumentError(f"{name} a read-only {type(target).__name__}")
    if not view.copied:
        return view.address, view.address + view.nbytes
    if not (plain or torch):
        raise ArgumentError(f"{name} a {type(target).__name__} that cannot be filled in place")
    itemsize = ITEMSIZE[view.dtype]
    strides = target.strides if plain else tuple(s * itemsize for s in target.stride())
    if view.size and _meets_itself(view.shape, strides, itemsize):
        raise ArgumentError(f"{name} one in which several values lie in one place (strides {strides})")
    first = int(target.__array_interface__["data"][0]) if plain else int(target.data_ptr())
    reach = [(n - 1) * s for n, s in zip(view.shape, strides, strict=True)]
    return first + sum(r for r in reach if r < 0), first + sum(r for r in reach if r > 0) + itemsize


def _meets_itself(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> bool:
    """Whether two values may lie in one place: a step is no longer than all that the shorter ones reach."""
    reach = itemsize
    for stride, length in sorted((abs(s), n) for s, n in zip(strides, shape, strict=True) if n > 1):
        if stride < reach:
            return True
        reach += (length - 1) * stride
    return False


def _check_apart(
    outs: Sequence[tuple[Tensor, Any]], spans: Sequence[tuple[int, int]], inputs: Sequence[Update]
) -> None:
    """ArgumentError where results would be written over one another or over an input."""
    order = sorted((k for k in range(len(spans)) if _count_of(outs[k][0]) > 0), key=lambda k: spans[k])
    for a, b in pairwise(order):
        if spans[b][0] < spans[a][1] and _share(outs[a][1], outs[b][1]):
            raise ArgumentError(f"out: {outs[a][0].name!r} and {outs[b][0].name!r} share memory")
    starts, ends = np.array([spans[k] for k in order], np.uint64).reshape(-1, 2).T
    for i, update in enumerate(inputs):
        if update.source != "memory" or not order:
            continue
        for index, segment in enumerate(update.schema.segments):
            sizes = np.diff(np.asarray(segment.bounds)).astype(np.uint64)
            first = update.pointers(index)
            last = first + sizes * np.uint64(ITEMSIZE[segment.dtype])
            at = np.searchsorted(starts, last) - 1  # the last result that begins before the input ends
            hit = (sizes > 0) & (at >= 0) & (ends[np.maximum(at, 0)] > first)
            for k in np.flatnonzero(hit):
                name = segment.tensors[k].name
                given = update.array(name) if update.device == "cpu" else None
                if given is None or _share(outs[order[at[k]]][1], given):
                    raise ArgumentError(
                        f"out: an array apart from all inputs expected, got one that shares memory with "
                        f"{name!r} of input {i}"
                    )


def _share(a: Any, b: Any) -> bool:
    """Whether two arrays have a value in common; True where NumPy cannot tell."""
    if not (isinstance(a, np.ndarray) and isinstance(b, np.ndarray)):
        return True
    try:
        return bool(np.shares_memory(a, b, max_work=10_000))  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def empty_beside(batch: Batch, size: int, dtype: str) -> Any:
    """A new flat array where the updates live."""
    if batch.device == "cpu":
        return np.empty(size, numpy_dtype(dtype))
    return _device_empty(_first_array(batch.template), size, dtype)


def like(batch: Batch) -> Update:
    """An update of zeros that fits those of a batch, beside them.

    On the CPU it takes no memory: pages that are only read are never made.
    """
    named: dict[str, Any] = {}
    for segment in batch.schema.segments:
        for tensor in segment.tensors:
            flat = beside(batch, None, _count_of(tensor), tensor.dtype)
            named[tensor.name] = flat.reshape(tensor.shape)
            if batch.device != "cpu" and isinstance(named[tensor.name], np.ndarray):  # emulated: host memory
                named[tensor.name] = replace(arrays.view(named[tensor.name]), device=batch.device)
    return open_update(named)


def beside(batch: Batch, wide: Any, size: int, dtype: str) -> Any:
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
    elif type(target).__module__.split(".")[0] == "cupy":
        target[...] = value.reshape(target.shape)
    elif not hasattr(target, "copy_"):
        arrays.view(target).numpy().reshape(-1)[...] = np.asarray(value).reshape(-1)
    else:
        target.copy_(arrays.like(target, value).reshape(target.shape))
