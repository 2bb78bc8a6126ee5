"""Laws that rules obey for whatever updates: order, place, size, the same bits whatever way they come in."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tallystick as ts
from tallystick import _columns
from tallystick.update import write_safetensors

A = ts.aggregate

ALL = [
    "mean",
    "median",
    "trimmed_mean(f=1)",
    "meamed(f=1)",
    "phocas(f=1)",
    "krum(f=1)",
    "multi_krum(f=1)",
    "bulyan(f=1)",
    "bulyan(f=1, variant=oneshot)",
    "mda(f=2)",
    "monna(f=2)",
    "caf(f=2)",
    "smea(f=2)",
    "cge(f=2)",
    "geometric_median(start=mean, iterations=8)",
    "geometric_median(iterations=8)",
    "centered_clipping(tau=2)",
    "norm_clipping",
    "foolsgold",
    "flame(noise=0)",
    "dnc(f=2, iterations=2)",
    "majority",
    "nnm(f=2) | trimmed_mean(f=1)",
    "nnm(f=2) | median",
    "arc(f=2) | geometric_median",
]
TRANSLATES = [t for t in ALL if not re.search("cge|median.iter|clipping|foolsgold|flame|majority|arc", t)]
SCALES = [t for t in ALL if not re.search(r"centered|geometric|majority", t)]
ORDER_MATTERS = (
    "monna",  # a place is its parameter
    "bulyan(f=1)",  # at the end one neighbour counts: two mutual nearest neighbours have one score
    "mda",  # one pair of clients may be the diameter of several subsets
)


def near(a, b, tolerance=1e-9):
    scale = max(np.abs(a).max(), np.abs(b).max(), 1e-300)
    return np.abs(a - b).max() <= tolerance * scale


@st.composite
def clients(draw):
    """7 to 12 float64 updates with a common part, of a size that hypothesis picks."""
    n, d = draw(st.integers(7, 12)), draw(st.integers(2, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.standard_normal((n, d)) + draw(st.floats(0, 2)) * rng.standard_normal(d)
    return x, rng


def stable(text, x):
    """Whether the decision would survive rounding: the same rule on values nudged by 1e-12 selects alike."""
    nudged = x * (1 + 1e-12 * np.cos(np.arange(x.size).reshape(x.shape)))
    return A.rule(text)(x).selected == A.rule(text)(nudged).selected


@pytest.mark.parametrize("text", [t for t in ALL if not t.startswith(ORDER_MATTERS)])
@settings(max_examples=15)
@given(made=clients())
def test_the_order_of_clients_does_not_matter(text, made):
    x, rng = made
    if not stable(text, x):
        return
    order = rng.permutation(len(x))
    one, other = A.rule(text)(x), A.rule(text)(x[order])
    assert near(one.value, other.value, 1e-7)
    assert set(one.selected) == {int(order[i]) for i in other.selected}


@pytest.mark.parametrize("text", TRANSLATES)
@settings(max_examples=15)
@given(made=clients(), far=st.floats(-1e3, 1e3))
def test_moving_all_updates_moves_the_result(text, made, far):
    x, rng = made
    if not stable(text, x):
        return
    shift = far * rng.standard_normal(x.shape[1])
    moved = A.rule(text)(x + shift).value
    assert np.abs(moved - (A.rule(text)(x).value + shift)).max() <= 1e-8 * (1 + np.abs(x + shift).max())


@pytest.mark.parametrize("text", SCALES)
@settings(max_examples=15)
@given(made=clients(), exponent=st.integers(-100, 100))
def test_scaling_all_updates_by_a_power_of_two_scales_the_result_to_the_bit(text, made, exponent):
    x, _ = made
    scaled = A.rule(text)(np.ldexp(x, exponent))
    plain = A.rule(text)(x)
    assert scaled.selected == plain.selected
    if text.startswith(("norm_clipping", "flame", "foolsgold", "caf", "arc")):
        assert near(scaled.value, np.ldexp(plain.value, exponent), 1e-12)
    else:
        np.testing.assert_array_equal(scaled.value, np.ldexp(plain.value, exponent))


@pytest.mark.parametrize("text", ALL)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(7, 20))
def test_clients_that_agree_are_agreed_with(text, seed, n):
    row = np.random.default_rng(seed).standard_normal(17) * 0.1
    expected = np.sign(row) if text == "majority" else row
    np.testing.assert_allclose(A.rule(text)(np.tile(row, (n, 1))).value, expected, rtol=1e-12)


@pytest.mark.parametrize("text", ALL)
def test_threads_chunks_containers_and_increments_do_not_change_a_bit(text, tmp_path, threads, monkeypatch):
    monkeypatch.setattr(_columns, "FILE_BUFFER_BYTES", 9 * 4 * 4096)
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((9, 10_001)) + rng.standard_normal(10_001)).astype(np.float32)
    rule, ids = A.rule(text), [f"c{i}" for i in range(9)]
    expected = rule(x, client_ids=ids)
    cut = [{"a": r[:4000].reshape(40, 100), "b": r[4000:9999], "c": r[9999:], "d": r[:0]} for r in x]
    paths = []
    for name, tensors in zip(ids, cut, strict=True):
        paths.append(tmp_path / f"{name}.safetensors")
        write_safetensors(paths[-1], tensors)
    for given_ in (list(x), cut, paths, [*cut[:4], *paths[4:]]):
        outcome = rule(given_, client_ids=ids)
        value = outcome.value
        if isinstance(value, dict):
            value = np.concatenate([np.asarray(value[k]).ravel() for k in "abc"])
        assert value.tobytes() == expected.value.tobytes()
        assert (outcome.selected, outcome.rejected) == (expected.selected, expected.rejected)
        assert (outcome.scores, outcome.weights) == (expected.scores, expected.weights)
    accumulator = rule.begin()
    for i in (3, 8, 0, 1, 7, 2, 6, 5, 4):
        accumulator.add(ids[i], x[i])
    outcome = accumulator.finish()
    assert outcome.value.tobytes() == expected.value.tobytes()
    assert outcome.weights == expected.weights


@pytest.mark.parametrize("text", ALL)
def test_levels_do_not_change_a_bit(text, level):
    x = np.random.default_rng(2).standard_normal((9, 1030)).astype(np.float32)
    before = ts.cpu_level()
    value = A.rule(text)(x).value
    ts.set_cpu_level("scalar")
    expected = A.rule(text)(x).value
    ts.set_cpu_level(before)
    assert value.tobytes() == expected.tobytes()


@pytest.mark.parametrize("radius", ["0.5", "30", "1e9", "0"])
@pytest.mark.parametrize("weights", ["ignore", "use"])
def test_streaming_norm_clipping_has_the_bits_of_the_batch_in_any_order(radius, weights):
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((7, 3001)) * rng.uniform(0.1, 3, (7, 1))).astype(np.float32)
    x[4], x[5, 7] = 3e38, np.nan
    reported = rng.uniform(0.5, 9, 7)
    rule, ids = A.rule(f"norm_clipping(radius={radius}, weights={weights})"), [f"c{i}" for i in range(7)]
    expected = rule(x, reported, ids)
    for order in (range(7), (6, 2, 5, 0, 3, 1, 4)):
        accumulator = rule.begin()
        assert type(accumulator).__name__ == "RunningMean"
        for i in order:
            accumulator.add(ids[i], x[i], reported[i])
        outcome = accumulator.finish()
        assert outcome.uncertain == 0
        assert outcome.value.tobytes() == expected.value.tobytes()
        assert (outcome.selected, outcome.rejected) == (expected.selected, expected.rejected)
        assert (outcome.scores, outcome.weights) == (expected.scores, expected.weights)
