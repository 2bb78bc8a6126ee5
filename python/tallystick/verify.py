"""Re-checks what a ledger says: alone, or with the updates it speaks of, by running everything again.

Every check is "ok", "failed" or "not checked"; what could not be checked is never reported as passed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import frame, merkle, record
from . import ledger as ledgers
from ._columns import Batch
from .aggregate import rule as as_rule
from .errors import ArgumentError, LedgerError, NonFiniteError, TallystickError
from .ledger.base import Check, Entry, Head
from .round import (
    apply_model,
    client_file,
    decide,
    input_tensors,
    named_arrays,
    round_folder,
    tensors_of,
)
from .update import Schema, Update, open_update

__all__ = ["Report", "verify_ledger", "verify_proof_file"]

OnCheck = Callable[[Check], None]
Set = AbstractSet[str]


@dataclass(frozen=True, slots=True)
class Report:
    """All checks of one run, in order. ok: none failed; complete: none was left out either."""

    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(c for c in self.checks if c.status == "failed")

    @property
    def ok(self) -> bool:
        return not self.failed

    @property
    def complete(self) -> bool:
        return all(c.status == "ok" for c in self.checks)


class _Checks:
    """Collects checks and passes each on as it is made."""

    def __init__(self, on_check: OnCheck | None) -> None:
        self.made: list[Check] = []
        self._on_check = on_check

    def add(self, name: str, passed: bool | None, detail: str) -> bool:
        """passed None: not checked."""
        if passed is None:
            self.take(Check(name, "not checked", detail))
        else:
            self.take(Check(name, "ok" if passed else "failed", detail))
        return bool(passed)

    def take(self, check: Check) -> None:
        self.made.append(check)
        if self._on_check is not None:
            self._on_check(check)


def verify_ledger(
    ledger: str | ledgers.Ledger,
    namespace: str,
    *,
    round: int | None = None,
    updates: str | Path | None = None,
    trusted: Head | None = None,
    on_check: OnCheck | None = None,
) -> Report:
    """Re-checks a namespace of a ledger, and with `updates` its rounds (one of them: `round`) from the files.

    updates: folder of the clients' files (client id = file stem), or the keep folder of Round.
    Without files: genesis, records, hash chain, client roots, log root. With them also each payload's
    root and size, the frames, the schema, the rule's own run with every verdict and score, the hashes of
    the aggregate and of the model.
    trusted: a head of the log known from elsewhere (a receipt, say); the log must begin with it.
    Raises LedgerError for an unknown namespace or round, ArgumentError for a folder that is not there.
    """
    folder = None if updates is None else Path(updates)
    if folder is not None and not folder.is_dir():
        raise ArgumentError(f"updates: an existing folder expected, got {folder}")
    opened = ledgers.connect(ledger, read_only=True) if isinstance(ledger, str) else ledger
    checks = _Checks(on_check)
    try:
        opened.genesis(namespace)
        rounds = sorted(opened.rounds(namespace))
        if round is not None and round not in rounds:
            shown = ", ".join(map(str, rounds[-8:])) or "none"
            raise LedgerError(f"{namespace!r} has no round {round}; recorded: {shown}")
        for check in opened.verify(namespace, trusted=trusted):
            checks.take(check)
        for number in rounds if round is None else [round]:
            if folder is None:
                checks.add("rule re-run", None, f"round {number}: no update files were given")
            else:
                _check_round(checks, _entry(checks, opened, namespace, number), folder)
    finally:
        if isinstance(ledger, str):
            opened.close()
    return Report(tuple(checks.made))


def _entry(checks: _Checks, opened: ledgers.Ledger, namespace: str, number: int) -> Entry | None:
    try:
        return opened.get(namespace, number)
    except TallystickError as error:
        checks.add("entry readable", False, f"round {number}: {error}")
        return None


def _check_round(checks: _Checks, entry: Entry | None, folder: Path) -> None:
    """Everything about one round that its files show."""
    if entry is None:
        return
    number = entry.record.round
    files: dict[str, Update] = {}
    names = {t.name for t in Schema.from_json(entry.schema).tensors}
    try:
        intact = True
        for leaf in entry.leaves:
            found = _find(folder, number, leaf.client, leaf.media_type)
            where = f"round {number}, client {leaf.client!r}"
            if found is None:
                checks.add("payload", None, f"{where}: no file in {folder}")
                continue
            intact &= _check_payload(checks, where, found, leaf, files, names)
        if len(files) < len(entry.leaves):
            why = "files missing" if intact else "files damaged"
            checks.add(
                "rule re-run",
                None,
                f"round {number}: {len(files)} of {len(entry.leaves)} payloads usable, {why}",
            )
            return
        _check_rule(checks, entry, files, folder, intact)
    finally:
        for update in files.values():
            update.close()


def _check_payload(
    checks: _Checks,
    where: str,
    path: Path,
    leaf: record.ClientLeaf,
    files: dict[str, Update],
    names: set[str],
) -> bool:
    """Root and size of one file's bytes, then the file as an update; True when all of it is as recorded."""
    root, size = payload_root(path)
    good = checks.add(
        "payload",
        root == leaf.payload_root and size == leaf.size,
        f"{where}: {path.name}, {size} bytes"
        + ("" if size == leaf.size else f" ({leaf.size} recorded)")
        + (
            ""
            if root == leaf.payload_root
            else f", root {root.hex()[:16]} is not the recorded {leaf.payload_root.hex()[:16]}"
        ),
    )
    try:
        files[leaf.client] = _open(path, names)
    except (TallystickError, OSError) as error:
        checks.add("format", False, f"{where}: {error}")
        return False
    checks.add("format", True, f"{where}: well-formed {leaf.media_type}")
    return good


def _check_rule(
    checks: _Checks, entry: Entry, files: Mapping[str, Update], folder: Path, intact: bool
) -> None:
    """Runs the rule again and compares verdicts, scores, schema, aggregate and model with the record."""
    made, number = entry.record, entry.record.round
    leaves = sorted(entry.leaves, key=lambda leaf: leaf.client.encode())
    clients = [leaf.client for leaf in leaves]
    note = "" if intact else " (with a damaged payload)"
    try:
        batch = Batch([files[c] for c in clients], clients)
        inputs = _inputs(checks, made, folder, clients, batch)
        if inputs is None:
            return
        weights = [leaf.weight for leaf in leaves]
        outcome, verdicts, _ = decide(as_rule(made.rule), batch, clients, weights, inputs)
    except (TallystickError, NonFiniteError) as error:
        checks.add("rule re-run", False, f"round {number}: {made.rule}: {error}")
        return
    checks.add(
        "schema",
        batch.schema.hash.hex() == made.schema_hash,
        f"round {number}: {len(batch.schema.tensors)} tensors",
    )
    wrong = [
        leaf.client
        for leaf, verdict in zip(leaves, verdicts, strict=True)
        if verdict != (leaf.verdict, leaf.reason, leaf.score)
    ]
    shown = f"differs for {', '.join(wrong[:8])}" if wrong else f"{len(leaves)} clients judged alike"
    checks.add("verdicts and scores", not wrong, f"round {number}: {made.rule}: {shown}{note}")
    values = named_arrays(outcome.value)
    checks.add(
        "aggregate",
        frame.value_hash(values).hex() == made.aggregate_hash,
        f"round {number}: rule re-run, hash compared{note}",
    )
    if made.base_hash:
        _check_model(checks, made, values, round_folder(folder, number) / "base.safetensors")


def _inputs(
    checks: _Checks, made: record.RoundRecord, folder: Path, clients: Sequence[str], batch: Batch
) -> dict[str, Update] | None:
    """The recorded inputs of the rule that are updates, from their files; None where one is missing."""
    opened: dict[str, Update] = {}
    for name in sorted(set(made.inputs) & set(as_rule(made.rule).inputs)):
        places = [round_folder(folder, made.round)] + ([] if name in clients else [folder])
        path = next((p for f in places if (p := f / f"{name}.safetensors").is_file()), None)
        if path is None:
            checks.add("rule re-run", None, f"round {made.round}: no file of the rule's input {name!r}")
            return None
        opened[name] = open_update(path)
        found = frame.value_hash(input_tensors(name, opened[name], batch)).hex()
        same = found == made.inputs[name]
        note = "" if same else f" hashes to {found[:16]}, recorded is {made.inputs[name][:16]}"
        checks.add(f"input {name}", same, f"round {made.round}: {path.name}{note}")
    return opened


def _open(path: Path, names: Set) -> Update:
    """The file as an update; tensors that the recorded schema does not name were excluded."""
    opened = open_update(path)
    excluded = {t.name for t in opened.schema.tensors} - names
    if not excluded:
        return opened
    opened.close()
    return open_update(path, exclude=excluded)


def _check_model(checks: _Checks, made: record.RoundRecord, values: Mapping[str, Any], path: Path) -> None:
    if not path.exists():
        checks.add("model", None, f"round {made.round}: no base model at {path}")
        return
    try:
        base = tensors_of(open_update(path))
    except (TallystickError, OSError) as error:
        checks.add("base model", False, f"round {made.round}: {error}")
        return
    if not checks.add(
        "base model", frame.value_hash(base).hex() == made.base_hash, f"round {made.round}: {path.name}"
    ):
        return
    model = apply_model(made.kind, base, values)
    if model is not None:
        checks.add(
            "model",
            frame.value_hash(model).hex() == made.model_hash,
            f"round {made.round}: base and aggregate",
        )


def payload_root(path: Path) -> tuple[bytes, int]:
    """Merkle root and size of a file's bytes, or of a sharded model's files in their order."""
    hasher = merkle.ChunkHasher()
    if path.name.endswith(".index.json"):
        for piece in open_update(path).payload():
            hasher.update(piece)
    else:
        with open(path, "rb", buffering=0) as file:
            while piece := file.read(1 << 20):
                hasher.update(piece)
    return hasher.root(), hasher.size


def _find(folder: Path, number: int, client: str, media_type: str) -> Path | None:
    """The client's file: in the round's kept updates, else in the folder itself."""
    for place in (round_folder(folder, number) / "updates", folder):
        path = client_file(place, client, media_type)
        for candidate in (path, place / f"{client}.safetensors.index.json", place / f"{client}{path.suffix}"):
            if candidate.name not in ("", ".", "..") and candidate.parent == place and candidate.is_file():
                return candidate
    return None


def verify_proof_file(
    path: str | Path,
    file: str | Path | None = None,
    *,
    log_root: bytes | None = None,
    on_check: OnCheck | None = None,
) -> Report:
    """Checks a proof written by `tallystick prove` with nothing but itself.

    file: the client's update, compared with what was committed. log_root: the log's root known from
    elsewhere. Raises ArgumentError for files that cannot be read, FormatError for what is no proof.
    """
    target = Path(path)
    try:
        data = target.read_bytes()
    except OSError as error:
        raise ArgumentError(f"proof: {target}: {error.strerror}") from None
    root = None
    if file is not None:
        try:
            root = payload_root(Path(file))
        except OSError as error:
            raise ArgumentError(f"file: {file}: {error.strerror}") from None
    checks = _Checks(on_check)
    for check in record.verify_proof(data, payload=root, log_root=log_root):
        checks.take(check)
    return Report(tuple(checks.made))
