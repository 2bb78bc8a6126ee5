"""After the rounds: the ledger verified offline from the kept payloads, then again with one byte changed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tallystick.verify import Report, verify_ledger

from .federation import Result

__all__ = ["Audit", "Tampering", "audit"]


@dataclass(frozen=True)
class Tampering:
    """One byte of one kept update, changed in a copy of all of them, and what the verifier then said."""

    file: Path  # the changed copy
    offset: int
    report: Report

    @property
    def detected(self) -> bool:
        return bool(self.report.failed)


@dataclass(frozen=True)
class Audit:
    """What the verifier said about the payloads as they are, and about the tampered copy."""

    report: Report
    tampering: Tampering

    @property
    def verified(self) -> bool:
        return self.report.ok

    @property
    def ok(self) -> bool:
        return self.verified and self.tampering.detected


def audit(result: Result) -> Audit:
    """Verifies the ledger of a finished run, then tampers with a copy of its payloads and verifies again.

    The ledger is opened anew, from its file, and compared with the head that the rounds left behind.
    """
    with result.timed("verifying"):
        report = _verify(result, result.folder.updates)
    return Audit(report, _tamper(result))


def _verify(result: Result, updates: Path) -> Report:
    folder = result.folder
    return verify_ledger(folder.ledger, folder.namespace, updates=updates, trusted=result.head)


def _tamper(result: Result) -> Tampering:
    """Flips the lowest bit of the byte in the middle of the update in the middle."""
    folder = result.folder
    shutil.copytree(folder.updates, folder.tampered)
    files = sorted(folder.tampered.glob("*/updates/*"))
    chosen = files[len(files) // 2]
    content = bytearray(chosen.read_bytes())
    offset = len(content) // 2
    content[offset] ^= 1
    chosen.write_bytes(content)
    return Tampering(chosen, offset, _verify(result, folder.tampered))
