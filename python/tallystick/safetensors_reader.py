"""Reads the headers of .safetensors files and of sharded ones; the values stay in the file.

Format: u64 little-endian header length, JSON header {"name": {"dtype", "shape", "data_offsets"}, ...,
"__metadata__": {str: str}}, then the values.  Refused, beyond what is not JSON: a header that does not start
with "{" or is longer than 100 MB, a name twice, offsets that leave a hole, overlap, or do not fit shape and
dtype, bytes after the last tensor.  A sharded file is an index, {"weight_map": {tensor name: shard file
name}}, beside its shards.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from math import prod
from typing import Any, NamedTuple

from ._files import OpenFile
from .arrays import ITEMSIZE
from .errors import ArgumentError, FormatError, SchemaError
from .schema import MAX_BYTES, MAX_DIMENSIONS, Tensor

__all__ = ["DTYPES", "Place", "read_header", "read_index"]

MAX_HEADER = 100_000_000  # bytes, as in the safetensors library
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "BOOL": "bool",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
}


class Place(NamedTuple):
    """A tensor, and where in which file its values lie."""

    tensor: Tensor
    file: OpenFile
    offset: int


def read_header(file: OpenFile, exclude: Collection[str] = ()) -> dict[str, Place]:
    """Tensor name -> its place, without those in exclude, whose name and dtype may then be anything.

    FormatError for a file that is not one; SchemaError for a name or a dtype that updates cannot have.
    """
    return _read(file, exclude)[0]


def _read(file: OpenFile, exclude: Collection[str]) -> tuple[dict[str, Place], set[str]]:
    """The places of what is not excluded, and the names of everything in the file."""
    if file.size < 8:
        raise FormatError(f"{file.path}: {file.size} bytes; a safetensors file has at least 8")
    length = int.from_bytes(file.read(0, 8), "little")
    if length > MAX_HEADER:
        raise FormatError(f"{file.path}: header of {length} bytes; at most {MAX_HEADER} allowed")
    if 8 + length > file.size:
        raise FormatError(f"{file.path}: header of {length} bytes in a file of {file.size}: truncated?")
    header = _load(file, file.read(8, length))
    _check_metadata(file, header.pop("__metadata__", {}))
    spans, places = [], {}
    for name, entry in header.items():
        begin, end, tensor = _entry(file, name, entry, name in exclude)
        spans.append((begin, end, name))
        if tensor is not None:
            places[name] = Place(tensor, file, 8 + length + begin)
    _check_tiling(file, spans, file.size - 8 - length)
    return places, set(header)


def read_index(index: OpenFile, exclude: Collection[str] = ()) -> tuple[dict[str, Place], list[OpenFile]]:
    """As read_header, for a sharded file; also the shards, opened, in sorted order of their names."""
    content = _load(index, index.read(0, index.size))
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict):
        raise FormatError(f"{index.path}: no weight_map: not the index of a sharded safetensors file")
    for name, shard in weight_map.items():
        if not _is_shard_name(shard):
            raise FormatError(
                f"{index.path}: tensor {name!r} in shard {shard!r}: the name of a .safetensors file"
                " in the same folder expected"
            )
    places: dict[str, Place] = {}
    files: list[OpenFile] = []
    try:
        for shard in sorted(set(weight_map.values())):
            files.append(_open_shard(index, shard))
            listed = {name for name, where in weight_map.items() if where == shard}
            places.update(_read_shard(files[-1], listed, exclude))
    except BaseException:
        for file in files:
            file.close()
        raise
    return places, files


def _open_shard(index: OpenFile, shard: str) -> OpenFile:
    try:
        return OpenFile(index.path.parent / shard)
    except ArgumentError as error:
        raise FormatError(f"{index.path}: shard {shard}: {error}") from None


def _read_shard(file: OpenFile, listed: set[str], exclude: Collection[str]) -> dict[str, Place]:
    places, there = _read(file, exclude)
    if missing := sorted(listed - there):
        raise FormatError(
            f"{file.path}: tensor {missing[0]!r} is missing, which the index says is in this shard"
        )
    if extra := sorted(there - listed):
        raise FormatError(f"{file.path}: tensor {extra[0]!r} is in this shard, which the index does not say")
    return places


def _is_shard_name(shard: object) -> bool:
    if not isinstance(shard, str) or not shard.endswith(".safetensors") or shard.startswith("."):
        return False
    return not any(c in "/\\\0" or not c.isprintable() for c in shard)


def _load(file: OpenFile, data: bytes) -> dict[str, Any]:
    if data[:1] != b"{":
        raise FormatError(f"{file.path}: the JSON header starts with {data[:1]!r}; '{{' expected")
    try:
        content = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{file.path}: header: {error}") from None
    assert isinstance(content, dict)
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"key {key!r} appears twice")
        content[key] = value
    return content


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not JSON")


def _check_metadata(file: OpenFile, metadata: object) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError(f"{file.path}: __metadata__ that is not a map of strings to strings")


def _entry(file: OpenFile, name: str, entry: object, excluded: bool) -> tuple[int, int, Tensor | None]:
    """Offsets, and the tensor unless it is excluded; everything checked that one entry shows."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{file.path}: tensor {name!r}: dtype, shape and data_offsets expected")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str):
        raise FormatError(f"{file.path}: tensor {name!r}: dtype {code!r}; a string expected")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FormatError(f"{file.path}: tensor {name!r}: shape {shape!r}, data_offsets {offsets!r}")
    begin, end = offsets
    if len(shape) > MAX_DIMENSIONS:
        raise SchemaError(
            f"{file.path}: tensor {name!r}: {len(shape)} dimensions; 0 to {MAX_DIMENSIONS} allowed"
        )
    if code not in DTYPES:
        if excluded:
            return begin, end, None
        raise SchemaError(
            f"{file.path}: tensor {name!r} has dtype {code}; allowed: {', '.join(DTYPES)}, or exclude= it"
        )
    needed, given = prod(shape) * ITEMSIZE[DTYPES[code]], end - begin
    if needed != given:
        raise FormatError(
            f"{file.path}: tensor {name!r}: {code} {shape} needs {needed} bytes, its offsets give {given}"
        )
    try:
        return begin, end, None if excluded else Tensor(name, tuple(shape), DTYPES[code])
    except SchemaError as error:
        raise SchemaError(f"{file.path}: {error}") from None


def _are_sizes(values: object) -> bool:
    return isinstance(values, list) and all(type(n) is int and 0 <= n < MAX_BYTES for n in values)


def _check_tiling(file: OpenFile, spans: list[tuple[int, int, str]], length: int) -> None:
    """Sorted by offset, every tensor starts where the one before ends; the last one ends the file."""
    expected = 0
    for begin, end, name in sorted(spans):
        if begin != expected:
            kind = "overlaps the tensor before it" if begin < expected else "leaves a hole before it"
            raise FormatError(f"{file.path}: tensor {name!r} at {begin} {kind}: {expected} expected")
        expected = end
    if expected != length:
        raise FormatError(
            f"{file.path}: the tensors end at {expected}, the file at {length}: truncated or lying"
        )
