"""One round end to end: what is committed, what is refused, and that nothing accepted is lost."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest

import tallystick as ts
from tallystick import frame, merkle
from tallystick.errors import (
    ArgumentError,
    ConflictError,
    FileChangedError,
    NonFiniteError,
    RuleError,
    SchemaError,
)
from tallystick.ledger import connect
from tallystick.update import write_safetensors
from tallystick.verify import verify_ledger


def model(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {
        "w": (scale * rng.standard_normal((20, 30))).astype(np.float32),
        "b": (scale * rng.standard_normal(30)).astype(np.float32),
        "steps": np.array([7], np.int64),
    }


def submit_all(r, n=7, **changes):
    for i in range(n):
        r.submit(f"bank-{i}", changes.get(f"bank_{i}", model(i)), weight=10.0 + i)


@pytest.fixture
def ledger(tmp_path):
    with connect(f"sqlite:///{tmp_path}/rounds.db") as opened:
        yield opened


def test_a_round_records_who_did_what_and_verifies(ledger, tmp_path):
    base = model(99)
    keep = tmp_path / "kept"
    with ts.Round("cards", number=17, rule="multi_krum(f=2)", ledger=ledger, base=base, keep=keep) as r:
        submit_all(r, bank_3=model(3, 50.0))
        outcome = r.close()
    assert "bank-3" in outcome.rejected
    made = outcome.record
    assert (made.round, made.accepted, made.rejected, made.f) == (17, 5, 2, 2)
    assert made.rule == "multi_krum(f=2, m=n-f, neighbors=n-f-2, weights=ignore)"
    assert made.aggregate_hash == frame.value_hash(outcome.value).hex()
    np.testing.assert_array_equal(outcome.model["w"], base["w"] + outcome.value["w"])
    np.testing.assert_array_equal(outcome.model["steps"], base["steps"])
    assert made.base_hash == frame.value_hash(base).hex()
    assert made.model_hash == frame.value_hash(outcome.model).hex()
    assert set(outcome.times) == {"reading", "hashing", "aggregating", "committing"}

    entry = ledger.get("cards", 17)
    assert [leaf.client for leaf in entry.leaves] == [f"bank-{i}" for i in range(7)]
    assert [leaf.weight for leaf in entry.leaves] == [10.0 + i for i in range(7)]
    kept = (keep / "round-000017" / "updates" / "bank-0.tsf").read_bytes()
    assert merkle.hash_chunks(kept) == entry.leaves[0].payload_root
    assert len(kept) == entry.leaves[0].size
    report = verify_ledger(ledger, "cards", updates=keep, trusted=ledger.head("cards"))
    assert report.complete, [c for c in report.checks if c.status != "ok"]


def test_the_payload_of_a_file_is_the_file_itself(ledger, tmp_path):
    path = tmp_path / "u.safetensors"
    write_safetensors(path, model(1))
    with ts.Round("cards", number=0, rule="mean", ledger=ledger) as r:
        r.submit("u", path)
        r.submit("v", model(1))
        outcome = r.close()
    leaf = ledger.get("cards", 0).leaves[0]
    assert leaf.size == path.stat().st_size
    assert leaf.payload_root == merkle.hash_chunks(path.read_bytes())
    np.testing.assert_array_equal(outcome.value["w"], model(1)["w"])


@pytest.mark.parametrize("kind", ["delta", "weights", "gradient"])
def test_the_next_model_follows_from_the_kind(kind):
    base = model(99)
    with ts.Round("cards", number=0, rule="mean", ledger="memory://", base=base, kind=kind) as r:
        submit_all(r)
        outcome = r.close()
    if kind == "gradient":
        assert outcome.model is None
        assert outcome.record.model_hash == ""
    elif kind == "weights":
        np.testing.assert_array_equal(outcome.model["w"], outcome.value["w"])
    else:
        np.testing.assert_array_equal(outcome.model["b"], base["b"] + outcome.value["b"])


def test_arrival_order_changes_neither_aggregate_nor_identity(ledger):
    rounds = []
    for order in (range(7), reversed(range(7))):
        with ts.Round("cards", number=4, rule="multi_krum(f=2)", ledger=ledger) as r:
            for i in order:
                r.submit(f"bank-{i}", model(i), weight=10.0 + i)
            rounds.append(r.close())
    assert rounds[0].record.hash == rounds[1].record.hash  # the second run found the first one's record
    assert rounds[0].receipt == rounds[1].receipt
    assert ledger.head("cards").size == 2


def test_a_different_result_for_a_recorded_round_is_a_conflict_and_loses_nothing(ledger):
    for rule, error in (("mean", None), ("median", ConflictError)):
        with ts.Round("cards", number=4, rule=rule, ledger=ledger) as r:
            submit_all(r)
            if error is None:
                first = r.close()
            else:
                with pytest.raises(error, match="round 4"):
                    r.close()
    assert ledger.get("cards", 4).record.hash == first.record.hash


def test_a_client_with_nan_is_rejected_recorded_and_the_round_goes_on(ledger):
    bad = model(5)
    bad["w"][3, 3] = np.nan
    with ts.Round("cards", number=1, rule="trimmed_mean(f=1)", ledger=ledger) as r:
        submit_all(r, bank_5=bad)
        outcome = r.close()
    leaf = {leaf.client: leaf for leaf in ledger.get("cards", 1).leaves}["bank-5"]
    assert (leaf.verdict, leaf.reason) == ("rejected", "NaN or infinity")
    assert outcome.rejected == {"bank-5": "NaN or infinity"}


def test_refused_submissions_leave_the_accepted_ones_in_place(ledger, tmp_path):
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00not json at all!")
    with ts.Round("cards", number=2, rule="mean", ledger=ledger) as r:
        submit_all(r, n=2)
        refused = [
            (("bank-0", model(0)), {}, ArgumentError, "already"),
            (("", model(0)), {}, ArgumentError, "client id"),
            (("x" * 129, model(0)), {}, ArgumentError, "client id"),
            (("e\u0301", model(0)), {}, ArgumentError, "NFC"),
            (("c", model(0)), {"weight": 0}, ArgumentError, "positive"),
            (("c", model(0)), {"weight": -2.0}, ArgumentError, "positive"),
            (("c", model(0)), {"weight": float("nan")}, ArgumentError, "positive"),
            (("c", model(0)), {"weight": float("inf")}, ArgumentError, "positive"),
            (("c", model(0)), {"weight": "ten"}, ArgumentError, "number"),
            (("c", {"w": model(0)["w"]}), {}, SchemaError, "'c'"),
            (("c", {**model(0), "b": np.zeros(31, np.float32)}), {}, SchemaError, "'b'"),
            (("c", {**model(0), "b": np.zeros(30)}), {}, SchemaError, "float64"),
            (("c", {**model(0), "steps": np.array([8])}), {}, SchemaError, "'steps'"),
            (("c", bad), {}, ArgumentError, "bad.safetensors"),
            (("c", tmp_path / "none.safetensors"), {}, ArgumentError, "none.safetensors"),
            (("c", 3), {}, ArgumentError, "int"),
        ]
        for arguments, keywords, error, says in refused:
            with pytest.raises(error, match=says):
                r.submit(*arguments, **keywords)
        r.submit("c", model(2))
        outcome = r.close()
        assert outcome.selected == ("bank-0", "bank-1", "c")
        for call in (lambda: r.submit("d", model(3)), r.close):
            with pytest.raises(ArgumentError, match="closed"):
                call()


def test_an_update_without_values_is_refused():
    with ts.Round("cards", number=0, rule="mean", ledger="memory://") as r:
        for empty in (np.empty(0, np.float32), {"n": np.array([1])}):
            with pytest.raises(SchemaError, match="d = 0"):
                r.submit("a", empty)


def test_a_round_that_cannot_run_stays_open_for_more_clients():
    with ts.Round("cards", number=0, rule="krum(f=1)", ledger="memory://") as r:
        with pytest.raises(ArgumentError, match="at least one"):
            r.close()
        submit_all(r, n=4)
        with pytest.raises(RuleError, match=r"2f \+ 3: got n=4, f=1"):
            r.close()
        r.submit("late", model(50))
        assert len(r.close().scores) == 5


def test_too_many_clients_that_are_not_finite_fail_the_round(ledger):
    bad = {"w": np.full((20, 30), np.inf, np.float32), "b": model(0)["b"], "steps": model(0)["steps"]}
    with ts.Round("cards", number=0, rule="trimmed_mean(f=1)", ledger=ledger) as r:
        submit_all(r, bank_1=bad, bank_2=bad)
        with pytest.raises(NonFiniteError, match="bank-1, bank-2"):
            r.close()
    assert ledger.head("cards").size == 1


@pytest.mark.parametrize("change", ["rewritten", "truncated", "removed"])
def test_a_file_changed_before_the_record_is_an_error_and_nothing_is_recorded(ledger, tmp_path, change):
    path = tmp_path / "u.safetensors"
    write_safetensors(path, model(1))
    with ts.Round("cards", number=0, rule="mean", ledger=ledger) as r:
        r.submit("u", path)
        if change == "rewritten":
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(data)
        elif change == "truncated":
            os.truncate(path, path.stat().st_size - 4)
        else:
            path.unlink()
        with pytest.raises(FileChangedError, match=r"u\.safetensors"):
            r.close()
    assert ledger.head("cards").size == 1


def test_a_base_that_does_not_fit_is_refused():
    for base, says in (
        ({"w": model(0)["w"]}, "no tensor 'b'"),
        ({**model(0), "b": np.zeros(3, np.float32)}, "'b'"),
        ({**model(0), "b": np.zeros(30)}, "float64"),
    ):
        r = ts.Round("cards", number=0, rule="mean", ledger="memory://", base=base)
        with r, pytest.raises(SchemaError, match=says):
            r.submit("a", model(1))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"number": -1}, "2\\^53"),
        ({"number": 1.0}, "whole number"),
        ({"number": 2**53}, "2\\^53"),
        ({"number": True}, "whole number"),
        ({"kind": "model"}, "delta, gradient, weights"),
        ({"rule": "best"}, "unknown rule"),
        ({"namespace": ""}, "namespace"),
        ({"ledger": "mongo://x"}, "mongo"),
        ({"ledger": "evm+http://127.0.0.1:1"}, "evm"),
    ],
)
def test_a_round_that_cannot_be_is_refused_at_once(changes, says):
    fine = {"namespace": "cards", "number": 0, "rule": "mean", "ledger": "memory://"}
    arguments = {**fine, **changes}
    with pytest.raises((ArgumentError, ImportError), match=says):
        ts.Round(arguments.pop("namespace"), **arguments)


def test_a_frame_bound_to_another_round_or_client_is_refused(ledger):
    update = model(1)
    genesis = ledger.open_namespace("cards")

    def framed(**changes):
        binding = {"namespace_id": genesis.namespace_id, "round": 3, "client": "a", **changes}
        return b"".join(
            bytes(memoryview(p).cast("B")) for p in frame.encode_plain(update, frame.Binding(**binding))
        )

    with ts.Round("cards", number=3, rule="mean", ledger=ledger) as r:
        for wrong, says in (
            ({"client": "b"}, "client"),
            ({"round": 4}, "round 4"),
            ({"namespace_id": bytes(31) + b"x"}, "namespace id"),
            ({"base_hash": hashlib.sha256(b"m").digest()}, "base hash"),
            ({"open_hash": hashlib.sha256(b"o").digest()}, "open hash"),
        ):
            with pytest.raises(ArgumentError, match=says):
                r.submit("a", framed(**wrong))
        r.submit("a", framed())
        np.testing.assert_array_equal(r.close().value["w"], update["w"])


def test_before_commit_can_stop_the_round_before_anything_is_recorded(ledger):
    def refuse(outcome):
        raise OSError("no space")

    with ts.Round("cards", number=0, rule="mean", ledger=ledger) as r:
        submit_all(r)
        with pytest.raises(OSError, match="no space"):
            r.close(before_commit=refuse)
        assert ledger.head("cards").size == 1
        r.close()
    assert ledger.head("cards").size == 2


def test_a_keep_folder_that_cannot_be_written_is_refused_and_the_round_goes_on(ledger, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with ts.Round("cards", number=0, rule="mean", ledger=ledger, keep=tmp_path / "file") as r:
        with pytest.raises(ArgumentError, match=r"keep: .* cannot be written"):
            r.submit("a", model(1))
        with pytest.raises(ArgumentError, match="no updates"):
            r.close()
    assert ledger.head("cards").size == 1


def test_client_ids_that_are_no_file_names_are_kept_and_verified(ledger, tmp_path):
    ids = ["../../etc/passwd", "a/b", "..", "naïve", "x" * 128, "é" * 64, "a b", "100%", ".part"]
    with ts.Round("cards", number=0, rule="mean", ledger=ledger, keep=tmp_path / "kept") as r:
        for i, client in enumerate(ids):
            r.submit(client, model(i))
        r.close()
    files = list((tmp_path / "kept").rglob("*.tsf"))
    assert len(files) == len(ids)
    assert verify_ledger(ledger, "cards", updates=tmp_path / "kept", trusted=ledger.head("cards")).complete
