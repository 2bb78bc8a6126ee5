"""What every ledger is: the abstract class, and the small frozen things it takes and gives."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Any, ClassVar

from tallystick import canonical, merkle
from tallystick.errors import ArgumentError, FormatError, LedgerCorruptError, LedgerError
from tallystick.record import Check, ClientLeaf, ClientProof, Genesis, RoundRecord

__all__ = ["Check", "Entry", "Head", "Ledger", "Receipt", "prove"]


@dataclass(frozen=True)
class Head:
    """End of a log: number of entries (genesis included), RFC 9162 root, hash of the last entry."""

    size: int
    root: bytes
    record_hash: bytes


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What append() gives back: the record was entry log_index of a log of log_size entries with root
    log_root.

    It can be kept as JSON and checked later without the ledger (verify()) or against it (Ledger.status()).
    """

    FORMAT: ClassVar[str] = "tallystick-receipt-1"

    ledger: str
    namespace: str
    namespace_id: bytes
    round: int
    record_hash: bytes
    log_index: int
    log_size: int
    log_root: bytes
    proof: tuple[bytes, ...]

    def verify(self) -> bool:
        """Whether the inclusion proof leads from the record's hash to the root; no ledger is needed."""
        return merkle.verify(self.log_root, self.log_size, self.log_index, self.record_hash, list(self.proof))

    def to_json(self) -> bytes:
        """Canonical JSON."""
        return canonical.dumps(
            {
                "format": self.FORMAT,
                "ledger": self.ledger,
                "log_index": self.log_index,
                "log_root": self.log_root.hex(),
                "log_size": self.log_size,
                "namespace": self.namespace,
                "namespace_id": self.namespace_id.hex(),
                "proof": [h.hex() for h in self.proof],
                "record_hash": self.record_hash.hex(),
                "round": self.round,
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> Receipt:
        """Strict inverse of to_json(); FormatError for anything else."""
        obj = canonical.loads(data)
        if not isinstance(obj, dict) or set(obj) != {"format", *(f.name for f in fields(cls))}:
            raise FormatError("receipt: a JSON object with the fields of a receipt expected")
        if obj.pop("format") != cls.FORMAT:
            raise FormatError(f"receipt: format {cls.FORMAT!r} expected")
        for name in ("namespace_id", "record_hash", "log_root"):
            obj[name] = _unhex(obj[name], name)
        for name in ("round", "log_index", "log_size"):
            if not isinstance(obj[name], int) or obj[name] < 0:
                raise FormatError(f"receipt {name}: a non-negative integer expected")
        if not isinstance(obj["proof"], list) or len(obj["proof"]) > 64:
            raise FormatError("receipt proof: a list of at most 64 hashes expected")
        obj["proof"] = tuple(_unhex(h, "proof") for h in obj["proof"])
        try:
            canonical.check_id(obj["namespace"], "receipt namespace")
            canonical.check_id(obj["ledger"], "receipt ledger")
        except ArgumentError as error:
            raise FormatError(str(error)) from None
        return cls(**obj)


def _unhex(text: object, what: str) -> bytes:
    if not isinstance(text, str) or not re.fullmatch("[0-9a-f]{64}", text):
        raise FormatError(f"receipt {what}: 64 lower-case hex digits expected, got {canonical.shown(text)}")
    return bytes.fromhex(text)


@dataclass(frozen=True)
class Entry:
    """One round as it is in the log: index, record, leaves by client id, JSON of the schema, receipt."""

    index: int
    record: RoundRecord
    leaves: tuple[ClientLeaf, ...]
    schema: bytes
    receipt: Receipt


class Ledger(ABC):
    """Append-only logs of round records, one per namespace. A context manager; close() may be called twice.

    Every method may raise LedgerError: unknown namespace, closed ledger, storage that fails. Methods may be
    called from several threads.
    """

    kind: ClassVar[str]

    @classmethod
    @abstractmethod
    def from_url(cls, url: str, *, read_only: bool = False) -> Ledger:
        """The ledger at this URL, whose scheme is the name of the entry point; see ledger.connect()."""

    @abstractmethod
    def open_namespace(self, name: str, genesis: Genesis | None = None) -> Genesis:
        """The genesis of this namespace, which is created if it is missing.

        genesis: what to create it with (default Genesis(name)). ConflictError if it exists with another one.
        """

    @abstractmethod
    def genesis(self, name: str) -> Genesis:
        """The genesis of this namespace; LedgerError if there is none."""

    @abstractmethod
    def namespaces(self) -> list[str]:
        """The names of all namespaces, sorted."""

    @abstractmethod
    def head(self, name: str) -> Head:
        """The end of the log. A new namespace has one entry, its genesis."""

    @abstractmethod
    def append(
        self,
        name: str,
        record: RoundRecord,
        leaves: Sequence[ClientLeaf],
        *,
        schema: bytes,
        expected_head: bytes | None = None,
    ) -> Receipt:
        """Add a round; when this returns, the record is as durable as this ledger makes it. All or nothing.

        schema: the JSON whose SHA-256 is record.schema_hash. expected_head: record_hash of the head that
        record was built on.

        The same round again (record.identity() is equal) changes nothing and gives the receipt of the first
        time, wherever the head is now. Another content for a round that is there: ConflictError. A record
        that was built on an older head: StaleHeadError, rebuild it on head(). A record that does not fit its
        leaves, schema or namespace: ArgumentError.
        """

    @abstractmethod
    def get(self, name: str, round: int) -> Entry:
        """A round; LedgerError if it is not there."""

    @abstractmethod
    def iter(self, name: str, start: int = 0) -> Iterator[Entry]:
        """The rounds in the order of the log, from log index start on."""

    @abstractmethod
    def rounds(self, name: str) -> list[int]:
        """The numbers of all rounds, in the order of the log."""

    @abstractmethod
    def status(self, receipt: Receipt) -> str:
        """ "pending", "included" (may still be undone), "final", or "lost": not what this ledger holds."""

    @abstractmethod
    def verify(self, name: str, *, trusted: Head | None = None) -> list[Check]:
        """Check all that the ledger alone can show about a namespace; what is wrong is a failed Check, not an
        exception.

        trusted: a head that was written down or obtained elsewhere; the log must still begin with it. Without
        it a log that was rewritten from its genesis on cannot be told from the true one, and a Check says
        that this was not checked.
        """

    @abstractmethod
    def log_tree(self, name: str) -> merkle.Tree:
        """The tree over the hashes of all entries, a copy of the caller's own."""

    @abstractmethod
    def close(self) -> None:
        """Release what the ledger holds. What was appended stays."""

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def prove(ledger: Ledger, namespace: str, round: int, client: str) -> dict[str, Any]:
    """The proof that this client's update is in the round, its record and the log as it is now: the JSON
    object of a proof file.

    canonical.dumps() writes it, record.verify_proof() checks it. LedgerError if the round has no such client.
    """
    entry = ledger.get(namespace, round)
    tree = ledger.log_tree(namespace)
    index = next((i for i, leaf in enumerate(entry.leaves) if leaf.client == client), None)
    if index is None:
        shown = ", ".join(repr(leaf.client) for leaf in entry.leaves[:8]) + (
            ", ..." if len(entry.leaves) > 8 else ""
        )
        raise LedgerError(f"namespace {namespace!r}, round {round}: no client {client!r}; it has {shown}")
    clients = merkle.Tree([leaf.encode() for leaf in entry.leaves])
    if clients.root.hex() != entry.record.clients_root:
        raise LedgerCorruptError(
            f"namespace {namespace!r}, round {round}: its leaves do not make its clients root"
        )
    return ClientProof(
        genesis=ledger.genesis(namespace).encode(),
        record=entry.record.encode(),
        leaf=entry.leaves[index].encode(),
        leaf_index=index,
        leaf_proof=tuple(clients.prove(index)),
        log_size=tree.size,
        log_root=tree.root,
        record_proof=tuple(tree.prove(entry.index)),
        genesis_proof=tuple(tree.prove(0)),
    ).to_dict()
