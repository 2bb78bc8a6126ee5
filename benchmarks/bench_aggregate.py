"""The kernels of mean, median, trimmed mean and distances: every level of this CPU, NumPy; one thread.

extra_info["reads"]: best time over that of one plain read of the same rows, measured just before and after.
Gaussian float32 rows, f = n / 5. Run: pytest benchmarks/bench_aggregate.py
"""

from __future__ import annotations

import numpy as np
import pytest

import reference
import tallystick as ts
from tallystick import _core
from yardstick import best_of, read_time

CHECKED = 256  # columns compared with the exact oracle
LEVELS = ["scalar", "avx2", "avx512"][: ["scalar", "avx2", "avx512"].index(ts.cpu_level()) + 1]


def addresses(rows):
    n = len(rows)
    first = rows.ctypes.data + np.arange(n, dtype=np.uint64) * np.uint64(rows.strides[0])
    return first.reshape(n, 1), np.array([0, rows.shape[1]], np.int64), "float32"


def measure(benchmark, rows, run, written):
    before = read_time(rows)
    benchmark.extra_info["bytes"] = rows.nbytes + written  # every row read once, the result written once
    rounds = 1 if best_of(run, 1) > 0.3 else 9  # np.median takes seconds
    benchmark.pedantic(run, rounds=rounds)
    if benchmark.stats:
        best = benchmark.stats.stats.min
        benchmark.extra_info["reads"] = round(best / min(before, read_time(rows)), 2)


def sort_and_average(rows, first, last):
    def run():
        return np.sort(rows, axis=0)[first:last].mean(axis=0)

    return run


def native(function, rows, *arguments):
    out = np.empty(rows.shape[1], np.float32)
    rest = [*addresses(rows), *arguments, out.ctypes.data]

    def run():
        assert function(*rest) == []
        return out

    return run


@pytest.mark.benchmark(group="mean")
@pytest.mark.parametrize("impl", ["numpy", *LEVELS])
def bench_mean(benchmark, impl, rows):
    weights = np.random.default_rng(1).integers(1000, 9000, len(rows)).astype(np.float64)
    if impl == "numpy":
        shares = (weights / weights.sum()).astype(np.float32)

        def run():
            return shares @ rows

        np.testing.assert_allclose(run(), weights @ rows / weights.sum(), atol=1e-6)
    else:
        ts.set_cpu_level(impl)
        run = native(_core.mean, rows, weights)
        np.testing.assert_array_equal(run()[:CHECKED], reference.weighted_mean(rows[:, :CHECKED], weights))
    measure(benchmark, rows, run, 4 * rows.shape[1])


@pytest.mark.benchmark(group="mean, equal weights")
@pytest.mark.parametrize("impl", ["numpy", *LEVELS])
def bench_mean_of_equals(benchmark, impl, rows):
    if impl == "numpy":

        def run():
            return rows.mean(axis=0)

    else:
        ts.set_cpu_level(impl)
        run = native(_core.mean, rows, None)
        np.testing.assert_array_equal(run()[:CHECKED], reference.weighted_mean(rows[:, :CHECKED]))
    measure(benchmark, rows, run, 4 * rows.shape[1])


@pytest.mark.benchmark(group="median")
@pytest.mark.parametrize("impl", ["numpy median", "numpy sort", *LEVELS])
def bench_median(benchmark, impl, rows):
    n = len(rows)
    if impl == "numpy median":

        def run():
            return np.median(rows, axis=0)

    elif impl == "numpy sort":
        run = sort_and_average(rows, (n - 1) // 2, n // 2 + 1)
    else:
        ts.set_cpu_level(impl)
        run = native(_core.median, rows, "mid")
        np.testing.assert_array_equal(run()[:CHECKED], reference.median(rows[:, :CHECKED]))
    measure(benchmark, rows, run, 4 * rows.shape[1])


@pytest.mark.benchmark(group="trimmed mean")
@pytest.mark.parametrize("impl", ["numpy sort", *LEVELS])
def bench_trimmed_mean(benchmark, impl, rows):
    n, f = len(rows), len(rows) // 5
    if impl == "numpy sort":
        run = sort_and_average(rows, f, n - f)
    else:
        ts.set_cpu_level(impl)
        run = native(_core.trimmed_mean, rows, f)
        np.testing.assert_array_equal(run()[:CHECKED], reference.trimmed_mean(rows[:, :CHECKED], f))
    measure(benchmark, rows, run, 4 * rows.shape[1])


@pytest.mark.benchmark(group="distances")
@pytest.mark.parametrize("impl", ["numpy gram", *LEVELS])
def bench_distances(benchmark, impl, rows):
    n = len(rows)
    if impl == "numpy gram":  # the product alone; not safe from cancellation

        def run():
            return rows @ rows.T

    else:
        ts.set_cpu_level(impl)
        arguments = addresses(rows)

        def run():
            part, total = np.zeros((n, n)), np.zeros((n, n))
            assert _core.distances(*arguments, 0, part, total) == []
            _core.distances_finish(part, total)
            return total

        few = [0, n // 2, n - 1]
        np.testing.assert_array_equal(run()[np.ix_(few, few)], reference.distances(rows[few]))
    measure(benchmark, rows, run, 16 * n * n)


@pytest.mark.benchmark(group="read")
def bench_read(benchmark, rows):
    benchmark.extra_info["bytes"] = rows.nbytes
    benchmark.pedantic(_core.stream_read, (rows.ctypes.data, rows.nbytes), rounds=5)
