"""What benchmarks of aggregation share: one thread, and Gaussian rows beyond the L3 cache."""

from __future__ import annotations

import os

import numpy as np
import pytest

import tallystick as ts

PARAMETERS = 10**6
CLIENTS = [int(n) for n in os.environ.get("BENCH_CLIENTS", "10,50,100").split(",")]


@pytest.fixture(autouse=True)
def one_thread():
    level, threads = ts.cpu_level(), ts.num_threads()
    ts.set_num_threads(1)
    yield
    ts.set_cpu_level(level)
    ts.set_num_threads(threads)


@pytest.fixture(params=CLIENTS, scope="module")
def rows(request):
    n = request.param
    return np.random.default_rng(n).standard_normal((n, PARAMETERS), dtype=np.float32)
