"""Mutated and random bytes as frames, in memory and in files: a typed error, or the same bytes encoded again.

Usage: python tests/fuzz/fuzz_frame.py [--seconds N] [--seed N]
"""

from __future__ import annotations

import json
import struct
import tempfile
from pathlib import Path

import mutate
import numpy as np

from tallystick import frame, update
from tallystick.errors import TallystickError
from tallystick.schema import Schema

VECTORS = Path(__file__).parent.parent / "vectors" / "frames.json"


def seeds():
    """The golden frames."""
    for vector in json.loads(VECTORS.read_text(encoding="utf-8"))["frames"]:
        yield bytes.fromhex(vector["frame"])


def with_checksums(data, rng):
    """Makes the checksums fit, those that can be found, so that what lies behind them is reached too."""
    if len(data) < 512 or rng.random() < 0.2:
        return data
    fixed = bytearray(data)
    head, count = struct.unpack_from("<II", fixed, 16)
    for k in range(min(count, 6)):
        entry = 448 + 32 * k
        if entry + 32 <= len(fixed):
            offset, length = struct.unpack_from("<QQ", fixed, entry + 8)
            section = bytes(fixed[offset : offset + length]) if offset + length <= len(fixed) else b""
            fixed[entry + 4 : entry + 8] = struct.pack("<I", frame._crc32c(section))
            if k == 0 and rng.random() < 0.8:
                fixed[192:224] = Schema.from_json(section).hash if valid(section) else fixed[192:224]
    if rng.random() < 0.8:
        fixed[24:32] = struct.pack("<Q", len(fixed))
    covered = bytes(fixed[:60] + fixed[64 : min(head, len(fixed))])
    fixed[60:64] = struct.pack("<I", frame._crc32c(covered))
    return bytes(fixed)


def valid(section):
    try:
        Schema.from_json(section)
    except TallystickError:
        return False
    return True


def refusal(function, argument):
    """The message of the typed error that function(argument) raises; None without one."""
    try:
        function(argument)
    except TallystickError as error:
        return str(error)
    return None


def check(data, path):
    """Memory and file must agree; what is accepted is encoded to the same bytes."""
    path.write_bytes(data)
    in_memory, in_file = refusal(frame.decode, data), refusal(update.open_update, path)
    if in_memory or in_file:
        assert in_file == f"{path}: {in_memory}", (in_memory, in_file)
        return False
    decoded = frame.decode(data)
    assert b"".join(frame.encode_plain(decoded.tensors, decoded.binding)) == data
    with update.open_update(path) as opened:
        assert opened.schema == decoded.schema
        for name, x in decoded.tensors.items():
            assert opened.array(name).tobytes() == np.ascontiguousarray(x).tobytes()
    return True


def main():
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "x.tsf"
        mutate.fuzz("frame", list(seeds()), lambda data: check(data, path), finish=with_checksums)


if __name__ == "__main__":
    main()
