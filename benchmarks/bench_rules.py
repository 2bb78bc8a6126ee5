"""Whole rules through the public functions: time over one plain read of the updates, what they cost beyond
distances, 16-bit updates, updates of many small tensors, memory. One thread.

extra_info: "reads" as in bench_aggregate.py; "beyond": the same less what distances() takes in the same run.
Gaussian float32 rows, f = n / 5 (bulyan: (n - 3) / 4). Run: pytest benchmarks/bench_rules.py
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import reference
import tallystick as ts
from yardstick import best_of, read_time

CHECKED = 128  # columns compared with the exact oracle
COLUMN_RULES = ["median", "trimmed_mean(f={f})", "meamed(f={f})", "phocas(f={f})", "majority"]
DISTANCE_RULES = [
    "krum(f={f})",
    "multi_krum(f={f})",
    "bulyan(f={quarter})",
    "geometric_median",
    "centered_clipping",
    "norm_clipping",
    "monna(f={f})",
    "cge(f={f})",
    "caf(f={f})",
    "foolsgold",
    "flame",
    "nnm(f={f}) | trimmed_mean(f={f})",
    "nnm(f={f}) | geometric_median",
    "arc(f={f}) | nnm(f={f}) | trimmed_mean(f={f})",
    "bucketing(s=2) | median",
]
FEW_CLIENTS = ["mda(f={f})", "smea(f={f})"]  # they search subsets: for few clients


def measure(benchmark, rows, run, beyond=None):
    """Times run; beyond: what it contains and what is subtracted once more."""
    read = read_time(rows)
    contained = 0.0 if beyond is None else best_of(beyond, 2)
    rounds = 1 if best_of(run, 1) > 1 else 5
    benchmark.pedantic(run, rounds=rounds)
    if benchmark.stats:
        best = benchmark.stats.stats.min
        read = min(read, read_time(rows))
        benchmark.extra_info["reads"] = round(best / read, 2)
        if beyond is not None:
            benchmark.extra_info["beyond"] = round((best - min(contained, best_of(beyond, 2))) / read, 2)


def text_for(text, n):
    return text.format(f=n // 5, quarter=(n - 3) // 4)


@pytest.mark.benchmark(group="column rules")
@pytest.mark.parametrize("text", COLUMN_RULES)
def bench_column_rules(benchmark, text, rows):
    n, out = len(rows), np.empty(rows.shape[1], np.float32)
    rule = ts.aggregate.rule(text_for(text, n))
    arguments = [n // 5] if "f=" in text else []
    expected = getattr(reference, rule.text.split("(")[0])(rows[:, :CHECKED], *arguments)
    np.testing.assert_array_equal(rule(rows, out=out).value[:CHECKED], expected)
    measure(benchmark, rows, lambda: rule(rows, out=out))


@pytest.mark.benchmark(group="rules on distances")
@pytest.mark.parametrize("text", [*DISTANCE_RULES, *FEW_CLIENTS])
def bench_distance_rules(benchmark, text, rows):
    n, out = len(rows), np.empty(rows.shape[1], np.float32)
    if text in FEW_CLIENTS and n > 10:
        pytest.skip("searches subsets: for few clients")
    rule = ts.aggregate.rule(text_for(text, n))
    again = rule(rows).value
    np.testing.assert_array_equal(rule(rows, out=out).value, again)
    assert np.isfinite(again).all()
    measure(benchmark, rows, lambda: rule(rows, out=out), lambda: ts.aggregate.distances(rows))


@pytest.mark.benchmark(group="16 bits")
@pytest.mark.parametrize("text", ["mean", "median", "trimmed_mean(f={f})"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def bench_halves(benchmark, dtype, text, rows):
    """extra_info["faster"]: time of float32 over that of the same values in 16 bits."""
    rule = ts.aggregate.rule(text_for(text, len(rows)))
    half = rows.astype(reference.DTYPES[dtype])
    out, half_out = np.empty_like(rows[0]), np.empty_like(half[0])
    wide = best_of(lambda: rule(rows, out=out), 3)
    measure(benchmark, half, lambda: rule(half, out=half_out))
    if benchmark.stats:
        wide = min(wide, best_of(lambda: rule(rows, out=out), 3))
        benchmark.extra_info["faster"] = round(wide / benchmark.stats.stats.min, 2)


@pytest.mark.benchmark(group="500 tensors")
@pytest.mark.parametrize("text", ["mean", "trimmed_mean(f=2)", "multi_krum(f=2)"])
@pytest.mark.parametrize("shape", ["flat", "500 tensors"])
def bench_tensors(benchmark, shape, text):
    """Low-rank adapters: 500 tensors of 2000 values in each of 10 updates; open() is part of it."""
    rows = np.random.default_rng(5).standard_normal((10, 10**6), dtype=np.float32)
    rule = ts.aggregate.rule(text)
    if shape == "flat":
        measure(benchmark, rows, lambda: rule(rows))
        return
    named = [{f"layer{k:03}": row[2000 * k : 2000 * (k + 1)] for k in range(500)} for row in rows]
    value = rule(named).value
    np.testing.assert_array_equal(np.concatenate([value[name] for name in sorted(value)]), rule(rows).value)
    measure(benchmark, rows, lambda: rule(named))


MEMORY = """
import sys, numpy as np
import tallystick as ts
def growth(run):
    run(X[:, :1000])
    open("/proc/self/clear_refs", "w").write("5")
    status = lambda key: int(open("/proc/self/status").read().split(key + ":")[1].split()[0])
    before = status("VmRSS")
    run(X)
    return (status("VmHWM") - before) / 1024
X = np.random.default_rng(0).standard_normal((50, 10**6), np.float32)
print(growth({run}))
"""


@pytest.mark.benchmark(group="memory")
@pytest.mark.parametrize(
    "run",
    [
        "lambda x: ts.aggregate.median(x)",
        "lambda x: ts.aggregate.multi_krum(x, 10)",
        'lambda x: ts.aggregate.rule("nnm(f=10) | trimmed_mean(f=10)")(x)',
        "lambda x: np.sort(x, axis=0)[25]",
        "lambda x: np.median(x, axis=0)",
    ],
)
def bench_memory(benchmark, run):
    """extra_info["MB"]: growth of the process beyond 50 updates (200 MB), the result (4 MB) included."""
    command = [sys.executable, "-c", MEMORY.format(run=run)]
    grown = []
    benchmark.pedantic(
        lambda: grown.append(
            float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        ),
        rounds=1,
    )
    benchmark.extra_info["MB"] = round(grown[0], 1)
    if "ts." in run:
        assert grown[0] < 40, "memory is to grow with threads and n x n, not with the updates"
