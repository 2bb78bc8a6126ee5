"""What every ledger must do, as a pytest class that a backend's own tests derive from.

    from tallystick.ledger.conformance import LedgerConformance

    class TestMyLedger(LedgerConformance):
        def url(self, tmp_path):
            return f"mine://{tmp_path}"

        keeps = True  # a second connect(url) sees what the first one appended

`make_round()` builds a valid record with leaves and schema for any ledger, for tests of one's own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tallystick import merkle
from tallystick.canonical import dumps
from tallystick.errors import ArgumentError, ConflictError, LedgerError, StaleHeadError, TallystickError
from tallystick.record import ClientLeaf, Genesis, RoundRecord, clients_tree, salts, verify_proof

from . import connect
from .base import Head, Ledger, Receipt, prove

__all__ = ["LedgerConformance", "SampleRound", "make_round"]

SCHEMA = b'{"tensors":[{"dtype":"float32","name":"update","shape":[4]}]}'


class SampleRound(NamedTuple):
    """A round that is ready to be appended."""

    record: RoundRecord
    leaves: list[ClientLeaf]
    schema: bytes

    def append_to(self, ledger: Ledger, namespace: str) -> Receipt:
        return ledger.append(namespace, self.record, self.leaves, schema=self.schema)


def make_round(
    ledger: Ledger, namespace: str, round: int, *, clients: int = 4, content: str = "", **changes: Any
) -> SampleRound:
    """A round on the ledger's head. content: changes the clients' payloads; changes: fields of the record."""
    head, genesis = ledger.head(namespace), ledger.genesis(namespace)
    leaves = [
        ClientLeaf(
            namespace_id=genesis.namespace_id,
            round=round,
            client=f"client-{i:04}",
            weight=1.0 + i,
            payload_root=hashlib.sha256(f"{round} {i} {content}".encode()).digest(),
            size=1000 + i,
            media_type="application/vnd.tallystick.frame",
            verdict="rejected" if i == 1 else "accepted",
            reason="NaN or infinity" if i == 1 else "",
            score=None if i == 1 else i / 3,
            salt=salt,
        )
        for i, salt in enumerate(salts(clients))
    ]
    rejected = sum(leaf.verdict == "rejected" for leaf in leaves)
    fields: dict[str, Any] = {
        "namespace_id": genesis.namespace_id.hex(),
        "round": round,
        "time": 1_700_000_000 + round,
        "rule": "trimmed_mean(f=1)",
        "f": 1,
        "clients_root": clients_tree(leaves).root.hex(),
        "accepted": clients - rejected,
        "rejected": rejected,
        "schema_hash": hashlib.sha256(SCHEMA).hexdigest(),
        "aggregate_hash": hashlib.sha256(f"aggregate {round} {content}".encode()).hexdigest(),
        "previous": head.record_hash.hex(),
        "log_index": head.size,
        "versions": {"tallystick": "0.1.0"},
    }
    return SampleRound(RoundRecord(**{**fields, **changes}), leaves, SCHEMA)


def _flip(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


class LedgerConformance:
    """Derive from it, define url(), and run it under pytest."""

    keeps = False  #: whether a second connect() to the same URL sees what the first one appended

    def url(self, tmp_path: Path) -> str:
        raise NotImplementedError("a conformance class says which URL to connect to")

    @pytest.fixture
    def ledger(self, tmp_path: Path) -> Iterator[Ledger]:
        with connect(self.url(tmp_path)) as ledger:
            yield ledger

    @pytest.fixture
    def name(self, ledger: Ledger) -> str:
        ledger.open_namespace("cards")
        return "cards"

    # ---- namespaces ----

    def test_a_new_ledger_has_no_namespaces(self, ledger: Ledger) -> None:
        assert ledger.namespaces() == []

    def test_a_namespace_starts_with_its_genesis(self, ledger: Ledger) -> None:
        genesis = ledger.open_namespace("cards")
        assert genesis.name == "cards"
        assert ledger.genesis("cards") == genesis
        assert ledger.namespaces() == ["cards"]
        digest = hashlib.sha256(genesis.encode()).digest()
        assert genesis.namespace_id == digest
        assert ledger.head("cards") == Head(1, merkle.Tree([digest]).root, digest)
        assert ledger.rounds("cards") == []
        assert list(ledger.iter("cards")) == []

    def test_opening_a_namespace_again_changes_nothing(self, ledger: Ledger) -> None:
        genesis = ledger.open_namespace("cards")
        assert ledger.open_namespace("cards") == genesis
        assert ledger.open_namespace("cards", genesis) == genesis

    def test_a_namespace_is_created_with_the_genesis_given(self, ledger: Ledger) -> None:
        genesis = Genesis(name="cards", log_key="ed25519:00", ledgers=("sqlite:///rounds.db",))
        assert ledger.open_namespace("cards", genesis) == genesis
        assert ledger.genesis("cards") == genesis

    def test_another_genesis_is_a_conflict(self, ledger: Ledger, name: str) -> None:
        before = ledger.genesis(name)
        with pytest.raises(ConflictError, match=name):
            ledger.open_namespace(name, Genesis(name=name))
        assert ledger.genesis(name) == before

    def test_the_genesis_of_another_name_is_refused(self, ledger: Ledger) -> None:
        with pytest.raises(ArgumentError, match="loans"):
            ledger.open_namespace("cards", Genesis(name="loans"))
        assert ledger.namespaces() == []

    @pytest.mark.parametrize("bad", ["", "x" * 129, "e\u0301", "\ud800", 7])
    def test_a_name_that_is_no_id_is_refused(self, ledger: Ledger, bad: Any) -> None:
        with pytest.raises(ArgumentError, match="namespace"):
            ledger.open_namespace(bad)
        assert ledger.namespaces() == []

    def test_names_at_the_limits_are_kept(self, ledger: Ledger) -> None:
        names = ["a", "x" * 128, "\u00e9" * 64, "Zürich % ? # / ' \" 银行"]
        for name in names:
            ledger.open_namespace(name)
            make_round(ledger, name, 1).append_to(ledger, name)
        assert ledger.namespaces() == sorted(names)
        assert all(ledger.rounds(name) == [1] for name in names)

    def test_an_unknown_namespace_is_an_error_everywhere(self, ledger: Ledger, name: str) -> None:
        sample = make_round(ledger, name, 1)
        for call in (
            lambda: ledger.genesis("loans"),
            lambda: ledger.head("loans"),
            lambda: ledger.rounds("loans"),
            lambda: list(ledger.iter("loans")),
            lambda: ledger.get("loans", 1),
            lambda: ledger.verify("loans"),
            lambda: ledger.log_tree("loans"),
            lambda: sample.append_to(ledger, "loans"),
        ):
            with pytest.raises(LedgerError, match=r"loans.*cards"):
                call()

    # ---- append and read ----

    def test_what_was_appended_is_read_back(self, ledger: Ledger, name: str) -> None:
        for round in (17, 3, 18):  # any order of round numbers
            sample = make_round(ledger, name, round)
            shuffled = sample._replace(leaves=sample.leaves[::-1])
            receipt = shuffled.append_to(ledger, name)
            entry = ledger.get(name, round)
            assert entry.record == sample.record
            assert list(entry.leaves) == sample.leaves  # sorted by client id
            assert entry.schema == sample.schema
            assert entry.receipt == receipt
            assert entry.index == sample.record.log_index
        assert ledger.rounds(name) == [17, 3, 18]
        assert [entry.record.round for entry in ledger.iter(name)] == [17, 3, 18]
        assert [entry.record.round for entry in ledger.iter(name, 2)] == [3, 18]
        assert list(ledger.iter(name, 4)) == []

    def test_a_round_that_is_not_there_is_an_error(self, ledger: Ledger, name: str) -> None:
        make_round(ledger, name, 1).append_to(ledger, name)
        with pytest.raises(LedgerError, match=r"cards.*no round 2"):
            ledger.get(name, 2)

    def test_the_head_is_the_root_of_the_log(self, ledger: Ledger, name: str) -> None:
        hashes = [ledger.genesis(name).namespace_id]
        for round in range(1, 10):
            sample = make_round(ledger, name, round)
            sample.append_to(ledger, name)
            hashes.append(sample.record.hash)
            assert ledger.head(name) == Head(len(hashes), merkle.Tree(hashes).root, hashes[-1])
        tree = ledger.log_tree(name)
        assert (tree.size, tree.root) == (10, merkle.Tree(hashes).root)
        tree.append(b"the caller's own copy")
        assert ledger.log_tree(name).size == 10

    def test_namespaces_do_not_mix(self, ledger: Ledger, name: str) -> None:
        ledger.open_namespace("loans")
        make_round(ledger, name, 1).append_to(ledger, name)
        make_round(ledger, "loans", 1, content="other").append_to(ledger, "loans")
        with pytest.raises(ArgumentError, match="id"):
            make_round(ledger, name, 2).append_to(ledger, "loans")
        assert ledger.rounds(name) == ledger.rounds("loans") == [1]
        assert ledger.get(name, 1).record != ledger.get("loans", 1).record

    @pytest.mark.parametrize("clients", [1, 2, 3, 255, 256, 257, 1000])
    def test_rounds_of_many_sizes(self, ledger: Ledger, name: str, clients: int) -> None:
        sample = make_round(ledger, name, 1, clients=clients)
        sample.append_to(ledger, name)
        assert list(ledger.get(name, 1).leaves) == sample.leaves
        assert [c for c in ledger.verify(name) if c.status == "failed"] == []

    # ---- receipts ----

    def test_a_receipt_convinces_on_its_own(self, ledger: Ledger, name: str) -> None:
        receipts = []
        for round in range(1, 10):
            sample = make_round(ledger, name, round)
            receipt = sample.append_to(ledger, name)
            assert receipt.ledger == ledger.kind
            assert (receipt.namespace, receipt.round) == (name, round)
            assert receipt.namespace_id == ledger.genesis(name).namespace_id
            assert receipt.record_hash == sample.record.hash
            assert (receipt.log_index, receipt.log_size) == (round, round + 1)
            assert receipt.log_root == ledger.head(name).root
            receipts.append(receipt)
        for receipt in receipts:
            assert receipt.verify()
            assert Receipt.from_json(receipt.to_json()) == receipt
            assert json.loads(receipt.to_json())["record_hash"] == receipt.record_hash.hex()
            assert ledger.status(receipt) in {"included", "final"}

    def test_a_forged_receipt_is_lost(self, ledger: Ledger, name: str) -> None:
        for round in (1, 2, 3):
            receipt = make_round(ledger, name, round).append_to(ledger, name)
        for forged in (
            dataclasses.replace(receipt, record_hash=_flip(receipt.record_hash)),
            dataclasses.replace(receipt, log_root=_flip(receipt.log_root)),
            dataclasses.replace(receipt, log_index=1),
            dataclasses.replace(receipt, log_size=3),
            dataclasses.replace(receipt, proof=receipt.proof[1:]),
            dataclasses.replace(receipt, proof=(*receipt.proof, receipt.log_root)),
            dataclasses.replace(receipt, proof=(_flip(receipt.proof[0]), *receipt.proof[1:])),
        ):
            assert not forged.verify()
            assert ledger.status(forged) == "lost"
        for elsewhere in (
            dataclasses.replace(receipt, namespace="loans"),
            dataclasses.replace(receipt, namespace_id=_flip(receipt.namespace_id)),
            dataclasses.replace(receipt, round=9),
        ):
            assert ledger.status(elsewhere) == "lost"

    # ---- idempotence, conflicts, stale heads ----

    def test_the_same_round_again_gives_the_first_receipt(self, ledger: Ledger, name: str) -> None:
        first = make_round(ledger, name, 1)
        receipt = first.append_to(ledger, name)
        for round in (2, 3):
            make_round(ledger, name, round).append_to(ledger, name)
        head = ledger.head(name)
        assert first.append_to(ledger, name) == receipt
        # Built again on the head as it is now: other salts, time, versions, place.
        again = make_round(ledger, name, 1, time=5, versions={"tallystick": "9"})
        assert again.record.hash != first.record.hash
        assert again.record.previous != first.record.previous
        assert again.append_to(ledger, name) == receipt
        stale = ledger.append(
            name,
            again.record,
            again.leaves,
            schema=again.schema,
            expected_head=bytes.fromhex(first.record.previous),
        )
        assert stale == receipt
        assert ledger.head(name) == head
        assert ledger.get(name, 1).record == first.record
        assert list(ledger.get(name, 1).leaves) == first.leaves

    @pytest.mark.parametrize(
        "changes",
        [
            {"content": "other"},
            {"clients": 5},
            {"rule": "mean()"},
            {"f": 0},
            {"base_hash": "ab" * 32},
            {"model_hash": "ab" * 32},
            {"kind": "weights"},
            {"aggregate_hash": "ab" * 32},
            {"inputs": {"seed": "ab" * 32}},
        ],
        ids=lambda changes: next(iter(changes)),
    )
    def test_another_record_for_a_round_is_a_conflict(
        self, ledger: Ledger, name: str, changes: dict[str, Any]
    ) -> None:
        first = make_round(ledger, name, 1)
        first.append_to(ledger, name)
        head = ledger.head(name)
        other = make_round(ledger, name, 1, **changes)
        with pytest.raises(ConflictError) as error:
            other.append_to(ledger, name)
        for part in (name, "round 1", first.record.hash.hex(), other.record.hash.hex()):
            assert part in str(error.value)
        assert ledger.head(name) == head
        assert ledger.get(name, 1).record == first.record

    def test_a_conflicting_weight_in_a_leaf_is_a_conflict(self, ledger: Ledger, name: str) -> None:
        first = make_round(ledger, name, 1)
        first.append_to(ledger, name)
        other = make_round(ledger, name, 1)
        leaves = [dataclasses.replace(other.leaves[0], weight=2.5), *other.leaves[1:]]
        record = dataclasses.replace(other.record, clients_root=clients_tree(leaves).root.hex())
        with pytest.raises(ConflictError, match="round 1"):
            ledger.append(name, record, leaves, schema=other.schema)

    def test_a_stale_head_is_refused_and_a_rebuilt_record_lands(self, ledger: Ledger, name: str) -> None:
        late = make_round(ledger, name, 2)
        old = ledger.head(name).record_hash
        make_round(ledger, name, 1).append_to(ledger, name)
        head = ledger.head(name)
        for expected in (None, old):
            with pytest.raises(StaleHeadError, match="2 entries"):
                ledger.append(name, late.record, late.leaves, schema=late.schema, expected_head=expected)
        assert ledger.head(name) == head
        rebuilt = dataclasses.replace(late.record, previous=head.record_hash.hex(), log_index=head.size)
        ledger.append(name, rebuilt, late.leaves, schema=late.schema, expected_head=head.record_hash)
        assert ledger.rounds(name) == [1, 2]

    # ---- what does not fit together ----

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"clients_root": "ab" * 32}, "root"),
            ({"accepted": 2, "rejected": 2}, "counts"),
            ({"accepted": 5}, "counts"),
            ({"schema_hash": "ab" * 32}, "schema"),
            ({"namespace_id": "ab" * 32}, "namespace"),
            ({"previous": "ab" * 32}, "expected"),
            ({"log_index": 2}, "expected"),
            ({"log_index": 1_000_000}, "expected"),
        ],
    )
    def test_a_record_that_does_not_fit_is_refused(
        self, ledger: Ledger, name: str, changes: dict[str, Any], words: str
    ) -> None:
        head = ledger.head(name)
        with pytest.raises(ArgumentError, match=words):
            make_round(ledger, name, 1, **changes).append_to(ledger, name)
        assert ledger.head(name) == head
        assert ledger.rounds(name) == []

    @pytest.mark.parametrize("expected", ["ab" * 32, b"", bytes(31), 7])
    def test_an_expected_head_that_is_no_hash_is_refused(
        self, ledger: Ledger, name: str, expected: Any
    ) -> None:
        sample = make_round(ledger, name, 1)
        with pytest.raises(ArgumentError, match="expected_head"):
            ledger.append(name, sample.record, sample.leaves, schema=sample.schema, expected_head=expected)
        assert ledger.rounds(name) == []

    def test_leaves_that_do_not_fit_are_refused(self, ledger: Ledger, name: str) -> None:
        sample = make_round(ledger, name, 1)
        for leaves, words in (
            (sample.leaves[1:], "counts"),
            ([*sample.leaves, sample.leaves[0]], "twice"),
            ([dataclasses.replace(sample.leaves[0], round=2), *sample.leaves[1:]], "round 2"),
            (
                [dataclasses.replace(sample.leaves[0], namespace_id=bytes(32)), *sample.leaves[1:]],
                "namespace",
            ),
            ([dataclasses.replace(sample.leaves[0], salt=bytes(16)), *sample.leaves[1:]], "root"),
            ([], "counts"),
        ):
            with pytest.raises(ArgumentError, match=words):
                ledger.append(name, sample.record, leaves, schema=sample.schema)
        with pytest.raises(ArgumentError, match="schema"):
            ledger.append(name, sample.record, sample.leaves, schema=sample.schema + b" ")
        assert ledger.rounds(name) == []
        sample.append_to(ledger, name)  # the refusals left no trace
        assert ledger.rounds(name) == [1]

    # ---- verification ----

    def test_a_sound_log_verifies(self, ledger: Ledger, name: str) -> None:
        for round in range(1, 6):
            make_round(ledger, name, round).append_to(ledger, name)
        early = Head(2, ledger.log_tree(name).root_at(2), ledger.get(name, 1).record.hash)
        checks = ledger.verify(name)
        assert {c.name for c in checks if c.status == "not checked"} == {"trusted log root"}
        assert all(c.status == "ok" for c in checks if c.name != "trusted log root")
        assert all(c.status == "ok" for c in ledger.verify(name, trusted=early))

    def test_a_log_that_does_not_extend_a_trusted_head_fails(self, ledger: Ledger, name: str) -> None:
        make_round(ledger, name, 1).append_to(ledger, name)
        head = ledger.head(name)
        for wrong in (
            Head(head.size, _flip(head.root), head.record_hash),
            Head(head.size + 1, head.root, head.record_hash),
            Head(1, head.root, head.record_hash),
            Head(0, head.root, head.record_hash),
        ):
            failed = [c.name for c in ledger.verify(name, trusted=wrong) if c.status == "failed"]
            assert failed == ["trusted log root"]

    def test_every_client_can_prove_its_part(self, ledger: Ledger, name: str) -> None:
        for round in (1, 2, 3):
            sample = make_round(ledger, name, round)
            sample.append_to(ledger, name)
        head = ledger.head(name)
        for leaf in sample.leaves:
            proof = dumps(prove(ledger, name, 3, leaf.client))
            payload = (leaf.payload_root, leaf.size)
            checks = verify_proof(proof, payload=payload, log_root=head.root)
            assert all(c.status == "ok" for c in checks), checks
        with pytest.raises(LedgerError, match="client-0000"):
            prove(ledger, name, 3, "nobody")

    # ---- life ----

    def test_a_closed_ledger_says_so(self, ledger: Ledger, name: str) -> None:
        ledger.close()
        ledger.close()
        with pytest.raises(LedgerError, match="closed"):
            ledger.head(name)

    def test_a_second_connection_sees_what_the_first_appended(
        self, ledger: Ledger, name: str, tmp_path: Path
    ) -> None:
        if not self.keeps:
            pytest.skip("this ledger lives in one object")
        receipt = make_round(ledger, name, 1).append_to(ledger, name)
        for read_only in (False, True):
            with connect(self.url(tmp_path), read_only=read_only) as other:
                assert other.get(name, 1).receipt == receipt
                assert other.status(receipt) in {"included", "final"}

    def test_a_read_only_connection_writes_nothing(self, ledger: Ledger, name: str, tmp_path: Path) -> None:
        if not self.keeps:
            pytest.skip("this ledger lives in one object")
        with connect(self.url(tmp_path), read_only=True) as other:
            assert other.open_namespace(name) == ledger.genesis(name)
            with pytest.raises(LedgerError, match="read-only"):
                other.open_namespace("loans")
            with pytest.raises(LedgerError, match="read-only"):
                make_round(ledger, name, 1).append_to(other, name)
        assert ledger.namespaces() == [name]
        assert ledger.rounds(name) == []

    def test_threads_that_retry_on_a_stale_head_all_land(self, ledger: Ledger, name: str) -> None:
        failures: list[BaseException] = []

        def work(rounds: range) -> None:
            try:
                for round in rounds:
                    while True:
                        try:
                            make_round(ledger, name, round).append_to(ledger, name)
                            break
                        except StaleHeadError:
                            continue
            except TallystickError as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(range(start, 24, 3),)) for start in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert sorted(ledger.rounds(name)) == list(range(24))
        assert [c for c in ledger.verify(name) if c.status == "failed"] == []
