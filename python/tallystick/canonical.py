"""Canonical JSON, reals as hex, and ids: the rules by which one content has one encoding.

The JSON is a subset of RFC 8785. Objects have keys [a-z0-9._-]{1,64}, sorted; numbers are integers with |n| <
2^53; strings are UTF-8 with the shortest escapes; lists and objects nest at most MAX_DEPTH deep; no spaces.
There are no floats, booleans, nulls, duplicate keys or lone surrogates. A real number is written as the hex
of its big-endian binary64.
"""

from __future__ import annotations

import json
import math
import re
import struct
import unicodedata
from typing import Any, NoReturn

from .errors import ArgumentError, FormatError

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_INT", "check_id", "dumps", "loads", "real", "shown", "unreal"]

MAX_INT = 2**53 - 1
MAX_DEPTH = 32
MAX_BYTES = 1 << 26
MAX_ID_BYTES = 128

_KEY = re.compile(r"[a-z0-9._-]{1,64}")
_REAL = re.compile(r"[0-9a-f]{16}")


def dumps(obj: Any) -> bytes:
    """The canonical encoding of str, int, and lists and dicts of them; FormatError for anything else."""
    _check(obj, 0)
    text = json.dumps(obj, ensure_ascii=False, sort_keys=True, separators=(",", ":"), check_circular=False)
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise FormatError(
            "canonical JSON: a string with a lone surrogate, which UTF-8 cannot carry"
        ) from None
    if len(data) > MAX_BYTES:
        raise FormatError(f"canonical JSON: {len(data)} bytes, at most {MAX_BYTES} are allowed")
    return data


def loads(data: bytes | bytearray | memoryview) -> Any:
    """The value whose canonical encoding is data; FormatError if there is none."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise FormatError(f"canonical JSON: bytes expected, got {type(data).__name__}")
    raw = bytes(data)
    if len(raw) > MAX_BYTES:
        raise FormatError(f"canonical JSON: {len(raw)} bytes, at most {MAX_BYTES} are allowed")
    try:
        obj = json.loads(raw.decode(), parse_int=_integer, parse_float=_float, parse_constant=_float)
    except UnicodeDecodeError as error:
        raise FormatError(f"canonical JSON: not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise FormatError(f"canonical JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise FormatError(f"canonical JSON: nested deeper than {MAX_DEPTH}") from None
    if dumps(obj) != raw:
        raise FormatError(
            "canonical JSON: not in canonical form (sorted unique keys, no spaces, shortest escapes expected)"
        )
    return obj


def _integer(text: str) -> int:
    if len(text) > 17:  # a sign and 16 digits hold 2^53 - 1
        raise FormatError(f"canonical JSON: an integer of {len(text)} characters, |n| < 2^53 expected")
    return int(text)


def _float(text: str) -> NoReturn:
    raise FormatError(f"canonical JSON: {text[:32]} is not an integer (a real is the hex of its binary64)")


def _check(obj: Any, depth: int) -> None:
    if isinstance(obj, str):
        return  # lone surrogates are found when the text is encoded
    if isinstance(obj, int) and not isinstance(obj, bool):
        if not -MAX_INT <= obj <= MAX_INT:
            raise FormatError("canonical JSON: an integer out of range, |n| < 2^53 expected")
    elif isinstance(obj, (list, tuple, dict)):
        if depth == MAX_DEPTH:
            raise FormatError(f"canonical JSON: nested deeper than {MAX_DEPTH}")
        if isinstance(obj, dict):
            for key in obj:
                if not isinstance(key, str) or not _KEY.fullmatch(key):
                    raise FormatError(f"canonical JSON: key {shown(key)}, [a-z0-9._-]{{1,64}} expected")
            obj = obj.values()
        for item in obj:
            _check(item, depth + 1)
    else:
        raise FormatError(f"canonical JSON: {type(obj).__name__} given; str, int, list or dict expected")


def shown(value: object) -> str:
    """value for an error message: the start of its repr()."""
    try:
        return repr(value)[:80]
    except ValueError:  # an integer too long to be written in decimal
        return f"a huge {type(value).__name__}"


def real(x: float) -> str:
    """x as 16 hex digits, its big-endian binary64. Infinities are allowed, NaN is not."""
    if math.isnan(x):
        raise ArgumentError("NaN has no canonical form")
    return struct.pack(">d", x).hex()


def unreal(text: str) -> float:
    """The inverse of real(); FormatError for anything that real() does not write."""
    if not isinstance(text, str) or not _REAL.fullmatch(text):
        raise FormatError(f"real: 16 lower-case hex digits expected, got {shown(text)}")
    x: float = struct.unpack(">d", bytes.fromhex(text))[0]
    if math.isnan(x):
        raise FormatError("real: NaN has no canonical form")
    return x


def check_id(text: str, what: str) -> str:
    """text if it can name a namespace, client or tensor: NFC, 1 to 128 bytes in UTF-8; else ArgumentError."""
    if not isinstance(text, str):
        raise ArgumentError(f"{what}: a string expected, got {type(text).__name__}")
    if text.isascii():
        size = len(text)
    else:
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise ArgumentError(
                f"{what}: {shown(text)} has a lone surrogate, which UTF-8 cannot carry"
            ) from None
        if not unicodedata.is_normalized("NFC", text):
            raise ArgumentError(f"{what}: {shown(text)} is not in Unicode normal form NFC")
    if not 1 <= size <= MAX_ID_BYTES:
        raise ArgumentError(f"{what}: 1 to {MAX_ID_BYTES} bytes in UTF-8 expected, got {size}")
    return text
