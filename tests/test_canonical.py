"""Canonical JSON, reals and ids: one content, one encoding, and a FormatError for all else."""

from __future__ import annotations

import json
import math
import struct
import sys
import unicodedata
from enum import IntEnum

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick import canonical
from tallystick.errors import ArgumentError, FormatError

KEYS = st.from_regex(r"[a-z0-9._-]{1,64}", fullmatch=True)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.integers(-canonical.MAX_INT, canonical.MAX_INT) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_was_written_is_read_back_and_is_json(value):
    data = canonical.dumps(value)
    assert canonical.loads(data) == value
    assert json.loads(data) == value


@given(st.dictionaries(KEYS, st.integers(0, 9), min_size=2), st.randoms())
def test_the_order_of_keys_does_not_matter(value, draw):
    items = list(value.items())
    draw.shuffle(items)
    assert canonical.dumps(dict(items)) == canonical.dumps(value)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ({}, b"{}"),
        ([], b"[]"),
        ("", b'""'),
        (0, b"0"),
        (-1, b"-1"),
        (2**53 - 1, b"9007199254740991"),
        (-(2**53) + 1, b"-9007199254740991"),
        ({"b": 1, "a": [1, "x"], "a.b": {}, "a-b": 2, "0": 3}, b'{"0":3,"a":[1,"x"],"a-b":2,"a.b":{},"b":1}'),
        ('\x00\x1f\b\t\n\f\r"\\/\x7f', b'"\\u0000\\u001f\\b\\t\\n\\f\\r\\"\\\\/\x7f"'),
        ("\u2028é银\U0001f600", '"\u2028é银\U0001f600"'.encode()),
        ((1, 2), b"[1,2]"),
    ],
)
def test_the_encoding_is_rfc_8785(value, data):
    assert canonical.dumps(value) == data
    assert canonical.loads(data) == (list(value) if isinstance(value, tuple) else value)


class Colour(IntEnum):
    RED = 1


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        1.0,
        math.nan,
        2**53,
        -(2**53),
        10**5000,
        b"bytes",
        {1},
        object(),
        np.int64(3),
        np.float64(3),
        {1: "x"},
        {"A": 1},
        {"": 1},
        {"a" * 65: 1},
        {"a\n": 1},
        {"a b": 1},
        {"é": 1},
        {None: 1},
        "\ud800",
        ["x", "\udfff"],
        [[True]],
        {"a": {"b": None}},
    ],
    ids=lambda value: canonical.shown(value)[:20],
)
def test_what_has_no_encoding_is_refused(value):
    with pytest.raises(FormatError, match="canonical JSON"):
        canonical.dumps(value)


def test_an_integer_enum_is_written_as_its_number():
    assert canonical.dumps(Colour.RED) == b"1"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"{",
        b"nul",
        b"null",
        b"true",
        b"false",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1.0",
        b"1e3",
        b"-0",
        b"01",
        b"+1",
        b"9007199254740992",
        b"-9007199254740992",
        b"1" * 5000,
        b"1 ",
        b" 1",
        b"[1, 2]",
        b'{"b":1,"a":2}',
        b'{"a":1,"a":1}',
        b'{"a":1,"a":2}',
        b'{"A":1}',
        b'{"a" :1}',
        b'{"a":null}',
        b"[true]",
        b'"\\/"',
        b'"\\u0041"',
        b'"\\u00e9"',
        b'"\\u001F"',
        b'"\\ud83d\\ude00"',
        b'"\\ud800"',
        b'"\n"',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b"\xef\xbb\xbf1",
        "1".encode("utf-16"),
        "[1]".encode("utf-16-le"),
        b"1\n",
        b"1//",
        b"[1,]",
        b"'a'",
    ],
    ids=lambda data: repr(data)[:24],
)
def test_bytes_that_dumps_does_not_write_are_refused(data):
    with pytest.raises(FormatError, match="canonical JSON"):
        canonical.loads(data)


@pytest.mark.parametrize("data", ["1", 1, None, [1]], ids=repr)
def test_what_is_not_bytes_is_refused(data):
    with pytest.raises(FormatError, match="bytes expected"):
        canonical.loads(data)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_kind_of_bytes_is_read(kind):
    assert canonical.loads(kind(b'{"a":1}')) == {"a": 1}


def nested(depth, lists=True):
    value = 1
    for _ in range(depth):
        value = [value] if lists else {"a": value}
    return value


@pytest.mark.parametrize("lists", [True, False])
def test_nesting_has_a_limit_and_no_depth_exhausts_the_stack(lists):
    limit = canonical.MAX_DEPTH
    assert canonical.loads(canonical.dumps(nested(limit, lists))) == nested(limit, lists)
    with pytest.raises(FormatError, match="deeper"):
        canonical.dumps(nested(limit + 1, lists))
    left, right = (b"[", b"]") if lists else (b'{"a":', b"}")
    for depth in (limit + 1, sys.getrecursionlimit() - 50, sys.getrecursionlimit() + 50, 100_000):
        for data in (left * depth + b"1" + right * depth, left * depth):
            with pytest.raises(FormatError, match="canonical JSON"):
                canonical.loads(data)


def test_a_list_that_contains_itself_is_refused():
    loop = []
    loop.append(loop)
    with pytest.raises(FormatError, match="deeper"):
        canonical.dumps(loop)


def test_size_has_a_limit(monkeypatch):
    monkeypatch.setattr(canonical, "MAX_BYTES", 10)
    assert canonical.loads(canonical.dumps("12345678")) == "12345678"
    with pytest.raises(FormatError, match="at most 10"):
        canonical.dumps("123456789")
    with pytest.raises(FormatError, match="at most 10"):
        canonical.loads(b'"123456789"')


@settings(max_examples=300)
@given(st.binary(max_size=40) | st.text(alphabet='{}[]",:\\u0123ae-. \n').map(str.encode))
def test_any_bytes_are_canonical_or_a_format_error(data):
    try:
        value = canonical.loads(data)
    except FormatError:
        return
    assert canonical.dumps(value) == data


# ---- reals ----


@given(st.floats(allow_nan=False))
def test_a_real_keeps_its_bits(x):
    text = canonical.real(x)
    assert bytes.fromhex(text) == struct.pack(">d", x)
    assert struct.pack(">d", canonical.unreal(text)) == struct.pack(">d", x)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.0, "0000000000000000"),
        (-0.0, "8000000000000000"),
        (1.0, "3ff0000000000000"),
        (5e-324, "0000000000000001"),
        (math.inf, "7ff0000000000000"),
        (-math.inf, "fff0000000000000"),
        (12_000, "40c7700000000000"),
    ],
)
def test_known_reals(x, text):
    assert canonical.real(x) == text
    assert canonical.unreal(text) == x


def test_nan_is_refused_both_ways():
    with pytest.raises(ArgumentError, match="NaN"):
        canonical.real(math.nan)
    for text in ("7ff8000000000000", "fff0000000000001"):
        with pytest.raises(FormatError, match="NaN"):
            canonical.unreal(text)


@pytest.mark.parametrize(
    "text",
    ["", "3ff", "3FF0000000000000", "3ff00000000000000", "3ff000000000000g", " 3ff000000000000", 1.0, None],
)
def test_what_real_does_not_write_is_refused(text):
    with pytest.raises(FormatError, match="16 lower-case hex digits"):
        canonical.unreal(text)


# ---- ids ----


@pytest.mark.parametrize(
    "text", ["a", "a" * 128, "é" * 64, "银行-7", "bank a/b", "x\u0323", "\U0001f600" * 32]
)
def test_an_id_is_given_back(text):
    assert canonical.check_id(text, "client") == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "1 to 128 bytes.*got 0"),
        ("a" * 129, "got 129"),
        ("é" * 64 + "a", "got 129"),
        (unicodedata.normalize("NFD", "é"), "NFC"),
        ("\u212b", "NFC"),  # the sign for an angstrom, in NFC a letter
        ("\ud800", "surrogate"),
        (b"a", "string expected, got bytes"),
        (7, "string expected, got int"),
        (None, "string expected"),
    ],
    ids=repr,
)
def test_what_cannot_be_an_id_is_refused_and_named(text, words):
    with pytest.raises(ArgumentError, match=f"^client: .*{words}"):
        canonical.check_id(text, "client")
