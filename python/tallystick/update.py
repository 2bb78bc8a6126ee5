"""One client's update: named tensors in memory or in files, seen as one flat segment per floating dtype.

open_update() takes an array, a dict of arrays, a .safetensors file, a sharded *.safetensors.index.json, a
plain frame in memory or in a .tsf file.  Nothing is copied: arrays are used where they lie, files are read
by column ranges when asked.  Payload, the bytes that are hashed and kept:
  file     its bytes as they are; for a sharded one those of the index, then of the shards in order of names
  frame    its bytes as they are
  arrays   the canonical plain frame made of them (see frame.py), without the excluded tensors
Excluded tensors are not part of the schema and never read; a name in exclude that an update lacks is
ignored, so that one exclude= fits all clients.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import secrets
import struct
import sys
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _core, frame
from ._files import OpenFile, memory
from .arrays import ITEMSIZE, ArrayView, numpy_dtype, to_host, view
from .errors import ArgumentError, SchemaError
from .frame import Buffer
from .safetensors_reader import Place, read_header, read_index
from .schema import Schema, Segment, Tensor, check_name, difference

__all__ = [
    "FRAME",
    "SAFETENSORS",
    "Schema",
    "Segment",
    "Tensor",
    "Update",
    "check_same_schema",
    "checked_names",
    "open_update",
    "write_safetensors",
]

SAFETENSORS = "application/vnd.safetensors"
FRAME = "application/vnd.tallystick.frame"


class Update(ABC):
    """The tensors of one client; a context manager, for close()."""

    schema: Schema
    device: str  # where the floating values are: "cpu" or "cuda:N"
    source: str  # "memory" or "file"
    media_type: str
    binding: frame.Binding | None = None  # of a frame that was received

    @property
    @abstractmethod
    def size(self) -> int:
        """Bytes of the payload."""

    @abstractmethod
    def integer_bytes(self, name: str) -> bytes:
        """The little-endian bytes of an integer or bool tensor."""

    def integers(self) -> bytes:
        """integer_bytes() of all integer and bool tensors, one after another."""
        return b"".join(self.integer_bytes(tensor.name) for tensor in self.schema.integers)

    @abstractmethod
    def addresses(self, segment_index: int) -> list[int]:
        """Address of the first value of every tensor of a segment; updates in memory only."""

    def pointers(self, segment_index: int) -> NDArray[np.uint64]:
        """The same addresses as an array."""
        return np.array(self.addresses(segment_index), np.uint64)

    @abstractmethod
    def read(self, segment_index: int, lo: int, hi: int, out_address: int) -> None:
        """Copies columns lo..hi of a segment to CPU memory at out_address, one after another.

        FileChangedError if the file does not give them.
        """

    @abstractmethod
    def payload(self, binding: frame.Binding | None = None) -> Iterator[Buffer]:
        """The payload's bytes in order, in buffers valid until the next one is asked for.

        binding: for arrays in memory, what their frame is bound to; ignored for all others.
        """

    @abstractmethod
    def check_unchanged(self) -> None:
        """FileChangedError if a file is not what it was when it was opened."""

    @abstractmethod
    def close(self) -> None:
        """Closes files; the update cannot be read afterwards."""

    def __enter__(self) -> Update:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """One tensor as a read-only NumPy array: its own memory, or a copy from file or device."""
        for index, segment in enumerate(self.schema.segments):
            for k, tensor in enumerate(segment.tensors):
                if tensor.name == name:
                    array = np.empty(tensor.shape, numpy_dtype(tensor.dtype))
                    self.read(index, segment.bounds[k], segment.bounds[k + 1], array.ctypes.data)
                    array.flags.writeable = False
                    return array
        for tensor in self.schema.integers:
            if tensor.name == name:
                return np.frombuffer(self.integer_bytes(name), tensor.dtype).reshape(tensor.shape)
        raise SchemaError(f"no tensor {name!r} in this update")

    def _columns(self, segment_index: int, lo: int, hi: int) -> Segment:
        segment = self.schema.segments[segment_index]
        if not 0 <= lo <= hi <= segment.size:
            raise ArgumentError(
                f"columns {lo}..{hi} of a segment of {segment.size}: 0 <= lo <= hi <= size expected"
            )
        return segment


class _Layout:
    """What dicts of arrays of the same names and forms, in the same order, have in common."""

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        self.schema = Schema(tensors)
        self.tensors = tensors  # in the order of the dict
        self.place = {tensor.name: k for k, tensor in enumerate(tensors)}
        self.order = [
            np.array([self.place[t.name] for t in segment.tensors], np.intp)
            for segment in self.schema.segments
        ]
        integers = self.schema.integers
        self.integers = np.array([self.place[t.name] for t in integers], np.intp)
        self.lengths = np.array([t.nbytes for t in integers], np.uint64)


class _Views(Mapping[str, ArrayView]):
    """The views of a dict of arrays; those of plain NumPy arrays are made when they are asked for."""

    def __init__(self, layout: _Layout, arrays: Sequence[Any], addresses: NDArray[np.uint64]) -> None:
        self.layout = layout
        self.addresses = addresses
        self._arrays = arrays  # ArrayViews of all that are not plain

    def __getitem__(self, name: str) -> ArrayView:
        k = self.layout.place[name]
        array, tensor = self._arrays[k], self.layout.tensors[k]
        if isinstance(array, ArrayView):
            return array
        writable = bool(array.flags.writeable)
        return ArrayView(int(self.addresses[k]), tensor.shape, tensor.dtype, owner=array, writable=writable)

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout.place)

    def __len__(self) -> int:
        return len(self._arrays)


class MemoryUpdate(Update):
    """Arrays that lie in CPU or device memory, perhaps inside a frame."""

    source = "memory"
    media_type = FRAME

    def __init__(
        self,
        schema: Schema,
        views: Mapping[str, ArrayView],
        received: Buffer | None = None,
        *,
        plain: bool = False,  # known to be NumPy arrays, all of them
    ) -> None:
        self.schema = schema
        self.views = views
        self.plain = plain
        self.device = "cpu" if plain else _one_device(schema, views)
        self._received = received  # the frame that the views point into, if there is one

    @property
    def size(self) -> int:
        return frame.plain_size(self.schema) if self._received is None else memoryview(self._received).nbytes

    def integer_bytes(self, name: str) -> bytes:
        if name not in self.schema.integer_names:
            raise SchemaError(f"no integer tensor {name!r} in this update")
        values = to_host(self.views[name])
        return bytes(memory(values.address, values.nbytes)) if values.nbytes else b""

    def integers(self) -> bytes:
        if isinstance(self.views, _Views) and self.plain:
            layout = self.views.layout
            return _core.join(self.views.addresses[layout.integers], layout.lengths)
        return super().integers()

    def addresses(self, segment_index: int) -> list[int]:
        return [self.views[t.name].address for t in self.schema.segments[segment_index].tensors]

    def pointers(self, segment_index: int) -> NDArray[np.uint64]:
        if isinstance(self.views, _Views):
            return self.views.addresses[self.views.layout.order[segment_index]]
        return super().pointers(segment_index)

    def array(self, name: str) -> np.ndarray[Any, Any]:
        if name not in self.views:
            raise SchemaError(f"no tensor {name!r} in this update")
        array: np.ndarray[Any, Any] = to_host(self.views[name]).numpy().view()
        array.flags.writeable = False
        return array

    def read(self, segment_index: int, lo: int, hi: int, out_address: int) -> None:
        segment = self._columns(segment_index, lo, hi)
        itemsize = ITEMSIZE[segment.dtype]
        k = bisect_right(segment.bounds, lo) - 1
        while lo < hi:
            end = min(hi, segment.bounds[k + 1])
            if end > lo:
                values = to_host(self.views[segment.tensors[k].name])
                start = values.address + (lo - segment.bounds[k]) * itemsize
                ctypes.memmove(out_address, start, (end - lo) * itemsize)
                out_address, lo = out_address + (end - lo) * itemsize, end
            k += 1

    def payload(self, binding: frame.Binding | None = None) -> Iterator[Buffer]:
        if self._received is not None:
            return iter([self._received])
        return iter(frame.encode_plain(self, binding))

    def check_unchanged(self) -> None:
        """Nothing to check: arrays belong to the caller."""

    def close(self) -> None:
        """Nothing to close."""


class _Run(NamedTuple):
    """Columns from first on that lie one after another in a file."""

    first: int
    file: OpenFile
    offset: int


class FileUpdate(Update):
    """Tensors that lie in one or several open files."""

    source = "file"
    device = "cpu"

    def __init__(
        self, schema: Schema, places: Mapping[str, Place], files: Sequence[OpenFile], media_type: str
    ) -> None:
        """files: what the payload consists of, in order."""
        self.schema = schema
        self.media_type = media_type
        self._files = files
        self._places = places
        self._runs = [_runs(segment, places) for segment in schema.segments]

    @property
    def size(self) -> int:
        return sum(file.size for file in self._files)

    def integer_bytes(self, name: str) -> bytes:
        if name not in self.schema.integer_names:
            raise SchemaError(f"no integer tensor {name!r} in this update")
        place = self._places[name]
        return place.file.read(place.offset, place.tensor.nbytes)

    def addresses(self, segment_index: int) -> list[int]:
        raise ArgumentError("an update in a file has no addresses: read() copies columns")

    def read(self, segment_index: int, lo: int, hi: int, out_address: int) -> None:
        segment = self._columns(segment_index, lo, hi)
        itemsize = ITEMSIZE[segment.dtype]
        runs = self._runs[segment_index]
        k = bisect_right(runs, lo, key=lambda run: run.first) - 1
        while lo < hi:
            end = min(hi, runs[k + 1].first if k + 1 < len(runs) else segment.size)
            nbytes = (end - lo) * itemsize
            run = runs[k]
            run.file.read_into(memory(out_address, nbytes), run.offset + (lo - run.first) * itemsize)
            out_address, lo, k = out_address + nbytes, end, k + 1

    def payload(self, binding: frame.Binding | None = None) -> Iterator[Buffer]:
        for file in self._files:
            yield from file.pieces()

    def check_unchanged(self) -> None:
        for file in self._files:
            file.check_unchanged()

    def close(self) -> None:
        for file in self._files:
            file.close()


def open_update(obj: object, *, exclude: Collection[str] = ()) -> Update:
    """An update from what a client handed over.

    obj: an array (one tensor named "update"), a dict of arrays by tensor name, the path of a .safetensors
    file, of a sharded *.safetensors.index.json or of a .tsf frame, a frame's bytes, or an Update, returned
    as it is.
    exclude: names of tensors to leave out; those may have any dtype.

    Raises ArgumentError for another object, SchemaError for names and dtypes that updates cannot have,
    FormatError for a file or frame that is not what it claims to be.
    """
    exclude = checked_names(exclude)
    if isinstance(obj, Update):
        if both := {t.name for t in obj.schema.tensors} & set(exclude):
            raise ArgumentError(
                f"tensor {min(both)!r} is to be excluded: give exclude= when the update is opened"
            )
        return obj
    if isinstance(obj, (str, os.PathLike)):
        return _open_path(Path(os.fspath(obj)), frozenset(exclude))
    if isinstance(obj, (bytes, bytearray, mmap.mmap)) or (isinstance(obj, memoryview) and obj.format == "B"):
        return _from_frame(frame.decode(obj), memoryview(obj), frozenset(exclude))
    if not isinstance(obj, Mapping) and "update" not in exclude:
        try:
            only = view(obj)
        except ArgumentError as error:
            raise SchemaError(f"tensor 'update': {error}") from None
        return MemoryUpdate(_schema_of_array(only.shape, only.dtype), {"update": only})
    named = obj if isinstance(obj, Mapping) else {"update": obj}
    opened = _opened_at_once(named, exclude) if type(named) in (dict, OrderedDict) else None
    return _opened_one_by_one(named, exclude) if opened is None else opened


def checked_names(exclude: Iterable[str]) -> Collection[str]:
    """exclude as a collection of tensor names; ArgumentError for anything else."""
    if isinstance(exclude, (tuple, frozenset)) and not exclude:
        return exclude
    if isinstance(exclude, (str, bytes)) or not isinstance(exclude, Iterable):
        kind = type(exclude).__name__
        raise ArgumentError(f"exclude={exclude!r:.200}: a collection of tensor names expected, got a {kind}")
    try:
        return frozenset(exclude)
    except TypeError:
        raise ArgumentError(f"exclude: tensor names expected, got {exclude!r:.200}") from None


def _opened_at_once(named: Mapping[Any, Any], exclude: Collection[str]) -> MemoryUpdate | None:
    """What _opened_one_by_one() makes, in one native pass over all plain NumPy arrays; None where that
    has to say what is wrong.
    """
    left_out = frozenset(exclude)
    kept = {name: array for name, array in named.items() if name not in left_out} if left_out else dict(named)
    ml_dtypes = sys.modules.get("ml_dtypes")
    bfloat16 = getattr(ml_dtypes, "bfloat16", None)
    found = _core.scan(kept, -1 if bfloat16 is None else np.dtype(bfloat16).num)
    if found is None:
        return None
    names, arrays, addresses, forms, others = found
    try:
        for k in others:
            arrays[k] = seen = view(arrays[k])
            addresses[k] = seen.address
            forms[k] = struct.pack(f"={1 + len(seen.shape)}q", _CODES[seen.dtype], *seen.shape)
        layout = _layout(names, tuple(forms))
    except (ArgumentError, OverflowError, struct.error):
        return None
    return MemoryUpdate(layout.schema, _Views(layout, arrays, addresses), plain=not others)


def _opened_one_by_one(named: Mapping[Any, Any], exclude: Collection[str]) -> MemoryUpdate:
    views: dict[str, ArrayView] = {}
    tensors = []
    for name, array in named.items():
        if name in exclude:
            continue
        check_name(name)
        try:
            views[name] = view(array)
        except ArgumentError as error:
            raise SchemaError(f"tensor {name!r}: {error}") from None
        tensors.append(Tensor(name, views[name].shape, views[name].dtype))
    return MemoryUpdate(Schema(tuple(tensors)), views)


def check_same_schema(updates: Sequence[Update], client_ids: Sequence[str]) -> Schema:
    """The schema that all updates have; SchemaError that names the client and the first difference.

    Integer and bool tensors must be equal byte for byte.
    """
    if len(updates) == 0 or len(updates) != len(client_ids):
        raise ArgumentError(
            f"{len(updates)} updates of {len(client_ids)} clients: at least one, and as many, expected"
        )
    first, schema = updates[0], updates[0].schema
    expected = first.integers()
    for update, client in zip(updates[1:], client_ids[1:], strict=True):
        if (found := difference(schema, update.schema, client_ids[0], client)) is not None:
            raise SchemaError(found)
        if update.integers() != expected:
            name = next(
                t.name for t in schema.integers if update.integer_bytes(t.name) != first.integer_bytes(t.name)
            )
            raise SchemaError(
                f"client {client!r}: integer tensor {name!r} differs from client {client_ids[0]!r}'s:"
                " integers must be equal, or left out with exclude="
            )
    return schema


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray[Any, Any]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a .safetensors file at once or not at all: temporary name in the same folder, fsync, rename.

    Raises ArgumentError with path and reason where it cannot be written; a file already there then stays.
    """
    from safetensors.numpy import save_file

    target = Path(path)
    dense = {check_name(name): view(array).numpy() for name, array in tensors.items()}
    temporary = target.with_name(f".{target.name[:40]}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode  # as the umask wants it; the library makes files of mode 600
        save_file(dense, temporary, metadata=dict(metadata) if metadata else None)
        temporary.chmod(mode)
        _sync(temporary)
        os.replace(temporary, target)
        _sync(target.parent)
    except Exception as error:  # the library has errors of its own
        reason = getattr(error, "strerror", None) or error
        raise ArgumentError(f"{target}: cannot be written: {reason}") from None
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def _open_path(path: Path, exclude: Collection[str]) -> FileUpdate:
    endings = (".safetensors", ".safetensors.index.json", ".tsf")
    if not path.name.endswith(endings):
        raise ArgumentError(
            f"{path}: a name that ends in {', '.join(endings[:-1])} or {endings[-1]} expected"
        )
    files = [OpenFile(path)]
    try:
        if path.name.endswith(".tsf"):
            binding, found = frame.read_file(files[0])
            places = {name: place for name, place in found.items() if name not in exclude}
            framed = FileUpdate(_schema(places), places, files, FRAME)
            framed.binding = binding
            return framed
        if path.name.endswith(".json"):
            places, shards = read_index(files[0], exclude)
            files += shards
        else:
            places = read_header(files[0], exclude)
        return FileUpdate(_schema(places), places, files, SAFETENSORS)
    except BaseException:
        for file in files:
            file.close()
        raise


@lru_cache(maxsize=64)
def _schema_of_array(shape: tuple[int, ...], dtype: str) -> Schema:
    """One object for all clients that hand over arrays of one shape: it is made, and compared, once."""
    return Schema((Tensor("update", shape, dtype),))


_CODES = {
    name: ord("V" if name == "bfloat16" else np.dtype(name).kind) << 8 | n for name, n in ITEMSIZE.items()
}
_DTYPES = {code: name for name, code in _CODES.items()}


@lru_cache(maxsize=16)
def _layout(names: tuple[str, ...], forms: tuple[bytes, ...]) -> _Layout:
    """One object for all clients of one model: made, and compared, once. forms: as _core.scan() has them."""
    tensors = []
    for name, form in zip(names, forms, strict=True):
        code, *shape = struct.unpack(f"={len(form) // 8}q", form)
        tensors.append(Tensor(name, tuple(shape), _DTYPES[code]))
    return _Layout(tuple(tensors))


def _schema(places: Mapping[str, Place]) -> Schema:
    return Schema(tuple(place.tensor for place in places.values()))


def _from_frame(decoded: frame.Frame, received: Buffer, exclude: Collection[str]) -> MemoryUpdate:
    kept = tuple(t for t in decoded.schema.tensors if t.name not in exclude)
    framed = MemoryUpdate(Schema(kept), {t.name: decoded.views[t.name] for t in kept}, received)
    framed.binding = decoded.binding
    return framed


def _one_device(schema: Schema, views: Mapping[str, ArrayView]) -> str:
    devices = {views[t.name].device for s in schema.segments for t in s.tensors}
    if len(devices) > 1:
        raise ArgumentError(f"tensors on {' and '.join(sorted(devices))}: all on one device expected")
    return devices.pop() if devices else "cpu"


def _runs(segment: Segment, places: Mapping[str, Place]) -> list[_Run]:
    """Neighbouring tensors that are neighbours in the file too become one run."""
    runs: list[_Run] = []
    itemsize = ITEMSIZE[segment.dtype]
    for tensor, first in zip(segment.tensors, segment.bounds, strict=False):
        place = places[tensor.name]
        if tensor.size == 0:
            continue
        if runs:
            last = runs[-1]
            if place.file is last.file and place.offset == last.offset + (first - last.first) * itemsize:
                continue
        runs.append(_Run(first, place.file, place.offset))
    return runs


def _sync(path: str | os.PathLike[str]) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
