"""What rules refuse, each with a typed error that says why: too few clients, far clients, wrong types."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

import tallystick as ts
from tallystick.errors import ArgumentError, NonFiniteError, RuleError, SchemaError, TallystickError

A = ts.aggregate
D = 300


def updates(n=7, d=D, dtype=np.float32):
    return (np.random.default_rng(n).standard_normal((n, d)) + 0.3).astype(dtype)


def damaged(n, bad):
    x = updates(n)
    x[list(bad), 5] = np.nan
    return x


def partials_of(x, **inputs):
    return [A.partial_distances(x, lo, hi, **inputs) for lo, hi in A.shards(x)]


# ---- bounds hold for the clients left, too ----

LEFT = [
    ("nnm(f=3) | krum(f=0)", 4, (0, 1, 2), "krum needs n >= 2f + 3: got n=1, f=0"),
    ("arc(f=2) | bucketing(s=2) | krum(f=0)", 6, (1, 5), "krum needs n >= 2f + 3: got n=2, f=0"),
    ("nnm(f=8) | bulyan(f=0)", 9, range(8), "bulyan needs n >= 4f + 3: got n=1, f=0"),
    ("nnm(f=8) | bulyan(f=1)", 9, range(2, 9), "bulyan needs n >= 4f + 3: got n=2, f=0"),
    ("nnm(f=4) | multi_krum(f=0, m=5)", 6, (0, 3), "1 <= m <= n - f = 4 expected, got m=5"),
    ("nnm(f=5) | multi_krum(f=1)", 6, range(4), "multi_krum needs n >= 2f + 3: got n=2, f=0"),
]


@pytest.mark.parametrize(("text", "n", "bad", "says"), LEFT)
def test_bounds_are_checked_again_when_clients_are_dropped(text, n, bad, says):
    x, ids = damaged(n, bad), [f"bank-{i}" for i in range(n)]
    rule = A.rule(text)
    rule(updates(n))  # all of them are enough
    for call in (
        lambda: rule(x, client_ids=ids),
        lambda: A.decide(partials_of(x), text, client_ids=ids),
    ):
        with pytest.raises(RuleError, match=re.escape(says)) as caught:
            call()
        assert f"{len(bad)} of {n} clients were left out for NaN or infinity (bank-{min(bad)}" in str(
            caught.value
        )


def test_enough_clients_left_are_enough():
    assert len(A.rule("nnm(f=3) | krum(f=0)")(damaged(6, (0, 1, 2))).rejected) >= 3
    outcome = A.rule("nnm(f=8) | bulyan(f=0)")(damaged(11, range(8)))
    assert set(range(8)) <= set(outcome.rejected)
    with pytest.raises(NonFiniteError, match="but f=3"):
        A.rule("nnm(f=3) | krum(f=0)")(damaged(9, range(4)))


def test_a_pivot_beyond_the_number_of_clients_left_is_still_a_client():
    x = damaged(11, (2, 3))
    assert 10 in A.rule("monna(f=3, pivot=10)")(x).selected
    with pytest.raises(RuleError, match="client 10, the reference"):
        A.rule("monna(f=3, pivot=10)")(damaged(11, (2, 10)))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("pivot", [0, 6])
def test_buckets_of_one_are_the_clients_they_hold(seed, pivot):
    x = updates(9, dtype=np.float64)
    x[pivot] += 1
    plain = A.rule(f"monna(f=3, pivot={pivot})")(x)
    bucketed = A.rule(f"bucketing(s=1, seed={seed}) | monna(f=3, pivot={pivot})")(x)
    assert bucketed.selected == plain.selected
    np.testing.assert_allclose(list(bucketed.scores.values()), list(plain.scores.values()), atol=1e-9)
    np.testing.assert_allclose(bucketed.value, plain.value, rtol=1e-12)
    with pytest.raises(RuleError, match="or mixed"):
        A.rule(f"bucketing(s=2, seed={seed}) | monna(f=0, pivot=1)")(x)


# ---- infinitely far clients ----


def far(n, count, size=1e30):
    x = updates(n)
    x[:count] = size * np.sign(x[:count])
    return x


@pytest.mark.parametrize(
    ("text", "n", "count"),
    [
        ("norm_clipping", 9, 5),
        ("norm_clipping", 8, 4),  # the middle two of an even number
        ("flame", 9, 5),
        ("foolsgold", 9, 9),
        ("arc(f=2) | mean", 9, 4),
        ("caf(f=2)", 9, 3),
        ("smea(f=2)", 9, 3),
        ("dnc(f=2)", 9, 3),
        ("krum(f=2)", 9, 9),
        ("multi_krum(f=2)", 9, 3),
        ("bulyan(f=1)", 9, 5),
        ("bulyan(f=1, variant=oneshot)", 9, 5),
        ("mda(f=2)", 9, 3),
        ("monna(f=2, pivot=8)", 9, 3),
        ("cge(f=2)", 9, 3),
        ("geometric_median", 9, 9),
    ],
)
def test_more_far_clients_than_a_rule_can_leave_out_are_an_error(text, n, count):
    with pytest.raises(RuleError, match="infinitely far"):
        A.rule(text)(far(n, count))


@pytest.mark.parametrize(
    ("text", "n", "count"),
    [
        ("norm_clipping", 9, 4),
        ("norm_clipping(radius=3)", 9, 9),
        ("flame", 9, 4),
        ("foolsgold", 9, 8),
        ("arc(f=2) | mean", 9, 3),
        ("krum(f=2)", 9, 2),
        ("multi_krum(f=2)", 9, 2),
        ("bulyan(f=1)", 9, 1),
        ("mda(f=2)", 9, 2),
        ("monna(f=2, pivot=8)", 9, 2),
        ("cge(f=2)", 9, 2),
        ("geometric_median", 9, 4),
    ],
)
def test_fewer_of_them_are_left_out(text, n, count):
    outcome = A.rule(text)(far(n, count))
    assert np.linalg.norm(outcome.value.astype(np.float64)) < 1e3
    assert set(range(count)) & set(outcome.selected) == set() or text.startswith("bulyan")


def test_foolsgold_leaves_far_clients_out_of_a_mean_of_equals():
    x = np.tile(updates(1), (5, 1))
    x[4] = 1e30
    outcome = A.rule("foolsgold")(x)
    assert outcome.selected == (0, 1, 2, 3)
    np.testing.assert_allclose(outcome.value, x[0], rtol=1e-6)


@pytest.mark.parametrize(("server", "says"), [(0, "norm 0"), (1e30, "infinite norm")])
def test_fltrust_names_a_server_without_direction_or_length(server, says):
    with pytest.raises(RuleError, match=f"the server's update has {says}"):
        A.fltrust(updates(), np.full(D, server, np.float32))


def test_reasons_say_what_clipped_an_update_to_nothing():
    x = updates()
    for text, says in (
        ("centered_clipping(tau=0)", "tau=0"),
        ("centered_clipping(iterations=0)", "no iteration"),
        ("geometric_median(iterations=0)", "no iteration"),
        ("norm_clipping(radius=0)", "radius=0"),
        ("clipping(radius=0) | mean", "radius=0"),
    ):
        outcome = A.rule(text)(x)
        assert set(outcome.rejected) == set(range(7))
        assert all(says in reason for reason in outcome.rejected.values())
        assert (outcome.value == 0).all()
    assert "infinitely far" in A.rule("centered_clipping")(far(7, 1)).rejected[0]


# ---- sums that leave the dtype ----


def test_noise_beyond_the_dtype_is_an_error():
    with pytest.raises(RuleError, match=r"flame: noise=1e\+100 times .* beyond float32"):
        A.flame(updates(), noise=1e100)
    assert np.isfinite(A.flame(updates(dtype=np.float64) * 1e100, noise=2.0**500)).all()
    half = np.full((7, D), 65504, np.float16)
    with pytest.raises(RuleError, match="beyond float16"):
        A.flame(half, noise=0.001)
    assert (A.flame(half, noise=0) == 65504).all()
    assert np.isfinite(A.flame(updates(), noise=1e30)).all()
    x = updates()
    decision = A.decide(partials_of(x), "flame(noise=1e100)")
    with pytest.raises(RuleError, match="beyond float32"):
        A.combine(x, decision, *A.shards(x)[0])


def test_a_server_longer_than_a_value_can_be_is_an_error():
    x = np.zeros((3, D), np.float16)
    x[:, 0] = 1
    with pytest.raises(RuleError, match=r"fltrust.*beyond float16"):
        A.fltrust(x, np.full(D, 60000, np.float16))


# ---- types ----


@pytest.mark.parametrize("ids", [[[1]] * 7, 5, "abcdefg", list(range(7)), [*"abcdef", None], set("abcdefg")])
def test_client_ids_that_are_no_strings_are_refused(ids):
    x = updates()
    for call in (
        lambda: A.rule("mean")(x, client_ids=ids),
        lambda: A.decide(partials_of(x), "mean", client_ids=ids),
    ):
        with pytest.raises(ArgumentError, match="client ids: "):
            call()
    with pytest.raises(ArgumentError, match="given twice: a"):
        A.decide(partials_of(x), "mean", client_ids=[*"abcdea", "g"])


WEIGHTS = [
    5,
    "1234567",
    ["1"] * 7,
    [True] * 7,
    [1j] * 7,
    [None] * 7,
    [10**400] * 7,
    dict.fromkeys(range(7), 1.0),
    [[1]] * 7,
]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_weights_that_are_no_numbers_are_refused(weights):
    x = updates()
    for call in (
        lambda: A.mean(x, weights),
        lambda: A.multi_krum(x, 1, weights=weights),
        lambda: A.rule("krum(f=1)")(x, weights),
        lambda: A.decide(partials_of(x), "mean", weights=weights),
        lambda: A.column_rule(x, 0, D, "mean", weights=weights),
    ):
        with pytest.raises(ArgumentError, match="weights: "):
            call()


@pytest.mark.parametrize("exclude", [5, "w", [["w"]], b"w"])
def test_exclude_that_is_no_collection_of_names_is_refused(exclude):
    x = updates()
    for call in (
        lambda: A.mean(x, exclude=exclude),
        lambda: A.nnm(x, 1, exclude=exclude),
        lambda: A.distances(x, exclude=exclude),
        lambda: A.rule("mean")(x, exclude=exclude),
        lambda: A.rule("mean").begin(exclude=exclude),
        lambda: A.shards(x, exclude=exclude),
        lambda: ts.Round("cards", number=0, rule="mean", ledger="memory://", exclude=exclude),
    ):
        with pytest.raises(ArgumentError, match="exclude"):
            call()


def test_exclude_may_be_any_iterable():
    named = [{"w": row, "odd": object()} for row in updates()]
    expected = A.mean(updates())
    for exclude in (["odd"], ("odd",), {"odd"}, (name for name in ["odd"]), {"odd": 1}):
        np.testing.assert_array_equal(A.mean(named, exclude=exclude)["w"], expected)


@pytest.mark.parametrize(
    "given", [5, None, "path", {"w": 1}, {1, 2}, np.float32(3), np.zeros(3), np.zeros((1, 2, 3))]
)
def test_updates_that_are_no_sequence_are_refused(given):
    for call in (lambda: A.mean(given), lambda: A.rule("krum(f=1)")(given), lambda: A.shards(given)):
        with pytest.raises(TallystickError):
            call()


@pytest.mark.parametrize(("lo", "hi"), [(None, D), ("0", D), (0, 300.0), (0.0, D), ([0], D)])
def test_columns_that_are_no_numbers_are_refused(lo, hi):
    x = updates()
    decision = A.decide(partials_of(x), "krum(f=1)")
    for call in (
        lambda: A.partial_distances(x, lo, hi),
        lambda: A.column_rule(x, lo, hi, "median"),
        lambda: A.combine(x, decision, lo, hi),
    ):
        with pytest.raises(ArgumentError, match="columns lo, hi"):
            call()
    assert A.column_rule(x, np.int64(0), np.int16(D), "median").shape == (D,)


def test_partials_and_decisions_are_what_the_functions_return():
    x = updates()
    made = partials_of(x)
    for wrong in (5, None, [5], [*made, "x"], made[0].sums):
        with pytest.raises(ArgumentError, match="partials: "):
            A.decide(wrong, "mean")
    assert A.decide(iter(made), "mean") is not None
    for sums in (made[0].sums[:, :3], made[0].sums[0], np.concatenate([made[0].sums] * 2)):
        with pytest.raises(ArgumentError, match="sums of shape"):
            A.decide([replace(made[0], sums=sums)], "mean")
    with pytest.raises(ArgumentError, match="decision: "):
        A.combine(x, made, 0, D)
    for rule in (5, None, ["mean"]):
        with pytest.raises(RuleError, match="a rule text"):
            A.decide(made, rule)


def test_an_incremental_run_refuses_what_it_cannot_take_at_once():
    x = updates()
    for text in ("mean", "krum(f=1)"):
        rule = A.rule(text)
        accumulator = rule.begin()
        for client in (3, None, ["a"], "", "a\ud800", b"a"):
            with pytest.raises(ArgumentError, match="client id"):
                accumulator.add(client, x[0])
        for weight in ("1", None, [1.0], 0, float("nan"), True):
            with pytest.raises(ArgumentError, match="weights: "):
                accumulator.add("a", x[0], weight)
        with pytest.raises(SchemaError):
            accumulator.add("a", 5)
        with pytest.raises(ArgumentError, match="at least one"):
            accumulator.finish()
        for options, says in (
            ({"schema": 5}, "schema: "),
            ({"spool": 5}, "spool: "),
            ({"state": x[0]}, "takes no state"),
            ({"server": x[0]}, "takes no server"),
        ):
            with pytest.raises(ArgumentError, match=says):
                rule.begin(**options)
    with pytest.raises(ArgumentError, match="needs server="):
        A.rule("fltrust").begin()
    for name, text in (("state", "centered_clipping"), ("server", "fltrust")):
        with pytest.raises(SchemaError):
            A.rule(text).begin(**{name: 5})


@pytest.mark.parametrize("f", ["x", 1.5, None, [1], np.array([1, 2]), True, np.True_, -1, 10**30])
def test_an_f_that_is_no_number_of_clients_is_refused(f):
    x = updates()
    for name in ("trimmed_mean", "krum", "multi_krum", "mda", "dnc", "nnm", "arc", "caf"):
        with pytest.raises(RuleError):
            getattr(A, name)(x, f)
    with pytest.raises(RuleError):
        A.multi_krum(x, 1, np.array([1, 2]))


@pytest.mark.parametrize("value", [np.array([1.0, 2.0]), 10**400, -(10**400), [1], None, float("nan"), "far"])
def test_a_real_parameter_that_is_no_number_is_refused(value):
    x = updates()
    for call in (
        lambda: A.norm_clipping(x, value),
        lambda: A.clipping(x, value),
        lambda: A.centered_clipping(x, tau=value),
        lambda: A.flame(x, noise=value),
        lambda: A.median(x, kind=value),
        lambda: A.krum(x, 1, neighbors=value),
    ):
        with pytest.raises(RuleError):
            call()


def test_a_round_refuses_wrong_types():
    for options, says in (
        ({"ledger": 5}, "ledger: "),
        ({"keep": 5}, "keep: "),
        ({"number": "1"}, "round number"),
        ({"rule": 5}, "rule text"),
        ({"namespace": 5}, "namespace"),
        ({"kind": 5}, "kind: "),
        ({"base": 5}, "int is not an array"),
        ({"state": 5, "rule": "centered_clipping"}, "int is not an array"),
    ):
        given = {"namespace": "cards", "number": 0, "rule": "mean", "ledger": "memory://", **options}
        with pytest.raises(TallystickError, match=says):
            ts.Round(**given)
    with ts.Round("cards", number=0, rule="mean", ledger="memory://") as r:
        for client, update, weight in ((5, updates()[0], 1.0), ("a", 5, 1.0), ("a", updates()[0], "1")):
            with pytest.raises(TallystickError):
                r.submit(client, update, weight)
        r.submit("a", updates()[0])
        assert r.close().selected == ("a",)
