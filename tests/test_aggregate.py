"""Rules: their text, bounds, what they report, and the same bits whatever way the updates come in."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import tallystick as ts
from tallystick import _columns
from tallystick.arrays import numpy_dtype
from tallystick.errors import ArgumentError, NonFiniteError, RuleError, SchemaError
from tallystick.update import write_safetensors

RULES = ["mean", "median", "trimmed_mean(f=2)", "krum(f=2)", "multi_krum(f=2)", "multi_krum(f=2, m=3)"]


def some_updates(n=9, d=257, seed=0, dtype=np.float32):
    return list(np.random.default_rng(seed).standard_normal((n, d)).astype(dtype))


def exact_mean(rows, weights):
    """Fraction by Fraction; float32 of the exact quotient through float64 is right unless it lies on a
    tie.
    """
    columns = []
    for column in zip(*[row.tolist() for row in rows], strict=True):
        total = sum(Fraction(w) * Fraction(x) for w, x in zip(weights, column, strict=True))
        columns.append(float(total / sum(map(Fraction, weights))))
    return np.array(columns, np.float32)


def krum_by_hand(rows, f, neighbors):
    """Scores from plain loops in float64, the chosen order, lowest index first among equals."""
    n = len(rows)
    table = [[float(np.sum((a.astype(np.float64) - b) ** 2)) for b in rows] for a in rows]
    scores = [sum(sorted(table[i][j] for j in range(n) if j != i)[: n - f - neighbors]) for i in range(n)]
    return scores, sorted(range(n), key=lambda i: (scores[i], i))


# ---- text ----


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("mean", "mean(weights=use)"),
        (" mean ( ) ", "mean(weights=use)"),
        ("median", "median(kind=mid)"),
        ("median(kind='upper')", "median(kind=upper)"),
        ("trimmed_mean(f=2)", "trimmed_mean(f=2)"),
        ('krum(neighbors="n-f-1",f=1)', "krum(f=1, neighbors=n-f-1)"),
        ("multi_krum( f = 2 , m = 3 )", "multi_krum(f=2, m=3, neighbors=n-f-2, weights=ignore)"),
        ("multi_krum(f=0)", "multi_krum(f=0, m=n-f, neighbors=n-f-2, weights=ignore)"),
    ],
)
def test_a_rule_text_has_one_canonical_form_with_every_parameter(text, canonical):
    rule = ts.aggregate.rule(text)
    assert rule.text == canonical
    assert ts.aggregate.rule(canonical) == rule
    assert ts.aggregate.rule(rule) is rule


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "name"),
        ("Mean", "name"),
        ("avg", "unknown rule 'avg': bulyan, caf"),
        ("trimmed_mean", "f is required"),
        ("trimmed_mean(f=0.5)", "whole number"),
        ("trimmed_mean(f=-1)", "f >= 0"),
        ("trimmed_mean(f=1, f=1)", "twice"),
        ("trimmed_mean(g=1)", "unknown parameter g; allowed: f"),
        ("trimmed_mean(2)", "key=value"),
        ("trimmed_mean(f=2", "expected after"),
        ("trimmed_mean(f=2) x", "expected after"),
        ("trimmed_mean(f=)", "key=value"),
        ("trimmed_mean(f=required)", "required"),
        ("krum(f=1, neighbors=n-f)", "n-f-2, n-f-1"),
        ("median(kind=middle)", "mid, lower, upper"),
        ("median(kind=1)", "mid, lower, upper"),
        ("multi_krum(f=1, m=many)", "whole number"),
        ("trimmed_mean(f=2) | nnm(f=2)", "a rule, it comes last: arc, bucketing"),
        ("mean" * 2000, "4096 characters"),
    ],
)
def test_a_wrong_rule_text_is_refused_with_what_is_allowed(text, says):
    with pytest.raises(RuleError, match=says):
        ts.aggregate.rule(text)


@pytest.mark.parametrize("text", [None, 3, b"mean"])
def test_a_rule_that_is_no_text_is_refused(text):
    with pytest.raises(RuleError, match="text"):
        ts.aggregate.rule(text)


# ---- values ----


def test_the_weighted_mean_is_the_exact_one_rounded_once(level):
    rows, weights = some_updates(), [1.0, 2.5, 3.0, 1e-9, 7.0, 1e9, 0.1, 4.0, 5.0]
    np.testing.assert_array_equal(ts.aggregate.mean(rows, weights), exact_mean(rows, weights))
    np.testing.assert_array_equal(ts.aggregate.mean(rows), exact_mean(rows, [1] * 9))


@pytest.mark.parametrize("n", [1, 2, 3, 8, 9])
def test_the_median_is_the_middle_value_or_what_kind_says(n):
    rows = some_updates(n)
    ordered = np.sort(np.stack(rows), axis=0)
    lower, upper = ordered[(n - 1) // 2], ordered[n // 2]
    middle = ((lower.astype(np.float64) + upper) / 2).astype(np.float32)
    np.testing.assert_array_equal(ts.aggregate.median(rows), middle)
    np.testing.assert_array_equal(ts.aggregate.median(rows, kind="lower"), lower)
    np.testing.assert_array_equal(ts.aggregate.median(rows, kind="upper"), upper)


@pytest.mark.parametrize("f", [0, 1, 4])
def test_the_trimmed_mean_leaves_out_f_values_on_each_side(f):
    rows = some_updates()
    kept = list(np.sort(np.stack(rows), axis=0)[f : 9 - f])
    np.testing.assert_array_equal(ts.aggregate.trimmed_mean(rows, f), exact_mean(kept, [1] * len(kept)))


@pytest.mark.parametrize("neighbors", ["n-f-2", "n-f-1"])
def test_krum_takes_the_update_with_the_lowest_score(neighbors):
    rows = some_updates()
    scores, order = krum_by_hand(rows, 2, int(neighbors[-1]))
    outcome = ts.aggregate.rule(f"krum(f=2, neighbors={neighbors})")(rows)
    np.testing.assert_array_equal(outcome.value, rows[order[0]])
    np.testing.assert_array_equal(ts.aggregate.krum(rows, 2, neighbors=neighbors), rows[order[0]])
    assert outcome.selected == (order[0],)
    np.testing.assert_allclose([outcome.scores[i] for i in range(9)], scores, rtol=1e-6)
    assert outcome.weights == {order[0]: 1.0}


@pytest.mark.parametrize("m", [None, 1, 3, 7])
def test_multi_krum_is_the_mean_of_the_m_best(m):
    rows = some_updates()
    order = krum_by_hand(rows, 2, 2)[1]
    best = sorted(order[: m or 7])
    outcome = ts.aggregate.rule("multi_krum(f=2)" if m is None else f"multi_krum(f=2, m={m})")(rows)
    assert outcome.selected == tuple(best)
    assert set(outcome.rejected) == set(range(9)) - set(best)
    expected = exact_mean([rows[i] for i in best], [1] * len(best))
    np.testing.assert_array_equal(outcome.value, expected)
    np.testing.assert_array_equal(ts.aggregate.multi_krum(rows, 2, m), expected)


def test_reported_weights_do_not_scale_a_robust_rule_unless_its_text_says_so():
    rows, weights = some_updates(), [1.0] * 8 + [1e6]
    plain = ts.aggregate.rule("multi_krum(f=2)")
    np.testing.assert_array_equal(plain(rows, weights).value, plain(rows).value)
    used = ts.aggregate.rule("multi_krum(f=2, weights=use)")(rows, weights)
    chosen = [rows[i] for i in used.selected]
    np.testing.assert_array_equal(used.value, exact_mean(chosen, [weights[i] for i in used.selected]))
    assert sum(used.weights.values()) == pytest.approx(1)


def test_equal_krum_scores_go_to_the_lowest_index():
    rows = [np.full(40, v, np.float32) for v in (5, 1, 1, 1, 1, 1)]
    assert ts.aggregate.rule("krum(f=1)")(rows).selected == (1,)
    assert ts.aggregate.rule("multi_krum(f=1, m=2)")(rows).selected == (1, 2)


def test_distances_survive_one_far_update():
    rows = some_updates(6, 5000)
    rows[3] = rows[3] * np.float32(1e5)
    table = ts.aggregate.distances(rows)
    exact = [[float(np.sum((a.astype(np.float64) - b) ** 2)) for b in rows] for a in rows]
    np.testing.assert_allclose(table, exact, rtol=1e-6)
    assert np.array_equal(table, table.T)
    assert not table.diagonal().any()


# ---- the same bits whatever way they come in ----


@pytest.mark.parametrize("text", RULES)
def test_order_threads_containers_and_increments_do_not_change_a_bit(text, tmp_path, threads, monkeypatch):
    monkeypatch.setattr(_columns, "FILE_BUFFER_BYTES", 9 * 4 * 4096)
    rows = some_updates(d=10_001)
    rule, ids = ts.aggregate.rule(text), [f"c{i}" for i in range(9)]
    expected = rule(rows, client_ids=ids)
    cut = [{"b": r[:4000].reshape(40, 100), "a": r[4000:9999], "c": r[9999:], "none": r[:0]} for r in rows]
    joined = [np.concatenate([c["a"], c["b"].ravel(), c["c"]]) for c in cut]
    by_name = rule(joined, client_ids=ids)

    assert rule(np.stack(rows), client_ids=ids).value.tobytes() == expected.value.tobytes()
    named = rule(cut, client_ids=ids)
    assert named.selected == by_name.selected
    assert list(named.value) == ["a", "b", "c", "none"]
    assert named.value["b"].shape == (40, 100)
    flat = b"".join(named.value[k].tobytes() for k in "abc")
    assert flat == by_name.value.tobytes()

    paths = []
    for i, tensors in zip(ids, cut, strict=True):
        paths.append(tmp_path / f"{i}.safetensors")
        write_safetensors(paths[-1], tensors)
    from_files = rule(paths, client_ids=ids)
    assert {k: v.tobytes() for k, v in from_files.value.items()} == {
        k: v.tobytes() for k, v in named.value.items()
    }
    assert from_files.scores == named.scores
    mixed = rule([*cut[:4], *paths[4:]], client_ids=ids)
    assert {k: np.asarray(v).tobytes() for k, v in mixed.value.items()} == {
        k: v.tobytes() for k, v in named.value.items()
    }

    (tmp_path / "spool").mkdir()
    for spool in (None, tmp_path / "spool"):
        acc = rule.begin(spool=spool)
        for i in (3, 8, 0, 1, 7, 2, 6, 5, 4):
            acc.add(ids[i], rows[i])
        outcome = acc.finish()
        value = outcome.value["update"] if isinstance(outcome.value, dict) else outcome.value
        assert value.tobytes() == expected.value.tobytes()
        assert outcome.selected == expected.selected


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_results_have_the_dtype_of_the_updates(dtype):
    dtype = numpy_dtype(dtype)
    rows = some_updates(dtype=dtype)
    for text in RULES:
        assert ts.aggregate.rule(text)(rows).value.dtype == dtype


def test_tensors_of_several_dtypes_are_aggregated_each_in_its_own():
    half = numpy_dtype("bfloat16")
    updates = [{"w": r, "norm": r[:7].astype(half), "n": np.array([3], np.int64)} for r in some_updates()]
    outcome = ts.aggregate.rule("multi_krum(f=1)")(updates)
    assert (outcome.value["w"].dtype, outcome.value["norm"].dtype) == (np.float32, half)
    assert "n" not in outcome.value
    apart = ts.aggregate.distances([u["w"] for u in updates]) + ts.aggregate.distances(
        [u["norm"] for u in updates]
    )
    np.testing.assert_allclose(ts.aggregate.distances(updates), apart, rtol=1e-12)


def test_out_is_filled_and_returned_and_inputs_are_never_changed():
    rows = some_updates()
    before = [r.copy() for r in rows]
    for row in rows:
        row.flags.writeable = False
    out = np.empty(257, np.float32)
    for call in (ts.aggregate.mean, ts.aggregate.median):
        assert call(rows, out=out) is out
        np.testing.assert_array_equal(out, call(rows))
    named = [{"a": r[:100], "b": r[100:]} for r in rows]
    outs = {"a": np.empty(100, np.float32), "b": np.empty(157, np.float32)}
    assert ts.aggregate.trimmed_mean(named, 2, out=outs) is outs
    np.testing.assert_array_equal(np.concatenate([outs["a"], outs["b"]]), ts.aggregate.trimmed_mean(rows, 2))
    for row, saved in zip(rows, before, strict=True):
        np.testing.assert_array_equal(row, saved)


def test_an_out_that_is_not_contiguous_is_filled_where_it_lies():
    rows = some_updates()
    expected = ts.aggregate.mean(rows)
    out = np.zeros((257, 2), np.float32)
    ts.aggregate.mean(rows, out=out[:, 0])
    np.testing.assert_array_equal(out, np.stack([expected, np.zeros_like(expected)], axis=1))
    outs = {"a": np.zeros((100, 2), np.float32)[:, 1], "b": np.empty(157, np.float32)}
    ts.aggregate.mean([{"a": r[:100], "b": r[100:]} for r in rows], out=outs)
    np.testing.assert_array_equal(np.concatenate([outs["a"], outs["b"]]), expected)


def test_many_small_tensors_give_the_values_of_one_vector():
    """Pieces of lengths about those of vectors and tiles, a client of another order and a strided tensor."""
    lengths = [1, 2, 15, 16, 17, 63, 64, 65, 0, 127, 128, 129, 200, 2000, 3, 1]
    edges = np.cumsum([0, *lengths])
    flat = [np.random.default_rng(i).standard_normal(edges[-1]).astype(np.float32) for i in range(7)]
    named = [{f"w{k:02}": x[edges[k] : edges[k + 1]] for k in range(len(lengths))} for x in flat]
    named[1] = dict(reversed(named[1].items()))
    named[2]["w13"] = np.repeat(named[2]["w13"], 2)[::2]
    for text in RULES:
        whole = ts.aggregate.rule(text)(flat).value
        pieces = ts.aggregate.rule(text)(named).value
        assert list(pieces) == sorted(named[0])
        assert b"".join(pieces[name].tobytes() for name in pieces) == whole.tobytes(), text


def test_no_values_give_no_values():
    empty = [np.empty(0, np.float32)] * 5
    assert ts.aggregate.mean(empty).shape == (0,)
    assert ts.aggregate.trimmed_mean(empty, 1).shape == (0,)
    assert not ts.aggregate.distances(empty).any()
    assert ts.aggregate.multi_krum(np.empty((5, 0), np.float32), 1).shape == (0,)


# ---- refusals ----


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("text", RULES)
def test_a_client_that_is_not_finite_is_dropped_reported_and_counts_against_f(text, value):
    rows = some_updates()
    rows[4][200] = value
    ids = [f"c{i}" for i in range(9)]
    rule = ts.aggregate.rule(text)
    outcome = rule(rows, client_ids=ids)
    others, left = rows[:4] + rows[5:], text.replace("f=2", "f=1")
    np.testing.assert_array_equal(outcome.value, ts.aggregate.rule(left)(others).value)
    assert outcome.rejected["c4"] == "NaN or infinity"
    assert "c4" not in outcome.selected
    assert outcome.rule == rule.text


def test_functions_refuse_clients_that_are_not_finite_by_index():
    rows = some_updates()
    rows[7][0], rows[2][256] = np.nan, np.inf
    calls = (
        lambda: ts.aggregate.mean(rows),
        lambda: ts.aggregate.median(rows),
        lambda: ts.aggregate.trimmed_mean(rows, 2),
        lambda: ts.aggregate.krum(rows, 2),
        lambda: ts.aggregate.multi_krum(rows, 2),
        lambda: ts.aggregate.distances(rows),
    )
    for call in calls:
        with pytest.raises(NonFiniteError) as caught:
            call()
        assert caught.value.clients == (2, 7)


def test_more_than_f_clients_that_are_not_finite_are_an_error():
    rows = some_updates()
    for i in (0, 3, 5):
        rows[i][i] = np.nan
    with pytest.raises(NonFiniteError, match=r"3 updates.*f=2") as caught:
        ts.aggregate.rule("trimmed_mean(f=2)")(rows)
    assert caught.value.clients == (0, 3, 5)
    assert ts.aggregate.rule("trimmed_mean(f=3)")(rows).rejected.keys() == {0, 3, 5}
    with pytest.raises(NonFiniteError):
        ts.aggregate.rule("mean")([np.array([np.nan])])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda u: ts.aggregate.trimmed_mean(u[:4], 2), r"trimmed_mean needs n >= 2f \+ 1: got n=4, f=2"),
        (lambda u: ts.aggregate.krum(u[:6], 2), r"krum needs n >= 2f \+ 3: got n=6, f=2"),
        (lambda u: ts.aggregate.multi_krum(u, 2, 8), "1 <= m <= n - f = 7"),
        (lambda u: ts.aggregate.multi_krum(u, 2, 0), "1 <= m"),
        (lambda u: ts.aggregate.trimmed_mean(u, -1), "f >= 0"),
        (lambda u: ts.aggregate.trimmed_mean(u, 1.0), "whole number"),
        (lambda u: ts.aggregate.trimmed_mean(u, True), "whole number"),
        (lambda u: ts.aggregate.krum(u, "2"), "whole number"),
        (lambda u: ts.aggregate.krum(u, 2, neighbors="n"), "n-f-2, n-f-1"),
        (lambda u: ts.aggregate.median(u, kind="both"), "mid, lower, upper"),
    ],
)
def test_parameters_out_of_bounds_are_refused(call, says):
    with pytest.raises(RuleError, match=says):
        call(some_updates())


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ([1.0] * 8, "9 numbers"),
        ([[1.0] * 9], "9 numbers"),
        ([1.0] * 8 + [0.0], "index 8"),
        ([1.0] * 8 + [-1.0], "index 8"),
        ([np.nan] + [1.0] * 8, "index 0"),
        ([1.0] * 8 + [np.inf], "index 8"),
        ([1.0] * 8 + [1e-300], "index 8"),
        ("heavy", "9 numbers"),
    ],
)
def test_weights_that_are_not_positive_numbers_are_refused(weights, says):
    with pytest.raises(ArgumentError, match=says):
        ts.aggregate.mean(some_updates(), weights)


@pytest.mark.parametrize(
    ("updates", "error", "says"),
    [
        ([], ArgumentError, "at least one"),
        (np.empty((0, 4), np.float32), ArgumentError, "at least one"),
        (np.zeros(4, np.float32), ArgumentError, "2-D"),
        ({"a": np.zeros(4, np.float32)}, ArgumentError, "list"),
        ("u1.safetensors", ArgumentError, "list"),
        ([np.zeros(4, np.float32), np.zeros(5, np.float32)], SchemaError, "'1'"),
        ([np.zeros(4, np.float32), np.zeros(4)], SchemaError, "float64"),
        ([{"a": np.zeros(1)}, {"b": np.zeros(1)}], SchemaError, "'a'"),
        ([{"a": np.zeros(1), "n": np.array(1)}, {"a": np.zeros(1), "n": np.array(2)}], SchemaError, "'n'"),
    ],
)
def test_updates_that_do_not_fit_are_refused(updates, error, says):
    with pytest.raises(error, match=says):
        ts.aggregate.mean(updates)


def test_integer_tensors_that_differ_can_be_excluded():
    updates = [{"a": np.ones(3, np.float32), "n": np.array(i)} for i in range(3)]
    np.testing.assert_array_equal(ts.aggregate.mean(updates, exclude=["n"])["a"], np.ones(3, np.float32))


@pytest.mark.parametrize("out", [np.empty(5, np.float32), np.empty(4), {"b": np.empty(4, np.float32)}])
def test_an_out_that_does_not_fit_is_refused(out):
    with pytest.raises(ArgumentError, match="out"):
        ts.aggregate.mean([np.zeros(4, np.float32)], out=out)


def test_client_ids_are_checked():
    with pytest.raises(ArgumentError, match="2 client ids"):
        ts.aggregate.rule("mean")(some_updates(), client_ids=["a", "b"])
    with pytest.raises(ArgumentError, match="twice: a"):
        ts.aggregate.rule("mean")(some_updates(3), client_ids=["a", "b", "a"])


def test_an_accumulator_refuses_a_second_update_and_a_wrong_one_and_keeps_the_rest(tmp_path):
    acc = ts.aggregate.rule("mean").begin()
    acc.add("a", np.ones(3, np.float32))
    with pytest.raises(ArgumentError, match="already"):
        acc.add("a", np.ones(3, np.float32))
    with pytest.raises(SchemaError, match="'b'"):
        acc.add("b", np.ones(4, np.float32))
    with pytest.raises(ArgumentError, match="positive"):
        acc.add("b", np.ones(3, np.float32), weight=0)
    acc.add("b", np.full(3, 3, np.float32), weight=3)
    np.testing.assert_array_equal(acc.finish().value, np.full(3, 2.5, np.float32))
    with pytest.raises(ArgumentError, match="at least one"):
        ts.aggregate.rule("mean").begin().finish()
    with pytest.raises(ArgumentError, match="existing folder"):
        ts.aggregate.rule("mean").begin(spool=tmp_path / "none")


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("weights", ["equal", "integers", "reals"])
def test_the_incremental_mean_rounds_as_the_mean_of_all(level, dtype, weights):
    """Few significant bits make exact ties, wide exponents make sums that float64 alone cannot hold."""
    rng, n, d = np.random.default_rng(7), 6, 521
    tied = rng.integers(-7, 8, (n, d)) * 0.125
    wide = rng.standard_normal((n, d)) * 2.0 ** rng.integers(-12, 13, (n, d))
    rows = [np.concatenate(r).astype(numpy_dtype(dtype)) for r in zip(tied, wide, strict=True)]
    given = {
        "equal": [1.0] * n,
        "integers": [3.0, 5.0, 7.0, 11.0, 13.0, 25.0],
        "reals": list(rng.random(n) + 0.1),
    }
    acc = ts.aggregate.rule("mean").begin()
    for i in rng.permutation(n):
        acc.add(f"c{i}", rows[i], given[weights][i])
    outcome = acc.finish()
    assert outcome.uncertain == 0
    assert outcome.value.tobytes() == ts.aggregate.mean(rows, given[weights]).tobytes()
    assert outcome.selected == tuple(f"c{i}" for i in range(n))


def test_the_incremental_mean_counts_what_it_cannot_certify():
    """The mean is 1 + 2^-53, a tie of float64, but for 2^-300, which is lost beyond 106 bits."""
    acc = ts.aggregate.rule("mean").begin()
    for i, value in enumerate((1.0, 2.0**-53, 2.0**-300)):
        acc.add(f"c{i}", np.array([3 * value, 3 * value * (i < 2)]))
    outcome = acc.finish()
    assert outcome.uncertain == 1  # without the third one it is a tie, settled as one
    assert outcome.value[0] in (1.0, 1.0 + 2.0**-52)
    assert outcome.value[1] == 1.0


def test_an_incremental_mean_drops_a_client_that_is_not_finite_without_a_trace():
    rows = some_updates(4)
    acc = ts.aggregate.rule("mean").begin()
    for i, row in enumerate(rows):
        acc.add(f"c{i}", row)
        bad = row.copy()
        bad[-1] = np.inf
        acc.add(f"bad{i}", bad, weight=5.0)
    outcome = acc.finish()
    assert outcome.value.tobytes() == ts.aggregate.mean(rows).tobytes()
    assert outcome.rejected == {f"bad{i}": "NaN or infinity" for i in range(4)}
