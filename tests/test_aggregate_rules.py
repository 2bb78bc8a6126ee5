"""The catalogue against float64 oracles, alone and behind pre-aggregators; what rules report and refuse."""

from __future__ import annotations

import inspect
import itertools
import re
import tracemalloc

import numpy as np
import pytest

import reference
import tallystick as ts
from tallystick import _engine
from tallystick.errors import ArgumentError, NonFiniteError, RuleError, SchemaError

A = ts.aggregate
SERVER = np.random.default_rng(99).standard_normal(301) + 0.3

# text, oracle on float64 rows
RULES = [
    ("mean", lambda x: x.mean(0)),
    ("median", lambda x: np.median(x, 0)),
    ("trimmed_mean(f=2)", lambda x: np.sort(x, 0)[2 : len(x) - 2].mean(0)),
    ("meamed(f=2)", lambda x: reference.meamed(x, 2)),
    ("phocas(f=2)", lambda x: reference.phocas(x, 2)),
    ("majority", reference.majority),
    ("krum(f=2)", lambda x: reference.multi_krum(x, 2, 1)),
    ("krum(f=2, neighbors=n-f-1)", lambda x: reference.multi_krum(x, 2, 1, away=1)),
    ("multi_krum(f=2, m=4)", lambda x: reference.multi_krum(x, 2, 4)),
    ("bulyan(f=2)", lambda x: reference.bulyan(x, 2)),
    ("bulyan(f=1, neighbors=n-f-1)", lambda x: reference.bulyan(x, 1, away=1)),
    ("bulyan(f=2, variant=oneshot)", lambda x: reference.bulyan(x, 2, "oneshot")),
    ("mda(f=3)", lambda x: reference.mda(x, 3)),
    ("monna(f=3)", lambda x: reference.monna(x, 3)),
    ("monna(f=2, pivot=5)", lambda x: reference.monna(x, 2, 5)),
    ("cge(f=3)", lambda x: reference.cge(x, 3)),
    ("caf(f=2)", lambda x: reference.caf(x, 2)),
    ("caf(f=0)", lambda x: x.mean(0)),
    ("smea(f=3)", lambda x: reference.smea(x, 3)),
    ("geometric_median", reference.geometric_median),
    ("geometric_median(nu=0.1, iterations=3)", lambda x: reference.geometric_median(x, 0.1, 3)),
    ("geometric_median(start=mean, iterations=5)", lambda x: reference.geometric_median(x, 1e-6, 5, "mean")),
    ("geometric_median(start=mean, iterations=0)", lambda x: x.mean(0)),
    ("centered_clipping", reference.centered_clipping),
    ("centered_clipping(tau=3, iterations=5)", lambda x: reference.centered_clipping(x, None, 3, 5)),
    ("norm_clipping", reference.norm_clipping),
    ("norm_clipping(radius=2.5)", lambda x: reference.norm_clipping(x, 2.5)),
    ("norm_clipping(radius=0)", lambda x: 0 * x[0]),
    ("foolsgold", reference.foolsgold),
    ("foolsgold(kappa=0.5)", lambda x: reference.foolsgold(x, 0.5)),
    ("fltrust", lambda x: reference.fltrust(x, SERVER)),
    ("flame(noise=0)", reference.flame),
    ("dnc(f=2, iterations=1)", lambda x: reference.dnc(x, 2)),
    ("dnc(f=3, iterations=2, filter=0.7)", lambda x: reference.dnc(x, 3, filter=0.7)),
]
STAGES = [
    ("nnm(f=2)", lambda x: reference.nnm(x, 2)),
    ("bucketing(s=1, seed=3)", lambda x: reference.bucketing(x, 1, reference.permutation(len(x), 3))),
    ("arc(f=2)", lambda x: reference.arc(x, 2)),
    ("clipping(radius=15)", lambda x: reference.clipping(x, 15.0)),
    ("arc(f=3) | nnm(f=2)", lambda x: reference.nnm(reference.arc(x, 3), 2)),
]
TEXTS = [text for text, _ in RULES]


def updates(seed=0, n=11, d=301, dtype=np.float32):
    """Unlike clients around a common update, lengths of one to three, two of them odd ones out."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) + 0.3
    x *= rng.uniform(1, 1.5, (n, 1))
    x[3], x[7] = -1.7 * x[3], x[7] + 1.1
    return x.astype(dtype)


def call(text, x, **options):
    made = A.rule(text)
    if "server" in made.inputs:
        options["server"] = SERVER.astype(x[0].dtype)
    return made(x, **options)


def assert_near(ours, expected, tolerance=1e-6):
    assert ours.shape == expected.shape
    assert np.linalg.norm(ours - expected) <= tolerance * max(np.linalg.norm(expected), 1e-12)


# ---- values ----


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("text", "oracle"), RULES, ids=TEXTS)
def test_a_rule_is_what_its_paper_says(text, oracle, dtype):
    for seed in range(4):
        x = updates(seed, dtype=dtype)
        assert_near(call(text, x).value, oracle(x.astype(np.float64)))


@pytest.mark.parametrize(("text", "oracle"), RULES, ids=TEXTS)
@pytest.mark.parametrize(("stage", "mix"), STAGES, ids=[s for s, _ in STAGES])
def test_a_composition_is_the_rule_on_the_mixed_updates(stage, mix, text, oracle):
    x = updates(5)
    if text.startswith("majority"):
        x = x + np.float32(0.01)  # no value of a mixture rounds to another sign
    if "monna" in text and "bucketing" in stage:
        pytest.skip("a bucket is no client")
    if "cge" in text and ("arc" in stage or "clipping" in stage):
        pytest.skip("norms that were clipped are equal but for rounding")
    assert_near(call(f"{stage} | {text}", x).value, oracle(mix(x.astype(np.float64))), 2e-6)


@pytest.mark.parametrize("s", [2, 3, 11, 20])
def test_bucketing_makes_means_of_s_at_a_time_and_keeps_the_short_rest(s):
    x = updates(1).astype(np.float64)
    mixed = reference.bucketing(x, s, reference.permutation(11, 7))
    assert_near(call(f"bucketing(s={s}, seed=7) | median", x).value, np.median(mixed, 0))
    outcome = call(f"bucketing(s={s}, seed=7) | geometric_median", x)
    assert_near(outcome.value, reference.geometric_median(mixed))
    assert sum(outcome.weights.values()) == pytest.approx(1)
    for ours, expected in zip(A.bucketing(x, s, seed=7), mixed, strict=True):
        assert_near(ours, expected)


def test_pre_aggregators_by_themselves_return_the_mixed_updates():
    x = updates(2)
    wide = x.astype(np.float64)
    for made, expected in (
        (A.nnm(x, 3), reference.nnm(wide, 3)),
        (A.arc(x, 4), reference.arc(wide, 4)),
        (A.clipping(x, 17.5), reference.clipping(wide, 17.5)),
    ):
        assert len(made) == 11
        assert made[0].dtype == np.float32
        for ours, row in zip(made, expected, strict=True):
            assert_near(ours, row)
    named = A.nnm([{"a": r[:100].reshape(4, 25), "b": r[100:]} for r in x], 3)
    assert named[2]["a"].shape == (4, 25)
    assert np.concatenate([named[2]["a"].ravel(), named[2]["b"]]).tobytes() == A.nnm(x, 3)[2].tobytes()


@pytest.mark.parametrize(
    ("text", "oracle"),
    [
        ("geometric_median(weights=use)", lambda x, w: reference.geometric_median(x, weights=w)),
        ("centered_clipping(weights=use)", lambda x, w: reference.centered_clipping(x, weights=w)),
        ("norm_clipping(weights=use)", lambda x, w: reference.norm_clipping(x, weights=w)),
        ("cge(f=3, weights=use)", lambda x, w: weighted(x, w, np.linalg.norm(x, axis=1), 8)),
        ("monna(f=3, weights=use)", lambda x, w: weighted(x, w, reference.squared_distances(x)[0], 8)),
        (
            "arc(f=2) | mean(weights=use)",
            lambda x, w: np.average(reference.arc(x, 2), axis=0, weights=w),
        ),
        (
            "clipping(radius=18) | mean(weights=use)",
            lambda x, w: np.average(reference.clipping(x, 18), axis=0, weights=w),
        ),
    ],
)
def test_reported_weights_scale_only_where_the_text_says_so(text, oracle):
    x, weights = updates(3).astype(np.float64), np.linspace(0.5, 5, 11)
    assert_near(call(text, x, weights=weights).value, oracle(x, weights))
    for plain in (
        text.replace("weights=use", "weights=ignore"),
        re.sub(r"(, )?weights=use|\(weights=use\)", "", text),
    ):
        np.testing.assert_array_equal(call(plain, x, weights=weights).value, call(plain, x).value)
        assert not np.array_equal(call(plain, x).value, call(text, x, weights=weights).value)


@pytest.mark.parametrize("stage", ["arc(f=2)", "clipping(radius=15)", "nnm(f=2)", "bucketing(s=2)"])
@pytest.mark.parametrize("text", [t for t in TEXTS if t != "fltrust"])
def test_no_composition_uses_reported_weights_unless_it_says_so(stage, text):
    if "monna" in text and "bucketing" in stage:
        pytest.skip("a bucket is no client")
    if "bucketing" in stage:
        text = re.sub(r"\bf=\d", "f=0", text).replace(", m=4", "")
    x, weights = updates(3), np.linspace(0.5, 5, 11)
    made = A.rule(f"{stage} | {text}")
    assert "weights=use" not in made.text
    np.testing.assert_array_equal(made(x, weights).value, made(x).value)


def weighted(x, weights, scores, keep):
    kept = reference.lowest(scores, keep)
    return np.average(x[kept], axis=0, weights=weights[kept])


def test_functions_take_weights_by_giving_them():
    x, weights = updates(4), np.linspace(0.5, 5, 11)
    for name, f in (("mda", 2), ("cge", 2), ("smea", 2), ("monna", 2), ("dnc", 2), ("multi_krum", 2)):
        used = call(f"{name}(f={f}, weights=use)", x, weights=weights)
        np.testing.assert_array_equal(getattr(A, name)(x, f, weights=weights), used.value)
        np.testing.assert_array_equal(getattr(A, name)(x, f), call(f"{name}(f={f})", x).value)
        assert sum(used.weights.values()) == pytest.approx(1)


def test_centered_clipping_hands_its_state_back_and_keeps_none():
    x, state = updates(6), None
    expected = None
    for _ in range(3):
        outcome = call("centered_clipping(tau=5)", x, state=state)
        expected = reference.centered_clipping(x.astype(np.float64), expected, 5.0)
        assert_near(outcome.value, expected)
        state = outcome.state
    np.testing.assert_array_equal(A.centered_clipping(x, tau=5.0), call("centered_clipping(tau=5)", x).value)
    assert call("mean", x).state is None


def test_flame_adds_the_noise_that_its_seed_says():
    x = updates(8, d=20_001, dtype=np.float64)
    still = call("flame(noise=0)", x).value
    noise = (call("flame(noise=0.01, seed=5)", x).value - still) / 0.01 / np.median(np.linalg.norm(x, axis=1))
    assert abs(noise.mean()) < 0.03
    assert abs(noise.std() - 1) < 0.02
    np.testing.assert_array_equal(A.flame(x, noise=0.01, seed=5), call("flame(noise=0.01, seed=5)", x).value)
    assert not np.allclose(A.flame(x, noise=0.01, seed=6), A.flame(x, noise=0.01, seed=5))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_noise_is_one_row_of_normals_whatever_columns_are_made_at_a_time(dtype, tmp_path, monkeypatch):
    x = updates(8, d=5_000).astype(reference.DTYPES[dtype])
    named = [{"a": r[:1700], "b": r[1700:], "v": r[:77].astype(np.float64)} for r in x]
    text = "flame(noise=0.01, seed=5)"
    outcome = call(text, named)
    widths = {"a": 1700, "b": 3300, "v": 77}
    names = sorted(widths, key=lambda k: (named[0][k].dtype.name, k))  # dtypes in sorted order
    normals = np.empty(5_077)
    ts._core.normals(5, 0, 0, normals)
    sigma = 0.01 * np.median(list(outcome.scores.values()))
    first = 0
    for name in names:
        noise = normals[first : first + widths[name]].astype(named[0][name].dtype)
        first += widths[name]
        rows = np.stack([*(named[i][name] for i in outcome.selected), noise])
        expected = reference.combine(rows, np.array([*outcome.weights.values(), sigma]))
        assert outcome.value[name].tobytes() == expected.tobytes()
    paths = []
    for i, tensors in enumerate(named):
        paths.append(tmp_path / f"{i}.safetensors")
        ts.update.write_safetensors(paths[-1], tensors)
    for columns in (1, 999, 1700):
        if columns == 1 and dtype != "float32":
            continue
        monkeypatch.setattr(_engine, "NOISE_COLUMNS", columns)
        for given in (named, paths):
            again = call(text, given)
            assert all(again.value[k].tobytes() == outcome.value[k].tobytes() for k in names)


def test_noise_takes_no_memory_that_grows_with_the_update(monkeypatch):
    monkeypatch.setattr(_engine, "NOISE_COLUMNS", 1 << 12)
    x = np.ones((3, 1 << 20), np.float32)
    rule, out = A.rule("flame(seed=3)"), np.empty(1 << 20, np.float32)
    rule(x, out=out)
    tracemalloc.start()
    rule(x, out=out)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 6 << 20  # the row of zeros that norms are taken to, of which no page is made: 4 MiB
    decision = A.decide([A.partial_distances(x, lo, hi) for lo, hi in A.shards(x)], rule)
    whole = np.concatenate([A.combine(x, decision, lo, hi) for lo, hi in A.shards(x, superblocks=1)])
    assert whole.tobytes() == out.tobytes()


def test_flame_clusters_as_hdbscan_does():
    hdbscan = pytest.importorskip("sklearn.cluster", reason="scikit-learn is not installed").HDBSCAN
    for seed in range(10):
        x = updates(seed, d=12, dtype=np.float64)
        distances = np.array([[1 - reference.cosine(a, b) for b in x] for a in x])
        np.fill_diagonal(distances, 0)
        labels = hdbscan(
            min_cluster_size=6, min_samples=1, allow_single_cluster=True, metric="precomputed", copy=True
        ).fit_predict(np.maximum(distances, 0))
        assert call("flame(noise=0)", x).selected == tuple(np.flatnonzero(labels == 0))


def test_dnc_draws_columns_by_its_seed_from_memory_and_from_files(tmp_path, monkeypatch):
    x = updates(9, d=9_000)
    x[2:4, ::3] += 4
    text = "dnc(f=2, iterations=3, columns=500, seed=4)"
    outcome = call(text, x)
    assert set(outcome.rejected) >= {2, 3}
    monkeypatch.setattr(ts._columns, "FILE_BUFFER_BYTES", 11 * 4 * 4096)
    paths = []
    for i, row in enumerate(x):
        paths.append(tmp_path / f"{i}.safetensors")
        ts.update.write_safetensors(paths[-1], {"a": row[:1000], "b": row[1000:]})
    read = call(text, paths)
    assert read.scores == outcome.scores
    np.testing.assert_array_equal(np.concatenate([read.value["a"], read.value["b"]]), outcome.value)


def test_columns_are_drawn_without_repetition():
    for population, count in ((10, 10), (1000, 37), (5, 9), (2**40, 100)):
        drawn = _engine.draw(population, count, 3, 0)
        assert len(set(drawn)) == len(drawn) == min(count, population)
        assert 0 <= min(drawn) <= max(drawn) < population
    assert _engine.draw(1000, 37, 3, 0) != _engine.draw(1000, 37, 3, 1)


def test_smea_takes_the_first_of_equal_subsets():
    square = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    assert A.rule("smea(f=1)")(square).selected == (0, 1, 2)
    rng = np.random.default_rng(5)
    tied = 0
    for case in range(150):
        n, f = int(rng.integers(4, 9)), int(rng.integers(1, 4))
        if n < 2 * f + 1:
            continue
        x = rng.integers(-1, 2, (n, int(rng.integers(1, 4)))).astype(np.float64)
        if case % 3 == 0:
            x = np.concatenate([x, -x])[:n]
        subsets = [list(s) for s in itertools.combinations(range(n), n - f)]
        values = np.array([reference.top_eigenvalue(x[s]) for s in subsets])
        equal = np.flatnonzero(values <= values.min() + 1e-9)
        tied += len(equal) > 1
        assert A.rule(f"smea(f={f})")(x).selected == tuple(subsets[equal[0]])
    assert tied > 40


def test_gram_holds_inner_products_about_the_medoid():
    x = updates(10, dtype=np.float64)
    medoid = np.argmin(reference.squared_distances(x).sum(1))
    y = x - x[medoid]
    np.testing.assert_allclose(A.gram(x), y @ y.T, atol=1e-9 * np.abs(y @ y.T).max())


# ---- what is reported ----


@pytest.mark.parametrize("text", [t for t in TEXTS if "norm_clipping(radius=0)" not in t])
def test_every_client_is_selected_or_rejected_with_a_reason(text):
    x = updates(11)
    ids = [f"c{i:02}" for i in range(11)]
    outcome = call(text, x, client_ids=ids)
    assert sorted([*outcome.selected, *outcome.rejected]) == ids
    assert all(outcome.rejected.values())
    assert set(outcome.scores) in (set(), set(ids))
    assert set(outcome.weights) <= set(outcome.selected)
    assert outcome.rule == A.rule(outcome.rule).text
    if outcome.weights and not outcome.rule.startswith("flame"):
        named = dict(zip(ids, x.astype(np.float64), strict=True))
        assert_near(outcome.value, sum(w * named[c] for c, w in outcome.weights.items()))


def test_scores_say_what_rules_judged_by():
    x = updates(12).astype(np.float64)
    norms = np.linalg.norm(x, axis=1)
    distances = reference.squared_distances(x)
    for text, expected in (
        ("cge(f=2)", norms),
        ("norm_clipping", norms),
        ("monna(f=2)", np.sqrt(distances[0])),
        ("bulyan(f=2, variant=oneshot)", reference.krum_scores(x, 7)),
        ("fltrust", [reference.cosine(a, SERVER) for a in x]),
        ("geometric_median", np.linalg.norm(x - reference.geometric_median(x), axis=1)),
        ("centered_clipping", np.linalg.norm(x - reference.centered_clipping(x), axis=1)),
    ):
        np.testing.assert_allclose(list(call(text, x).scores.values()), expected, rtol=1e-6)


def test_a_client_is_judged_by_the_row_it_went_into():
    x = updates(13)
    outcome = call("bucketing(s=3, seed=1) | krum(f=0)", x)
    order = reference.permutation(11, 1)
    for first in range(0, 11, 3):
        bucket = order[first : first + 3]
        assert len({outcome.scores[i] for i in bucket}) == 1
        assert {i in outcome.selected for i in bucket} in ({True}, {False})


def test_every_rule_has_a_function_that_cites_its_paper():
    for name in [*_engine.RULES, *_engine.STAGES]:
        assert name in A.__all__
        doc = inspect.getdoc(getattr(A, name))
        assert name in ("mean", "clipping") or re.search(r"Reference: .*20\d\d", doc, re.DOTALL), name
        spec = _engine.RULES.get(name)
        if spec is None or "weights" not in spec.parameters:
            assert "Takes no weights" in doc, name


# ---- text ----


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        (
            "geometric_median(nu=1e-6)",
            "geometric_median(nu=1e-06, iterations=32, start=zero, weights=ignore)",
        ),
        ("centered_clipping( tau = 10 )", "centered_clipping(tau=10.0, iterations=1, weights=ignore)"),
        ("centered_clipping(tau=.5)", "centered_clipping(tau=0.5, iterations=1, weights=ignore)"),
        ("norm_clipping", "norm_clipping(radius=median, weights=ignore)"),
        ("norm_clipping(radius=3)", "norm_clipping(radius=3.0, weights=ignore)"),
        ("nnm(f=2)|trimmed_mean(f=2)", "nnm(f=2) | trimmed_mean(f=2)"),
        (
            " bucketing(s=2)  |  arc(f=1) | median ",
            "bucketing(s=2, seed=0) | arc(f=1) | median(kind=mid)",
        ),
        ("nnm(f=1) | mean", "nnm(f=1) | mean(weights=ignore)"),
        ("clipping(radius=0.1) | mean", "clipping(radius=0.1) | mean(weights=ignore)"),
        ("arc(f=1) | mean(weights=use)", "arc(f=1) | mean(weights=use)"),
        ("mean", "mean(weights=use)"),
    ],
)
def test_texts_of_compositions_and_reals_have_one_canonical_form(text, canonical):
    made = A.rule(text)
    assert made.text == canonical
    assert A.rule(canonical) == made


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nnm(f=1)", "unknown rule 'nnm': a pre-aggregator, a rule comes last"),
        ("nnm(f=1) |", "name in small letters"),
        ("| mean", "name in small letters"),
        ("a | mean", "unknown pre-aggregator 'a': arc, bucketing, clipping, nnm"),
        ("nnm | mean", "f is required"),
        (" | ".join(["nnm(f=1)"] * 16 + ["mean"]), "at most 16 stages"),
        ("nnm(f=1) | multi_krum(f=1, weights=use)", "no meaning behind nnm"),
        ("nnm(f=1) | mean(weights=use)", "no meaning behind nnm"),
        ("clipping(radius=-1) | mean", "0.0 <= radius"),
        ("clipping(radius=nan) | mean", "a number in"),
        ("norm_clipping(radius=inf)", "median or a number in"),
        ("norm_clipping(radius=1e999)", "radius <= "),
        ("geometric_median(nu=0)", "nu <= "),
        ("geometric_median(iterations=-1)", "0 <= iterations"),
        ("geometric_median(iterations=1.5)", "whole number"),
        ("geometric_median(start=one)", "zero, mean"),
        ("bucketing(s=0) | mean", "1 <= s"),
        ("bucketing(s=1, seed=-1) | mean", "0 <= seed"),
        ("bulyan(f=1, variant=fast)", "iterative, oneshot"),
        ("foolsgold(kappa=much)", "a number in"),
    ],
)
def test_a_wrong_composition_or_real_is_refused(text, says):
    with pytest.raises(RuleError, match=says):
        A.rule(text)


# ---- bounds ----


@pytest.mark.parametrize(
    ("text", "n", "says"),
    [
        ("bulyan(f=2)", 9, "bulyan needs n >= 4f + 3: got n=9, f=2"),
        ("multi_krum(f=2)", 6, "multi_krum needs n >= 2f + 3: got n=6, f=2"),
        ("trimmed_mean(f=2)", 4, "trimmed_mean needs n >= 2f + 1: got n=4, f=2"),
        ("meamed(f=2)", 4, "meamed needs n >= 2f + 1: got n=4, f=2"),
        ("phocas(f=2)", 4, "phocas needs n >= 2f + 1: got n=4, f=2"),
        ("mda(f=2)", 4, "mda needs n >= 2f + 1: got n=4, f=2"),
        ("mda(f=33)", 100, "f <= 32 and n <= 1024 expected, got n=100, f=33"),
        ("monna(f=2)", 4, "monna needs n >= 2f + 1: got n=4, f=2"),
        ("monna(f=1, pivot=5)", 5, "pivot < n expected, got pivot=5, n=5"),
        ("caf(f=2)", 4, "caf needs n >= 2f + 1: got n=4, f=2"),
        ("smea(f=2)", 4, "smea needs n >= 2f + 1: got n=4, f=2"),
        ("smea(f=20)", 100, "at most 250000 expected, got more with n=100, f=20"),
        ("cge(f=2)", 4, "cge needs n >= 2f + 1: got n=4, f=2"),
        ("dnc(f=2)", 4, "dnc needs n >= 2f + 1: got n=4, f=2"),
        ("nnm(f=4) | mean", 4, "nnm needs n >= f + 1: got n=4, f=4"),
        ("arc(f=2) | mean", 4, "arc needs n >= 2f + 1: got n=4, f=2"),
        ("bucketing(s=2) | krum(f=2)", 12, "krum needs n >= 2f + 3: got n=6, f=2"),
    ],
)
def test_bounds_name_the_rule_n_and_f(text, n, says):
    with pytest.raises(RuleError, match=re.escape(says)):
        call(text, np.eye(n, 301, dtype=np.float32))


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("bulyan(f=2)", 11),
        ("krum(f=2)", 7),
        ("mda(f=2)", 5),
        ("caf(f=2)", 5),
        ("smea(f=2)", 5),
        ("cge(f=2)", 5),
    ],
)
def test_the_bound_itself_is_allowed(text, n):
    assert np.isfinite(call(text, updates(n=n) if n == 11 else updates()[:n]).value).all()


# ---- clients that are not finite, far, equal, or alone ----


@pytest.mark.parametrize("text", [*TEXTS, "nnm(f=2) | trimmed_mean(f=2)", "arc(f=2) | geometric_median"])
def test_clients_that_are_not_finite_are_dropped_and_count_against_f(text):
    if "monna" in text or "dnc" in text:
        text = text.replace("dnc(f=3", "dnc(f=2")
    x = updates(14)
    x[9, 5], x[4, 300] = np.nan, np.inf
    left = np.delete(x, [4, 9], axis=0)
    f = int(re.search(r"f=(\d)", text)[1]) if "f=" in text else 2
    if f < 2:
        with pytest.raises(NonFiniteError, match=f"2 updates .4, 9., but f={f}"):
            call(text, x)
        return
    outcome = call(text, x)
    expected = call(re.sub(r"\bf=\d", f"f={f - 2}", text).replace("pivot=5", "pivot=4"), left)
    np.testing.assert_array_equal(outcome.value, expected.value)
    assert {c: outcome.rejected[c] for c in (4, 9)} == dict.fromkeys((4, 9), "NaN or infinity")
    assert list(outcome.scores.values()) == list(expected.scores.values())


def test_monna_does_without_no_pivot():
    x = updates(15)
    x[0, 0] = np.nan
    with pytest.raises(RuleError, match="client 0, the reference"):
        call("monna(f=2)", x)


@pytest.mark.parametrize("text", [t for t in TEXTS if "f=" not in t])
def test_no_client_left_is_an_error(text):
    with pytest.raises(NonFiniteError):
        call(text, np.full((3, 301), np.nan, np.float32))


ROBUST = [t for t in TEXTS if not t.startswith(("mean", "foolsgold", "geometric_median(start", "caf(f=0"))]


@pytest.mark.parametrize("far", [1e3, 1e5, 1e10, 1e20, 1e30, 3e38])
@pytest.mark.parametrize("text", ROBUST)
def test_far_clients_do_not_move_a_robust_rule(text, far):
    """One far client where f is 1, two otherwise; bounded by a few lengths of honest updates."""
    x = updates(16)
    x[8] = np.float32(far)
    if "f=1" not in text:
        x[10] = np.float32(-far) * np.sign(x[10])
    outcome = call(text, x)
    longest = np.linalg.norm(np.delete(x, [8, 10], axis=0), axis=1).max()
    assert np.linalg.norm(outcome.value.astype(np.float64)) <= 2 * longest
    assert all(score == score for score in outcome.scores.values())


@pytest.mark.parametrize("far", [1e3, 1e5, 1e10, 1e20, 1e30, 3e38])
def test_far_clients_leave_honest_distances_right(far):
    x = updates(17)
    x[8], x[10] = far, -far
    honest = [i for i in range(11) if i not in (8, 10)]
    table = A.distances(x)[np.ix_(honest, honest)]
    np.testing.assert_allclose(table, reference.squared_distances(x[honest].astype(np.float64)), rtol=1e-6)
    mixed = A.rule("nnm(f=2) | multi_krum(f=2)")(x)
    assert not {8, 10} & set(mixed.selected)


def test_more_infinitely_far_clients_than_others_are_an_error():
    x = np.float32(1e30) * np.eye(11, 301, dtype=np.float32)
    for text in ("caf(f=2)", "smea(f=2)"):
        with pytest.raises(RuleError, match="infinitely far"):
            call(text, x)


@pytest.mark.parametrize("text", TEXTS)
def test_clients_that_agree_are_agreed_with(text):
    x = np.tile(updates(18)[0], (11, 1))
    expected = x[0].astype(np.float64)
    if text.startswith("majority"):
        expected = np.sign(expected)
    if "clipping" in text:
        tau = {"centered_clipping": 10, "centered_clipping(tau=3, iterations=5)": 15, "norm_clipping": 1e9}
        limit = tau.get(text, float(re.findall(r"[\d.]+", text)[-1]) if "radius" in text else 0)
        expected = reference.clipping(expected[None], limit)[0]
    if text == "fltrust":
        expected = expected * np.linalg.norm(SERVER) / np.linalg.norm(expected)
    outcome = call(text, x)
    assert_near(outcome.value, expected)


@pytest.mark.parametrize("text", TEXTS)
def test_one_client_is_enough_for_rules_without_f(text):
    text = re.sub(r"\bf=\d", "f=0", text).replace("pivot=5", "pivot=0").replace(", m=4", "")
    x = updates(19)[:1]
    if "krum" in text or "bulyan" in text:
        with pytest.raises(RuleError, match="got n=1, f=0"):
            call(text, x)
        return
    assert np.isfinite(call(text, x).value).all()


@pytest.mark.parametrize("text", TEXTS)
def test_updates_of_zeros_give_zeros(text):
    np.testing.assert_array_equal(
        call(text, np.zeros((11, 301), np.float32)).value, np.zeros(301, np.float32)
    )


def test_zero_updates_have_no_direction():
    x = updates(20)
    x[5] = 0
    outcome = call("fltrust", x)
    assert outcome.scores[5] == 0
    assert outcome.rejected[5] == "does not point where the server's does"
    assert call("foolsgold", x).scores[5] == 0
    assert np.isfinite(call("flame", x).value).all()
    away = A.rule("fltrust")(np.stack([-SERVER] * 3), server=SERVER)
    np.testing.assert_array_equal(away.value, np.zeros(301))
    assert set(away.rejected) == {0, 1, 2}


@pytest.mark.parametrize("text", [t for t in TEXTS if t != "fltrust"])
def test_updates_without_values_give_none(text):
    assert A.rule(text)(np.empty((11, 0), np.float32)).value.shape == (0,)


# ---- inputs ----


def test_inputs_are_checked():
    x = updates(21)
    with pytest.raises(ArgumentError, match="fltrust needs server="):
        A.rule("fltrust")(x)
    with pytest.raises(ArgumentError, match=r"mean.* takes no server"):
        A.rule("mean")(x, server=x[0])
    with pytest.raises(ArgumentError, match=r"krum.* takes no state"):
        A.rule("krum(f=1)")(x, state=x[0])
    with pytest.raises(SchemaError, match="'state'"):
        A.rule("centered_clipping")(x, state=x[0][:5])
    with pytest.raises(SchemaError, match="'server'"):
        A.fltrust(x, SERVER)
    for value in (np.nan, np.inf):
        with pytest.raises(ArgumentError, match="state: NaN or infinity"):
            A.centered_clipping(x, state=np.full(301, value, np.float32))


def test_inputs_need_the_floating_tensors_only(tmp_path):
    x = updates(22)
    named = [{"w": r, "steps": np.array([3])} for r in x]
    expected = A.centered_clipping(x, state=x[0])
    path = tmp_path / "state.safetensors"
    ts.update.write_safetensors(path, {"w": x[0], "left.out": x[0][:3]})
    for state in ({"w": x[0]}, named[0], {"w": x[0], "more": np.zeros(3)}, path):
        made = A.rule("centered_clipping")(named, state=state)
        np.testing.assert_array_equal(made.value["w"], expected)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("rule", ["median", "trimmed_mean(f=3)", "meamed(f=2)"])
@pytest.mark.parametrize(
    ("stage", "apply"),
    [
        ("nnm(f=4)", lambda x: A.nnm(x, 4)),
        ("bucketing(s=3)", lambda x: A.bucketing(x, 3)),
        ("arc(f=4)", lambda x: A.arc(x, 4)),
        ("clipping(radius=20)", lambda x: A.clipping(x, 20)),
    ],
)
def test_a_rule_behind_a_stage_sees_the_bits_that_the_stage_returns(stage, apply, rule, dtype):
    x = np.random.default_rng(3).standard_normal((23, 4999)).astype(reference.DTYPES[dtype])
    composed = A.rule(f"{stage} | {rule}")(x).value
    assert composed.tobytes() == A.rule(rule)(apply(x)).value.tobytes()
