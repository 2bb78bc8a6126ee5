"""Committing a round: leaves, their root, append to memory and to a file; peers: bare SQLite, pymerkle."""

from __future__ import annotations

import hashlib
import sqlite3

import pymerkle
import pytest

from tallystick import ledger, record
from tallystick.ledger.conformance import make_round

CLIENTS = 1000
IDS = [f"client-{i:04}" for i in range(CLIENTS)]
ROOTS = [hashlib.sha256(name.encode()).digest() for name in IDS]
SMALL = 10  # clients of the rounds that go to a file


@pytest.fixture(params=["memory", "sqlite"])
def log(request, tmp_path):
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/rounds.db"
    with ledger.connect(url) as opened:
        opened.open_namespace("cards")
        yield opened


@pytest.mark.benchmark(group=f"leaves of {CLIENTS} clients and their root")
def bench_clients_root(benchmark):
    def run():
        return record.clients_tree(
            record.ClientLeaf(
                ROOTS[0], 17, name, 1.0, root, 4096, "application/octet-stream", "accepted", "", 0.5, salt
            )
            for name, root, salt in zip(IDS, ROOTS, record.salts(CLIENTS), strict=True)
        )

    assert run().size == CLIENTS
    benchmark.pedantic(run, rounds=20, warmup_rounds=1)
    benchmark.extra_info["us per client"] = round(benchmark.stats.stats.min * 1e6 / CLIENTS, 2)


@pytest.mark.benchmark(group="append")
@pytest.mark.parametrize("clients", [SMALL, CLIENTS])
def bench_append(benchmark, log, clients):
    rounds = iter(range(1, 1000))

    def fresh():
        return (make_round(log, "cards", next(rounds), clients=clients),), {}

    benchmark.pedantic(lambda sample: sample.append_to(log, "cards"), setup=fresh, rounds=50)
    assert len(log.rounds("cards")) == 50
    assert not [check for check in log.verify("cards") if check.status == "failed"]


@pytest.mark.benchmark(group="append")
@pytest.mark.parametrize("peer", ["bare sqlite", "pymerkle sqlite"])
def bench_append_by_peers(benchmark, tmp_path, peer):
    """One durable row of the size of a record with 10 leaves; pymerkle's tree of one entry per round."""
    row = bytes(3000)
    if peer == "pymerkle sqlite":
        tree = pymerkle.SqliteTree(str(tmp_path / "tree.db"), algorithm="sha256")
        benchmark.pedantic(lambda: tree.append_entry(row), rounds=50)
        assert tree.get_size() == 50
        tree.con.close()
        return
    db = sqlite3.connect(tmp_path / "bare.db", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE entry (body BLOB)")
    benchmark.pedantic(lambda: db.execute("INSERT INTO entry VALUES (?)", (row,)), rounds=50)
    assert db.execute("SELECT count(*) FROM entry").fetchone() == (50,)
    db.close()
