"""The emulator of tests/gpu sees the mistakes it claims to see: tests/gpu/planted.cu plants one at a time."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="compiles with g++"),
]
RIGHT, WRONG, REFUSED, SANITIZER = 0, 1, 2, 99


@pytest.fixture(scope="module", params=["plain", "address,undefined", "thread"])
def program(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("cuemu") / "planted"
    sanitize = (
        [] if request.param == "plain" else [f"-fsanitize={request.param}", "-fno-sanitize-recover=all"]
    )
    source = ROOT / "tests/gpu/planted.cu"
    command = ["g++", "-std=c++20", "-O1", "-g", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'cuda'}"]
    subprocess.run([*command, *sanitize, "-xc++", source, "-o", path], check=True)
    return request.param, path


def run(program, mistake, seed=""):
    options = {f"{name}_OPTIONS": f"exitcode={SANITIZER}" for name in ("ASAN", "UBSAN", "TSAN")}
    environment = {**os.environ, **options, "LD_PRELOAD": "", "CUEMU_SEED": seed}
    if not seed:
        del environment["CUEMU_SEED"]
    fixed = ["setarch", "-R"] if program[0] == "thread" else []  # addresses as TSan of gcc 12 expects them
    done = subprocess.run(
        [*fixed, program[1], mistake], env=environment, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("seed", ["", "1", "2", "3"])
def test_a_right_kernel_runs_clean_in_any_order_of_threads(program, seed):
    assert run(program, "none", seed) == (RIGHT, "")


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (
            "divergent_barrier",
            ["threads wait for each other", "32 threads, (32,0,0) first, in __syncthreads"],
        ),
        ("early_exit", ["threads wait for each other", "1 threads have finished"]),
        ("divergent_shuffle", ["15 threads, (0,0,0) first, in __syncwarp", "81 threads, (5,0,0) first"]),
        ("lane_outside_mask", ["a lane is not in the mask", "__ballot_sync"]),
        ("too_many_threads", ["the launch was refused"]),
    ],
)
def test_a_kernel_that_breaks_the_rules_is_refused_with_place_and_threads(program, mistake, said):
    code, words = run(program, mistake)
    if program[0] == "thread" and mistake == "divergent_barrier":
        assert (code, "data race" in words) == (SANITIZER, True)  # which it is, too
        return
    assert code == REFUSED
    for text in said:
        assert text in words


def test_a_missing_barrier_is_a_race_and_wrong_in_some_order_of_threads(program):
    codes = {run(program, "missing_barrier", seed)[0] for seed in ("1", "2", "3")}
    assert codes == {SANITIZER} if program[0] == "thread" else WRONG in codes


def test_a_race_between_blocks_is_seen_though_blocks_run_one_after_another(program):
    code, words = run(program, "race_between_blocks")
    if program[0] == "thread":
        assert (code, "data race" in words, "block (0,0,0)" in words) == (SANITIZER, True, True)
    else:
        assert code == RIGHT  # by luck: nothing else can see it


@pytest.mark.parametrize("mistake", ["global_overrun", "shared_overrun"])
def test_an_access_out_of_bounds_is_seen(program, mistake):
    code, words = run(program, mistake)
    if program[0] == "address,undefined":
        assert code == SANITIZER
        assert "planted.cu" in words
    else:
        assert code == WRONG


def test_results_are_not_there_before_the_stream_is_synchronised(program):
    assert run(program, "missing_synchronise")[0] == WRONG
