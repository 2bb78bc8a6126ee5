"""Where round records are kept: one append-only log per namespace behind a URL.

    with tallystick.ledger.connect("sqlite:///rounds.db") as ledger:
        ledger.rounds("cards"), ledger.head("cards"), ledger.verify("cards")

`sqlite:///relative.db`, `sqlite:////absolute/path.db` and `memory://` are built in. Others register a class
under their scheme in the entry-point group `tallystick.ledgers`; it derives from base.Ledger, and from_url()
makes one. They show that they behave by running conformance.LedgerConformance.
"""

from __future__ import annotations

import importlib
import re

from tallystick.errors import ArgumentError, LedgerError, MissingExtraError

from .base import Check, Entry, Head, Ledger, Receipt, prove

__all__ = ["Check", "Entry", "Head", "Ledger", "Receipt", "connect", "prove", "redact"]

_BUILT_IN = {
    "memory": "tallystick.ledger.memory:MemoryLedger",
    "sqlite": "tallystick.ledger.sqlite:SqliteLedger",
}
_EXTRAS = {"evm+http": "evm", "evm+https": "evm", "fabric": "fabric"}  # scheme: the extra that brings it
_GROUP = "tallystick.ledgers"
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_USER = re.compile(r"(?s)^([a-z0-9+.-]*://)?.*@", re.IGNORECASE)  # up to the last @, however malformed
_SECRET = re.compile(r"(?i)([?&#][^=&#]*(?:pass|secret|token|key)[^=&#]*=)[^&#]*")


def connect(url: str, *, read_only: bool = False) -> Ledger:
    """The ledger at this URL. read_only: nothing is created or written, and what is missing is an error.

    Raises ArgumentError for a URL that no ledger understands, MissingExtraError for one whose package is not
    installed, LedgerError or LedgerCorruptError when the ledger cannot be opened. Messages never repeat
    passwords.
    """
    match = _URL.match(url) if isinstance(url, str) else None
    if match is None:
        shown = redact(url) if isinstance(url, str) else type(url).__name__
        raise ArgumentError(
            f"ledger URL: something like sqlite:///rounds.db or memory:// expected, got {shown!r}"
        )
    scheme = match[1].lower()
    return _ledger_class(scheme, url).from_url(url, read_only=read_only)


def redact(url: str) -> str:
    """The URL without user, password, and values of parameters that sound like secrets: fit for messages."""
    return _SECRET.sub(r"\1***", _USER.sub(r"\1***@", url))


def _ledger_class(scheme: str, url: str) -> type[Ledger]:
    if scheme in _BUILT_IN:  # these work from a source tree too, where no entry points are installed
        module, name = _BUILT_IN[scheme].split(":")
        found = getattr(importlib.import_module(module), name)
    else:
        found = _plugin(scheme, url)
    if not (isinstance(found, type) and issubclass(found, Ledger)):
        raise LedgerError(
            f"entry point {scheme!r} of {_GROUP} is not a class derived from tallystick.ledger.Ledger"
        )
    return found


def _plugin(scheme: str, url: str) -> object:
    from importlib.metadata import entry_points

    points = {point.name: point for point in entry_points(group=_GROUP)}
    if scheme in points:
        try:
            return points[scheme].load()
        except ImportError as error:
            hint = (
                f'pip install "tallystick[{_EXTRAS[scheme]}]"'
                if scheme in _EXTRAS
                else "install what it needs"
            )
            raise MissingExtraError(
                f"ledger {redact(url)}: {points[scheme].value}: {error}; {hint}"
            ) from error
        except AttributeError as error:
            raise LedgerError(f"ledger {redact(url)}: {points[scheme].value}: {error}") from error
    if scheme in _EXTRAS:
        extra = _EXTRAS[scheme]
        raise MissingExtraError(
            f'ledger {redact(url)}: {scheme} needs an extra: pip install "tallystick[{extra}]"'
        )
    known = ", ".join(sorted({*_BUILT_IN, *points, *_EXTRAS}))
    raise ArgumentError(f"ledger {redact(url)}: no ledger has the scheme {scheme!r}; known are {known}")
