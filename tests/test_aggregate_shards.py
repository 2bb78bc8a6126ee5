"""A rule in shards: the same bits, whatever the shards and wherever they run."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import tallystick as ts
from tallystick.errors import ArgumentError, NonFiniteError, RuleError
from tallystick.update import write_safetensors

A = ts.aggregate
BLOCK = 1 << 18
RULES = [
    "mean",
    "trimmed_mean(f=2)",
    "krum(f=2)",
    "bulyan(f=2)",
    "geometric_median",
    "centered_clipping",
    "fltrust",
    "flame(seed=3)",
    "caf(f=2)",
    "norm_clipping",
    "nnm(f=2) | trimmed_mean(f=2)",
    "bucketing(s=2) | median",
    "arc(f=2) | multi_krum(f=2)",
    "median(kind=upper)",
    "meamed(f=2)",
    "phocas(f=2)",
    "majority",
    "multi_krum(f=2, m=4)",
    "mda(f=2)",
    "smea(f=2)",
    "monna(f=2, pivot=3)",
    "cge(f=2)",
    "foolsgold",
    "clipping(radius=500) | mean",
    "clipping(radius=500) | median",
    "norm_clipping(radius=500)",
    "bulyan(f=2, variant=oneshot)",
    "bucketing(s=1, seed=2) | monna(f=2)",
]


@pytest.fixture(scope="module")
def updates():
    """Two dtypes, three superblocks and a bit."""
    rng = np.random.default_rng(0)
    common = rng.standard_normal(2 * BLOCK + 1000) * 0.5
    return [
        {
            "w": (common + rng.standard_normal(len(common))).astype(np.float32),
            "v": rng.standard_normal(300) + 1,
        }
        for _ in range(11)
    ]


def in_shards(updates, text, superblocks, **inputs):
    """As an engine would: every step's result pickled, partials in any order."""
    cut = A.shards(updates, superblocks=superblocks)
    partials = [pickle.dumps(A.partial_distances(updates, lo, hi, **inputs)) for lo, hi in cut]
    decision = pickle.dumps(A.decide([pickle.loads(p) for p in reversed(partials)], text))
    decision = pickle.loads(decision)
    return decision, [A.combine(updates, decision, lo, hi, **inputs) for lo, hi in cut]


@pytest.mark.parametrize("text", RULES)
def test_shards_change_no_bit(updates, text):
    inputs = {"server": updates[0]} if text == "fltrust" else {}
    whole = A.rule(text)(updates, **inputs)
    for superblocks in (1, 2, 16):
        decision, values = in_shards(updates, text, superblocks, **inputs)
        assert (decision.selected, decision.rejected) == (whole.selected, whole.rejected)
        assert (decision.scores, decision.weights) == (whole.scores, whole.weights)
        for dtype, name in ((np.float32, "w"), (np.float64, "v")):
            joined = np.concatenate([v for v in values if v.dtype == dtype])
            assert joined.tobytes() == whole.value[name].tobytes()


def test_shards_of_files_read_their_columns_only(updates, tmp_path):
    paths = []
    for i, tensors in enumerate(updates):
        paths.append(tmp_path / f"{i}.safetensors")
        write_safetensors(paths[-1], tensors)
    decision, values = in_shards(paths, "multi_krum(f=2)", 1)
    expected, _ = in_shards(updates, "multi_krum(f=2)", 1)
    assert decision.scores == expected.scores
    whole = A.rule("multi_krum(f=2)")(updates).value["w"]
    assert np.concatenate([v for v in values if v.dtype == np.float32]).tobytes() == whole.tobytes()


@pytest.mark.parametrize("text", ["median", "trimmed_mean(f=2)", "mean", "bucketing(s=3) | median"])
def test_a_column_rule_needs_no_partials(updates, text):
    whole = A.rule(text)(updates).value
    values = [A.column_rule(updates, lo, hi, text) for lo, hi in A.shards(updates, superblocks=1)]
    assert np.concatenate([v for v in values if v.dtype == np.float32]).tobytes() == whole["w"].tobytes()
    assert np.concatenate([v for v in values if v.dtype == np.float64]).tobytes() == whole["v"].tobytes()


def test_a_state_takes_part_in_shards(updates):
    whole = A.rule("centered_clipping(tau=5)")(updates, state=updates[4])
    decision, values = in_shards(updates, "centered_clipping(tau=5)", 2, state=updates[4])
    assert decision.scores == whole.scores
    joined = np.concatenate([v for v in values if v.dtype == np.float32])
    assert joined.tobytes() == whole.value["w"].tobytes()


def test_clients_not_finite_in_one_shard_are_dropped_in_all(updates):
    damaged = [dict(u) for u in updates]
    damaged[6] = {"w": updates[6]["w"].copy(), "v": updates[6]["v"]}
    damaged[6]["w"][BLOCK + 3] = np.nan
    decision, values = in_shards(damaged, "multi_krum(f=2)", 1)
    whole = A.rule("multi_krum(f=2)")(damaged)
    assert decision.rejected == whole.rejected
    assert decision.rejected[6] == "NaN or infinity"
    joined = np.concatenate([v for v in values if v.dtype == np.float32])
    assert joined.tobytes() == whole.value["w"].tobytes()
    with pytest.raises(NonFiniteError) as caught:
        A.column_rule(damaged, BLOCK, 2 * BLOCK, "median")
    assert caught.value.clients == (6,)
    assert A.column_rule(damaged, 0, BLOCK, "median").shape == (BLOCK,)


def test_client_ids_and_weights_come_with_the_decision(updates):
    cut = A.shards(updates)
    ids, weights = [f"c{i:02}" for i in range(11)], np.arange(1.0, 12.0)
    partials = [A.partial_distances(updates, lo, hi) for lo, hi in cut]
    decision = A.decide(partials, "mean", weights=weights, client_ids=ids)
    assert decision.weights == A.rule("mean")(updates, weights, ids).weights


@pytest.mark.parametrize(
    ("lo", "hi"),
    [
        (0, 0),
        (-BLOCK, 0),
        (5, BLOCK),
        (0, BLOCK + 1),
        (0, 2 * BLOCK + 1301),
        (2 * BLOCK + 1, 2 * BLOCK + 1000),
    ],
)
def test_a_range_that_is_no_shard_is_refused(updates, lo, hi):
    for call in (
        lambda: A.partial_distances(updates, lo, hi),
        lambda: A.column_rule(updates, lo, hi, "median"),
    ):
        with pytest.raises(ArgumentError, match="multiples of 2"):
            call()


def test_partials_that_do_not_belong_together_are_refused(updates):
    cut = A.shards(updates, superblocks=1)
    partials = [A.partial_distances(updates, lo, hi) for lo, hi in cut]
    other = [A.partial_distances(updates[:10], lo, hi) for lo, hi in cut]
    for wrong, says in (
        ([], "at least one"),
        (partials[1:], "from 0 on expected, got those from 262144"),
        (partials[:-1], "are missing"),
        (partials[:1] + partials[2:], "columns from 262144 on expected"),
        ([*partials, partials[-1]], "columns from"),
        ([*partials[:-1], other[-1]], "different updates"),
    ):
        with pytest.raises(ArgumentError, match=says):
            A.decide(wrong, "krum(f=2)")
    with pytest.raises(RuleError, match="n >= 4f"):
        A.decide(partials, "bulyan(f=3)")
    with pytest.raises(RuleError, match="dnc draws columns"):
        A.decide(partials, "dnc(f=2)")
    with pytest.raises(ArgumentError, match="needs partials with server="):
        A.decide(partials, "fltrust")
    with pytest.raises(ArgumentError, match="3 client ids"):
        A.decide(partials, "krum(f=2)", client_ids=["a", "b", "c"])
    with pytest.raises(RuleError, match="compares whole updates"):
        A.column_rule(updates, *cut[0], "krum(f=2)")
    decision = A.decide(partials, "krum(f=2)")
    with pytest.raises(ArgumentError, match="over 11 updates, but 10"):
        A.combine(updates[:10], decision, *cut[0])
    with pytest.raises(ArgumentError, match="superblocks"):
        A.shards(updates, superblocks=0)


def test_a_decision_wants_the_inputs_it_was_made_with(updates):
    cut = A.shards(updates)
    partials = [A.partial_distances(updates, lo, hi, state=updates[0]) for lo, hi in cut]
    decision = A.decide(partials, "centered_clipping")
    with pytest.raises(ArgumentError, match="made with inputs"):
        A.combine(updates, decision, *cut[0])
    with pytest.raises(ArgumentError, match="takes no server"):
        A.combine(updates, decision, *cut[0], state=updates[0], server=updates[0])
