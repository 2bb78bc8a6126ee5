"""The verifier names what broke, says what it could not check, and never calls that passed."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3

import numpy as np
import pytest

import tallystick as ts
from tallystick.errors import ArgumentError, LedgerError
from tallystick.ledger import connect
from tallystick.ledger.base import Head
from tallystick.update import write_safetensors
from tallystick.verify import verify_ledger, verify_proof_file


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    """Three recorded rounds with kept payloads and models."""
    folder = tmp_path_factory.mktemp("federation")
    model = {"w": np.zeros(3000, np.float32)}
    url = f"sqlite:///{folder}/rounds.db"
    for number in range(3):
        with ts.Round(
            "cards", number=number, rule="multi_krum(f=1)", ledger=url, base=model, keep=folder / "kept"
        ) as r:
            for i in range(6):
                r.submit(
                    f"bank-{i}", {"w": np.random.default_rng([number, i]).standard_normal(3000, np.float32)}
                )
            model = r.close().model
    return folder


@pytest.fixture
def copy(federation, tmp_path):
    """A copy that a test may damage; its ledger URL and kept folder."""
    shutil.copytree(federation, tmp_path / "copy")
    return f"sqlite:///{tmp_path}/copy/rounds.db", tmp_path / "copy" / "kept"


def names(report, status):
    return {c.name for c in report.checks if c.status == status}


def test_everything_holds_with_the_files(federation):
    url = f"sqlite:///{federation}/rounds.db"
    with connect(url, read_only=True) as ledger:
        head = ledger.head("cards")
    report = verify_ledger(url, "cards", updates=federation / "kept", trusted=head)
    assert report.ok
    assert report.complete
    assert {"payload", "schema", "verdicts and scores", "aggregate", "base model", "model"} <= names(
        report, "ok"
    )
    one = verify_ledger(f"sqlite:///{federation}/rounds.db", "cards", round=1, updates=federation / "kept")
    assert sum(c.name == "payload" for c in one.checks) == 6


def test_without_files_the_re_run_is_not_checked(federation):
    report = verify_ledger(f"sqlite:///{federation}/rounds.db", "cards")
    assert report.ok
    assert not report.complete
    assert names(report, "not checked") == {"rule re-run", "trusted log root"}


def test_a_missing_file_is_not_checked_and_not_passed(copy):
    url, kept = copy
    (kept / "round-000001" / "updates" / "bank-2.tsf").unlink()
    report = verify_ledger(url, "cards", round=1, updates=kept)
    assert report.ok
    assert names(report, "not checked") == {"payload", "rule re-run", "trusted log root"}
    assert any("bank-2" in c.detail for c in report.checks if c.status == "not checked")


@pytest.mark.parametrize("where", [0, 70, 200, 0.5, -1])
def test_one_byte_changed_in_an_update_is_named(copy, where):
    url, kept = copy
    path = kept / "round-000001" / "updates" / "bank-4.tsf"
    data = bytearray(path.read_bytes())
    data[int(len(data) * where) if isinstance(where, float) else where] ^= 1
    path.write_bytes(data)
    report = verify_ledger(url, "cards", updates=kept)
    assert not report.ok
    assert all("round 1" in c.detail for c in report.failed)
    assert any(c.name == "payload" and "bank-4" in c.detail for c in report.failed)


def test_swapped_updates_are_named(copy):
    url, kept = copy
    folder = kept / "round-000002" / "updates"
    (folder / "bank-0.tsf").rename(folder / "x")
    (folder / "bank-1.tsf").rename(folder / "bank-0.tsf")
    (folder / "x").rename(folder / "bank-1.tsf")
    failed = verify_ledger(url, "cards", updates=kept).failed
    assert {"bank-0", "bank-1"} <= {c.detail.split("'")[1] for c in failed if c.name == "payload"}


def test_another_base_model_is_named(copy):
    url, kept = copy
    write_safetensors(kept / "round-000001" / "base.safetensors", {"w": np.ones(3000, np.float32)})
    failed = verify_ledger(url, "cards", updates=kept).failed
    assert [(c.name, "round 1" in c.detail) for c in failed] == [("base model", True)]


def test_a_missing_base_model_is_not_checked(copy):
    url, kept = copy
    (kept / "round-000001" / "base.safetensors").unlink()
    report = verify_ledger(url, "cards", updates=kept)
    assert report.ok
    assert names(report, "not checked") == {"model", "trusted log root"}


def test_a_record_that_claims_another_aggregate_is_found_by_the_re_run(federation, tmp_path):
    """A lying operator: a consistent ledger over a wrong aggregate hash."""
    honest = connect(f"sqlite:///{federation}/rounds.db", read_only=True)
    entry = honest.get("cards", 0)
    lying = connect("memory://")
    lying.open_namespace("cards", honest.genesis("cards"))
    from dataclasses import replace

    made = replace(entry.record, aggregate_hash="ab" * 32)
    lying.append(
        "cards", made, entry.leaves, schema=entry.schema, expected_head=lying.head("cards").record_hash
    )
    honest.close()
    assert verify_ledger(lying, "cards").ok
    failed = verify_ledger(lying, "cards", updates=federation / "kept").failed
    assert [c.name for c in failed] == ["aggregate"]


def test_a_leaf_that_claims_another_verdict_is_found_by_the_re_run(federation):
    from dataclasses import replace

    from tallystick import record

    honest = connect(f"sqlite:///{federation}/rounds.db", read_only=True)
    entry = honest.get("cards", 0)
    lying = connect("memory://")
    lying.open_namespace("cards", honest.genesis("cards"))
    out = next(i for i, leaf in enumerate(entry.leaves) if leaf.verdict == "rejected")
    leaves = list(entry.leaves)
    leaves[out] = replace(leaves[out], verdict="accepted", reason="")
    counts = {"accepted": entry.record.accepted + 1, "rejected": entry.record.rejected - 1}
    made = replace(entry.record, clients_root=record.clients_tree(leaves).root.hex(), **counts)
    lying.append("cards", made, leaves, schema=entry.schema, expected_head=lying.head("cards").record_hash)
    honest.close()
    failed = verify_ledger(lying, "cards", updates=federation / "kept").failed
    assert [c.name for c in failed] == ["verdicts and scores"]
    assert leaves[out].client in failed[0].detail


def test_an_altered_ledger_file_fails_without_the_updates(copy):
    url, _ = copy
    path = url.removeprefix("sqlite:///")
    with sqlite3.connect(path) as db:
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        altered = 0
        for table in tables:
            columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
            for column in columns:
                for (value,) in db.execute(f"SELECT {column} FROM {table}").fetchall():
                    text = value.encode() if isinstance(value, str) else value
                    if isinstance(text, bytes) and b"multi_krum(f=1" in text:
                        changed = text.replace(b"multi_krum(f=1", b"multi_krum(f=2", 1)
                        given = changed.decode() if isinstance(value, str) else changed
                        db.execute(f"UPDATE {table} SET {column}=? WHERE {column}=?", (given, value))
                        altered += 1
    db.close()
    assert altered
    assert not verify_ledger(url, "cards").ok


def test_a_log_that_does_not_begin_with_the_trusted_head_fails(federation):
    url = f"sqlite:///{federation}/rounds.db"
    with connect(url, read_only=True) as ledger:
        old = Head(2, ledger.log_tree("cards").root_at(2), b"")
    assert verify_ledger(url, "cards", trusted=old).ok
    for wrong in (Head(2, bytes(32), b""), Head(3, old.root, b""), Head(99, old.root, b"")):
        assert [c.name for c in verify_ledger(url, "cards", trusted=wrong).failed] == ["trusted log root"]


def test_unknown_namespaces_rounds_and_folders_are_bad_input(federation):
    url = f"sqlite:///{federation}/rounds.db"
    with pytest.raises(LedgerError, match="loans"):
        verify_ledger(url, "loans")
    with pytest.raises(LedgerError, match=r"no round 9; recorded: 0, 1, 2"):
        verify_ledger(url, "cards", round=9)
    with pytest.raises(ArgumentError, match="existing folder"):
        verify_ledger(url, "cards", updates=federation / "none")


def test_a_proof_needs_nothing_but_itself_and_every_change_is_refused(federation, tmp_path):
    from tallystick import canonical
    from tallystick.ledger.base import prove

    with connect(f"sqlite:///{federation}/rounds.db", read_only=True) as ledger:
        proof, head = prove(ledger, "cards", 1, "bank-3"), ledger.head("cards")
    path = tmp_path / "proof.json"
    path.write_bytes(canonical.dumps(proof))
    alone = verify_proof_file(path)
    assert alone.ok
    assert not alone.complete  # the payload was not looked at
    kept = federation / "kept" / "round-000001" / "updates"
    root = head.root
    assert verify_proof_file(path, kept / "bank-3.tsf", log_root=root).complete
    assert not verify_proof_file(path, log_root=bytes(32)).ok
    assert not verify_proof_file(path, kept / "bank-2.tsf").ok
    for key, value in proof.items():
        changed = json.loads(json.dumps(proof))
        if isinstance(value, str) and len(value) >= 64:
            changed[key] = ("1" if value[0] == "0" else "0") + value[1:]
        elif isinstance(value, list) and value:
            changed[key] = value[:-1]
        elif isinstance(value, int):
            changed[key] = value + 1
        else:
            continue
        path.write_bytes(canonical.dumps(changed))
        with contextlib.suppress(ArgumentError):  # no longer a proof at all
            assert not verify_proof_file(path).ok, key
    with pytest.raises(ArgumentError, match="none"):
        verify_proof_file(tmp_path / "none")
