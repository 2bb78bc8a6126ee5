"""Fixtures shared by all tests: CPU levels, thread counts, and the gpu marker."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import types

import pytest
from hypothesis import HealthCheck, settings

import tallystick as ts

pytest.register_assert_rewrite("tallystick.ledger.conformance")
# How long an example takes on a machine that others use too says nothing about the code.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

ORDER = ["scalar", "avx2", "avx512"]
LEVELS = ORDER[: ORDER.index(ts.cpu_level()) + 1]  # TALLYSTICK_CPU lowers what a run may use


@pytest.fixture(params=LEVELS)
def level(request):
    """Each CPU level that this run may use, in force during the test."""
    before = ts.cpu_level()
    ts.set_cpu_level(request.param)
    yield request.param
    ts.set_cpu_level(before)


@pytest.fixture(params=[1, 2, 3, 4])
def threads(request):
    """1 to 4 threads, in force during the test."""
    before = ts.num_threads()
    ts.set_num_threads(request.param)
    yield request.param
    ts.set_num_threads(before)


def pytest_collection_modifyitems(config, items):
    for item in items:
        if {"torch", "jax", "byzfl", "flwr"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("frameworks")
    count, why = ts.cuda_status()
    if count == 0:
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason=why))


# data: frameworks that are no dependency of ours; TALLYSTICK_REQUIRE_TORCH=1 turns the skip into a failure


def framework(name):
    if os.environ.get(f"TALLYSTICK_REQUIRE_{name.upper()}") == "1":
        return importlib.import_module(name)
    return pytest.importorskip(name, reason=f"{name} is not installed; .ci/run frameworks runs these with it")


@pytest.fixture(scope="session")
def torch():
    return framework("torch")


@pytest.fixture(scope="session")
def jax():
    return framework("jax")


@pytest.fixture(scope="session")
def byzfl():
    """byzfl(module, name): one of its classes, without its __init__, which wants torchvision."""
    if "byzfl" not in sys.modules:
        spec = importlib.util.find_spec("byzfl")
        if spec is None:
            framework("byzfl")
        package = types.ModuleType("byzfl")
        package.__path__, package.__spec__ = list(spec.submodule_search_locations), spec
        sys.modules["byzfl"] = package
    return lambda module, name: getattr(importlib.import_module(f"byzfl.{module}"), name)


@pytest.fixture(scope="session")
def flwr():
    return framework("flwr")
