"""Our rules with the conventions of ByzFL 0.0.11 and Flower 1.42 set, against these libraries themselves.

ByzFL's CAF and SMEA are left out: one power iteration from a random start (see tests/test_aggregate_rules.py
for the exact ones).
"""

from __future__ import annotations

import importlib

import numpy as np
import pytest

import tallystick as ts

A = ts.aggregate
SIZES = [(11, 2, 40), (12, 1, 7), (23, 4, 101)]
BYZFL = [  # our text, their class, its options
    ("mean", "Average", lambda f: {}),
    ("median", "Median", lambda f: {}),
    ("trimmed_mean(f={f})", "TrMean", lambda f: {"f": f}),
    ("meamed(f={f})", "Meamed", lambda f: {"f": f}),
    ("krum(f={f}, neighbors=n-f-1)", "Krum", lambda f: {"f": f}),
    ("multi_krum(f={f}, neighbors=n-f-1)", "MultiKrum", lambda f: {"f": f}),
    ("geometric_median(nu=0.1, iterations=3)", "GeometricMedian", lambda f: {}),
    ("geometric_median(nu=1.5, iterations=9)", "GeometricMedian", lambda f: {"nu": 1.5, "T": 9}),
    ("centered_clipping(tau=100)", "CenteredClipping", lambda f: {}),
    ("centered_clipping(tau=2, iterations=4)", "CenteredClipping", lambda f: {"tau": 2.0, "L": 4}),
    ("monna(f={f})", "MoNNA", lambda f: {"f": f}),
    ("monna(f={f}, pivot=3)", "MoNNA", lambda f: {"f": f, "idx": 3}),
    ("mda(f={f})", "MDA", lambda f: {"f": f}),
]
STAGES = [
    ("nnm(f={f})", "NNM", lambda f: {"f": f}),
    ("arc(f={f})", "ARC", lambda f: {"f": f}),
    ("clipping(radius=5)", "Clipping", lambda f: {"c": 5.0}),
    ("bucketing(s=1)", "Bucketing", lambda f: {"s": 1}),
]


def updates(n, d, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) + rng.standard_normal(d)
    x[1] *= 3
    x[4] = -2 * x[4]
    return x


def assert_near(ours, theirs):
    assert np.linalg.norm(ours - theirs) <= 1e-6 * np.linalg.norm(theirs)


@pytest.mark.parametrize(("n", "f", "d"), SIZES)
@pytest.mark.parametrize(("text", "name", "options"), BYZFL, ids=[t for t, _, _ in BYZFL])
def test_values_are_byzfls(byzfl, text, name, options, n, f, d):
    if name == "MDA" and n > 20:
        pytest.skip("ByzFL tries all subsets: minutes")
    for seed in range(5):
        x = updates(n, d, seed)
        theirs = byzfl("aggregators.aggregators", name)(**options(f))(x.copy())
        assert_near(A.rule(text.format(f=f))(x).value, theirs)


def marked(x):
    """The updates with one more value for each client, 1e-3 of its own: it shows who entered a mean, and adds
    the same to the square of every distance.
    """
    return np.concatenate([x, 1e-3 * np.eye(len(x))], axis=1)


def entered(value, n):
    return tuple(np.flatnonzero(np.abs(value[-n:]) > 1e-6 / n).tolist())


@pytest.mark.parametrize(("n", "f", "d"), SIZES)
@pytest.mark.parametrize(
    ("text", "name", "options"),
    [(text, *rest) for text, *rest in BYZFL if text.startswith(("krum", "multi_krum", "monna", "mda"))],
)
def test_byzfl_selects_the_clients_that_ours_does(byzfl, text, name, options, n, f, d):
    if name == "MDA" and n > 20:
        pytest.skip("ByzFL tries all subsets: minutes")
    for seed in range(5):
        x = marked(updates(n, d, seed))
        theirs = byzfl("aggregators.aggregators", name)(**options(f))(x.copy())
        outcome = A.rule(text.format(f=f))(x)
        assert outcome.selected == entered(theirs, n)
        assert outcome.selected == entered(outcome.value, n)


@pytest.mark.parametrize(("n", "f", "d"), SIZES)
@pytest.mark.parametrize(("text", "name", "options"), STAGES, ids=[t for t, _, _ in STAGES])
@pytest.mark.parametrize("then", ["TrMean", "GeometricMedian", "Average", "Median"])
def test_compositions_are_byzfls(byzfl, text, name, options, then, n, f, d):
    rule = {
        "TrMean": f"trimmed_mean(f={f})",
        "GeometricMedian": "geometric_median(nu=0.1, iterations=3)",
        "Average": "mean",
        "Median": "median",
    }[then]
    for seed in range(5):
        x = updates(n, d, seed)
        mixed = byzfl("aggregators.preaggregators", name)(**options(f))(x.copy())
        theirs = byzfl("aggregators.aggregators", then)(**({"f": f} if then == "TrMean" else {}))(mixed)
        assert_near(A.rule(f"{text.format(f=f)} | {rule}")(x).value, theirs)


def test_a_state_moves_as_byzfls_does(byzfl):
    theirs, state = byzfl("aggregators.aggregators", "CenteredClipping")(tau=3.0), None
    for seed in range(4):
        x = updates(11, 40, seed)
        outcome = A.rule("centered_clipping(tau=3)")(x, state=state)
        assert_near(outcome.value, theirs(x.copy()))
        state = outcome.state


@pytest.mark.parametrize(("n", "f", "d"), SIZES)
def test_values_are_flowers(flwr, n, f, d):
    theirs = importlib.import_module("flwr.server.strategy.aggregate")
    for seed in range(5):
        x = updates(n, d, seed)
        results = [([row.copy()], 1) for row in x]
        assert_near(A.median(x), theirs.aggregate_median(results)[0])
        assert_near(A.krum(x, f), theirs.aggregate_krum(results, f, 0)[0])
        assert_near(A.multi_krum(x, f, n - f), theirs.aggregate_krum(results, f, n - f)[0])
        assert_near(A.multi_krum(x, f, 3), theirs.aggregate_krum(results, f, 3)[0])
        assert_near(A.trimmed_mean(x, f), theirs.aggregate_trimmed_avg(results, (f + 0.5) / n)[0])
        weights = np.arange(1, n + 1)
        weighted = [([row.copy()], int(w)) for row, w in zip(x, weights, strict=True)]
        assert_near(A.mean(x, weights), theirs.aggregate(weighted)[0])
        used = A.rule(f"multi_krum(f={f}, weights=use)")(x, weights).value
        assert_near(used, theirs.aggregate_krum(weighted, f, n - f)[0])
        copied = list(results)  # Flower pops updates off the list that it is given
        bulyan = theirs.aggregate_bulyan(copied, f, theirs.aggregate_krum, to_keep=0)[0]
        assert_near(A.bulyan(x, f), bulyan)


@pytest.mark.parametrize(("n", "f", "d"), SIZES)
def test_flower_selects_the_clients_that_ours_does(flwr, n, f, d):
    app, theirs = (
        importlib.import_module("flwr.app"),
        importlib.import_module("flwr.serverapp.strategy.multikrum"),
    )
    for seed in range(5):
        x = updates(n, d, seed)
        contents = [app.RecordDict({"arrays": app.ArrayRecord([row])}) for row in x]
        for m in (1, 3, n - f):
            chosen = {id(c) for c in theirs.select_multikrum(contents, f, m)}
            expected = tuple(i for i in range(n) if id(contents[i]) in chosen)
            assert A.rule(f"multi_krum(f={f}, m={m})")(x).selected == expected
        marks = marked(x)
        legacy = importlib.import_module("flwr.server.strategy.aggregate")
        results = [([row.copy()], 1) for row in marks]
        assert A.krum(marks, f).tobytes() == legacy.aggregate_krum(results, f, 0)[0].tobytes()
        many = legacy.aggregate_krum(results, f, n - f)[0]
        assert A.rule(f"multi_krum(f={f})")(marks).selected == entered(many, n)
