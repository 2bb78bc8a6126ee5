"""StoredLedger: all of Ledger over eight storage primitives, for backends that keep whole records."""

from __future__ import annotations

import hashlib
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar

from tallystick import canonical, merkle
from tallystick.errors import (
    ArgumentError,
    ConflictError,
    FormatError,
    LedgerCorruptError,
    LedgerError,
    StaleHeadError,
)
from tallystick.record import Check, ClientLeaf, Genesis, RoundRecord, identity, sorted_leaves

from .audit import Row, Space, audit
from .base import Entry, Head, Ledger, Receipt

__all__ = ["Row", "Space", "StoredLedger"]

T = TypeVar("T")


class StoredLedger(Ledger):
    """A Ledger that keeps whole records; a subclass says how to store and find rows.

    A tree of every log is kept in memory, grows with it, and is compared with the stored head whenever it is
    used.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._trees: dict[str, merkle.Tree] = {}

    # ---- storage, for subclasses; all but _transaction are called inside one ----

    @abstractmethod
    def _transaction(self, *, write: bool) -> AbstractContextManager[None]:
        """Lock, and one consistent view. What was written is durable at the end, or undone by an error."""

    @abstractmethod
    def _names(self) -> list[str]: ...

    @abstractmethod
    def _space(self, name: str) -> Space | None: ...

    @abstractmethod
    def _create(self, name: str, genesis: bytes, head: Head) -> None: ...

    @abstractmethod
    def _insert(self, space: Space, row: Row, head: Head) -> None:
        """Add this row and make head the namespace's head."""

    @abstractmethod
    def _row(self, space: Space, *, log_index: int | None = None, round: int | None = None) -> Row | None:
        """The row with this log index, or of this round."""

    @abstractmethod
    def _rows(self, space: Space) -> Iterator[Row]:
        """All rows in the order of the log, read one by one."""

    @abstractmethod
    def _hashes(self, space: Space, start: int) -> list[tuple[int, bytes]]:
        """(round, record hash) of the entries from log index start on, in the order of the log."""

    # ---- the ledger ----

    def open_namespace(self, name: str, genesis: Genesis | None = None) -> Genesis:
        canonical.check_id(name, "namespace")
        if genesis is not None and genesis.name != name:
            raise ArgumentError(f"namespace {name!r}: the genesis given is of namespace {genesis.name!r}")
        with self._transaction(write=False):
            space = self._space(name)
        if space is None:
            with self._transaction(write=True):
                space = self._space(name)  # another process may have been faster
                if space is None:
                    created = genesis or Genesis(name=name)
                    digest = created.namespace_id
                    self._create(name, created.encode(), Head(1, merkle.Tree([digest]).root, digest))
                    return created
        found = _decoded(Genesis.decode, space.genesis, f"genesis of namespace {name!r}")
        if genesis is not None and genesis != found:
            raise ConflictError(
                f"namespace {name!r} is there with another genesis: {found.namespace_id.hex()}, "
                f"not {genesis.namespace_id.hex()}"
            )
        return found

    def genesis(self, name: str) -> Genesis:
        with self._transaction(write=False):
            space = self._known(name)
        return _decoded(Genesis.decode, space.genesis, f"genesis of namespace {name!r}")

    def namespaces(self) -> list[str]:
        with self._transaction(write=False):
            return sorted(self._names())

    def head(self, name: str) -> Head:
        with self._transaction(write=False):
            return self._known(name).head

    def append(
        self,
        name: str,
        record: RoundRecord,
        leaves: Sequence[ClientLeaf],
        *,
        schema: bytes,
        expected_head: bytes | None = None,
    ) -> Receipt:
        ordered = sorted_leaves(leaves)
        encoded = [leaf.encode() for leaf in ordered]
        _check_content(record, ordered, encoded, schema)
        grown = False
        try:
            with self._transaction(write=True):
                space = self._known(name)
                namespace_id = hashlib.sha256(space.genesis).hexdigest()
                if record.namespace_id != namespace_id:
                    raise ArgumentError(
                        f"namespace {name!r} has id {namespace_id}, the record is for {record.namespace_id}"
                    )
                existing = self._row(space, round=record.round)
                tree = self._tree(name, space)
                if existing is not None:
                    return self._again(name, space, existing, tree, record, ordered)
                _check_head(name, record, space.head, expected_head)
                grown = True
                tree.append(record.hash)
                head = Head(tree.size, tree.root, record.hash)
                row = Row(
                    record.log_index, record.round, record.hash, head.root, record.encode(), encoded, schema
                )
                receipt = self._receipt(name, space, row, tree)
                self._insert(space, row, head)
        except BaseException:
            if grown:
                with self._lock:
                    self._trees.pop(name, None)  # it holds an entry that was not stored
            raise
        return receipt

    def get(self, name: str, round: int) -> Entry:
        with self._transaction(write=False):
            space = self._known(name)
            row = self._find(space, round)
            if row is None:
                raise LedgerError(
                    f"namespace {name!r} has no round {canonical.shown(round)}; "
                    f"it has {space.head.size - 1} rounds"
                )
            return self._entry(name, space, row)

    def iter(self, name: str, start: int = 0) -> Iterator[Entry]:
        index, size = max(start, 1), self.head(name).size
        while index < size:
            with self._transaction(write=False):
                space = self._known(name)
                row = self._row(space, log_index=index)
                if row is None:
                    raise LedgerCorruptError(f"namespace {name!r} has no log entry {index} of {size}")
                entry = self._entry(name, space, row)
            yield entry
            index += 1

    def rounds(self, name: str) -> list[int]:
        with self._transaction(write=False):
            return [round for round, _ in self._hashes(self._known(name), 1)]

    def status(self, receipt: Receipt) -> str:
        with self._transaction(write=False):
            space = self._space(canonical.check_id(receipt.namespace, "namespace"))
            if space is None or hashlib.sha256(space.genesis).digest() != receipt.namespace_id:
                return "lost"
            row = self._find(space, receipt.round)
            tree = self._tree(receipt.namespace, space)
            if row is None or not 0 < row.log_index < tree.size:
                return "lost"
            here = self._receipt(receipt.namespace, space, row, tree)
        return "final" if here == receipt and receipt.verify() else "lost"

    def verify(self, name: str, *, trusted: Head | None = None) -> list[Check]:
        with self._transaction(write=False):
            space = self._known(name)
            return [*self._storage_checks(), *audit(name, space, self._rows(space), trusted)]

    def log_tree(self, name: str) -> merkle.Tree:
        with self._transaction(write=False):
            space = self._known(name)
            self._tree(name, space)  # compared with the stored head
            return self._grown(merkle.Tree(), space)

    # ---- parts ----

    def _storage_checks(self) -> list[Check]:
        """What the storage can say about itself."""
        return []

    def _known(self, name: str) -> Space:
        space = self._space(canonical.check_id(name, "namespace"))
        if space is None:
            known = ", ".join(repr(n) for n in sorted(self._names())[:8]) or "none"
            raise LedgerError(f"no namespace {name!r} in this ledger; it has {known}")
        return space

    def _find(self, space: Space, round: int) -> Row | None:
        possible = isinstance(round, int) and 0 <= round <= canonical.MAX_INT
        return self._row(space, round=round) if possible else None

    def _tree(self, name: str, space: Space) -> merkle.Tree:
        """The tree of this log, brought up to the stored head and equal to it."""
        head = space.head
        tree = self._trees.get(name)
        if tree is None or tree.size > head.size:
            tree = merkle.Tree()
        tree = self._grown(tree, space)
        if (tree.size, tree.root) != (head.size, head.root):
            tree = self._grown(merkle.Tree(), space)  # the storage may have been replaced under a cached tree
        if (tree.size, tree.root) != (head.size, head.root):
            self._trees.pop(name, None)
            raise LedgerCorruptError(
                f"namespace {name!r}: its {tree.size} entries make the root {tree.root.hex()}, but the head "
                f"stored is {head.root.hex()} over {head.size}; verify() names what was altered"
            )
        self._trees[name] = tree
        return tree

    def _grown(self, tree: merkle.Tree, space: Space) -> merkle.Tree:
        if tree.size == 0:
            tree.append(hashlib.sha256(space.genesis).digest())
        if tree.size < space.head.size:
            tree.extend([digest for _, digest in self._hashes(space, tree.size)])
        return tree

    def _receipt(self, name: str, space: Space, row: Row, tree: merkle.Tree) -> Receipt:
        size = row.log_index + 1
        return Receipt(
            ledger=self.kind,
            namespace=name,
            namespace_id=hashlib.sha256(space.genesis).digest(),
            round=row.round,
            record_hash=row.record_hash,
            log_index=row.log_index,
            log_size=size,
            log_root=row.log_root,
            proof=tuple(tree.prove(row.log_index, size)),
        )

    def _entry(self, name: str, space: Space, row: Row) -> Entry:
        what = f"namespace {name!r}, round {row.round}"
        record = _decoded(RoundRecord.decode, row.record, what)
        if record.hash != row.record_hash or record.round != row.round or record.log_index != row.log_index:
            raise LedgerCorruptError(f"{what}: the record stored is not the one that was appended")
        leaves = tuple(_decoded(ClientLeaf.decode, leaf, what) for leaf in row.leaves)
        return Entry(
            row.log_index,
            record,
            leaves,
            row.schema,
            self._receipt(name, space, row, self._tree(name, space)),
        )

    def _again(
        self,
        name: str,
        space: Space,
        row: Row,
        tree: merkle.Tree,
        record: RoundRecord,
        leaves: Sequence[ClientLeaf],
    ) -> Receipt:
        """The first receipt, if what is appended is the round that is there."""
        stored = self._entry(name, space, row)
        if identity(record, leaves) != identity(stored.record, stored.leaves):
            raise ConflictError(
                f"namespace {name!r}, round {record.round}: a different record is there, "
                f"{row.record_hash.hex()}, not {record.hash.hex()}"
            )
        return self._receipt(name, space, row, tree)


def _decoded(decode: Callable[[bytes], T], data: bytes, what: str) -> T:
    try:
        return decode(data)
    except FormatError as error:
        raise LedgerCorruptError(f"{what}: {error}") from None


def _check_content(
    record: RoundRecord, leaves: Iterable[ClientLeaf], encoded: Sequence[bytes], schema: bytes
) -> None:
    """ArgumentError unless record, leaves and schema belong together."""
    what = f"round {record.round}"
    namespace_id, round, accepted = bytes.fromhex(record.namespace_id), record.round, 0
    for leaf in leaves:
        if leaf.namespace_id != namespace_id or leaf.round != round:
            raise ArgumentError(
                f"{what}: the leaf of client {leaf.client!r} is for round {leaf.round} of namespace "
                f"{leaf.namespace_id.hex()}"
            )
        accepted += leaf.verdict == "accepted"
    counts = (accepted, len(encoded) - accepted)
    if counts != (record.accepted, record.rejected):
        raise ArgumentError(
            f"{what}: the record counts {record.accepted} accepted and {record.rejected} rejected, "
            f"the leaves {counts[0]} and {counts[1]}"
        )
    root = merkle.Tree(encoded).root.hex()
    if root != record.clients_root:
        raise ArgumentError(f"{what}: the leaves make the root {root}, the record says {record.clients_root}")
    if not isinstance(schema, bytes) or hashlib.sha256(schema).hexdigest() != record.schema_hash:
        raise ArgumentError(
            f"{what}: the schema given is not the one whose hash the record has, {record.schema_hash}"
        )


def _check_head(name: str, record: RoundRecord, head: Head, expected: bytes | None) -> None:
    """StaleHeadError if the log has grown since the record was built, ArgumentError if it does not fit."""
    if expected is not None and (not isinstance(expected, bytes) or len(expected) != 32):
        raise ArgumentError(
            f"expected_head: a hash of 32 bytes or None expected, got {canonical.shown(expected)}"
        )
    grown = record.log_index < head.size if expected is None else expected != head.record_hash
    if grown:
        built_on = record.previous if expected is None else expected.hex()
        raise StaleHeadError(
            f"namespace {name!r} has {head.size} entries and the head {head.record_hash.hex()}; "
            f"round {record.round} was built as entry {record.log_index} after {built_on}"
        )
    if record.log_index != head.size or record.previous != head.record_hash.hex():
        raise ArgumentError(
            f"namespace {name!r}, round {record.round}: entry {head.size} after {head.record_hash.hex()} "
            f"expected, the record is entry {record.log_index} after {record.previous}"
        )
