"""GPU benchmark: writes JSON and prints a line per row. Usage: python benchmarks/gpu_bench.py bench.json

Every row carries the bytes that must move (each update read once, the result written once), the median
time of REPEATS calls between CUDA events with the L2 cache flushed before each, GB/s, and the share of
the speed of a device-to-device copy measured in the same process. Answers are asserted before they are
timed. Inputs are random: zeros run faster. Needs CuPy or torch; without a device it says why and stops.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import tallystick as ts
from tallystick import _core

REPEATS = 20
INPUT = 1 << 30  # bytes of updates per row of the table
FLUSH = 256 << 20  # more than any L2
CLIENTS = [8, 10, 32, 50, 64, 100, 128, 200]
CHECKED = 4096  # columns compared with the CPU


class Cupy:
    def __init__(self) -> None:
        import cupy

        self.library = cupy
        self.name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
        self.version = f"cupy {cupy.__version__}"
        self.junk = cupy.empty(FLUSH, cupy.uint8)

    def normal(self, n: int, d: int, dtype: str) -> Any:
        return self.library.random.standard_normal((n, d), dtype=self.library.float32).astype(dtype)

    def empty(self, d: int, dtype: str) -> Any:
        return self.library.empty(d, dtype)

    def copy(self, to: Any, source: Any) -> None:
        self.library.copyto(to, source)

    def host(self, array: Any) -> Any:
        return array.get()

    def address(self, array: Any) -> int:
        return int(array.data.ptr)

    def milliseconds(self, call: Callable[[], object]) -> float:
        event = self.library.cuda.Event
        first, last = event(), event()
        self.junk.fill(1)
        first.record()
        call()
        last.record()
        last.synchronize()
        return float(self.library.cuda.get_elapsed_time(first, last))


class Torch:
    def __init__(self) -> None:
        import torch

        self.library = torch
        self.name = torch.cuda.get_device_name(0)
        self.version = f"torch {torch.__version__}"
        self.junk = torch.empty(FLUSH, dtype=torch.uint8, device="cuda")

    def normal(self, n: int, d: int, dtype: str) -> Any:
        return self.library.randn((n, d), device="cuda").to(getattr(self.library, dtype))

    def empty(self, d: int, dtype: str) -> Any:
        return self.library.empty(d, dtype=getattr(self.library, dtype), device="cuda")

    def copy(self, to: Any, source: Any) -> None:
        to.copy_(source)

    def host(self, array: Any) -> Any:
        return array.cpu().numpy()

    def address(self, array: Any) -> int:
        return int(array.data_ptr())

    def milliseconds(self, call: Callable[[], object]) -> float:
        cuda = self.library.cuda
        first, last = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        self.junk.fill_(1)
        first.record()
        call()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last))


def backend() -> Cupy | Torch:
    try:
        return Cupy()
    except ImportError:
        return Torch()


def typical(gpu: Cupy | Torch, call: Callable[[], object]) -> float:
    for _ in range(3):
        call()
    return sorted(gpu.milliseconds(call) for _ in range(REPEATS))[REPEATS // 2]


RULES: dict[str, tuple[str, Callable[[int], tuple[Any, ...]]]] = {
    "mean": ("mean", lambda n: (None,)),
    "weighted mean": ("mean", lambda n: (np.arange(1000.0, 1000.0 + n),)),
    "median": ("median", lambda n: ("mid",)),
    "trimmed mean": ("trimmed_mean", lambda n: (n // 5,)),
    "meamed": ("meamed", lambda n: (n // 5,)),
    "phocas": ("phocas", lambda n: (n // 5,)),
    "majority": ("majority", lambda n: ()),
}


def bench(gpu: Cupy | Torch, rule: str, n: int, dtype: str, copy_speed: float) -> dict[str, Any]:
    from tallystick import _cuda

    name, arguments_of = RULES[rule]
    size = np.dtype(dtype).itemsize
    d = INPUT // (size * n)
    x, out = gpu.normal(n, d, dtype), gpu.empty(d, dtype)
    first = gpu.address(x)
    pointers = np.array([[first + i * d * size] for i in range(n)], np.uint64)
    arguments = (pointers, np.array([0, d], np.int64), dtype, *arguments_of(n), gpu.address(out), 0)
    call = getattr(_cuda, name)
    assert call(*arguments) == []
    check(gpu, rule, x, out)
    ms = typical(gpu, lambda: call(*arguments))
    moved = (n + 1) * d * size
    speed = moved / ms / 1e6
    return {
        "rule": rule,
        "clients": n,
        "columns": d,
        "dtype": dtype,
        "bytes": moved,
        "ms": ms,
        "GBps": speed,
        "of_copy": speed / copy_speed,
    }


def check(gpu: Cupy | Torch, rule: str, x: Any, out: Any) -> None:
    """The first columns have the bits that the CPU gives."""
    name, arguments_of = RULES[rule]
    rows = np.ascontiguousarray(gpu.host(x[:, :CHECKED]))
    n, d = rows.shape
    expected = np.empty(d, rows.dtype)
    pointers = np.array([[row.ctypes.data] for row in rows], np.uint64)
    bounds = np.array([0, d], np.int64)
    getattr(_core, name)(pointers, bounds, rows.dtype.name, *arguments_of(n), expected.ctypes.data)
    np.testing.assert_array_equal(gpu.host(out[:CHECKED]).view(np.uint8), expected.view(np.uint8))


def main(path: str) -> None:
    count, why = ts.cuda_status()
    result: dict[str, Any] = {"devices": count, "why": why, "rows": []}
    if count and "emulated" not in why:
        gpu = backend()
        a, b = gpu.normal(1, 1 << 28, "float32"), gpu.empty(1 << 28, "float32").reshape(1, -1)
        copy_speed = 2 * (4 << 28) / typical(gpu, lambda: gpu.copy(b, a)) / 1e6
        del a, b
        result |= {"gpu": gpu.name, "library": gpu.version, "copy_GBps": copy_speed}
        cases = [(rule, n, "float32") for rule in RULES for n in CLIENTS]
        cases += [(rule, n, dtype) for rule in RULES for n in (10, 50) for dtype in ("float16", "float64")]
        for rule, n, dtype in cases:
            row = bench(gpu, rule, n, dtype, copy_speed)
            result["rows"].append(row)
            shape = f"{rule:14} {n:4} x {row['columns']:9} {dtype:8}"
            print(f"{shape} {row['ms']:8.3f} ms  {row['of_copy']:.2f} of copy")
            with open(path, "w") as file:  # after every row: what was measured survives a time limit
                json.dump(result, file, indent=1)
    with open(path, "w") as file:
        json.dump(result, file, indent=1)
    print(f"{count} devices" + (f": {why}" if why else ""))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "bench.json")
