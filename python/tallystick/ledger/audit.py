"""Re-checks a stored log from its bytes alone and names what does not hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from tallystick import merkle
from tallystick.errors import FormatError
from tallystick.record import Check, ClientLeaf, Genesis, RoundRecord

from .base import Head

__all__ = ["Row", "Space", "audit"]

SHOWN = 16  # failures of one kind that are listed one by one


class Space(NamedTuple):
    """A namespace as it is stored. key: whatever the storage finds its rows by."""

    key: int
    genesis: bytes
    head: Head


class Row(NamedTuple):
    """An entry of the log as it is stored. log_root: root of the log when this entry was its last."""

    log_index: int
    round: int
    record_hash: bytes
    log_root: bytes
    record: bytes
    leaves: Sequence[bytes]
    schema: bytes


class _Report:
    """Failures by check, in the order in which the checks are named."""

    def __init__(self, *names: str) -> None:
        self.failures: dict[str, list[str]] = {name: [] for name in names}

    def expect(self, name: str, ok: bool, detail: str) -> None:
        if not ok:
            self.failures[name].append(detail)

    def checks(self, summary: str) -> list[Check]:
        """One Check per failure, and one for each name without any."""
        found: list[Check] = []
        for name, failures in self.failures.items():
            found += [Check(name, "failed", detail) for detail in failures[:SHOWN]]
            if len(failures) > SHOWN:
                found.append(Check(name, "failed", f"and {len(failures) - SHOWN} more"))
            if not failures:
                found.append(Check(name, "ok", summary))
        return found


def audit(name: str, space: Space, rows: Iterable[Row], trusted: Head | None) -> list[Check]:
    """Everything that the stored bytes of one namespace can show; rows in the order of the log."""
    report = _Report("records", "chain", "leaves", "clients root", "counts", "schema", "receipts", "log root")
    genesis = _audit_genesis(name, space)
    namespace_id = hashlib.sha256(space.genesis).digest()
    tree, previous, rounds = merkle.Tree([namespace_id]), namespace_id, set()
    for row in rows:
        where = f"round {row.round}"
        digest = hashlib.sha256(row.record).digest()
        index = tree.append(digest)
        report.expect(
            "chain", row.log_index == index, f"{where}: it is stored as entry {row.log_index}, not {index}"
        )
        report.expect("chain", row.round not in rounds, f"{where}: it is there twice")
        rounds.add(row.round)
        report.expect(
            "receipts",
            merkle.verify(row.log_root, index + 1, index, digest, tree.prove(index)),
            f"{where}: the root its receipt was given for is not that of the log",
        )
        record = _audit_record(row, digest, where, report)
        if record is not None:
            report.expect(
                "chain",
                (record.previous, record.log_index, record.namespace_id)
                == (previous.hex(), index, namespace_id.hex()),
                f"{where}: entry {index} after {previous.hex()} expected, the record says {record.log_index} "
                f"after {record.previous} in namespace {record.namespace_id}",
            )
            _audit_content(record, row, where, report)
        previous = digest
    head = Head(tree.size, tree.root, previous)
    report.expect("log root", head == space.head, f"{_shown(head)} recomputed, {_shown(space.head)} stored")
    return [genesis, *report.checks(f"{len(rounds)} rounds"), _audit_trusted(tree, trusted)]


def _shown(head: Head) -> str:
    return f"{head.size} entries, root {head.root.hex()}, last {head.record_hash.hex()}"


def _audit_genesis(name: str, space: Space) -> Check:
    try:
        genesis = Genesis.decode(space.genesis)
    except FormatError as error:
        return Check("genesis", "failed", str(error))
    if genesis.name != name:
        return Check("genesis", "failed", f"it is of namespace {genesis.name!r}, stored under {name!r}")
    return Check("genesis", "ok", f"namespace id {genesis.namespace_id.hex()}")


def _audit_record(row: Row, digest: bytes, where: str, report: _Report) -> RoundRecord | None:
    report.expect(
        "records",
        digest == row.record_hash,
        f"{where}: its bytes hash to {digest.hex()}, not {row.record_hash.hex()}",
    )
    try:
        record = RoundRecord.decode(row.record)
    except FormatError as error:
        report.expect(
            "records", False, f"{where}: {error} (so its leaves, counts and schema were not checked)"
        )
        return None
    report.expect("records", record.round == row.round, f"{where}: the record is of round {record.round}")
    return record


def _audit_content(record: RoundRecord, row: Row, where: str, report: _Report) -> None:
    """Leaves, clients root, counts and schema of one round."""
    verdicts, last = {"accepted": 0, "rejected": 0}, ""
    for position, data in enumerate(row.leaves):
        try:
            leaf = ClientLeaf.decode(data)
        except FormatError as error:
            report.expect("leaves", False, f"{where}, leaf {position}: {error}")
            continue
        whose = f"{where}, client {leaf.client!r}"
        fits = (leaf.namespace_id.hex(), leaf.round) == (record.namespace_id, record.round)
        report.expect(
            "leaves", fits, f"{whose}: the leaf is of round {leaf.round}, namespace {leaf.namespace_id.hex()}"
        )
        report.expect("leaves", last < leaf.client, f"{whose}: leaves are not in the order of client ids")
        last = leaf.client
        verdicts[leaf.verdict] += 1
    root = merkle.Tree(row.leaves).root.hex()
    report.expect(
        "clients root",
        root == record.clients_root,
        f"{where}: the leaves make {root}, the record says {record.clients_root}",
    )
    counts = (verdicts["accepted"], verdicts["rejected"])
    report.expect(
        "counts",
        counts == (record.accepted, record.rejected),
        f"{where}: the leaves count {counts[0]} accepted and {counts[1]} rejected, "
        f"the record {record.accepted} and {record.rejected}",
    )
    schema = hashlib.sha256(row.schema).hexdigest()
    report.expect(
        "schema",
        schema == record.schema_hash,
        f"{where}: the schema hashes to {schema}, the record says {record.schema_hash}",
    )


def _audit_trusted(tree: merkle.Tree, trusted: Head | None) -> Check:
    """Whether the log still begins with a head that was obtained elsewhere."""
    if trusted is None:
        detail = f"compare it with one kept elsewhere: log of {tree.size} entries, root {tree.root.hex()}"
        return Check("trusted log root", "not checked", detail)
    if not 1 <= trusted.size <= tree.size:
        return Check(
            "trusted log root", "failed", f"{trusted.size} entries are trusted, the log has {tree.size}"
        )
    root = tree.root_at(trusted.size)
    if root != trusted.root:
        detail = f"over {trusted.size} entries {trusted.root.hex()} is trusted, the log has {root.hex()}"
        return Check("trusted log root", "failed", detail)
    return Check("trusted log root", "ok", f"the log begins with the {trusted.size} entries of {root.hex()}")
