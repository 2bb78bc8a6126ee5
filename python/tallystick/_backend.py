"""Finds the native modules; says in words why CUDA is absent."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from types import ModuleType

from . import _core
from .errors import ArgumentError, DeviceError

__all__ = [
    "cpu_best",
    "cpu_level",
    "cuda",
    "cuda_built",
    "cuda_status",
    "num_threads",
    "set_cpu_level",
    "set_num_threads",
]


@functools.cache
def _cuda_module() -> ModuleType | None:
    # Not "from . import _cuda": in a build without it that speaks of a circular import.
    if importlib.util.find_spec("tallystick._cuda") is None:
        return None
    return importlib.import_module("tallystick._cuda")


def cuda_status() -> tuple[int, str]:
    """Number of CUDA devices and, when it is 0, the reason in words."""
    module = _cuda_module()
    if module is None:
        return 0, "this build has no CUDA module (no nvcc was found when it was built)"
    count, reason = module.device_count()
    return int(count), str(reason)


def cuda_built() -> bool:
    """Whether this build has the CUDA module."""
    return _cuda_module() is not None


def cuda() -> ModuleType:
    """The CUDA module; DeviceError with the reason when it cannot run anything."""
    module = _cuda_module()
    count, reason = cuda_status()
    if module is None or count == 0:
        raise DeviceError(f"the arrays are on a CUDA device, but {reason}")
    return module


def cpu_best() -> str:
    """Highest CPU level this machine can run: "scalar", "avx2" or "avx512"."""
    return _core.cpu_best()


def cpu_level() -> str:
    """CPU level in force; TALLYSTICK_CPU or set_cpu_level() may lower it."""
    try:
        return _core.cpu_level()
    except ValueError as error:
        raise ArgumentError(f"TALLYSTICK_CPU: {error}") from None


def set_cpu_level(level: str) -> None:
    """Use another CPU level from now on (tests, benchmarks); results do not depend on it.

    Raises ArgumentError for an unknown level or one that this CPU cannot run.
    """
    try:
        _core.set_cpu_level(level)
    except ValueError as error:
        raise ArgumentError(str(error)) from None


def num_threads() -> int:
    """Number of threads that native calls use; results do not depend on it."""
    try:
        return _core.num_threads()
    except ValueError as error:
        raise ArgumentError(str(error)) from None


def set_num_threads(count: int) -> None:
    """Use count threads (1 to 1024) from now on. Overrides TALLYSTICK_THREADS and OMP_NUM_THREADS."""
    try:
        _core.set_num_threads(count)
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"set_num_threads: 1 to 1024 expected, got {count!r}") from error
