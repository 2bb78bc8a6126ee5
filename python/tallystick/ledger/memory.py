"""memory://: a ledger that lives as long as its object, for tests and for rounds that nobody will check."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

from tallystick.errors import ArgumentError, LedgerError

from .base import Head
from .stored import Row, Space, StoredLedger

__all__ = ["MemoryLedger"]


@dataclass
class _Namespace:
    key: int
    genesis: bytes
    head: Head
    rows: list[Row] = field(default_factory=list)
    index: dict[int, int] = field(default_factory=dict)  # round: place in rows


class MemoryLedger(StoredLedger):
    """Namespaces in a dictionary; every connect("memory://") starts an empty one."""

    kind: ClassVar[str] = "memory"

    def __init__(self) -> None:
        super().__init__()
        self._all: dict[str, _Namespace] = {}
        self._by_key: list[_Namespace] = []
        self._open = True

    @classmethod
    def from_url(cls, url: str, *, read_only: bool = False) -> MemoryLedger:
        if url.lower() != "memory://":
            raise ArgumentError("ledger URL: memory:// takes nothing behind it")
        if read_only:
            raise LedgerError("ledger memory://: it starts empty, so there is nothing to read")
        return cls()

    def close(self) -> None:
        self._open = False

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[None]:
        with self._lock:
            if not self._open:
                raise LedgerError("ledger memory://: it is closed")
            yield  # _create and _insert are the last steps of what they belong to: nothing to undo

    def _names(self) -> list[str]:
        return list(self._all)

    def _space(self, name: str) -> Space | None:
        found = self._all.get(name)
        return None if found is None else Space(found.key, found.genesis, found.head)

    def _create(self, name: str, genesis: bytes, head: Head) -> None:
        self._all[name] = _Namespace(len(self._by_key), genesis, head)
        self._by_key.append(self._all[name])

    def _insert(self, space: Space, row: Row, head: Head) -> None:
        namespace = self._by_key[space.key]
        namespace.index[row.round] = len(namespace.rows)
        namespace.rows.append(row)
        namespace.head = head

    def _row(self, space: Space, *, log_index: int | None = None, round: int | None = None) -> Row | None:
        namespace = self._by_key[space.key]
        at = (
            log_index - 1
            if log_index is not None
            else namespace.index.get(round if round is not None else -1, -1)
        )
        return namespace.rows[at] if 0 <= at < len(namespace.rows) else None

    def _rows(self, space: Space) -> Iterator[Row]:
        return iter(self._by_key[space.key].rows)

    def _hashes(self, space: Space, start: int) -> list[tuple[int, bytes]]:
        return [(row.round, row.record_hash) for row in self._by_key[space.key].rows[max(start, 1) - 1 :]]
