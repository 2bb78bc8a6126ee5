"""The wire container: one update as one canonical byte string.  Format 1.0, all numbers little-endian.

Header, 64 bytes
   0  8  magic 89 54 53 46 0D 0A 1A 0A            40  2  codec: that of the values if all agree, else 0
   8  2  format major, 1                          42  2  codec version: 1, or 0 with codec 0
  10  2  format minor, 0                          44  1  log2 of the block of scales; plain codecs: 0
  12  4  flags: 0, no flag is defined             45  1  bits per value: 64, 32, 16, or 0 with codec 0
  16  4  bytes before the first section           46  1  dtype of scales; plain codecs: 0
  20  4  number of sections                       47  1  rounding mode; plain codecs: 0
  24  8  bytes of the whole frame                 48  4  bytes of codec parameters; plain codecs: 0
  32  8  number of floating values                52  4  bytes of the binding, 384
                                                  56  4  zero
  60  4  CRC-32C of bytes 0..59, continued over everything from byte 64 to the first section
Codec parameters: a fixed struct per codec; 1 Float64, 2 Float32, 3 Float16, 4 BFloat16, the plain codecs,
have none.
Binding, 384 bytes
   0 32  namespace id                              64 32  hash that opened the round
  32  8  round                                     96 32  hash of the base model
  40  8  weight, binary64                         128 32  schema hash
  48  1  kind: 1 delta, 2 gradient, 3 weights     160 128 client id, UTF-8, zeros after it
  49  1  bytes of the client id, 0 to 128         288 32  key hash      \\
  50 14  zero                                     320  8  key iteration  > zero in plain frames
                                                  328  8  layout        /
                                                  336 48  zero
Section table, 32 bytes a section, then zeros up to a multiple of 64
   0  2  type: 1 schema, 2 integers, 3 values       8  8  offset in the frame, a multiple of 64
   2  2  codec of values, else 0                   16  8  length in bytes
   4  4  CRC-32C of the section's bytes            24  8  number of values, 0 for the schema
Sections, in this order, zeros up to a multiple of 64 between them and nothing after the last:
   schema    its canonical JSON (schema.py), always there
   integers  the integer and bool tensors one after another in order of names; there if the schema has any
   values    one per floating dtype in sorted order (bfloat16, float16, float32, float64): its tensors one
             after another in order of names
One content has one encoding: decode() refuses every other byte string.  It does not judge values: NaN and
infinities are found where values are aggregated.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import _core, canonical, merkle
from ._files import PIECE, OpenFile
from .arrays import FLOATING, ITEMSIZE, ArrayView
from .errors import ArgumentError, FormatError
from .safetensors_reader import Place
from .schema import Schema, Tensor

if TYPE_CHECKING:
    from .update import Update

__all__ = ["Binding", "Buffer", "Frame", "decode", "encode_plain", "plain_size", "read_file", "value_hash"]

Buffer: TypeAlias = bytes | bytearray | memoryview
NOTHING = bytes(32)  # a hash of something that is not there

ALIGN = 64
MAGIC = b"\x89TSF\r\n\x1a\n"
VERSION = (1, 0)
KINDS = {"delta": 1, "gradient": 2, "weights": 3}
CODECS = {"float64": 1, "float32": 2, "float16": 3, "bfloat16": 4}
SCHEMA, INTEGERS, VALUES = 1, 2, 3
_HEADER = struct.Struct("<8sHHIIIQQHHBBBBIII")  # without the checksum
_BINDING = struct.Struct("<32sQdBB14x32s32s32s128s32sQQ48x")
_ENTRY = struct.Struct("<HHIQQQ")
_MAX_SECTIONS = 2 + len(FLOATING)


@dataclass(frozen=True)
class Binding:
    """What a frame belongs to: a namespace, a round, a client.  Hashes are 32 bytes, zeros for none."""

    namespace_id: bytes = NOTHING
    round: int = 0
    open_hash: bytes = NOTHING
    client: str = ""
    kind: str = "delta"
    base_hash: bytes = NOTHING
    weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("namespace_id", "open_hash", "base_hash"):
            value = getattr(self, name)
            if not isinstance(value, bytes) or len(value) != 32:
                raise ArgumentError(f"binding: {name} of 32 bytes expected, got {value!r}")
        if type(self.round) is not int or not 0 <= self.round < 1 << 53:
            raise ArgumentError(f"binding: round {self.round!r}; an integer from 0 to 2^53 - 1 allowed")
        if self.kind not in list(KINDS):  # a list: the kind given may be unhashable
            raise ArgumentError(f"binding: kind {self.kind!r}; allowed: {', '.join(KINDS)}")
        if not isinstance(self.weight, Real) or not 2.0**-500 <= self.weight <= 2.0**500:
            raise ArgumentError(f"binding: weight {self.weight!r}; a number from 2^-500 to 2^500 allowed")
        object.__setattr__(self, "weight", float(self.weight))
        if self.client != "":
            canonical.check_id(self.client, "binding: client")

    def _encode(self, schema_hash: bytes) -> bytes:
        client = self.client.encode()
        fixed = (self.namespace_id, self.round, self.weight, KINDS[self.kind], len(client))
        hashes = (self.open_hash, self.base_hash, schema_hash)
        return _BINDING.pack(*fixed, *hashes, client, NOTHING, 0, 0)


class Section(NamedTuple):
    """One entry of the section table."""

    type: int
    codec: int
    crc: int
    offset: int
    length: int
    values: int


@dataclass(frozen=True)
class Frame:
    """A decoded plain frame; views point into the buffer that was decoded."""

    binding: Binding
    schema: Schema
    codec: int
    sections: tuple[Section, ...]
    views: dict[str, ArrayView]

    @property
    def tensors(self) -> dict[str, NDArray[Any]]:
        """The tensors as NumPy arrays in the memory of the frame."""
        return {name: view.numpy() for name, view in self.views.items()}


def encode_plain(source: Update | Mapping[str, object], binding: Binding | None = None) -> list[Buffer]:
    """The canonical frame of an update or a dict of arrays, in buffers; values in memory are not copied."""
    update = _as_update(source)
    schema = update.schema
    parts = list(_contents(update))
    sections: list[Section] = []
    offset = _head_size(schema)
    for (kind, codec, values), buffers in zip(_kinds(schema), parts, strict=True):
        crc = 0
        for buffer in buffers:
            crc = _crc32c(buffer, crc)
        length = sum(memoryview(b).nbytes for b in buffers)
        sections.append(Section(kind, codec, crc, offset, length, values))
        offset = _aligned(offset + length)
    encoded: list[Buffer] = [_head(schema, binding or Binding(), sections)]
    for section, buffers in zip(sections, parts, strict=True):
        encoded += buffers
        if section is not sections[-1] and (padding := -section.length % ALIGN):
            encoded.append(bytes(padding))
    return encoded


def plain_size(schema: Schema) -> int:
    """Bytes of a plain frame of this schema."""
    offset = end = _head_size(schema)
    for length in _lengths(schema):
        end = offset + length
        offset = _aligned(end)
    return end


def decode(buffer: Buffer | mmap.mmap) -> Frame:
    """The plain frame in buffer (contiguous bytes); FormatError for any other bytes.  Nothing is copied."""
    try:
        memory = memoryview(buffer).cast("B")
    except TypeError:
        raise ArgumentError(f"a frame is contiguous bytes, got {type(buffer).__name__}") from None
    layout = _parse(lambda offset, length: memory[offset : offset + length], memory.nbytes)
    for section, padding in layout.spans():
        if _crc32c(memory[section.offset : section.offset + section.length]) != section.crc:
            raise _bad_checksum(section)
        _check_padding(memory[section.offset + section.length :][:padding])
    address = np.frombuffer(memory, np.uint8).__array_interface__["data"][0]
    views = {
        tensor.name: ArrayView(address + offset, tensor.shape, tensor.dtype, owner=memory)
        for tensor, offset in layout.tensors()
    }
    return Frame(layout.binding, layout.schema, layout.codec, tuple(layout.sections), views)


def read_file(file: OpenFile) -> tuple[Binding, dict[str, Place]]:
    """Binding of a frame file and where its tensors lie; the file is read once and checked as by decode()."""
    try:
        layout = _parse(file.read, file.size)
        for section, padding in layout.spans():
            crc = 0
            for piece in file.pieces(section.offset, section.offset + section.length):
                crc = _crc32c(piece, crc)
            if crc != section.crc:
                raise _bad_checksum(section)
            _check_padding(file.read(section.offset + section.length, padding))
    except FormatError as error:
        raise FormatError(f"{file.path}: {error}") from None
    return layout.binding, {t.name: Place(t, file, offset) for t, offset in layout.tensors()}


def value_hash(source: Update | Mapping[str, object]) -> bytes:
    """Hash of named values: the Merkle root over chunks of the schema hash, then all integers and values.

    They follow one another without padding in the order of a plain frame.  Files are read in pieces.
    """
    update = _as_update(source)
    if update.source == "memory":
        sections = list(_contents(update))[1:]
        return merkle.hash_chunks(update.schema.hash, *(b for buffers in sections for b in buffers))
    hasher = merkle.ChunkHasher()
    hasher.update(update.schema.hash)
    for tensor in update.schema.integers:
        hasher.update(update.integer_bytes(tensor.name))
    piece = np.empty(PIECE, np.uint8)
    for index, segment in enumerate(update.schema.segments):
        step = PIECE // ITEMSIZE[segment.dtype]
        for lo in range(0, segment.size, step):
            hi = min(lo + step, segment.size)
            update.read(index, lo, hi, piece.ctypes.data)
            hasher.update(piece[: (hi - lo) * ITEMSIZE[segment.dtype]])
    return hasher.root()


# ---- layout: everything about a plain frame but the values follows from schema, binding and checksums ----


class _Layout(NamedTuple):
    binding: Binding
    schema: Schema
    codec: int
    sections: list[Section]

    def spans(self) -> Iterator[tuple[Section, int]]:
        """Every section with the number of padding bytes after it."""
        last = self.sections[-1]
        return ((s, 0 if s is last else -s.length % ALIGN) for s in self.sections)

    def tensors(self) -> Iterator[tuple[Tensor, int]]:
        """Every tensor with its offset in the frame."""
        groups = [self.schema.integers] if self.schema.integers else []
        groups += [segment.tensors for segment in self.schema.segments]
        for section, group in zip(self.sections[1:], groups, strict=True):
            offset = section.offset
            for tensor in group:
                yield tensor, offset
                offset += tensor.nbytes


def _parse(read: Callable[[int, int], Buffer], total: int) -> _Layout:
    """Checks all but the checksums of the sections after the schema, and the padding."""
    if total < _HEADER.size + 4:
        raise FormatError(f"frame: {total} bytes; at least 64 expected")
    fixed = bytes(read(0, 64))
    magic, major, minor, flags, head_size, count, claimed, *_ = _HEADER.unpack_from(fixed)
    if magic != MAGIC:
        raise FormatError(f"frame: starts with {magic.hex()}, not with {MAGIC.hex()}: not a tallystick frame")
    if (major, minor) != VERSION:
        raise FormatError(f"frame: format {major}.{minor}; 1.0 is understood")
    if flags:
        raise FormatError(f"frame: unknown flags {flags:#x}")
    if claimed != total:
        raise FormatError(f"frame: {total} bytes, its header says {claimed}: truncated, or bytes after it")
    if not 1 <= count <= _MAX_SECTIONS or head_size != _aligned(64 + _BINDING.size + count * _ENTRY.size):
        raise FormatError(f"frame: {count} sections after {head_size} bytes")
    if head_size > total:
        raise FormatError(f"frame: {total} bytes; its head alone has {head_size}: truncated")
    head = bytes(read(0, head_size))
    if _crc32c(head[64:], _crc32c(head[:60])) != int.from_bytes(head[60:64], "little"):
        raise FormatError("frame: wrong checksum of the header")
    binding, schema_hash = _decode_binding(head[64 : 64 + _BINDING.size])
    table = head[64 + _BINDING.size :]
    sections = [Section(*_ENTRY.unpack_from(table, k * _ENTRY.size)) for k in range(count)]
    schema = _read_schema(read, sections[0], schema_hash, head_size, total)
    if _head(schema, binding, sections) != head:
        raise FormatError(
            "frame: header, binding or section table that are not the canonical ones of its schema"
        )
    return _Layout(binding, schema, _codec(schema), sections)


def _read_schema(
    read: Callable[[int, int], Buffer], section: Section, expected: bytes, head_size: int, total: int
) -> Schema:
    if (
        section.type != SCHEMA
        or section.offset != head_size
        or section.length > min(canonical.MAX_BYTES, total - head_size)
    ):
        raise FormatError(
            f"frame: first section of type {section.type} at {section.offset}; the schema expected"
        )
    data = bytes(read(section.offset, section.length))
    if _crc32c(data) != section.crc:
        raise _bad_checksum(section)
    if hashlib.sha256(data).digest() != expected:
        raise FormatError("frame: schema hash in the binding is not that of the schema")
    return Schema.from_json(data)


def _decode_binding(data: bytes) -> tuple[Binding, bytes]:
    namespace_id, number, weight, kind, length, opened, base, schema_hash, client, *_ = _BINDING.unpack(data)
    try:
        text = client[:length].decode()
        kinds = [name for name, code in KINDS.items() if code == kind]
        binding = Binding(namespace_id, number, opened, text, kinds[0] if kinds else f"{kind}", base, weight)
    except ValueError as error:  # ArgumentError is one too
        raise FormatError(f"frame: {error}") from None
    return binding, schema_hash


def _head(schema: Schema, binding: Binding, sections: Sequence[Section]) -> bytes:
    """Everything before the first section, from the schema and the sections' checksums alone."""
    size = offset = end = _head_size(schema)
    table = b""
    for (kind, codec, values), length, section in zip(
        _kinds(schema), _lengths(schema), sections, strict=False
    ):
        table += _ENTRY.pack(kind, codec, section.crc, offset, length, values)
        end = offset + length
        offset = _aligned(end)
    codec = _codec(schema)
    bits = 8 * ITEMSIZE[schema.segments[0].dtype] if codec else 0
    fixed = (MAGIC, *VERSION, 0, size, len(table) // _ENTRY.size, end, schema.size)
    header = _HEADER.pack(*fixed, codec, int(codec > 0), 0, bits, 0, 0, 0, _BINDING.size, 0)
    rest = binding._encode(schema.hash) + table
    rest += bytes(-len(rest) % ALIGN)
    return header + _crc32c(rest, _crc32c(header)).to_bytes(4, "little") + rest


def _kinds(schema: Schema) -> list[tuple[int, int, int]]:
    """Type, codec and number of values of every section."""
    integers = [(INTEGERS, 0, sum(t.size for t in schema.integers))] if schema.integers else []
    return [(SCHEMA, 0, 0), *integers, *((VALUES, CODECS[s.dtype], s.size) for s in schema.segments)]


def _lengths(schema: Schema) -> list[int]:
    integers = [sum(t.nbytes for t in schema.integers)] if schema.integers else []
    return [len(schema.to_json()), *integers, *(s.nbytes for s in schema.segments)]


def _head_size(schema: Schema) -> int:
    return _aligned(64 + _BINDING.size + len(_kinds(schema)) * _ENTRY.size)


def _codec(schema: Schema) -> int:
    return CODECS[schema.segments[0].dtype] if len(schema.segments) == 1 else 0


def _contents(update: Update) -> Iterator[list[Buffer]]:
    """The bytes of every section in order."""
    schema = update.schema
    yield [schema.to_json()]
    if schema.integers:
        yield [update.integer_bytes(t.name) for t in schema.integers]
    for segment in schema.segments:
        yield [_bytes_of(update, t.name) for t in segment.tensors]


def _bytes_of(update: Update, name: str) -> memoryview:
    array = update.array(name)
    return array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")


def _as_update(source: Update | Mapping[str, object]) -> Update:
    from .update import Update, open_update

    return source if isinstance(source, Update) else open_update(source)


# ---- helpers ----


def _aligned(offset: int) -> int:
    return offset + -offset % ALIGN


def _check_padding(padding: Buffer) -> None:
    if any(padding):
        raise FormatError("frame: padding between sections that is not zero")


def _bad_checksum(section: Section) -> FormatError:
    name = {SCHEMA: "schema", INTEGERS: "integers", VALUES: "values"}[section.type]
    return FormatError(f"frame: wrong checksum of the section of {name} at byte {section.offset}")


def _crc32c(data: Buffer, crc: int = 0) -> int:
    flat = np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8)
    return _core.crc32c(flat.__array_interface__["data"][0], flat.size, crc)
