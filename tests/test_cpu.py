"""CPU levels, thread counts, fork."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest

import tallystick as ts
from tallystick import merkle
from tallystick.errors import ArgumentError

BYTES = np.arange(40 * 65536, dtype=np.uint32).astype(np.uint8)  # 40 chunks: work for four threads


def python(code, **environment):
    """Runs code in a fresh interpreter; its completed process."""
    env = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


def test_a_level_can_be_lowered_and_set_back():
    before = ts.cpu_level()
    ts.set_cpu_level("scalar")
    assert ts.cpu_level() == "scalar"
    ts.set_cpu_level(before)
    assert ts.cpu_level() == before


def test_an_unknown_level_is_refused_with_the_allowed_ones():
    with pytest.raises(ArgumentError, match=r"avx1024.*scalar, avx2 or avx512"):
        ts.set_cpu_level("avx1024")


def test_a_bogus_environment_level_is_a_typed_error():
    run = python("import tallystick as ts; ts.cpu_level()", TALLYSTICK_CPU="sse9")
    assert run.returncode == 1
    assert "ArgumentError: TALLYSTICK_CPU" in run.stderr
    assert "sse9" in run.stderr


def test_the_environment_lowers_the_level():
    run = python("import tallystick as ts; print(ts.cpu_level())", TALLYSTICK_CPU="scalar")
    assert run.stdout.strip() == "scalar"


@pytest.mark.parametrize("count", [0, -1, 1025, 2.5, "two"])
def test_a_thread_count_out_of_range_is_refused(count):
    with pytest.raises(ArgumentError, match="1 to 1024"):
        ts.set_num_threads(count)


def test_a_bogus_environment_thread_count_is_a_typed_error():
    run = python("import tallystick as ts; ts.num_threads()", TALLYSTICK_THREADS="many")
    assert "ArgumentError" in run.stderr
    assert "many" in run.stderr


def test_the_environment_sets_the_thread_count():
    assert (
        python("import tallystick as ts; print(ts.num_threads())", TALLYSTICK_THREADS="3").stdout.strip()
        == "3"
    )


@pytest.fixture
def used_pool():
    """The root of BYTES, from four threads that are there when the test forks."""
    before = ts.num_threads()
    ts.set_num_threads(4)
    yield merkle.hash_chunks(BYTES)
    ts.set_num_threads(before)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_works_after_the_parent_used_the_pool(used_pool):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # nothing of pytest may run here
        try:
            os.write(write, merkle.hash_chunks(BYTES))
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == used_pool
    assert os.waitpid(child, 0)[1] == 0
    assert merkle.hash_chunks(BYTES) == used_pool  # the parent's threads are still there


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_workers_work_after_the_parent_used_the_pool(used_pool, method):
    with multiprocessing.get_context(method).Pool(2) as workers:
        roots = workers.map_async(merkle.hash_chunks, [BYTES] * 3).get(timeout=60)
    assert roots == [used_pool] * 3
