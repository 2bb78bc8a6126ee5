"""Rules fed one update at a time: the mean in memory that does not grow, the others over kept updates."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from . import _core
from ._columns import Batch
from ._engine import Sources, measure
from ._rules_weighting import clip_factors, clipped_rest, clipped_weights, too_long
from ._target import Target
from .aggregate import Client, Outcome, Rule, checked_weights, clip_radius
from .canonical import check_id
from .errors import ArgumentError, DeviceError, NonFiniteError, SchemaError
from .update import Schema, Update, checked_names, open_update

__all__ = ["Accumulator", "Kept", "RunningMean"]


class Accumulator(ABC):
    """Incremental form of a rule; finish() gives the bits that one call on all updates gives."""

    def __init__(self, rule: Rule, schema: Schema | None, exclude: Iterable[str] = ()) -> None:
        self.rule, self.schema, self.exclude = rule, schema, checked_names(exclude)
        self._weights: dict[str, float] = {}
        self._template: Any = None
        self._integers: dict[str, bytes] = {}

    def add(self, client_id: str, update: Any, weight: float = 1.0) -> None:
        """Takes one client's update.

        Raises ArgumentError for an id that canonical.check_id() refuses, a second one of the same client or a
        weight that is no positive number, SchemaError for an update that does not fit; what was added before
        stays.
        """
        check_id(client_id, "client id")
        if client_id in self._weights:
            raise ArgumentError(f"client {client_id!r} has already been added")
        checked = checked_weights([weight], 1)
        assert checked is not None
        opened = open_update(update, exclude=self.exclude)
        if self.schema is not None and opened.schema.hash != self.schema.hash:
            first = next(iter(self._weights), "begin()")
            raise SchemaError(f"client {client_id!r}: the update does not have the schema of {first}")
        integers = {t.name: opened.integer_bytes(t.name) for t in opened.schema.integers}
        if self._weights and integers != self._integers:
            differ = next(name for name in integers if integers[name] != self._integers[name])
            raise SchemaError(f"client {client_id!r}: integer tensor {differ!r} differs from the others'")
        self._take(client_id, opened, float(checked[0]))
        if not self._weights:
            self.schema, self._integers, self._template = opened.schema, integers, update
        self._weights[client_id] = float(checked[0])

    @abstractmethod
    def _take(self, client: str, opened: Update, weight: float) -> None: ...

    @abstractmethod
    def finish(self) -> Outcome:
        """The outcome over everything added, clients in bytes order of their ids."""

    def _clients(self) -> list[str]:
        if not self._weights:
            raise ArgumentError("no updates: at least one expected")
        return sorted(self._weights, key=str.encode)


class Kept(Accumulator):
    """Keeps the updates, or copies them to files in `spool`, and runs the rule over them at the end."""

    def __init__(
        self,
        rule: Rule,
        schema: Schema | None,
        exclude: Iterable[str],
        spool: str | Path | None,
        inputs: Mapping[str, Any],
    ) -> None:
        super().__init__(rule, schema, exclude)
        self.inputs = inputs
        self.spool = None if spool is None else Path(spool)
        if self.spool is not None and not self.spool.is_dir():
            raise ArgumentError(f"spool: an existing folder expected, got {self.spool}")
        self._kept: dict[str, Update] = {}

    def _take(self, client: str, opened: Update, weight: float) -> None:
        if self.spool is None:
            self._kept[client] = opened
            return
        suffix = ".safetensors" if opened.media_type.endswith("safetensors") else ".tsf"
        path = self.spool / f"{len(self._kept):06d}{suffix}"
        try:
            with open(path, "xb") as file:
                for piece in opened.payload():
                    file.write(piece)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise ArgumentError(f"spool: {path} cannot be written: {error.strerror}") from None
        self._kept[client] = open_update(path)

    def finish(self) -> Outcome:
        clients = self._clients()
        batch = Batch.of([self._kept[c] for c in clients])
        batch.template = self._template
        weights = checked_weights([self._weights[c] for c in clients], len(clients))
        return self.rule.run(batch, weights, list[Client](clients), inputs=self.inputs)


class RunningMean(Accumulator):
    """The weighted mean as two float64 and an error bound per value, whatever the number of updates.

    norm_clipping of a fixed radius, as clipping | mean, is the mean of clipped updates: their weights are
    known one by one.
    """

    def __init__(self, rule: Rule, schema: Schema | None, exclude: Iterable[str] = ()) -> None:
        super().__init__(rule, schema, exclude)
        radius = clip_radius(rule)
        assert radius is not None
        self.radius = radius
        self._state: list[np.ndarray[Any, np.dtype[np.float64]]] = []
        self._rejected: set[str] = set()
        self._norms: dict[str, float] = {}

    def _share(self, weight: float) -> float:
        return weight if self.rule.parameters["weights"] == "use" else 1.0

    def _scaled(self, client: str, share: float) -> float:
        """The weight with which an update enters: 0 for one infinitely longer than the radius."""
        if client not in self._norms:
            return share
        return clipped_weights([share], clip_factors([self._norms[client]], self.radius))[0]

    def _take(self, client: str, opened: Update, weight: float) -> None:
        batch = Batch.of([opened])
        if batch.device != "cpu":
            raise DeviceError(
                f"an incremental mean of updates on {batch.device}: updates on the CPU expected"
            )
        if not self._state:
            self._state = [np.zeros((3, s.size)) for s in opened.schema.segments]
        chunks = (rows for index in range(len(self._state)) for rows in batch.chunks(index))
        if any(_core.nonfinite(rows.pointers, rows.bounds, rows.dtype) for rows in chunks):
            self._rejected.add(client)
            return
        if self.radius < math.inf:
            sources = Sources(batch, frozenset({"zero"}), {}, self.rule.text)
            self._norms[client] = math.sqrt(measure(sources, [0, 1])[0][0, 1])
        weight = self._scaled(client, self._share(weight))
        for index, state in enumerate(self._state if weight > 0 else []):
            for rows in batch.chunks(index):
                _core.running_mean_add(rows.pointers, rows.bounds, rows.dtype, weight, state, rows.column)
        batch.check_unchanged()

    def finish(self) -> Outcome:
        clients = self._clients()
        used = [c for c in clients if c not in self._rejected]
        if not used:
            raise NonFiniteError(clients)
        shares = [self._share(self._weights[c]) for c in used]
        weights = [self._scaled(c, share) for c, share in zip(used, shares, strict=True)]
        entered = np.array([w for w in (*weights, clipped_rest(shares, weights)) if w > 0])
        assert self.schema is not None
        target = Target(Batch([self._template], exclude=tuple(self.exclude)))
        uncertain = 0
        for segment, state, flat in zip(self.schema.segments, self._state, target.flat, strict=True):
            uncertain += _core.running_mean_finish(state, entered, segment.dtype, flat.address)
        rejected = {c: too_long(self.radius) for c, w in zip(used, weights, strict=True) if w == 0}
        rejected.update((c, "NaN or infinity") for c in clients if c in self._rejected)
        return Outcome(
            value=target.value(),
            rule=self.rule.text,
            selected=tuple(c for c in used if c not in rejected),
            rejected={c: rejected[c] for c in clients if c in rejected},
            scores={c: self._norms[c] for c in used if c in self._norms},
            weights={c: w / float(entered.sum()) for c, w in zip(used, weights, strict=True) if w > 0},
            uncertain=uncertain,
        )
