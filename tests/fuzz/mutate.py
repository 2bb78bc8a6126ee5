"""A small mutation fuzzer: fuzz() runs until its time is over, or writes out the first input that fails."""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from pathlib import Path

EDGES = [0, 1, 7, 8, 63, 64, 127, 128, 255, 2**16 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1]
TOKENS = [
    *(b'{ } [ ] : , " \\ \\u0000 \\ud800 null true -1 1.0 1e999 NaN'.split()),
    *(b'"dtype" "shape" "data_offsets" "__metadata__" "weight_map" F8_E4M3 BF16 ../ \0 \xff'.split()),
    "e\u0301".encode(),
    b"[" * 50_000,
]


def mutated(data, seeds, rng, text):
    """data after one to four small changes."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(9)
        if kind == 0 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif kind == 1 and out:
            out[at % len(out)] = rng.randrange(256)
        elif kind == 2:
            del out[at : at + rng.choice((1, 2, 8, 64))]
        elif kind == 3:
            out[at:at] = rng.randbytes(rng.choice((1, 2, 8, 64)))
        elif kind == 4:
            del out[at:]
        elif kind == 5:
            width = rng.choice((1, 2, 4, 8))
            out[at : at + width] = (rng.choice(EDGES) % 256**width).to_bytes(width, "little")
        elif kind == 6:
            start = rng.randrange(len(out) + 1)
            out[at:at] = out[start : start + rng.choice((1, 8, 32, 64))]
        elif kind == 7 and text:
            out[at : at + rng.choice((0, 0, 1, 4))] = rng.choice(TOKENS)
        else:
            other = rng.choice(seeds)
            out[at:] = other[rng.randrange(len(other) + 1) :]
    if text and len(out) >= 8 and rng.random() < 0.7:  # a length that fits what is now the header
        end = out.rfind(b"}") + 1
        out[:8] = max(end - 8, 0).to_bytes(8, "little")
    return bytes(out)


def fuzz(name, seeds, check, *, finish=None, text=False):
    """check(data) -> accepted; it raises where something is wrong. Seeds must be accepted."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=None, help="of the random numbers; default: the time")
    options = parser.parse_args()
    seed = time.time_ns() if options.seed is None else options.seed
    rng = random.Random(seed)
    runs = accepted = 0
    end = time.monotonic() + options.seconds
    data = b""
    try:
        for data in seeds:
            assert check(data), "a valid seed was refused"
        pool = list(seeds)
        while time.monotonic() < end:
            data = rng.randbytes(rng.randrange(600)) if runs % 50 == 0 else rng.choice(pool)
            data = mutated(data, seeds, rng, text)
            if finish is not None:
                data = finish(data, rng)
            runs += 1
            if check(data):
                accepted += 1
                if len(pool) < 200:
                    pool.append(data)
    except Exception:
        traceback.print_exc()
        path = Path(f"fuzz-{name}-{seed}.bin")
        path.write_bytes(data)
        sys.exit(f"fuzz {name}: failed after {runs} inputs (seed {seed}); the input is in {path}")
    print(f"fuzz {name}: {runs} inputs, {accepted} accepted, none wrong (seed {seed})")
