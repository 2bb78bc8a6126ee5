"""The rules against what people use today: ByzFL and Flower, in the same process on the same data.

Needs an environment of its own (they bring torch and pinned versions of much else); skipped where they are
missing:
    pip install torch numpy scipy flwr && pip install --no-deps byzfl
Selections and values are compared first; ByzFL takes n-f-1 neighbours in Krum, so ours does too there.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable

import numpy as np
import pytest

import tallystick as ts

CLIENTS, PARAMETERS = 10, 1_000_000
F = CLIENTS // 5
X = np.random.default_rng(0).standard_normal((CLIENTS, PARAMETERS), np.float32)
WEIGHTS = np.arange(1.0, CLIENTS + 1)
OUT = np.empty(PARAMETERS, np.float32)


def byzfl(name, **options):
    """One of ByzFL's aggregators, without its __init__ (which imports torchvision for its benchmark)."""
    if "byzfl" not in sys.modules:
        spec = importlib.util.find_spec("byzfl")
        if spec is None:
            pytest.skip("byzfl is not installed")
        package = types.ModuleType("byzfl")
        package.__path__, package.__spec__ = list(spec.submodule_search_locations), spec
        sys.modules["byzfl"] = package
    return getattr(importlib.import_module("byzfl.aggregators.aggregators"), name)(**options)


def flower(name, *arguments):
    """One of Flower's functions over [(arrays, examples), ...]."""
    module = pytest.importorskip("flwr.server.strategy.aggregate", reason="flwr is not installed")
    results = [([row], int(w)) for row, w in zip(X, WEIGHTS, strict=True)]
    return lambda: getattr(module, name)(results, *arguments)[0]


def ours(function, *arguments, **options):
    return lambda: function(X, *arguments, out=OUT, **options)


CASES: dict[str, dict[str, Callable[[], Callable[[], np.ndarray]]]] = {
    "mean": {
        "tallystick": lambda: ours(ts.aggregate.mean, WEIGHTS),
        "flower": lambda: flower("aggregate"),
    },
    "median": {
        "tallystick": lambda: ours(ts.aggregate.median),
        "byzfl": lambda: lambda: byzfl("Median")(X),
        "flower": lambda: flower("aggregate_median"),
    },
    "trimmed_mean": {
        "tallystick": lambda: ours(ts.aggregate.trimmed_mean, F),
        "byzfl": lambda: lambda: byzfl("TrMean", f=F)(X),
        "flower": lambda: flower("aggregate_trimmed_avg", F / CLIENTS),
    },
    "krum n-f-1": {
        "tallystick": lambda: ours(ts.aggregate.krum, F, neighbors="n-f-1"),
        "byzfl": lambda: lambda: byzfl("Krum", f=F)(X),
    },
    "krum n-f-2": {
        "tallystick": lambda: ours(ts.aggregate.krum, F),
        "flower": lambda: flower("aggregate_krum", F, 0),
    },
    "multi_krum n-f-1": {
        "tallystick": lambda: ours(ts.aggregate.multi_krum, F, neighbors="n-f-1"),
        "byzfl": lambda: lambda: byzfl("MultiKrum", f=F)(X),
    },
}


@pytest.fixture(autouse=True)
def one_thread():
    before = ts.num_threads()
    ts.set_num_threads(1)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    yield
    ts.set_num_threads(before)


@pytest.mark.parametrize(("rule", "impl"), [(rule, impl) for rule, impls in CASES.items() for impl in impls])
def bench_rule(benchmark, rule, impl):
    benchmark.group = f"{rule}, {CLIENTS} x {PARAMETERS}, against peers"
    if impl == "tallystick" and not any(map(importlib.util.find_spec, ("byzfl", "flwr"))):
        pytest.skip("neither byzfl nor flwr is installed")
    run = CASES[rule][impl]()
    expected = CASES[rule]["tallystick"]()().copy()
    np.testing.assert_allclose(run(), expected, rtol=2e-5, atol=2e-6)  # theirs are float32 sums
    benchmark.extra_info["bytes"] = X.nbytes + OUT.nbytes
    benchmark.pedantic(run, rounds=5 if impl == "tallystick" else 2, warmup_rounds=1)
