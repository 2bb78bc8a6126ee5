"""n updates of one schema as rows of columns: what kernels read, in memory at once or from files chunk
by chunk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import numpy_dtype
from .errors import ArgumentError, DeviceError
from .update import Schema, Segment, Update, check_same_schema, checked_names, open_update

__all__ = ["Batch", "Rows"]

Kernel = Callable[
    ["Rows", int], "list[int]"
]  # (rows, first global column of the chunk) -> non-finite clients

CHUNK_STEP = 4096  # columns; chunks of a file start at multiples of it (distances need that)
FILE_BUFFER_BYTES = 32 << 20  # all clients together: 20 files of bfloat16 are read 800 K columns at a time


@dataclass(frozen=True, slots=True)
class Rows:
    """One chunk: client i's values bounds[k] to bounds[k+1] lie at address pointers[i, k]."""

    pointers: np.ndarray[Any, np.dtype[np.uint64]]  # (clients, pieces)
    bounds: np.ndarray[Any, np.dtype[np.int64]]  # (pieces + 1,)
    dtype: str
    column: int  # of the chunk's first value in its segment

    @property
    def size(self) -> int:
        return int(self.bounds[-1])

    def take(self, clients: Sequence[int]) -> Rows:
        """The same chunk of some clients only."""
        chosen = np.ascontiguousarray(self.pointers[np.asarray(clients, np.intp)])
        return Rows(chosen, self.bounds, self.dtype, self.column)


class Batch:
    """Updates that fit each other, opened and checked.

    updates: 2-D array (clients, values), or a sequence of anything open_update() takes.
    client_ids: names used in error messages; indices when None.
    Raises ArgumentError for an empty list, SchemaError where updates do not fit, DeviceError for a mix
    of devices.
    """

    def __init__(
        self, updates: Any, client_ids: Sequence[str] | None = None, exclude: Sequence[str] = ()
    ) -> None:
        rows, left_out = _rows_of(_sequence(updates)), checked_names(exclude)
        if not rows:
            raise ArgumentError("no updates: at least one expected")
        if client_ids is not None and len(client_ids) != len(rows):
            raise ArgumentError(f"{len(rows)} updates, but {len(client_ids)} client ids")
        opened = [open_update(u, exclude=left_out) for u in rows]
        self.template = rows[0] if getattr(updates, "shape", None) is None else updates[0]
        self.given: Any = updates if isinstance(updates, np.ndarray) else rows
        names = [f"{i}" for i in range(len(opened))] if client_ids is None else list(client_ids)
        if len(opened) > 1:
            check_same_schema(opened, names)
        self._set(opened)

    @classmethod
    def of(cls, opened: Sequence[Update]) -> Batch:
        """A batch of open updates that are known to fit each other."""
        batch = cls.__new__(cls)
        batch.template, batch.given = opened[0], ()
        batch._set(list(opened))
        return batch

    def _set(self, opened: list[Update]) -> None:
        devices = sorted({u.device for u in opened})
        if len(devices) > 1:
            raise DeviceError(f"updates on different devices ({', '.join(devices)}): one device expected")
        self.updates = opened
        self.device: str = devices[0]
        self.schema: Schema = opened[0].schema
        self.seconds_reading = 0.0  # spent in reads of files

    def scattered(self) -> Iterator[np.ndarray[Any, Any]]:
        """The NumPy arrays given that are not contiguous: what is read of them is a copy."""
        rows = [self.given] if isinstance(self.given, np.ndarray) else self.given
        for row in rows:
            for array in row.values() if isinstance(row, Mapping) else (row,):
                if isinstance(array, np.ndarray) and not array.flags.c_contiguous:
                    yield array

    def __len__(self) -> int:
        return len(self.updates)

    def check_unchanged(self) -> None:
        """FileChangedError if one of the files is not what it was when it was opened."""
        for update in self.updates:
            update.check_unchanged()

    def chunks(
        self, index: int, clients: Sequence[int] | None = None, lo: int = 0, hi: int | None = None
    ) -> Iterator[Rows]:
        """Columns lo..hi (all) of segment `index` of some clients (all when None), in order; a chunk is valid
        until the next one is taken.
        """
        chosen = self.updates if clients is None else [self.updates[i] for i in clients]
        segment = self.schema.segments[index]
        hi = segment.size if hi is None else hi
        if lo >= hi:
            return
        if all(u.source == "memory" for u in chosen):
            yield _rows(chosen, index, segment, lo, hi, None)
            return
        itemsize = numpy_dtype(segment.dtype).itemsize
        files = sum(u.source != "memory" for u in chosen)
        step = max(FILE_BUFFER_BYTES // (files * itemsize) // CHUNK_STEP, 1) * CHUNK_STEP
        buffer = np.empty((files, min(step, hi - lo) * itemsize), np.uint8)
        for first in range(lo, hi, step):
            last = min(first + step, hi)
            row, start = 0, time.perf_counter()
            for update in chosen:
                if update.source != "memory":
                    update.read(index, first, last, buffer[row].ctypes.data)
                    row += 1
            self.seconds_reading += time.perf_counter() - start
            yield _rows(chosen, index, segment, first, last, buffer)


def _rows(updates: Sequence[Update], index: int, segment: Segment, lo: int, hi: int, buffer: Any) -> Rows:
    """Rows of columns [lo, hi): addresses of memory updates as they lie, rows of `buffer` for files."""
    size = np.uint64(numpy_dtype(segment.dtype).itemsize)
    in_files = np.array([u.source != "memory" for u in updates])
    if in_files.all():  # each row of the buffer is one piece
        starts, inside = np.array([lo], np.int64), None
    else:
        edges = np.asarray(segment.bounds, np.int64)
        first, last = edges[:-1], edges[1:]
        inside = np.flatnonzero((first < hi) & (last > lo) & (last > first))
        starts = np.maximum(first[inside], lo)
    pointers = np.empty((len(updates), len(starts)), np.uint64)
    if inside is not None:
        addresses = np.array([u.pointers(index) for u in updates if u.source == "memory"])
        skipped = (starts - first[inside]).astype(np.uint64)
        pointers[~in_files] = addresses[:, inside] + skipped * size
    if buffer is not None:
        rows = buffer.ctypes.data + np.arange(len(buffer), dtype=np.uint64) * np.uint64(buffer.strides[0])
        pointers[in_files] = rows[:, None] + (starts - lo).astype(np.uint64) * size
    return Rows(pointers, np.append(starts, hi) - lo, segment.dtype, lo)


def _sequence(updates: Any) -> Any:
    single = isinstance(updates, (str, bytes, Mapping, set, frozenset))
    if single or not hasattr(updates, "__len__") or getattr(updates, "shape", None) == ():
        kind = type(updates).__name__
        raise ArgumentError(
            f"a 2-D array or a sequence of updates expected, got one {kind}: put it in a list"
        )
    return updates


def _rows_of(updates: Any) -> list[Any]:
    """A sequence as it is; a 2-D array as its rows, without copying."""
    if isinstance(updates, (list, tuple)):
        return list(updates)
    shape = getattr(updates, "shape", None)
    if shape is None:
        return list(updates)
    if len(shape) != 2:
        raise ArgumentError(
            f"a 2-D array (clients, values) or a sequence of updates expected, got shape {tuple(shape)}"
        )
    from . import arrays

    view = arrays.view(updates)
    matrix = view.numpy() if view.device == "cpu" else updates
    return [matrix[i] for i in range(shape[0])]
