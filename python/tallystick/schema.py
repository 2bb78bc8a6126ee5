"""What an update consists of: named tensors, their shapes and dtypes, and the flat segments they form.

Schema JSON (canonical, see DESIGN section 2), whose SHA-256 is the schema hash:
  {"format":"tallystick-schema-1","tensors":[{"dtype":"float32","name":"layer.weight","shape":[3,4]}, ...]}
Tensors are sorted by the UTF-8 bytes of their names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from math import prod
from typing import Any

from . import canonical
from .arrays import FLOATING, INTEGER, ITEMSIZE
from .errors import ArgumentError, FormatError, SchemaError

__all__ = ["MAX_BYTES", "MAX_DIMENSIONS", "Schema", "Segment", "Tensor", "check_name", "difference"]

MAX_DIMENSIONS = 32
MAX_BYTES = 1 << 53  # of one update, and bound of every dimension: integers that any JSON reader keeps exact
FORMAT = "tallystick-schema-1"


def check_name(name: object) -> str:
    """name if it can be a tensor's: a str, Unicode NFC, 1 to 128 UTF-8 bytes; SchemaError otherwise."""
    try:
        return canonical.check_id(name, "tensor name")  # type: ignore[arg-type]
    except ArgumentError as error:
        raise SchemaError(str(error)) from None


@dataclass(frozen=True)
class Tensor:
    """Name, shape and dtype of one tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.dtype not in ITEMSIZE:
            allowed = ", ".join(FLOATING + INTEGER)
            raise SchemaError(f"tensor {self.name!r}: dtype {self.dtype} is not allowed; allowed: {allowed}")
        if len(self.shape) > MAX_DIMENSIONS:
            raise SchemaError(
                f"tensor {self.name!r}: {len(self.shape)} dimensions; 0 to {MAX_DIMENSIONS} allowed"
            )
        if any(n < 0 or n >= MAX_BYTES for n in self.shape) or self.nbytes >= MAX_BYTES:
            raise SchemaError(
                f"tensor {self.name!r}: shape {self.shape} of {self.dtype}: less than 2^53 bytes allowed"
            )

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * ITEMSIZE[self.dtype]

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


@dataclass(frozen=True)
class Segment:
    """The tensors of one floating dtype, one after another: columns bounds[k]..bounds[k+1] are tensor k.

    bounds has len(tensors) + 1 entries; two equal ones are a tensor without values.
    """

    dtype: str
    tensors: tuple[Tensor, ...]
    bounds: tuple[int, ...]

    @property
    def size(self) -> int:
        return self.bounds[-1]

    @property
    def nbytes(self) -> int:
        return self.size * ITEMSIZE[self.dtype]


@dataclass(frozen=True)
class Schema:
    """The tensors of an update, sorted by the UTF-8 bytes of their names, which are unique."""

    tensors: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        ordered = tuple(sorted(self.tensors, key=lambda t: t.name.encode()))
        for one, other in pairwise(ordered):
            if one.name == other.name:
                raise SchemaError(f"tensor {one.name!r} appears twice; names are unique")
        if sum(t.nbytes for t in ordered) >= MAX_BYTES:
            raise SchemaError("an update of 2^53 bytes or more; less is allowed")
        object.__setattr__(self, "tensors", ordered)

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """One per floating dtype that occurs, in sorted order of dtypes."""
        segments = []
        for dtype in FLOATING:
            tensors = tuple(t for t in self.tensors if t.dtype == dtype)
            if tensors:
                bounds = tuple(accumulate((t.size for t in tensors), initial=0))
                segments.append(Segment(dtype, tensors, bounds))
        return tuple(segments)

    @cached_property
    def integers(self) -> tuple[Tensor, ...]:
        """The integer and bool tensors, which are not aggregated."""
        return tuple(t for t in self.tensors if t.dtype not in FLOATING)

    @cached_property
    def integer_names(self) -> frozenset[str]:
        return frozenset(t.name for t in self.integers)

    @property
    def size(self) -> int:
        """Number of floating values: d."""
        return sum(s.size for s in self.segments)

    @cached_property
    def hash(self) -> bytes:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json()).digest()

    @cached_property
    def _json(self) -> bytes:
        tensors = [{"dtype": t.dtype, "name": t.name, "shape": list(t.shape)} for t in self.tensors]
        return canonical.dumps({"format": FORMAT, "tensors": tensors})

    def to_json(self) -> bytes:
        """The canonical JSON."""
        return self._json

    @classmethod
    def from_json(cls, data: bytes) -> Schema:
        """The schema whose canonical JSON is data; FormatError for any other bytes."""
        try:
            content = canonical.loads(data)
            if content["format"] != FORMAT:
                raise FormatError(f"format {content['format']!r:.80}; {FORMAT!r} expected")
            schema = cls(tuple(_tensor(entry) for entry in content["tensors"]))
        except ArgumentError as error:
            raise FormatError(f"schema: {error}") from None
        except (TypeError, KeyError) as error:
            raise FormatError(f"schema: not of the form {FORMAT}: {error}") from None
        if schema.to_json() != data:
            raise FormatError("schema: tensors that are not sorted by name, or more than a schema has")
        return schema


def difference(one: Schema, other: Schema, one_id: str, other_id: str) -> str | None:
    """The first difference between two clients' schemas, in words; None if there is none."""
    if one is other or one.tensors == other.tensors:
        return None
    ones, others = ({t.name: t for t in s.tensors} for s in (one, other))
    for name in sorted(ones.keys() | others.keys(), key=str.encode):
        a, b = ones.get(name), others.get(name)
        if a is None:
            return f"client {other_id!r} has tensor {name!r}, which client {one_id!r} has not"
        if b is None:
            return f"client {other_id!r} lacks tensor {name!r}, which client {one_id!r} has"
        if a != b:
            return f"client {other_id!r}: tensor {name!r} is {b}, where client {one_id!r} has {a}"
    return None  # unreachable: equal in every tensor


def _tensor(entry: dict[str, Any]) -> Tensor:
    shape: Sequence[object] = entry["shape"]
    if not isinstance(shape, list) or any(type(n) is not int for n in shape):
        raise FormatError(f"shape {shape!r}; a list of integers expected")
    if not isinstance(entry["dtype"], str):
        raise FormatError(f"dtype {entry['dtype']!r}; a string expected")
    return Tensor(entry["name"], tuple(entry["shape"]), entry["dtype"])
