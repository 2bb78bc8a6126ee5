"""Mutated and random bytes as .safetensors files and as indexes of shards: a typed error or a sound update.

Usage: python tests/fuzz/fuzz_safetensors.py [--seconds N] [--seed N]
"""

from __future__ import annotations

import json
import struct
import tempfile
from pathlib import Path

import ml_dtypes
import mutate
import numpy as np
import safetensors
import safetensors.numpy

from tallystick import arrays, update
from tallystick.errors import TallystickError
from tallystick.safetensors_reader import DTYPES


def seeds():
    """Valid files of every dtype and layout, with and without metadata."""
    tensors = {name: np.arange(6).astype(arrays.numpy_dtype(name)).reshape(2, 3) for name in arrays.ITEMSIZE}
    yield safetensors.numpy.save(tensors, {"made by": "the library"})
    yield safetensors.numpy.save({"w": np.ones(3, ml_dtypes.bfloat16), "e": np.empty((0, 2), np.float32)})
    yield safetensors.numpy.save({})
    header = {"b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    header["a"] = {"dtype": "U8", "shape": [], "data_offsets": [4, 5]}
    text = json.dumps(header).encode()
    yield struct.pack("<Q", len(text)) + text + b"\0\0\x80?\7"


def built(rng):
    """A file whose tensors almost tile it: now and then an offset, a shape or the end is off by a little."""

    def off(value, likelihood=0.06):
        return value + rng.choice((-8, -4, -1, 1, 4, 8)) if rng.random() < likelihood else value

    header, end = {}, 0
    for k in range(rng.randrange(5)):
        code = rng.choice(list(DTYPES))
        shape = [rng.randrange(4) for _ in range(rng.randrange(3))]
        begin = max(off(end), 0)
        end = begin + int(np.prod(shape, dtype=int)) * arrays.ITEMSIZE[DTYPES[code]]
        header[f"t{off(k)}"] = {
            "dtype": code,
            "shape": [off(n, 0.03) for n in shape],
            "data_offsets": [off(begin, 0.02), off(end, 0.02)],
        }
    entries = list(header.items())
    rng.shuffle(entries)
    if rng.random() < 0.05:
        entries += entries[:1]  # a name twice
    text = ("{" + ",".join(f"{json.dumps(k)}:{json.dumps(v)}" for k, v in entries) + "}").encode()
    return struct.pack("<Q", len(text)) + text + rng.randbytes(max(off(end), 0))


def built_index(rng):
    """An index that is sometimes right: names of tensors and shards from small sets."""
    shards = [
        "1.safetensors",
        "2.safetensors",
        "3.safetensors",
        "./1.safetensors",
        "../1.safetensors",
        "1",
        "",
    ]
    weight_map = {name: rng.choice(shards[: rng.choice((2, 7))]) for name in rng.sample(["1", "2", "3"], 2)}
    return json.dumps({"weight_map": weight_map}).encode()


def or_built(data, rng):
    choice = rng.random()
    return built(rng) if choice < 0.4 else built_index(rng) if choice < 0.45 else data


def check(path):
    """Opens the file and reads everything in it. What is accepted, the library must read the same."""
    try:
        opened = update.open_update(path)
    except TallystickError:
        return False
    with opened:
        payload = b"".join(bytes(piece) for piece in opened.payload())
        assert payload == path.read_bytes()
        found = dict(safetensors.deserialize(payload))
        assert found.keys() == {t.name for t in opened.schema.tensors}
        for tensor in opened.schema.tensors:
            assert opened.array(tensor.name).tobytes() == bytes(found[tensor.name]["data"])
    return True


def check_index(path):
    """The same for an index over two shards that exist."""
    try:
        update.open_update(path).close()
    except TallystickError:
        return False
    weight_map = json.loads(path.read_bytes())["weight_map"]
    assert all(weight_map[name] == f"{name}.safetensors" for name in weight_map)
    return True


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        single, index = folder / "x.safetensors", folder / "x.safetensors.index.json"
        for shard in ("1", "2"):
            update.write_safetensors(folder / f"{shard}.safetensors", {shard: np.ones(2, np.float32)})
        weight_map = {"1": "1.safetensors", "2": "2.safetensors"}
        indexes = [json.dumps({"metadata": {"total_size": 16}, "weight_map": weight_map}).encode()]

        def run(data):
            if data[:1] == b"{":
                index.write_bytes(data)
                return check_index(index)
            single.write_bytes(data)
            return check(single)

        mutate.fuzz("safetensors", [*seeds(), *indexes], run, finish=or_built, text=True)


if __name__ == "__main__":
    main()
