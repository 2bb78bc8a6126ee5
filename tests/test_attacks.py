"""Attacks do what their papers say, exactly, and what ByzFL's do under its conventions."""

from __future__ import annotations

import importlib
import importlib.util
import math
import subprocess
import sys
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tallystick as ts
from tallystick import attacks
from tallystick.errors import ArgumentError, NonFiniteError, RuleError

HONEST = np.random.default_rng(0).standard_normal((8, 33)) + 0.5
ATTACKS = {  # name: a call with everything that has no default
    **{
        name: getattr(attacks, name)
        for name in ("sign_flip", "ipm", "foe", "scaling", "min_max", "min_sum", "mimic", "gaussian")
    },
    **{name: getattr(attacks, name) for name in ("zero", "nan", "inf")},
    "alie": lambda honest, f: attacks.alie(honest, f, z=1.5),
    "optimal_alie": lambda honest, f: attacks.optimal_alie(honest, f, "median"),
    "optimal_ipm": lambda honest, f: attacks.optimal_ipm(honest, f, "median"),
}


def squared(vector, rows=HONEST):
    """Squared distances to all rows, with math.fsum."""
    return [math.fsum((a - b) ** 2 for a, b in zip(row, vector, strict=True)) for row in rows]


# ---- all of them -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("f", [0, 1, 2, 5])
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_gives_one_row_per_attacker_and_leaves_honest_updates_alone(name, f):
    honest = HONEST.copy()
    honest.setflags(write=False)
    sent = ATTACKS[name](honest, f)
    assert sent.shape == (f, 33)
    assert sent.dtype == np.float64
    np.testing.assert_array_equal(honest, HONEST)
    if name != "gaussian" and f:
        np.testing.assert_array_equal(sent, np.stack([sent[0]] * f))


@pytest.mark.parametrize("name", ATTACKS)
def test_lists_and_float32_are_taken_too(name):
    sent = ATTACKS[name](HONEST.astype(np.float32), 1)
    np.testing.assert_array_equal(ATTACKS[name](HONEST.astype(np.float32).tolist(), 1), sent)
    np.testing.assert_allclose(sent, ATTACKS[name](HONEST, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(
    ("honest", "f", "message"),
    [
        (HONEST[0], 1, r"shape \(33,\)"),
        (HONEST[:0], 1, "at least one row"),
        ([["a"]], 1, "numbers expected"),
        (HONEST, -1, "0 or more, got -1"),
        (HONEST, 1.0, "whole number"),
        (HONEST, True, "whole number"),
    ],
)
def test_every_attack_refuses_what_is_no_honest_updates_or_no_count(name, honest, f, message):
    with pytest.raises(ArgumentError, match=message):
        ATTACKS[name](honest, f)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_honest_updates_that_are_not_finite_are_refused_with_their_rows(name, value):
    honest = HONEST.copy()
    honest[3, 5] = honest[6, 0] = value
    with pytest.raises(NonFiniteError) as caught:
        ATTACKS[name](honest, 1)
    assert caught.value.clients == (3, 6)


def test_importing_tallystick_does_not_bring_the_attacks():
    code = "import sys, tallystick; print('tallystick.attacks' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_what_is_public_is_listed():
    own = {
        name for name, thing in vars(attacks).items() if getattr(thing, "__module__", "") == attacks.__name__
    }
    assert set(attacks.__all__) - {"DIRECTIONS"} == {name for name in own if not name.startswith("_")}
    assert all(getattr(attacks, name).__doc__ for name in attacks.__all__ if name != "DIRECTIONS")


# ---- the way back ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "factor"), [("sign_flip", 1), ("ipm", 0.5), ("foe", 100)])
def test_mean_attacks_send_a_multiple_of_the_honest_mean(name, factor):
    attack, mean = getattr(attacks, name), [math.fsum(column) / 8 for column in HONEST.T]
    np.testing.assert_allclose(attack(HONEST), [[-factor * m for m in mean]], rtol=1e-13)
    np.testing.assert_allclose(attack(HONEST, 2, factor=-3), [[3 * m for m in mean]] * 2, rtol=1e-13)


@pytest.mark.parametrize("f", [1, 3])
def test_scaling_makes_the_plain_mean_the_target(f):
    target = np.random.default_rng(1).standard_normal(33)
    sent = attacks.scaling(HONEST, f, target=target)
    np.testing.assert_allclose(ts.aggregate.mean([*HONEST, *sent]), target, rtol=1e-12)
    back = attacks.scaling(HONEST, f)
    np.testing.assert_allclose(ts.aggregate.mean([*HONEST, *back]), -HONEST.mean(axis=0), rtol=1e-12)


def test_scaling_by_a_factor_does_not_look_at_the_others():
    sent = attacks.scaling(HONEST, 2, target=np.arange(33), factor=5)
    np.testing.assert_array_equal(sent, [5 * np.arange(33.0)] * 2)


# ---- inside the honest spread ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "f", "expected"),
    [
        (50, 24, 1.426076872273),  # the paper's example: (50 - 24 - 2) / 26 = 0.923...
        (10, 2, 0.0),
        (10, 4, 0.430727299295),  # (10 - 4 - 2) / 6
        (10, 1, -0.139710298882),
        (3, 1, 0.0),
    ],
)
def test_z_max_is_the_papers(n, f, expected):
    assert attacks.z_max(n, f) == pytest.approx(expected, abs=1e-11)
    z, supporters = attacks.z_max(n, f), math.floor(n / 2 + 1) - f
    assert (1 + math.erf(z / math.sqrt(2))) / 2 == pytest.approx((n - f - supporters) / (n - f), abs=1e-14)


@pytest.mark.parametrize(("n", "f"), [(10, 0), (10, 5), (2, 1), (1, 0), (10, 11)])
def test_z_max_wants_attackers_and_an_honest_majority(n, f):
    with pytest.raises(ArgumentError, match="honest majority"):
        attacks.z_max(n, f)


def test_alie_lies_on_both_sides_of_the_mean():
    center = HONEST.mean(axis=0)
    deviation = np.sqrt([math.fsum((x - column.mean()) ** 2 for x in column) / 8 for column in HONEST.T])
    np.testing.assert_allclose(attacks.alie(HONEST, z=1.5)[0], center + 1.5 * deviation, rtol=1e-12)
    np.testing.assert_allclose(attacks.alie(HONEST, z=1.5, sign=-1)[0], center - 1.5 * deviation, rtol=1e-12)
    wider = deviation * math.sqrt(8 / 7)
    np.testing.assert_allclose(attacks.alie(HONEST, z=1.5, ddof=1)[0], center + 1.5 * wider, rtol=1e-12)
    z = attacks.z_max(8 + 5, 5)
    np.testing.assert_allclose(attacks.alie(HONEST, 5)[0], center + z * deviation, rtol=1e-12)
    with pytest.raises(ArgumentError, match="honest majority"):
        attacks.alie(HONEST, 8)


@pytest.mark.parametrize("direction", attacks.DIRECTIONS)
def test_min_max_goes_exactly_as_far_as_two_honest_updates_are_apart(direction):
    allowed = max(max(squared(row)) for row in HONEST)
    for sign in (-1, 1):
        sent = attacks.min_max(HONEST, direction=direction, sign=sign)[0]
        assert max(squared(sent)) == pytest.approx(allowed, rel=1e-12)
        beyond = attacks.min_max(HONEST, direction=direction, sign=sign, factor=1.001)[0]
        assert max(squared(beyond)) > allowed


@pytest.mark.parametrize("direction", attacks.DIRECTIONS)
def test_min_sum_goes_exactly_as_far_as_the_largest_sum_of_honest_distances(direction):
    allowed = max(math.fsum(squared(row)) for row in HONEST)
    sent = attacks.min_sum(HONEST, direction=direction)[0]
    assert math.fsum(squared(sent)) == pytest.approx(allowed, rel=1e-12)
    assert math.fsum(squared(attacks.min_sum(HONEST, direction=direction, factor=1.001)[0])) > allowed
    assert max(squared(sent)) < max(squared(attacks.min_max(HONEST, direction=direction)[0]))


@pytest.mark.parametrize("attack", [attacks.min_max, attacks.min_sum])
def test_directions_are_those_of_the_paper(attack):
    mean = HONEST.mean(axis=0)
    paper = {"std": HONEST.std(axis=0), "unit": mean / np.linalg.norm(mean), "sign": np.sign(mean)}
    for name, p in paper.items():
        for sign in (1, -1):
            moved = attack(HONEST, direction=name, sign=sign)[0] - mean
            along = float(moved @ p) / float(p @ p)
            assert along * sign > 0
            np.testing.assert_allclose(moved, along * p, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("direction", attacks.DIRECTIONS)
@pytest.mark.parametrize("attack", [attacks.min_max, attacks.min_sum])
@pytest.mark.parametrize("clients", [1, 3])
def test_where_honest_updates_agree_distance_attacks_cannot_leave_them(attack, clients, direction):
    same = np.stack([HONEST[0]] * clients)
    np.testing.assert_allclose(attack(same, 2, direction=direction), np.stack([HONEST[0]] * 2), rtol=1e-12)
    np.testing.assert_array_equal(attack(np.zeros((clients, 4)), 2, direction=direction), np.zeros((2, 4)))


@given(
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(0, 2**32 - 1),
    st.sampled_from(attacks.DIRECTIONS),
    st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_no_honest_update_is_farther_from_min_max_than_the_farthest_honest_pair(m, d, seed, direction, far):
    rng = np.random.default_rng(seed)
    honest = rng.integers(-3, 4, (m, d)) + far * (np.arange(m) == 0)[:, None]  # ties, and one far off
    scale = max(1.0, float(np.abs(honest).max())) ** 2
    for attack, total in ((attacks.min_max, max), (attacks.min_sum, math.fsum)):
        allowed = max(total(squared(row, honest)) for row in honest)
        reached = total(squared(attack(honest, direction=direction)[0], honest))
        assert reached <= allowed * (1 + 1e-9) + 1e-12 * scale


def test_mimic_copies_one_honest_client():
    np.testing.assert_array_equal(attacks.mimic(HONEST, 3), np.stack([HONEST[0]] * 3))
    np.testing.assert_array_equal(attacks.mimic(HONEST, client=7)[0], HONEST[7])


# ---- against the rule in use -----------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", [0.3, 1.0, 7.7, 10.0, 29.9, 123.4, 1e5])
def test_the_search_stops_at_the_boundary(boundary):
    found = attacks.line_search(lambda x: x if x <= boundary else 0.0, evals=60)
    assert found <= boundary
    assert found == pytest.approx(boundary, rel=0.25)
    down = attacks.line_search(lambda x: -x if x >= -boundary else 0.0, evals=60, delta=-10.0)
    assert down == -found


def test_the_search_asks_as_often_as_it_is_told_and_where_it_is_told():
    asked = []

    def harm(x):
        asked.append(x)
        return x if x <= 25 else 0.0

    assert attacks.line_search(harm, evals=6, start=1, delta=8, ratio=0.75) == 25
    assert asked == [
        1,
        9,
        25,
        57,
        49,
        43,
    ]  # doubled while it gains, then three quarters of the step each time
    asked.clear()
    assert attacks.line_search(harm, evals=1, start=3) == 3
    assert asked == [3]


def test_a_harm_that_is_not_a_number_is_no_gain():
    assert attacks.line_search(lambda x: math.nan if x > 0 else 1.0) == 0


@pytest.mark.parametrize("name", ["optimal_alie", "optimal_ipm"])
@pytest.mark.parametrize("rule", ["median", "trimmed_mean(f=2)", "krum(f=2)", "multi_krum(f=2)"])
def test_an_optimal_attack_harms_at_least_as_much_as_any_factor_on_its_way(name, rule):
    made, mean, spread = ts.aggregate.rule(rule), HONEST.mean(axis=0), HONEST.std(axis=0)

    def harm(sent):
        return float(np.linalg.norm(made(np.concatenate([HONEST, sent])).value - mean))

    best = harm(getattr(attacks, name)(HONEST, 2, rule))
    for factor in (0, 10, 20, 30):
        fixed = mean + factor * spread if name == "optimal_alie" else -factor * mean
        assert best >= harm(np.stack([fixed] * 2)) * (1 - 1e-12) or factor > 10
    assert best > 0
    np.testing.assert_array_equal(
        getattr(attacks, name)(HONEST, 2, made), getattr(attacks, name)(HONEST, 2, rule)
    )
    np.testing.assert_array_equal(
        getattr(attacks, name)(HONEST, 2, lambda rows: made(rows).value),
        getattr(attacks, name)(HONEST, 2, rule),
    )


def test_a_rule_that_keeps_far_updates_out_bounds_the_search_and_the_mean_does_not():
    hidden = attacks.optimal_alie(HONEST, 2, "multi_krum(f=2)", delta=0.5)
    assert "Krum" in str(ts.aggregate.rule("multi_krum(f=2)")([*HONEST, *(hidden * 1e3)]).rejected)
    assert 8 in ts.aggregate.rule("multi_krum(f=2)")([*HONEST, *hidden]).selected
    assert np.abs(attacks.optimal_alie(HONEST, 2, "mean")).max() > 1e5


def test_signs_of_optimal_alie():
    up, down = (attacks.optimal_alie(HONEST, 2, "median", sign=s)[0] - HONEST.mean(axis=0) for s in (1, -1))
    assert up.min() > 0
    assert down.max() < 0


# ---- noise and rubbish -----------------------------------------------------------------------------------


def test_gaussian_noise_follows_its_seed_and_its_width():
    wide = np.zeros((1, 100_000))
    first = attacks.gaussian(wide, 2, mean=5, std=3, seed=1)
    np.testing.assert_array_equal(first, attacks.gaussian(wide, 2, mean=5, std=3, seed=1))
    assert not np.array_equal(first, attacks.gaussian(wide, 2, mean=5, std=3, seed=[1, 2]))
    assert not np.array_equal(first[0], first[1])
    assert first.std() == pytest.approx(3, rel=0.02)
    assert first.mean() == pytest.approx(5, abs=0.05)
    np.testing.assert_array_equal(attacks.gaussian(wide, 1, mean=2, std=0), np.full((1, 100_000), 2.0))


def test_zero_nan_and_inf_send_nothing_else():
    assert not attacks.zero(HONEST, 2).any()
    assert (attacks.zero(HONEST, 2, value=-2) == -2).all()
    assert np.isnan(attacks.nan(HONEST, 2)).all()
    assert np.isposinf(attacks.inf(HONEST, 2)).all()
    assert np.isneginf(attacks.inf(HONEST, 2, sign=-1)).all()


# ---- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: attacks.sign_flip(HONEST, factor=math.nan), "sign_flip: factor is a finite number, got nan"),
        (lambda: attacks.ipm(HONEST, factor="2"), "finite number"),
        (lambda: attacks.foe(HONEST, factor=math.inf), "finite number"),
        (lambda: attacks.scaling(HONEST, factor=True), "finite number"),
        (
            lambda: attacks.scaling(HONEST, target=np.ones(32)),
            r"33 finite numbers expected, got shape \(32,\)",
        ),
        (lambda: attacks.scaling(HONEST, target=np.full(33, np.nan)), "33 finite numbers"),
        (lambda: attacks.scaling(HONEST, target=["a"] * 33), "33 numbers"),
        (lambda: attacks.alie(HONEST, z=math.inf), "z is a finite number"),
        (lambda: attacks.alie(HONEST, z=1.0, sign=0), "sign is 1 or -1, got 0"),
        (lambda: attacks.alie(HONEST, z=1.0, sign=True), "sign is 1 or -1"),
        (lambda: attacks.alie(HONEST, z=1.0, ddof=2), "ddof is 0, or 1"),
        (lambda: attacks.alie(HONEST[:1], z=1.0, ddof=1), "two or more clients"),
        (lambda: attacks.optimal_alie(HONEST, 1, "median", ddof=True), "ddof is 0, or 1"),
        (lambda: attacks.inf(HONEST, sign=2), "sign is 1 or -1"),
        (lambda: attacks.optimal_alie(HONEST, 1, "median", sign=3), "sign is 1 or -1"),
        (lambda: attacks.min_max(HONEST, direction="mean"), "std, unit, sign"),
        (lambda: attacks.min_sum(HONEST, direction="mean"), "std, unit, sign"),
        (lambda: attacks.min_max(HONEST, sign=2), "sign is 1 or -1"),
        (lambda: attacks.min_max(HONEST[:1], factor=math.nan), "finite number"),
        (lambda: attacks.min_sum(HONEST[:1], factor=math.nan), "finite number"),
        (lambda: attacks.mimic(HONEST, client=8), "index from 0 to 7"),
        (lambda: attacks.mimic(HONEST, client=-1), "index from 0 to 7"),
        (lambda: attacks.mimic(HONEST, client=0.5), "index from 0 to 7"),
        (lambda: attacks.mimic(HONEST, client=True), "index from 0 to 7"),
        (lambda: attacks.gaussian(HONEST, std=-1), "std >= 0"),
        (lambda: attacks.gaussian(HONEST, mean=math.nan), "finite number"),
        (lambda: attacks.gaussian(HONEST, seed=-1), "seed is a whole number"),
        (lambda: attacks.gaussian(HONEST, seed="x"), "seed is a whole number"),
        (lambda: attacks.zero(HONEST, value=math.nan), "finite number"),
        (lambda: attacks.line_search(float, evals=0), "evals >= 1"),
        (lambda: attacks.line_search(float, evals=2.5), "whole number"),
        (lambda: attacks.line_search(float, start=math.nan), "start is a finite number"),
        (lambda: attacks.line_search(float, delta=0.0), "other than 0"),
        (lambda: attacks.line_search(float, ratio=0.5), "0.5 < ratio < 1"),
        (lambda: attacks.line_search(float, ratio=1), "0.5 < ratio < 1"),
        (lambda: attacks.optimal_ipm(HONEST, 2, 7), "a rule, its text or a function"),
    ],
)
def test_bad_parameters_are_refused_in_words(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()


def test_a_rule_that_cannot_run_on_so_many_clients_says_so():
    with pytest.raises(RuleError, match=r"n >= 2f \+ 3"):
        attacks.optimal_alie(HONEST, 2, "krum(f=4)")


# ---- ByzFL -----------------------------------------------------------------------------------------------


def byzfl(module, name, *arguments, **options):
    """One of ByzFL's classes, without its __init__ (which imports torchvision for its benchmark)."""
    if "byzfl" not in sys.modules:
        spec = importlib.util.find_spec("byzfl")
        if spec is None:
            pytest.skip("byzfl is not installed; benchmarks/bench_peers.py says how to get it")
        package = types.ModuleType("byzfl")
        package.__path__, package.__spec__ = list(spec.submodule_search_locations), spec
        sys.modules["byzfl"] = package
    return getattr(importlib.import_module(f"byzfl.{module}"), name)(*arguments, **options)


def theirs(name, **options):
    return byzfl("attacks.attacks", name, **options)(HONEST)


def test_simple_attacks_are_byzfls():
    for ours, name, options in (
        (attacks.sign_flip(HONEST), "SignFlipping", {}),
        (attacks.ipm(HONEST, factor=2), "InnerProductManipulation", {"tau": 2.0}),
        (attacks.foe(HONEST), "InnerProductManipulation", {"tau": 100.0}),
        (attacks.alie(HONEST, z=1.5, ddof=1), "ALittleIsEnough", {"tau": 1.5}),
        (attacks.alie(HONEST, z=1.5, sign=-1, ddof=1), "ALittleIsEnough", {"tau": -1.5}),
        (attacks.mimic(HONEST, client=5), "Mimic", {"epsilon": 5}),
        (attacks.inf(HONEST), "Inf", {}),
    ):
        np.testing.assert_allclose(ours[0], theirs(name, **options), rtol=1e-13, err_msg=name)


RULES = [  # theirs, their options, ours
    ("Average", {}, "mean"),
    ("Median", {}, "median"),
    ("TrMean", {"f": 3}, "trimmed_mean(f=3)"),
    ("Krum", {"f": 2}, "krum(f=2, neighbors=n-f-1)"),
    ("MultiKrum", {"f": 2}, "multi_krum(f=2, neighbors=n-f-1)"),
]


@pytest.mark.parametrize(("name", "options", "rule"), RULES)
@pytest.mark.parametrize(
    "search", [{}, {"evals": 7, "start": 1.0, "delta": 0.5, "ratio": 0.6}, {"delta": -3.0}]
)
def test_optimal_attacks_find_byzfls_factor(name, options, rule, search):
    f = options.get("f", 2)
    for ours, attack, convention in (
        (attacks.optimal_alie, "Optimal_ALittleIsEnough", {"ddof": 1}),
        (attacks.optimal_ipm, "Optimal_InnerProductManipulation", {}),
    ):
        aggregator = byzfl("aggregators.aggregators", name, **options)
        expected = theirs(attack, agg=aggregator, pre_agg_list=[], f=f, **search)
        np.testing.assert_allclose(
            ours(HONEST, f, aggregator, **convention, **search)[0], expected, rtol=1e-12
        )
        np.testing.assert_allclose(ours(HONEST, f, rule, **convention, **search)[0], expected, rtol=1e-6)
