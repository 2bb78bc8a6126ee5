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
    "median(kind=lower)",
    "median(kind=upper)",
    "norm_clipping(radius=2)",
    "clipping(radius=3) | mean",
    "clipping(radius=3) | trimmed_mean(f=1)",
    "bucketing(s=2, seed=1) | median",
    "bucketing(s=1, seed=1) | multi_krum(f=1)",
    "fltrust",
]
TRANSLATES = [t for t in ALL if not re.search("cge|median.iter|clipping|foolsgold|fl|majority|arc", t)]
SCALES = [t for t in ALL if not re.search(r"centered|geometric|majority|radius", t)]
ORDER_MATTERS = (
    "bucketing",  # who shares a bucket depends on places
    "monna",  # a place is its parameter
    "bulyan(f=1)",  # at the end one neighbour counts: two mutual nearest neighbours have one score
    "mda",  # one pair of clients may be the diameter of several subsets
)


def near(a, b, tolerance=1e-9):
    scale = max(np.abs(a).max(), np.abs(b).max(), 1e-300)
    return np.abs(a - b).max() <= tolerance * scale


def inputs(text, x):
    """What the rule takes beside the updates: for a server, the middle of theirs."""
    return {"server": np.median(x, axis=0).astype(x.dtype)} if text == "fltrust" else {}


def run(text, x, **options):
    return A.rule(text)(x, **inputs(text, x), **options)


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
    return run(text, x).selected == run(text, nudged).selected


@pytest.mark.parametrize("text", [t for t in ALL if not t.startswith(ORDER_MATTERS)])
@settings(max_examples=15)
@given(made=clients())
def test_the_order_of_clients_does_not_matter(text, made):
    x, rng = made
    if not stable(text, x):
        return
    order = rng.permutation(len(x))
    one, other = run(text, x), run(text, x[order])
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
    moved = run(text, x + shift).value
    assert np.abs(moved - (run(text, x).value + shift)).max() <= 1e-8 * (1 + np.abs(x + shift).max())


@pytest.mark.parametrize("text", SCALES)
@settings(max_examples=15)
@given(made=clients(), exponent=st.integers(-100, 100))
def test_scaling_all_updates_by_a_power_of_two_scales_the_result_to_the_bit(text, made, exponent):
    x, _ = made
    scaled = run(text, np.ldexp(x, exponent))
    plain = run(text, x)
    assert scaled.selected == plain.selected
    if text.startswith(("norm_clipping", "flame", "foolsgold", "fltrust", "caf", "arc")):
        assert near(scaled.value, np.ldexp(plain.value, exponent), 1e-12)
    else:
        np.testing.assert_array_equal(scaled.value, np.ldexp(plain.value, exponent))


@pytest.mark.parametrize("text", ALL)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(7, 20))
def test_clients_that_agree_are_agreed_with(text, seed, n):
    row = np.random.default_rng(seed).standard_normal(17) * 0.1
    expected = np.sign(row) if text == "majority" else row
    np.testing.assert_allclose(run(text, np.tile(row, (n, 1))).value, expected, rtol=1e-12)


@pytest.mark.parametrize("text", ALL)
def test_threads_chunks_containers_and_increments_do_not_change_a_bit(text, tmp_path, threads, monkeypatch):
    monkeypatch.setattr(_columns, "FILE_BUFFER_BYTES", 9 * 4 * 4096)
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((9, 10_001)) + rng.standard_normal(10_001)).astype(np.float32)
    rule, ids = A.rule(text), [f"c{i}" for i in range(9)]
    expected = run(text, x, client_ids=ids)

    def cut_up(r):
        return {"a": r[:4000].reshape(40, 100), "b": r[4000:9999], "c": r[9999:], "d": r[:0]}

    cut, given = [cut_up(r) for r in x], inputs(text, x)
    named = {name: cut_up(r) for name, r in given.items()}
    paths = []
    for name, tensors in zip(ids, cut, strict=True):
        paths.append(tmp_path / f"{name}.safetensors")
        write_safetensors(paths[-1], tensors)
    for updates, beside in ((list(x), given), (cut, named), (paths, named), ([*cut[:4], *paths[4:]], named)):
        outcome = rule(updates, client_ids=ids, **beside)
        value = outcome.value
        if isinstance(value, dict):
            value = np.concatenate([np.asarray(value[k]).ravel() for k in "abc"])
        assert value.tobytes() == expected.value.tobytes()
        assert (outcome.selected, outcome.rejected) == (expected.selected, expected.rejected)
        assert (outcome.scores, outcome.weights) == (expected.scores, expected.weights)
    accumulator = rule.begin(**given)
    for i in (3, 8, 0, 1, 7, 2, 6, 5, 4):
        accumulator.add(ids[i], x[i])
    outcome = accumulator.finish()
    assert outcome.value.tobytes() == expected.value.tobytes()
    assert outcome.weights == expected.weights


@pytest.mark.parametrize("text", ALL)
def test_levels_do_not_change_a_bit(text, level):
    x = np.random.default_rng(2).standard_normal((9, 1030)).astype(np.float32)
    before = ts.cpu_level()
    value = run(text, x).value
    ts.set_cpu_level("scalar")
    expected = run(text, x).value
    ts.set_cpu_level(before)
    assert value.tobytes() == expected.tobytes()


@pytest.mark.parametrize("radius", ["0.5", "30", "1e9", "0"])
@pytest.mark.parametrize("weights", ["ignore", "use"])
@pytest.mark.parametrize(
    "text", ["norm_clipping(radius={}, weights={})", "clipping(radius={}) | mean(weights={})"]
)
def test_streaming_clipping_has_the_bits_of_the_batch_in_any_order(text, radius, weights):
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((7, 3001)) * rng.uniform(0.1, 3, (7, 1))).astype(np.float32)
    x[4], x[5, 7] = 3e38, np.nan
    reported = rng.uniform(0.5, 9, 7)
    rule, ids = A.rule(text.format(radius, weights)), [f"c{i}" for i in range(7)]
    expected = rule(x, reported, ids)
    for order in (range(7), (6, 2, 5, 0, 3, 1, 4)):
        accumulator = rule.begin(exclude=["steps"])
        assert type(accumulator).__name__ == "RunningMean"
        for i in order:
            accumulator.add(ids[i], {"update": x[i], "steps": np.array(i)}, reported[i])
        outcome = accumulator.finish()
        assert outcome.uncertain == 0
        assert outcome.value["update"].tobytes() == expected.value.tobytes()
        assert (outcome.selected, outcome.rejected) == (expected.selected, expected.rejected)
        assert (outcome.scores, outcome.weights) == (expected.scores, expected.weights)
