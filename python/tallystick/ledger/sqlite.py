"""sqlite:///rounds.db: the embedded ledger; one file, durable when append() returns.

Write-ahead log with synchronous=FULL, one transaction per record. Several processes may append to one file:
the second waits for the first, then finds a new head (StaleHeadError). A read-only connection never creates
or changes a file.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar
from urllib.parse import quote, unquote_to_bytes

from tallystick.errors import ArgumentError, LedgerCorruptError, LedgerError
from tallystick.record import Check

from .base import Head
from .stored import Row, Space, StoredLedger

__all__ = ["SqliteLedger"]

APPLICATION_ID = 0x74616C79  # "taly", in the file's header
VERSION = 1
BUSY_S = 60.0  # how long a connection waits for another one's transaction; disks can be slow
_LENGTH = struct.Struct("<I")

_TABLES = """
CREATE TABLE namespace (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    genesis BLOB NOT NULL,
    log_size INTEGER NOT NULL,
    log_root BLOB NOT NULL,
    head BLOB NOT NULL
);
CREATE TABLE schema (
    hash BLOB PRIMARY KEY,
    json BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE entry (
    namespace INTEGER NOT NULL REFERENCES namespace (id),
    log_index INTEGER NOT NULL,
    round INTEGER NOT NULL,
    record_hash BLOB NOT NULL,
    log_root BLOB NOT NULL,
    record BLOB NOT NULL,
    leaves BLOB NOT NULL,
    schema BLOB NOT NULL REFERENCES schema (hash),
    UNIQUE (namespace, log_index),
    UNIQUE (namespace, round)
);
"""
_ROW = """
SELECT e.log_index, e.round, e.record_hash, e.log_root, e.record, e.leaves, s.json
FROM entry AS e LEFT JOIN schema AS s ON s.hash = e.schema WHERE e.namespace = ?"""


class SqliteLedger(StoredLedger):
    """A ledger in one SQLite file; see the module's docstring."""

    kind: ClassVar[str] = "sqlite"

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False) -> None:
        super().__init__()
        self._path = os.path.abspath(path)
        self._read_only = read_only
        self._pid = os.getpid()
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        self._frozen: tuple[int, ...] | None = (
            None  # what the file looked like when it was opened as immutable
        )
        self._db: sqlite3.Connection | None = None
        with self._errors():
            try:
                self._connect()
            except BaseException:
                self.close()
                raise

    @classmethod
    def from_url(cls, url: str, *, read_only: bool = False) -> SqliteLedger:
        """sqlite:///relative.db or sqlite:////absolute/path.db; characters may be percent-encoded."""
        path = url.split("://", 1)[1]
        if not path.startswith("/") or len(path) < 2:
            raise ArgumentError("ledger URL: sqlite:///relative.db or sqlite:////absolute/path.db expected")
        if "?" in path or "#" in path:
            raise ArgumentError(
                "ledger URL: sqlite takes no parameters; in a file name write ? as %3F, # as %23"
            )
        try:
            name = unquote_to_bytes(path[1:])
        except UnicodeEncodeError:
            raise ArgumentError("ledger URL: a lone surrogate, which UTF-8 cannot carry") from None
        if b"\0" in name:
            raise ArgumentError("ledger URL: a file name has no NUL in it")
        return cls(os.fsdecode(name), read_only=read_only)

    def close(self) -> None:
        with self._lock:
            db, self._db = self._db, None
            if db is not None and self._pid == os.getpid():
                db.close()
            if self._copy is not None:
                self._copy.cleanup()
                self._copy = None

    # ---- opening ----

    def _connect(self) -> None:
        folder, exists = os.path.dirname(self._path), os.path.lexists(self._path)
        if not os.path.isdir(folder):
            raise LedgerError(f"ledger {self._path}: the folder {folder} does not exist")
        if os.path.isdir(self._path):
            raise LedgerError(f"ledger {self._path}: it is a folder, a file expected")
        if self._read_only and not exists:
            raise LedgerError(f"ledger {self._path}: no such file")
        if self._read_only:
            self._db = self._open_to_read()
            self._recognise(self._db)
        else:
            self._db = self._open("mode=rwc")
            if not self._recognise(self._db, may_be_new=True):
                self._create_tables(self._db)
            self._use_wal(self._db)
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")

    def _open(self, options: str, path: str | None = None) -> sqlite3.Connection:
        db = sqlite3.connect(
            f"file:{quote(os.fsencode(path or self._path))}?{options}",
            uri=True,
            timeout=BUSY_S,
            isolation_level=None,
            check_same_thread=False,
        )
        db.text_factory = _text
        return db

    def _open_to_read(self) -> sqlite3.Connection:
        """A connection that creates no file, whatever state the last writer left.

        Opening a database in WAL mode creates -wal and -shm files. Without a -wal file all is in the main
        file, which SQLite reads alone when told that it is immutable; _transaction() watches that this stays
        so. With both files a writer is at work, or was killed: they are used as they are. A -wal file alone
        comes from a copied folder; only with a -shm file can it be read, so all goes to a temporary folder.
        """
        wal, shm = self._path + "-wal", self._path + "-shm"
        if not os.path.exists(wal) or (os.path.getsize(wal) == 0 and not os.path.exists(shm)):
            self._frozen = self._look()
            return self._open("mode=ro&immutable=1")
        self._frozen = None
        if os.path.exists(shm):
            return self._open("mode=ro&readonly_shm=1")
        self._copy = tempfile.TemporaryDirectory(prefix="tallystick-")
        copy = os.path.join(self._copy.name, "ledger.db")
        shutil.copyfile(self._path, copy)
        shutil.copyfile(wal, copy + "-wal")
        return self._open("mode=rw", copy)

    def _look(self) -> tuple[int, ...]:
        """What changes when somebody writes to the file."""
        main = os.stat(self._path)
        try:
            wal = os.stat(self._path + "-wal").st_size
        except FileNotFoundError:
            wal = 0
        return (main.st_ino, main.st_size, main.st_mtime_ns, wal)

    def _recognise(self, db: sqlite3.Connection, *, may_be_new: bool = False) -> bool:
        """True for a ledger of ours, False for an empty file where one may be made; an error for all else."""
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application == 0 and version == 0 and tables == 0 and may_be_new:
            return False
        if application != APPLICATION_ID:
            raise LedgerCorruptError(f"ledger {self._path}: an SQLite file, but not a tallystick ledger")
        if version > VERSION:
            raise LedgerError(
                f"ledger {self._path}: written by a newer tallystick (format {version}, "
                f"this one knows {VERSION}); upgrade tallystick"
            )
        if version != VERSION or not _has_tables(db):
            raise LedgerCorruptError(f"ledger {self._path}: its tables are not those of a tallystick ledger")
        return True

    def _create_tables(self, db: sqlite3.Connection) -> None:
        db.execute("BEGIN IMMEDIATE")
        if not self._recognise(db, may_be_new=True):  # another process may have been faster
            for statement in _TABLES.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {VERSION}")
        db.execute("COMMIT")

    def _use_wal(self, db: sqlite3.Connection) -> None:
        """Switch to write-ahead logging. SQLite does not wait here for others that do the same; we do."""
        deadline = time.monotonic() + BUSY_S
        while True:
            try:
                (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
                break
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        if mode != "wal":
            raise LedgerError(
                f"ledger {self._path}: this file system cannot hold an SQLite file with a write-ahead log; "
                "use a local disk"
            )

    # ---- transactions and errors ----

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[None]:
        with self._lock, self._errors():
            if self._pid != os.getpid():
                raise LedgerError(f"ledger {self._path}: connect again after a fork")
            if self._db is None:
                raise LedgerError(f"ledger {self._path}: it is closed")
            if write and self._read_only:
                raise LedgerError(f"ledger {self._path}: this connection is read-only")
            if self._frozen is not None and self._look() != self._frozen:
                self._db.close()
                self._db = self._open_to_read()
            db = self._db
            db.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")
            if self._frozen is not None and self._look() != self._frozen:
                raise LedgerError(f"ledger {self._path}: it was written while it was read; try again")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Errors of SQLite and of the file system as errors of ours, which say what to do."""
        try:
            yield
        except sqlite3.Error as error:
            raise _translated(self._path, str(error)) from error
        except OSError as error:
            raise LedgerError(f"ledger {self._path}: {error.strerror or error}") from error

    def _connection(self) -> sqlite3.Connection:
        assert self._db is not None  # _transaction() made sure
        return self._db

    # ---- storage ----

    def _names(self) -> list[str]:
        return [name for (name,) in self._connection().execute("SELECT name FROM namespace")]

    def _space(self, name: str) -> Space | None:
        found = self._connection().execute(
            "SELECT id, genesis, log_size, log_root, head FROM namespace WHERE name = ?", (name,)
        )
        for key, genesis, size, root, head in found:
            return Space(key, _blob(genesis), Head(_count(size), _blob(root), _blob(head)))
        return None

    def _create(self, name: str, genesis: bytes, head: Head) -> None:
        self._connection().execute(
            "INSERT INTO namespace (name, genesis, log_size, log_root, head) VALUES (?, ?, ?, ?, ?)",
            (name, genesis, head.size, head.root, head.record_hash),
        )

    def _insert(self, space: Space, row: Row, head: Head) -> None:
        db, schema = self._connection(), hashlib.sha256(row.schema).digest()
        db.execute("INSERT OR IGNORE INTO schema (hash, json) VALUES (?, ?)", (schema, row.schema))
        db.execute(
            "INSERT INTO entry (namespace, log_index, round, record_hash, log_root, record, leaves, schema) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                space.key,
                row.log_index,
                row.round,
                row.record_hash,
                row.log_root,
                row.record,
                _packed(row.leaves),
                schema,
            ),
        )
        db.execute(
            "UPDATE namespace SET log_size = ?, log_root = ?, head = ? WHERE id = ?",
            (head.size, head.root, head.record_hash, space.key),
        )

    def _row(self, space: Space, *, log_index: int | None = None, round: int | None = None) -> Row | None:
        column, value = ("round", round) if log_index is None else ("log_index", log_index)
        found = self._connection().execute(f"{_ROW} AND e.{column} = ?", (space.key, value)).fetchone()
        return None if found is None else _as_row(found)

    def _rows(self, space: Space) -> Iterator[Row]:
        return map(_as_row, self._connection().execute(f"{_ROW} ORDER BY e.log_index", (space.key,)))

    def _hashes(self, space: Space, start: int) -> list[tuple[int, bytes]]:
        found = self._connection().execute(
            "SELECT round, record_hash FROM entry WHERE namespace = ? AND log_index >= ? ORDER BY log_index",
            (space.key, start),
        )
        return [(_count(round), _blob(digest)) for round, digest in found]

    def verify(self, name: str, *, trusted: Head | None = None) -> list[Check]:
        try:
            return super().verify(name, trusted=trusted)
        except LedgerCorruptError as error:  # pages that SQLite cannot read: no more than that can be said
            return [Check("storage", "failed", str(error))]

    def _storage_checks(self) -> list[Check]:
        found = [str(line) for (line,) in self._connection().execute("PRAGMA integrity_check(8)")]
        if found == ["ok"]:
            return [Check("storage", "ok", self._path)]
        return [Check("storage", "failed", f"{self._path}: {'; '.join(found)}")]


def _has_tables(db: sqlite3.Connection) -> bool:
    names = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return {"namespace", "schema", "entry"} <= names


_MEANINGS: tuple[tuple[str, type[LedgerError], str], ...] = (
    ("full", LedgerError, "the disk is full; nothing was written, append again when there is space"),
    (
        "locked",
        LedgerError,
        f"another process kept it locked for {BUSY_S:.0f} s; nothing was written, try again",
    ),
    ("readonly", LedgerError, "the file or its folder is not writable"),
    ("unable to open", LedgerError, "the file cannot be opened; is it readable, and its folder writable?"),
    ("not a database", LedgerCorruptError, "it is not an SQLite file"),
    ("malformed", LedgerCorruptError, "the SQLite file is damaged"),
    ("no such", LedgerCorruptError, "its tables are not those of a tallystick ledger"),
)


def _translated(path: str, message: str) -> LedgerError:
    """What SQLite's message (a constant of its C code) means to the user of a ledger."""
    for words, kind, meaning in _MEANINGS:
        if words in message:
            return kind(f"ledger {path}: {meaning} (SQLite: {message})")
    return LedgerError(f"ledger {path}: SQLite: {message}")


# ---- values: a column of an altered file may hold anything ----


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _blob(value: Any) -> bytes:
    return value if isinstance(value, bytes) else b""


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


def _as_row(values: tuple[Any, ...]) -> Row:
    log_index, round, record_hash, log_root, record, leaves, schema = values
    return Row(
        _count(log_index),
        _count(round),
        _blob(record_hash),
        _blob(log_root),
        _blob(record),
        _unpacked(_blob(leaves)),
        _blob(schema),
    )


def _packed(leaves: Sequence[bytes]) -> bytes:
    """Leaves in one blob: a u32 length before each, little-endian."""
    return b"".join([part for leaf in leaves for part in (_LENGTH.pack(len(leaf)), leaf)])


def _unpacked(data: bytes) -> list[bytes]:
    """The leaves in a blob; what cannot be cut as it should is one last leaf, which no decoder accepts."""
    leaves, at = [], 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        if end > len(data) or at + 4 > len(data):
            leaves.append(data[at:])
            break
        leaves.append(data[at + 4 : end])
        at = end
    return leaves
