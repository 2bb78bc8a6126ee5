"""The machine's limit, to which benchmarks of aggregation are compared: reading every row once."""

from __future__ import annotations

import time

from tallystick import _core


def best_of(run, repeats):
    """Seconds of the fastest of some runs."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def read_time(rows):
    return best_of(lambda: _core.stream_read(rows.ctypes.data, rows.nbytes), 5)
