"""Every error that tallystick raises on purpose.

TallystickError
├── ArgumentError (ValueError)        a value that is not allowed
│   ├── SchemaError                   updates whose names, shapes or dtypes do not fit each other
│   ├── RuleError                     a rule that does not exist, or whose parameters or clients do not fit
│   ├── NonFiniteError                NaN or infinity in updates; .clients names whose
│   └── FormatError                   bytes that are not what they claim to be (file, frame, record, proof)
├── FileChangedError (OSError)        a file that was rewritten or truncated while it was read
├── MissingExtraError (ImportError)   an optional package is needed; the message says what to install
├── DeviceError (RuntimeError)        no usable CUDA module or device; the message says why
└── LedgerError
    ├── ConflictError                 a different record is already there for this round
    ├── StaleHeadError                the log has grown since the record was built
    └── LedgerCorruptError            what is stored contradicts itself
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "ArgumentError",
    "ConflictError",
    "DeviceError",
    "FileChangedError",
    "FormatError",
    "LedgerCorruptError",
    "LedgerError",
    "MissingExtraError",
    "NonFiniteError",
    "RuleError",
    "SchemaError",
    "StaleHeadError",
    "TallystickError",
]


class TallystickError(Exception):
    """Root of all errors raised by tallystick."""


class ArgumentError(TallystickError, ValueError):
    """A value that is not allowed; the message says what was given and what is allowed."""


class SchemaError(ArgumentError):
    """Updates whose tensors' names, shapes or dtypes do not fit each other."""


class RuleError(ArgumentError):
    """A rule that does not exist, or that cannot run with these parameters or this number of clients."""


class NonFiniteError(ArgumentError):
    """NaN or infinity in the updates of `clients` (indices, or ids where ids are known)."""

    def __init__(self, clients: Sequence[int | str], message: str | None = None) -> None:
        self.clients = tuple(clients)
        shown = ", ".join(str(c) for c in self.clients[:8]) + (", ..." if len(self.clients) > 8 else "")
        super().__init__(message or f"NaN or infinity in the update of client {shown}: finite values only")


class FormatError(ArgumentError):
    """Bytes that are not what they claim to be."""


class FileChangedError(TallystickError, OSError):
    """A file that was rewritten or truncated while it was read."""


class MissingExtraError(TallystickError, ImportError):
    """An optional package is needed; the message says what to install."""


class DeviceError(TallystickError, RuntimeError):
    """No usable CUDA module or device; the message says why."""


class LedgerError(TallystickError):
    """A ledger could not do what was asked."""


class ConflictError(LedgerError):
    """A different record is already there for this namespace and round."""


class StaleHeadError(LedgerError):
    """The log has grown since the record was built; rebuild it on the new head."""


class LedgerCorruptError(LedgerError):
    """What the ledger holds contradicts itself, or is not a ledger of ours."""
