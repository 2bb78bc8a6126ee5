"""Ledgers: the conformance class on every backend, connect(), and what SQLite alone must do."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from tallystick import canonical
from tallystick.errors import (
    ArgumentError,
    FormatError,
    LedgerCorruptError,
    LedgerError,
    MissingExtraError,
)
from tallystick.ledger import Receipt, connect, redact
from tallystick.ledger.conformance import LedgerConformance, make_round
from tallystick.ledger.memory import MemoryLedger
from tallystick.ledger.sqlite import SqliteLedger


class TestMemory(LedgerConformance):
    def url(self, tmp_path):
        return "memory://"


class TestSqlite(LedgerConformance):
    keeps = True

    def url(self, tmp_path):
        return f"sqlite:///{tmp_path}/rounds.db"


# ---- connect ----


def test_every_memory_ledger_is_its_own():
    with connect("memory://") as one, connect("MEMORY://") as two:
        one.open_namespace("cards")
        assert two.namespaces() == []


@pytest.mark.parametrize(
    "url", ["rounds.db", "", "sqlite:/rounds.db", "://x", "1sqlite:///x", 7, None, Path("rounds.db")]
)
def test_what_is_no_url_is_refused_with_an_example(url):
    with pytest.raises(ArgumentError, match=r"sqlite:///rounds\.db"):
        connect(url)


def test_an_unknown_scheme_is_refused_with_the_known_ones():
    with pytest.raises(ArgumentError, match=r"mysql.*known are evm\+http, .*fabric, memory, sqlite"):
        connect("mysql://localhost/rounds")


@pytest.mark.parametrize(
    ("url", "extra"),
    [
        ("evm+http://127.0.0.1:8545?contract=0x00", "evm"),
        ("evm+https://node.example/?contract=0x00", "evm"),
        ("fabric://peer:7051/channel/chaincode", "fabric"),
    ],
)
def test_a_scheme_whose_extra_is_missing_says_what_to_install(url, extra):
    with pytest.raises(MissingExtraError, match=rf'pip install "tallystick\[{extra}\]"'):
        connect(url)


@pytest.mark.parametrize(
    "url",
    [
        "evm+https://user:hunter2@node.example/?contract=0x00",
        "evm+https://hunter2@node.example/?contract=0x00",
        "evm+https://node.example/?contract=0x00&api_key=hunter2",
        "evm+https://node.example/?PASSWORD=hunter2&contract=0x00",
        "mysql://user:hunter2@host/x",
        "mysql://user:a/hunter2@host/x",
        "evm+http://user:hunter2\n@node",
        "user:hunter2@host",
        "user:hunter2 //x:hunter2@y",
    ],
)
def test_messages_never_repeat_secrets(url):
    with pytest.raises((ArgumentError, MissingExtraError)) as error:
        connect(url)
    assert "hunter2" not in str(error.value)
    assert "hunter2" not in redact(url)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite://host",
        "sqlite:///a?mode=ro",
        "sqlite:///a#b",
        "sqlite:///a%00b",
        "sqlite:///\ud800",
    ],
)
def test_an_sqlite_url_that_means_nothing_is_refused(url):
    with pytest.raises(ArgumentError, match="ledger URL"):
        connect(url)


@pytest.mark.parametrize("url", ["memory://x", "memory:///", "memory://?a=b"])
def test_a_memory_url_takes_nothing_more(url):
    with pytest.raises(ArgumentError, match="nothing behind it"):
        connect(url)


def test_an_empty_memory_ledger_is_not_read():
    with pytest.raises(LedgerError, match="nothing to read"):
        connect("memory://", read_only=True)


def test_relative_and_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with connect("sqlite:///rounds.db") as relative, connect(f"sqlite:///{tmp_path}/rounds.db") as absolute:
        relative.open_namespace("cards")
        assert absolute.namespaces() == ["cards"]
    with connect("sqlite:///odd%3F%23%25%20name.db") as odd:
        odd.open_namespace("cards")
    assert (tmp_path / "odd?#% name.db").is_file()
    with connect("sqlite:///not%FFutf8.db") as odd:
        odd.open_namespace("cards")
    assert b"not\xffutf8.db" in os.listdir(os.fsencode(tmp_path))


class FakePoint:
    def __init__(self, name, load):
        self.name, self.value, self.load = name, f"package:{name}", load


@pytest.fixture
def plugins(monkeypatch):
    points = []
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points)
    return points


def test_a_third_party_scheme_is_found_by_its_entry_point(plugins):
    class Mine(MemoryLedger):
        @classmethod
        def from_url(cls, url, *, read_only=False):
            return cls()

    plugins.append(FakePoint("mine", lambda: Mine))
    with connect("mine://anything") as ledger:
        assert isinstance(ledger, Mine)
    with pytest.raises(ArgumentError, match=r"known are .*mine"):
        connect("yours://anything")


def test_a_plugin_that_cannot_be_imported_says_so(plugins):
    def fail():
        raise ImportError("No module named 'web3'")

    plugins += [FakePoint("evm+http", fail), FakePoint("mine", fail)]
    with pytest.raises(MissingExtraError, match=r"web3.*tallystick\[evm\]"):
        connect("evm+http://localhost")
    with pytest.raises(MissingExtraError, match=r"package:mine.*web3"):
        connect("mine://x")


def test_a_plugin_that_is_no_ledger_says_so(plugins):
    plugins.append(FakePoint("mine", lambda: dict))
    with pytest.raises(LedgerError, match="not a class derived"):
        connect("mine://x")


def test_a_plugin_does_not_replace_a_ledger_that_is_built_in(plugins):
    plugins.append(FakePoint("memory", lambda: dict))
    with connect("memory://") as ledger:
        assert isinstance(ledger, MemoryLedger)


# ---- receipts as files ----


@pytest.fixture
def receipt():
    with connect("memory://") as ledger:
        ledger.open_namespace("cards")
        make_round(ledger, "cards", 1).append_to(ledger, "cards")
        return make_round(ledger, "cards", 2).append_to(ledger, "cards")


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "tallystick-receipt-2"},
        {"log_root": "AB" * 32},
        {"log_root": "ab" * 31},
        {"log_root": 7},
        {"log_index": "1"},
        {"log_index": -1},
        {"proof": "ab"},
        {"proof": ["ab"]},
        {"proof": ["ab" * 32] * 65},
        {"namespace": ""},
        {"ledger": 7},
        {"more": 1},
    ],
    ids=str,
)
def test_a_receipt_file_that_is_not_one_is_refused(receipt, changes):
    body = {**canonical.loads(receipt.to_json()), **changes}
    with pytest.raises(FormatError):
        Receipt.from_json(canonical.dumps(body))


def test_a_receipt_without_a_field_is_refused(receipt):
    for name in canonical.loads(receipt.to_json()):
        body = canonical.loads(receipt.to_json())
        del body[name]
        with pytest.raises(FormatError, match="receipt"):
            Receipt.from_json(canonical.dumps(body))
    for data in (b"[]", b"7", b"{", b"", receipt.to_json() + b" "):
        with pytest.raises(FormatError):
            Receipt.from_json(data)


# ---- SQLite: files that are not ours ----


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rounds.db"


def fill(path, rounds=3, clients=4):
    """A ledger with these rounds, closed; its receipts."""
    with SqliteLedger(path) as ledger:
        ledger.open_namespace("cards")
        return [
            make_round(ledger, "cards", r, clients=clients).append_to(ledger, "cards") for r in range(rounds)
        ]


def files(folder):
    return sorted(p.name for p in Path(folder).iterdir())


@pytest.mark.parametrize("content", [b"hello", b"\0" * 4096, b"SQLite format 3\0" + b"x" * 5000], ids=len)
@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_that_is_no_database_is_refused_and_kept(path, content, read_only):
    path.write_bytes(content)
    with pytest.raises(
        LedgerCorruptError, match=r"rounds\.db: .*(not an SQLite file|damaged|not a tallystick)"
    ):
        SqliteLedger(path, read_only=read_only)
    assert path.read_bytes() == content


@pytest.mark.parametrize("read_only", [False, True])
def test_the_database_of_another_program_is_refused_and_kept(path, read_only):
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE namespace (id INTEGER)")
    other.commit()
    other.close()
    before = path.read_bytes()
    with pytest.raises(LedgerCorruptError, match="not a tallystick ledger"):
        SqliteLedger(path, read_only=read_only)
    assert path.read_bytes() == before
    assert files(path.parent) == ["rounds.db"]


@pytest.mark.parametrize("read_only", [False, True])
def test_the_ledger_of_a_newer_version_is_refused(path, read_only):
    fill(path)
    change(path, "PRAGMA user_version = 2")
    with pytest.raises(LedgerError, match=r"newer tallystick .*upgrade") as error:
        SqliteLedger(path, read_only=read_only)
    assert not isinstance(error.value, LedgerCorruptError)


def test_a_ledger_without_its_tables_is_refused(path):
    fill(path)
    change(path, "DROP TABLE entry")
    with pytest.raises(LedgerCorruptError, match="tables"):
        SqliteLedger(path)


def test_an_empty_file_becomes_a_ledger_but_is_none_to_a_reader(path):
    path.touch()
    with pytest.raises(LedgerCorruptError, match="not a tallystick ledger"):
        SqliteLedger(path, read_only=True)
    assert path.stat().st_size == 0
    with SqliteLedger(path) as ledger:
        ledger.open_namespace("cards")
    assert path.stat().st_size > 0


def test_a_missing_folder_and_a_folder_in_place_of_a_file_are_named(tmp_path):
    for read_only in (False, True):
        with pytest.raises(LedgerError, match=r"folder .*nowhere does not exist"):
            SqliteLedger(tmp_path / "nowhere" / "rounds.db", read_only=read_only)
        with pytest.raises(LedgerError, match="is a folder"):
            SqliteLedger(tmp_path, read_only=read_only)


def test_a_missing_file_is_an_error_to_a_reader_and_is_not_created(path):
    with pytest.raises(LedgerError, match="no such file"):
        SqliteLedger(path, read_only=True)
    assert files(path.parent) == []


# ---- SQLite: altered files ----


def change(path, *statements):
    """Run SQL behind the ledger's back."""
    db = sqlite3.connect(path, isolation_level=None)
    for statement, *values in (s if isinstance(s, tuple) else (s,) for s in statements):
        db.execute(statement, values)
    db.close()


def column(path, sql):
    db = sqlite3.connect(path)
    (value,) = db.execute(sql).fetchone()
    db.close()
    return value


def failures(ledger):
    """Names and details of the failed checks; of a path, through a reader of its own."""
    if isinstance(ledger, Path):
        with SqliteLedger(ledger, read_only=True) as reader:
            return failures(reader)
    return {(c.name, c.detail) for c in ledger.verify("cards") if c.status == "failed"}


def names(found):
    return {name for name, _ in found}


@pytest.mark.parametrize("name", ["record", "leaves", "record_hash", "log_root"])
def test_a_flipped_byte_of_a_round_is_named(path, name):
    fill(path, rounds=4, clients=2)
    original = column(path, f"SELECT {name} FROM entry WHERE round = 2")
    expected = {
        "record": {"records"},
        "leaves": {"leaves", "clients root"},
        "record_hash": {"records"},
        "log_root": {"receipts"},
    }
    with SqliteLedger(path) as ledger:
        for position in range(random.randrange(3), len(original), 3):
            flipped = bytearray(original)
            flipped[position] ^= 1 << random.randrange(8)
            ledger._connection().execute(f"UPDATE entry SET {name} = ? WHERE round = 2", (bytes(flipped),))
            found = failures(ledger)
            assert names(found) & expected[name], position
            where = [detail.split(":")[0].split(",")[0] for _, detail in found]
            assert "round 2" in where, position
            assert not {"round 0", "round 1"} & set(where), position
        ledger._connection().execute(f"UPDATE entry SET {name} = ? WHERE round = 2", (original,))
        assert failures(ledger) == set()


def test_a_flipped_byte_of_genesis_schema_or_head_is_named(path):
    fill(path)
    for table, name, expected in (
        ("namespace", "genesis", {"genesis", "chain", "log root"}),
        ("namespace", "log_root", {"log root"}),
        ("namespace", "head", {"log root"}),
        ("schema", "json", {"schema"}),
    ):
        original = column(path, f"SELECT {name} FROM {table}")
        with SqliteLedger(path) as ledger:
            for position in range(random.randrange(3), len(original), 3):
                flipped = bytearray(original)
                flipped[position] ^= 1 << random.randrange(8)
                ledger._connection().execute(f"UPDATE {table} SET {name} = ?", (bytes(flipped),))
                assert names(failures(ledger)) & expected, (name, position)
            ledger._connection().execute(f"UPDATE {table} SET {name} = ?", (original,))
            assert failures(ledger) == set()


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        (["UPDATE entry SET log_index = 9 - log_index"], "chain"),  # the order
        (
            [
                "UPDATE entry SET log_index = -1 WHERE round = 1",
                "UPDATE entry SET log_index = 2 WHERE round = 0",
            ],
            "chain",
        ),
        (["UPDATE entry SET log_index = 7 WHERE round = 2"], "chain"),
        (["UPDATE entry SET round = 9 WHERE round = 2"], "records"),
        (["UPDATE entry SET round = 'two' WHERE round = 2"], "records"),
        (["UPDATE entry SET record = 'text' WHERE round = 2"], "records"),
        (["UPDATE entry SET record = x'' WHERE round = 2"], "records"),
        (["UPDATE entry SET leaves = x'' WHERE round = 2"], "counts"),
        (["UPDATE entry SET leaves = CAST(leaves || x'00' AS BLOB) WHERE round = 2"], "leaves"),
        (["UPDATE entry SET leaves = CAST(leaves || x'00000000' AS BLOB) WHERE round = 2"], "leaves"),
        (["DELETE FROM entry WHERE round = 1"], "chain"),
        (["DELETE FROM entry WHERE round = 2"], "log root"),
        (["UPDATE namespace SET log_size = 3"], "log root"),
        (["UPDATE namespace SET log_size = -3"], "log root"),
        (["PRAGMA foreign_keys = OFF", "DELETE FROM schema"], "schema"),
        (["PRAGMA foreign_keys = OFF", "UPDATE entry SET schema = x'00' WHERE round = 2"], "schema"),
    ],
)
def test_other_alterations_are_named(path, statements, expected):
    fill(path)
    change(path, *statements)
    assert expected in names(failures(path))


def test_a_namespace_under_another_name_is_named(path):
    fill(path)
    change(path, "UPDATE namespace SET name = 'loans'")
    with SqliteLedger(path) as ledger:
        assert [c.name for c in ledger.verify("loans") if c.status == "failed"] == ["genesis"]


def test_leaves_out_of_order_are_named(path):
    fill(path, clients=2)
    blob = column(path, "SELECT leaves FROM entry WHERE round = 2")
    size = 4 + int.from_bytes(blob[:4], "little")
    change(path, ("UPDATE entry SET leaves = ? WHERE round = 2", blob[size:] + blob[:size]))
    assert {"leaves", "clients root"} <= names(failures(path))


def test_a_log_cut_and_resealed_is_seen_against_a_head_kept_elsewhere(path):
    fill(path)
    with SqliteLedger(path) as ledger:
        kept = ledger.head("cards")
        cut = ledger.log_tree("cards").root_at(3)
        last = ledger.get("cards", 1).record.hash
    change(
        path,
        "DELETE FROM entry WHERE round = 2",
        ("UPDATE namespace SET log_size = 3, log_root = ?, head = ?", cut, last),
    )
    assert failures(path) == set()  # nothing in the file contradicts it
    with SqliteLedger(path) as ledger:
        failed = [c for c in ledger.verify("cards", trusted=kept) if c.status == "failed"]
    assert [c.name for c in failed] == ["trusted log root"]


def test_many_failures_are_summed_up(path):
    fill(path, rounds=30, clients=1)
    change(path, "UPDATE entry SET log_root = zeroblob(32)")
    found = [detail for name, detail in failures(path) if name == "receipts"]
    assert len(found) == 17
    assert "and 14 more" in found


@pytest.mark.parametrize("column_", ["record", "leaves", "record_hash"])
def test_reading_an_altered_round_is_a_typed_error(path, column_):
    fill(path)
    change(path, f"UPDATE entry SET {column_} = x'00' WHERE round = 0")
    with SqliteLedger(path) as ledger:
        with pytest.raises(LedgerCorruptError):
            ledger.get("cards", 0)
        with pytest.raises(LedgerCorruptError):
            list(ledger.iter("cards"))
        if column_ == "record_hash":
            with pytest.raises(LedgerCorruptError, match="verify"):
                make_round(ledger, "cards", 9).append_to(ledger, "cards")


@pytest.mark.parametrize("log_index", [0, 7, -1, 2**62])
def test_the_receipt_of_a_round_that_was_moved_is_lost(path, log_index):
    receipts = fill(path)
    change(path, f"UPDATE entry SET log_index = {log_index} WHERE round = 2")
    with SqliteLedger(path) as ledger:
        try:
            assert ledger.status(receipts[2]) == "lost"
        except LedgerCorruptError:
            assert log_index < 3  # then the log has no order that makes its root


def test_bytes_flipped_anywhere_in_the_file_are_found_or_harmless(path, tmp_path):
    fill(path, rounds=4, clients=60)
    clean = path.read_bytes()
    draw = random.Random(1)
    broken = tmp_path / "broken.db"
    found = 0
    for _ in range(150):
        data = bytearray(clean)
        data[draw.randrange(100, len(data))] ^= 1 << draw.randrange(8)
        broken.write_bytes(data)
        try:
            with SqliteLedger(broken, read_only=True) as ledger:
                checks = ledger.verify("cards")
                failed = any(c.status == "failed" for c in checks)
                if not failed:  # a byte of free space
                    with SqliteLedger(path, read_only=True) as original:
                        assert list(ledger.iter("cards")) == list(original.iter("cards"))
        except LedgerError:
            failed = True
        found += failed
    assert found > 50


# ---- SQLite: readers ----


def test_a_reader_creates_no_file_when_no_writer_is_there(path):
    receipts = fill(path)
    before = path.read_bytes()
    with SqliteLedger(path, read_only=True) as reader:
        assert files(path.parent) == ["rounds.db"]
        assert reader.get("cards", 2).receipt == receipts[2]
        assert all(c.status != "failed" for c in reader.verify("cards"))
    assert files(path.parent) == ["rounds.db"]
    assert path.read_bytes() == before


def test_a_reader_follows_a_writer_that_comes_later(path):
    fill(path)
    with SqliteLedger(path, read_only=True) as reader:
        assert reader.rounds("cards") == [0, 1, 2]
        with SqliteLedger(path) as writer:
            make_round(writer, "cards", 3).append_to(writer, "cards")
            assert reader.rounds("cards") == [0, 1, 2, 3]
            make_round(writer, "cards", 4).append_to(writer, "cards")
            assert reader.rounds("cards") == [0, 1, 2, 3, 4]
        assert reader.rounds("cards") == [0, 1, 2, 3, 4]
        assert all(c.status != "failed" for c in reader.verify("cards"))


def test_a_reader_takes_what_a_copied_wal_file_holds(path, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    with SqliteLedger(path) as writer:
        writer.open_namespace("cards")
        receipt = make_round(writer, "cards", 1).append_to(writer, "cards")
        for name in ("rounds.db", "rounds.db-wal"):
            shutil.copyfile(path.parent / name, copy / name)
    with SqliteLedger(copy / "rounds.db", read_only=True) as reader:
        assert reader.get("cards", 1).receipt == receipt
        with pytest.raises(LedgerError, match="read-only"):
            reader.open_namespace("loans")
    assert files(copy) == ["rounds.db", "rounds.db-wal"]


def as_nobody(code, *arguments):
    """Runs code as a user who owns nothing here; its output, or what went wrong."""
    header = """
        import os, sys
        from tallystick.errors import LedgerError
        from tallystick.ledger.sqlite import SqliteLedger
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(header) + textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return run.stdout.strip() or run.stderr


@pytest.fixture
def sealed():
    """A folder that others may read and nobody but root may write."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)
        os.chmod(folder, 0o755)


@pytest.mark.parametrize("writer_is_there", [False, True])
def test_a_reader_needs_no_permission_to_write(sealed, writer_is_there):
    path = sealed / "rounds.db"
    fill(path)
    ledger = SqliteLedger(path) if writer_is_there else None
    if ledger is not None:
        make_round(ledger, "cards", 3).append_to(ledger, "cards")
    os.chmod(sealed, 0o555)
    before = files(sealed)
    code = """
        with SqliteLedger(sys.argv[1], read_only=True) as ledger:
            failed = [c for c in ledger.verify("cards") if c.status == "failed"]
            print(ledger.rounds("cards"), failed)
    """
    assert as_nobody(code, path) == ("[0, 1, 2, 3] []" if writer_is_there else "[0, 1, 2] []")
    assert files(sealed) == before
    if ledger is not None:
        ledger.close()


def test_a_writer_without_permission_is_told_so(sealed):
    path = sealed / "rounds.db"
    fill(path)
    os.chmod(path, 0o444)
    os.chmod(sealed, 0o555)
    code = """
        for name in (sys.argv[1], sys.argv[1] + ".new"):
            try:
                SqliteLedger(name).open_namespace("loans")
            except LedgerError as error:
                print("writable" in str(error))
    """
    assert as_nobody(code, path) == "True\nTrue"
    assert files(sealed) == ["rounds.db"]


# ---- SQLite: a full disk, processes, kill -9 ----


def test_a_full_disk_loses_nothing_and_appending_goes_on_afterwards(path):
    fill(path)
    with SqliteLedger(path) as ledger:
        db = ledger._connection()
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages}")
        head = ledger.head("cards")
        sample = make_round(ledger, "cards", 3, clients=1000)
        for _ in range(2):
            with pytest.raises(LedgerError, match="disk is full; nothing was written"):
                sample.append_to(ledger, "cards")
            assert ledger.head("cards") == head
            assert ledger.rounds("cards") == [0, 1, 2]
        db.execute("PRAGMA max_page_count = 1000000")
        receipt = sample.append_to(ledger, "cards")
        assert receipt.verify()
        assert not [c for c in ledger.verify("cards") if c.status == "failed"]
    assert failures(path) == set()


def test_a_ledger_kept_locked_is_a_typed_error(path, monkeypatch):
    fill(path)
    monkeypatch.setattr("tallystick.ledger.sqlite.BUSY_S", 0.05)
    other = sqlite3.connect(path, isolation_level=None)
    with SqliteLedger(path) as ledger:
        other.execute("BEGIN IMMEDIATE")
        sample = make_round(ledger, "cards", 3)
        with pytest.raises(LedgerError, match="locked"):
            sample.append_to(ledger, "cards")
        assert ledger.rounds("cards") == [0, 1, 2]  # reading goes on
        other.execute("ROLLBACK")
        sample.append_to(ledger, "cards")
    other.close()


def test_a_file_replaced_by_an_older_copy_is_noticed(path, tmp_path):
    fill(path)
    with SqliteLedger(path) as ledger:
        old = make_round(ledger, "cards", 3)
        old.append_to(ledger, "cards")
        change(
            path,
            "DELETE FROM entry WHERE round = 3",
            (
                "UPDATE namespace SET log_size = 4, log_root = ?, head = ?",
                ledger.log_tree("cards").root_at(4),
                bytes.fromhex(old.record.previous),
            ),
        )
        make_round(ledger, "cards", 4).append_to(ledger, "cards")  # the cached tree was too long
        assert not [c for c in ledger.verify("cards") if c.status == "failed"]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the point of the test
def test_a_forked_child_must_connect_again(path):
    fill(path)
    with SqliteLedger(path) as ledger:
        child = os.fork()
        if child == 0:
            try:
                ledger.head("cards")
            except LedgerError as error:
                os._exit(0 if "fork" in str(error) else 2)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert ledger.head("cards").size == 4


APPENDER = """
import sys
from tallystick.errors import StaleHeadError
from tallystick.ledger.conformance import make_round
from tallystick.ledger.sqlite import SqliteLedger

path, start, step, count = sys.argv[1], *map(int, sys.argv[2:])
with SqliteLedger(path) as ledger:
    ledger.open_namespace("cards")
    for round in range(start, start + step * count, step):
        while True:
            try:
                make_round(ledger, "cards", round).append_to(ledger, "cards")
                break
            except StaleHeadError:
                pass
        print(round, flush=True)
"""


def appender(path, start, step, count):
    return subprocess.Popen(
        [sys.executable, "-c", APPENDER, str(path), str(start), str(step), str(count)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_two_processes_on_one_file_both_land_every_round(path):
    children = [
        appender(path, start, 2, 60) for start in (0, 1)
    ]  # they also race to create file and namespace
    for child in children:
        _, complaint = child.communicate(timeout=300)
        assert child.returncode == 0, complaint
    with SqliteLedger(path) as ledger:
        order = ledger.rounds("cards")
        assert sorted(order) == list(range(120))
    assert failures(path) == set()


def test_a_killed_process_loses_nothing_that_it_acknowledged(path):
    draw = random.Random()
    acknowledged, start = [], 0
    for _ in range(4):
        child = appender(path, start, 1, 1_000_000)
        seen = [int(child.stdout.readline()) for _ in range(draw.randrange(1, 60))]
        os.kill(child.pid, signal.SIGKILL)
        rest = child.stdout.read()  # what readline() has buffered comes first; communicate() would lose it
        seen += [int(line) for line in rest.split("\n")[:-1]]
        acknowledged += seen
        assert child.wait() == -signal.SIGKILL
        child.stdout.close()
        child.stderr.close()
        assert failures(path) == set()  # a reader, on what the killed process left
        with SqliteLedger(path) as ledger:
            assert not [c for c in ledger.verify("cards") if c.status == "failed"]
            there = ledger.rounds("cards")
        assert there[: len(acknowledged)] == acknowledged
        assert len(there) <= len(acknowledged) + 1  # the last one may have been written but not said
        acknowledged = there
        start = there[-1] + 1


def test_importing_the_package_takes_neither_sqlite_nor_pytest():
    code = """
        import sys, tallystick.ledger
        print([m for m in ("sqlite3", "pytest", "importlib.metadata") if m in sys.modules])
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert run.stdout.strip() == "[]"
