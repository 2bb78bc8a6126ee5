"""Schemas: order, segments, hash, and what no update can have."""

from __future__ import annotations

import hashlib

import pytest

from tallystick.errors import FormatError, SchemaError
from tallystick.update import Schema, Tensor


def test_the_schema_is_sorted_by_utf8_bytes_and_hashed_as_canonical_json():
    names = ["b", "B", "a.10", "a.2", "\uffff", "\U00010000", "é"]
    schema = Schema(tuple(Tensor(name, (2, 3), "float32") for name in names))
    assert [t.name for t in schema.tensors] == ["B", "a.10", "a.2", "b", "é", "\uffff", "\U00010000"]
    one = Schema((Tensor('w"\\\n', (2, 3), "bfloat16"),))
    tensor = b'{"dtype":"bfloat16","name":"w\\"\\\\\\n","shape":[2,3]}'
    text = b'{"format":"tallystick-schema-1","tensors":[' + tensor + b"]}"
    assert one.to_json() == text
    assert one.hash == hashlib.sha256(text).digest()
    assert Schema.from_json(text) == one


def test_segments_hold_one_dtype_each_and_integers_none():
    shapes = {"b": (2, 3), "a": (3,), "steps": (), "empty": (0, 3), "c": (5,), "d": (2, 2), "mask": (1,)}
    dtypes = {"a": "bfloat16", "d": "float64", "steps": "int64", "mask": "bool"}
    schema = Schema(tuple(Tensor(n, shape, dtypes.get(n, "float32")) for n, shape in shapes.items()))
    assert [(s.dtype, [t.name for t in s.tensors], s.bounds) for s in schema.segments] == [
        ("bfloat16", ["a"], (0, 3)),
        ("float32", ["b", "c", "empty"], (0, 6, 11, 11)),
        ("float64", ["d"], (0, 4)),
    ]
    assert [t.name for t in schema.integers] == ["mask", "steps"]
    assert schema.size == 18
    assert [s.nbytes for s in schema.segments] == [6, 44, 32]


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "named"),
    [
        ("", (1,), "float32", "1 to 128 bytes in UTF-8 expected, got 0"),
        ("é" * 64 + "a", (1,), "float32", "expected, got 129"),
        ("e\u0301", (1,), "float32", "NFC"),
        ("\ud800", (1,), "float32", "surrogate"),
        (3, (1,), "float32", "a string expected, got int"),
        ("w", (1,), "complex64", "'w': dtype complex64 is not allowed; allowed: bfloat16"),
        ("w", (1,) * 33, "float32", "33 dimensions"),
        ("w", (-1,), "float32", "-1"),
        ("w", (2**50, 2), "float32", r"less than 2\^53 bytes"),
        ("w", (2**53, 0), "float32", r"2\^53"),
    ],
)
def test_a_tensor_that_no_update_can_have_is_refused(name, shape, dtype, named):
    with pytest.raises(SchemaError, match=named):
        Tensor(name, shape, dtype)


def test_names_and_shapes_at_the_limits_are_allowed():
    Tensor("é" * 64, (1,) * 32, "float32")
    Tensor("w", (2**50 - 1, 2), "float32")


def test_a_name_twice_and_a_sum_too_large_are_refused():
    with pytest.raises(SchemaError, match="'w' appears twice"):
        Schema((Tensor("w", (1,), "float32"), Tensor("w", (2,), "float32")))
    with pytest.raises(SchemaError, match=r"2\^53"):
        Schema((Tensor("v", (2**52,), "uint8"), Tensor("w", (2**52,), "uint8")))


CANONICAL = b'{"format":"tallystick-schema-1","tensors":[{"dtype":"float32","name":"w","shape":[1]}]}'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        CANONICAL + b" ",
        CANONICAL.replace(b'"dtype":"float32","name":"w"', b'"name":"w","dtype":"float32"'),
        CANONICAL.replace(b"[1]", b"[1.0]"),
        CANONICAL.replace(b"[1]", b"[true]"),
        CANONICAL.replace(b"[1]", b"[-1]"),
        CANONICAL.replace(b"[1]", b'"1"'),
        CANONICAL.replace(b'"float32"', b"[]"),
        CANONICAL.replace(b'"w"', b"7"),
        CANONICAL.replace(b'"w"', b'"e\\u0301"'),
        CANONICAL.replace(b'"w"', b'"\\u0077"'),
        CANONICAL.replace(b"float32", b"float31"),
        CANONICAL.replace(b"schema-1", b"schema-2"),
        CANONICAL.replace(b'"shape":[1]', b'"shape":[1],"x":1'),
        CANONICAL.replace(b'"shape":[1]', b'"shape":[2],"shape":[1]'),
    ],
)
def test_schema_json_that_is_not_canonical_is_refused(data):
    assert Schema.from_json(CANONICAL).to_json() == CANONICAL
    with pytest.raises(FormatError, match="schema"):
        Schema.from_json(data)
