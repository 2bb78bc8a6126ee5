"""One round: updates in, a robust aggregate out, every byte committed, the record appended to a ledger.

The only module that knows the others. Kept payloads (keep=DIR) are what a later full re-check needs:
    DIR/round-000017/updates/<client>.safetensors or .tsf    exactly the bytes that were hashed
    DIR/round-000017/base.safetensors                        the base model, where there is one
    DIR/round-000017/state.safetensors, server.safetensors   inputs of rules that take them
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from . import arrays, canonical, frame, merkle, record
from . import ledger as ledgers
from ._columns import Batch
from ._engine import check_inputs, fitting
from .aggregate import Client, Outcome, Rule
from .aggregate import checked_weights as _checked_weights
from .aggregate import rule as as_rule
from .errors import ArgumentError, SchemaError, StaleHeadError, TallystickError
from .update import Schema, Update, check_same_schema, checked_names, open_update, write_safetensors

__all__ = [
    "Decision",
    "Replacing",
    "Round",
    "apply_model",
    "client_file",
    "decide",
    "input_tensors",
    "round_folder",
    "tensors_of",
]

KINDS = ("delta", "gradient", "weights")
_REBUILDS = 1000  # of the record, when other writers append to the same namespace meanwhile


@dataclass(frozen=True, slots=True)
class Submission:
    """One accepted update: opened, and its payload hashed."""

    update: Update
    weight: float
    payload_root: bytes
    size: int
    media_type: str


class Decision(NamedTuple):
    """A rule's outcome, and per client (verdict, reason, score): what leaves and re-checks are made of."""

    outcome: Outcome
    verdicts: list[tuple[str, str, float | None]]
    seconds_reading: float


class Round:
    """Collects the updates of one round and closes it.

    namespace: the federation's name, created in the ledger if new. number: 0 <= number < 2^53.
    rule: text or Rule. ledger: URL or an open Ledger (then it stays open).
    base: model the round starts from (dict of arrays or a path); kind "delta" adds the aggregate to it,
    "weights" replaces it, "gradient" leaves it. keep: folder for the payloads.
    state, server: for rules that take them (Rule.inputs), like updates; their hashes are recorded.
    exclude: tensors to leave out, such as integer counters that differ.

    Arrays handed over are read until close() returns and must not change before; files are re-checked.
    Leaving the context without close() records nothing. Errors leave what was accepted as it was.
    """

    def __init__(
        self,
        namespace: str,
        *,
        number: int,
        rule: str | Rule,
        ledger: str | ledgers.Ledger,
        base: Any = None,
        keep: str | Path | None = None,
        exclude: Sequence[str] = (),
        kind: str = "delta",
        state: Any = None,
        server: Any = None,
    ) -> None:
        self.namespace = canonical.check_id(namespace, "namespace")
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 2**53:
            raise ArgumentError(f"round number: a whole number from 0 to 2^53 - 1 expected, got {number!r}")
        if kind not in KINDS:
            raise ArgumentError(f"kind: one of {', '.join(KINDS)} expected, got {kind!r}")
        self.number, self.kind, self.exclude = number, kind, tuple(checked_names(exclude))
        self.rule = as_rule(rule)
        self.inputs = _opened_inputs(self.rule, {"state": state, "server": server})
        if not (keep is None or isinstance(keep, (str, os.PathLike))):
            raise ArgumentError(f"keep: a folder expected, got {keep!r:.80}")
        self.keep = None if keep is None else round_folder(Path(keep), number)
        self.base = None if base is None else tensors_of(open_update(base))
        self.base_hash = "" if self.base is None else frame.value_hash(self.base).hex()
        if not isinstance(ledger, (str, ledgers.Ledger)):
            raise ArgumentError(f"ledger: a URL or an open Ledger expected, got {ledger!r:.80}")
        self._owns_ledger = isinstance(ledger, str)
        self.ledger = ledgers.connect(ledger) if isinstance(ledger, str) else ledger
        self.namespace_id = self.ledger.open_namespace(namespace).namespace_id
        self.open_hash = _open_hash(self)
        self.times = {"reading": 0.0, "hashing": 0.0, "aggregating": 0.0, "committing": 0.0}
        self._submissions: dict[str, Submission] = {}
        self._closed = False

    def __enter__(self) -> Round:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for opened in (*(s.update for s in self._submissions.values()), *self.inputs.values()):
            opened.close()
        if self._owns_ledger:
            self.ledger.close()

    def submit(self, client: str, update: Any, weight: float = 1.0) -> None:
        """Takes one client's update and hashes its payload.

        update: whatever open_update() takes; the payload is the file's or frame's bytes, or for arrays the
        plain frame made of them. weight: reported weight, a positive number.
        Raises ArgumentError (client id, second update of a client, weight, closed round, a frame bound to
        another round or client), SchemaError (does not fit the others or the base), FormatError.
        """
        if self._closed:
            raise ArgumentError(f"round {self.number} of {self.namespace!r} is closed")
        canonical.check_id(client, "client id")
        if client in self._submissions:
            raise ArgumentError(f"client {client!r} has already submitted an update to round {self.number}")
        weight = _checked_weight(client, weight)
        opened = open_update(update, exclude=self.exclude)
        self._check_fits(client, opened)
        _check_binding(self, client, opened)
        self._submissions[client] = self._hash(client, opened, weight)

    def _check_fits(self, client: str, opened: Update) -> None:
        if not any(segment.size for segment in opened.schema.segments):
            raise SchemaError(f"client {client!r}: the update has no floating-point values (d = 0)")
        for other, first in self._submissions.items():
            check_same_schema([first.update, opened], [other, client])
            break
        else:
            if self.base is not None:
                _check_base(self.base, opened.schema)

    def _hash(self, client: str, opened: Update, weight: float) -> Submission:
        """Hashes the payload as it is read, and keeps a copy where the round keeps payloads."""
        start = time.perf_counter()
        hasher = merkle.ChunkHasher()
        buffers = opened.payload(self._binding(client, weight))
        if self.keep is None:
            for piece in buffers:
                hasher.update(piece)
        else:
            self._keep(client_file(self.keep / "updates", client, opened.media_type), buffers, hasher)
        self.times["hashing"] += time.perf_counter() - start
        return Submission(opened, weight, hasher.root(), hasher.size, opened.media_type)

    def _keep(self, path: Path, buffers: Iterable[Any], hasher: merkle.ChunkHasher) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with Replacing(path) as file:
                for piece in buffers:
                    hasher.update(piece)
                    file.write(piece)
        except TallystickError:
            raise
        except OSError as error:
            raise ArgumentError(f"keep: {path} cannot be written: {error.strerror}") from None

    def _binding(self, client: str, weight: float) -> frame.Binding:
        return frame.Binding(
            namespace_id=self.namespace_id,
            round=self.number,
            open_hash=self.open_hash,
            client=client,
            kind=self.kind,
            base_hash=bytes.fromhex(self.base_hash) if self.base_hash else bytes(32),
            weight=weight,
        )

    def close(self, *, before_commit: Callable[[Outcome], None] | None = None) -> Outcome:
        """Runs the rule, commits, and appends the record; the outcome has .record, .receipt, .model, .times.

        before_commit: called with the outcome before anything is recorded (to write it out, say); if it
        raises, nothing is recorded and the round stays open.
        Raises RuleError (too few clients for the rule), NonFiniteError, FileChangedError, ConflictError
        when the ledger holds a different record for this round, LedgerError.
        """
        if self._closed:
            raise ArgumentError(f"round {self.number} of {self.namespace!r} is closed")
        if not self._submissions:
            raise ArgumentError(
                f"round {self.number} of {self.namespace!r} has no updates: at least one expected"
            )
        clients = sorted(self._submissions, key=str.encode)
        submissions = [self._submissions[c] for c in clients]
        start = time.perf_counter()
        batch = Batch.of([s.update for s in submissions])
        weights = [s.weight for s in submissions]
        outcome, verdicts, reading = decide(self.rule, batch, clients, weights, self.inputs)
        batch.check_unchanged()
        inputs = {name: input_tensors(name, given, batch) for name, given in self.inputs.items()}
        values = named_arrays(outcome.value)
        model = apply_model(self.kind, self.base, values)
        self.times["reading"] += reading
        self.times["aggregating"] += time.perf_counter() - start - reading

        start = time.perf_counter()
        if self.keep is not None:
            self.keep.mkdir(parents=True, exist_ok=True)
            kept = inputs if self.base is None else {**inputs, "base": self.base}
            for name, tensors in kept.items():
                write_safetensors(self.keep / f"{name}.safetensors", tensors)
        hashed = {name: frame.value_hash(tensors).hex() for name, tensors in inputs.items()}
        hashes = {
            "schema_hash": batch.schema.hash.hex(),
            "base_hash": self.base_hash,
            "aggregate_hash": frame.value_hash(values).hex(),
            "model_hash": "" if model is None else frame.value_hash(model).hex(),
        }
        self.times["hashing"] += time.perf_counter() - start
        outcome = replace(outcome, model=model, times=self.times)
        if before_commit is not None:
            before_commit(outcome)
        start = time.perf_counter()
        leaves = self._leaves(clients, submissions, verdicts)
        made, receipt = self._append(leaves, hashes, hashed, batch.schema)
        self.times["committing"] += time.perf_counter() - start
        self._closed = True
        return replace(outcome, record=made, receipt=receipt)

    def _leaves(
        self,
        clients: Sequence[str],
        submissions: Sequence[Submission],
        verdicts: Sequence[tuple[str, str, float | None]],
    ) -> list[record.ClientLeaf]:
        salts = record.salts(len(clients))
        return [
            record.ClientLeaf(
                namespace_id=self.namespace_id,
                round=self.number,
                client=client,
                weight=s.weight,
                payload_root=s.payload_root,
                size=s.size,
                media_type=s.media_type,
                verdict=verdict,
                reason=reason,
                score=score,
                salt=salt,
            )
            for client, s, (verdict, reason, score), salt in zip(
                clients, submissions, verdicts, salts, strict=True
            )
        ]

    def _append(
        self,
        leaves: list[record.ClientLeaf],
        hashes: dict[str, str],
        inputs: dict[str, str],
        schema: Schema,
    ) -> tuple[record.RoundRecord, ledgers.Receipt]:
        """Builds the record on the log's head and appends it; again where another writer was faster."""
        root = record.clients_tree(leaves).root.hex()
        accepted = sum(leaf.verdict == "accepted" for leaf in leaves)
        for _ in range(_REBUILDS):
            head = self.ledger.head(self.namespace)
            made = record.RoundRecord(
                namespace_id=self.namespace_id.hex(),
                round=self.number,
                mode="plain",
                kind=self.kind,
                time=int(time.time()),
                rule=self.rule.text,
                f=self.rule.f,
                clients_root=root,
                accepted=accepted,
                rejected=len(leaves) - accepted,
                inputs=inputs,
                previous=head.record_hash.hex(),
                log_index=head.size,
                versions=_versions(),
                **hashes,
            )
            try:
                receipt = self.ledger.append(
                    self.namespace, made, leaves, schema=schema.to_json(), expected_head=head.record_hash
                )
            except StaleHeadError:
                continue
            if receipt.record_hash != made.hash:  # it was there already: the same round, recorded earlier
                made = self.ledger.get(self.namespace, self.number).record
            return made, receipt
        raise StaleHeadError(f"{self.namespace!r}: other writers were faster {_REBUILDS} times")


# ---- shared with verify.py -------------------------------------------------------------------------------


def decide(
    rule: Rule,
    batch: Batch,
    clients: Sequence[str],
    weights: Sequence[float],
    inputs: Mapping[str, Update] | None = None,
) -> Decision:
    """Runs the rule over open updates; clients in bytes order of their ids."""
    before = batch.seconds_reading
    checked = _checked_weights(weights, len(batch))
    outcome = rule.run(batch, checked, list[Client](clients), inputs=inputs)
    verdicts = [
        (
            "rejected" if c in outcome.rejected else "accepted",
            outcome.rejected.get(c, ""),
            outcome.scores.get(c),
        )
        for c in clients
    ]
    return Decision(outcome, verdicts, batch.seconds_reading - before)


def named_arrays(value: Any) -> dict[str, np.ndarray[Any, Any]]:
    """A rule's value as named NumPy arrays on the CPU; a single array is the tensor "update"."""
    named = value if isinstance(value, Mapping) else {"update": value}
    return {name: _on_cpu(array) for name, array in named.items()}


def input_tensors(name: str, given: Update, batch: Batch) -> dict[str, np.ndarray[Any, Any]]:
    """What a rule took of an input: the tensors that the updates have."""
    opened = fitting(name, given, batch)
    return {t.name: opened.array(t.name) for s in opened.schema.segments for t in s.tensors}


def tensors_of(update: Update) -> dict[str, np.ndarray[Any, Any]]:
    """All tensors of an open update as NumPy arrays: views of memory, copies of files."""
    return {t.name: update.array(t.name) for t in update.schema.tensors}


def apply_model(
    kind: str, base: Mapping[str, Any] | None, values: Mapping[str, Any]
) -> dict[str, np.ndarray[Any, Any]] | None:
    """The next round's base: base + aggregate ("delta", each value rounded once), the aggregate
    ("weights"), or none.
    """
    if base is None or kind == "gradient":
        return None
    if kind == "weights":
        return {**base, **values}
    return {name: array + values[name] if name in values else array for name, array in base.items()}


def round_folder(keep: Path, number: int) -> Path:
    """Where a round's payloads are kept below a keep folder."""
    return keep / f"round-{number:06d}"


def client_file(folder: Path, client: str, media_type: str) -> Path:
    """File of one client's payload; an id that is no file name is written in percent or as its hash."""
    name = quote(client, safe=" ")
    if len(name) > 200:
        name = hashlib.sha256(client.encode()).hexdigest()
    return folder / (name + (".tsf" if media_type.endswith("frame") else ".safetensors"))


# ---- checks and small parts ------------------------------------------------------------------------------


class Replacing:
    """A file written under a temporary name beside `path`, then put in its place; removed on an error."""

    def __init__(self, path: Path) -> None:
        self.path, self.partial = path, path.with_name(f".{path.name[:180]}.{os.getpid()}.part")

    def __enter__(self) -> Any:
        self.file = open(self.partial, "wb")
        return self.file

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.file.close()
        if kind is None:
            os.replace(self.partial, self.path)
        else:
            self.partial.unlink(missing_ok=True)


def _open_hash(opened: Round) -> bytes:
    statement: dict[str, Any] = {
        "format": "tallystick-open-1",
        "namespace_id": opened.namespace_id.hex(),
        "round": opened.number,
        "rule": opened.rule.text,
        "kind": opened.kind,
        "base_hash": opened.base_hash,
    }
    return hashlib.sha256(canonical.dumps(statement)).digest()


def _opened_inputs(rule: Rule, given: Mapping[str, Any]) -> dict[str, Update]:
    check_inputs(rule.text, frozenset(rule.inputs), given)
    return {name: open_update(value) for name, value in given.items() if value is not None}


def _check_binding(opened: Round, client: str, update: Update) -> None:
    """A frame that names a round, namespace, client or base must name this one; zeros leave it open."""
    binding = update.binding
    if binding is None:
        return
    expected = {
        "namespace_id": opened.namespace_id,
        "open_hash": opened.open_hash,
        "client": client,
        "base_hash": bytes.fromhex(opened.base_hash),
    }
    for name, value in expected.items():
        given = getattr(binding, name)
        if given and given != value and given != bytes(32):
            shown = given.hex() if isinstance(given, bytes) else repr(given)
            raise ArgumentError(
                f"client {client!r}: the frame is bound to another {name.replace('_', ' ')}: {shown}"
            )
    if binding.namespace_id != bytes(32) and binding.round != opened.number:
        raise ArgumentError(
            f"client {client!r}: the frame is bound to round {binding.round}, not {opened.number}"
        )


def _check_base(base: Mapping[str, Any], schema: Schema) -> None:
    for tensor in (t for s in schema.segments for t in s.tensors):
        if tensor.name not in base:
            raise SchemaError(f"the base model has no tensor {tensor.name!r}, which the updates have")
        given = base[tensor.name]
        if given.dtype.name != tensor.dtype or given.shape != tensor.shape:
            raise SchemaError(
                f"tensor {tensor.name!r}: base model has {given.dtype.name}{list(given.shape)}, "
                f"the updates {tensor.dtype}{list(tensor.shape)}"
            )


def _checked_weight(client: str, weight: Any) -> float:
    try:
        checked = _checked_weights([weight], 1)
    except ArgumentError as error:
        raise ArgumentError(f"client {client!r}: {error}") from None
    assert checked is not None
    return float(checked[0])


def _on_cpu(array: Any) -> np.ndarray[Any, Any]:
    return arrays.to_host(arrays.view(array)).numpy()


def _versions() -> dict[str, str]:
    from . import __version__

    return {"tallystick": __version__}
