"""Ledgers: the conformance class on every backend, connect(), and what SQLite alone must do."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tallystick.ledger.conformance")

from tallystick.ledger.conformance import LedgerConformance  # noqa: E402


class TestMemory(LedgerConformance):
    def url(self, tmp_path):
        return "memory://"


class TestSqlite(LedgerConformance):
    keeps = True

    def url(self, tmp_path):
        return f"sqlite:///{tmp_path}/rounds.db"
