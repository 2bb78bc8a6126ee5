"""From updates to an aggregate: measures what a rule needs, lets its stages decide, computes what they chose.

measure()   distances between clients and the extra rows that a rule needs (the origin, a state, the server's)
decide()    from distances to a Plan; touches no data
execute()   from a Plan to values, all of them or a range of columns
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import _core, arrays
from ._columns import Batch, Rows
from ._rule_types import Choice, Floats, Parameters, Plan, Spec, View
from ._rules_columns import RULES as COLUMNS
from ._rules_mixing import STAGES
from ._rules_selection import RULES as SELECTION
from ._rules_weighting import RULES as WEIGHTING
from ._target import Target, beside, kernels_for, like
from .arrays import numpy_dtype
from .errors import ArgumentError, RuleError
from .update import Schema, Update, check_same_schema, open_update

__all__ = [
    "INPUTS",
    "RULES",
    "STAGES",
    "Decided",
    "Sources",
    "decide",
    "execute",
    "extra_of",
    "fitting",
    "measure",
    "mixtures",
    "needs_of",
    "nonfinite",
]

RULES: dict[str, Spec] = {**COLUMNS, **SELECTION, **WEIGHTING}
INPUTS = ("state", "server")  # updates beside the clients' that some rules take
NOISE_COLUMNS = 1 << 17  # made at a time
Stages = Sequence[tuple[str, Parameters]]
Sample = Callable[[int, int, int], Floats]  # (seed, turn, columns) -> squared distances, extra rows last


def needs_of(stages: Stages) -> frozenset[str]:
    specs = [STAGES[name] for name, _ in stages[:-1]] + [RULES[stages[-1][0]]]
    needs: frozenset[str] = frozenset().union(*(s.needs for s in specs))
    return needs | {"distances"} if len(specs) > 1 and needs else needs


def extra_of(needs: frozenset[str], given: Sequence[str]) -> tuple[str, ...]:
    """The extra rows a rule needs, in the order of Sources: a state that is not given is the origin."""
    inputs = [name for name in INPUTS if name in needs and name in given]
    zero = "zero" in needs or ("state" in needs and "state" not in inputs)
    return (*inputs, "zero") if zero else tuple(inputs)


def check_inputs(rule: str, needs: frozenset[str], inputs: Mapping[str, Any]) -> None:
    """ArgumentError for an input that the rule does not take, or one that it lacks."""
    for name in INPUTS:
        if inputs.get(name) is not None and name not in needs:
            raise ArgumentError(f"{rule} takes no {name}")
    if "server" in needs and inputs.get("server") is None:
        raise ArgumentError(f"{rule} needs server=, the server's own update")


class Sources:
    """The clients' updates and behind them the extra rows a rule needs: n clients, then `extra`."""

    def __init__(self, batch: Batch, needs: frozenset[str], inputs: Mapping[str, Any], rule: str) -> None:
        self.n = len(batch)
        added: list[Update] = []
        self.extra: dict[str, int] = {}
        check_inputs(rule, needs, inputs)
        for name in INPUTS:
            if (given := inputs.get(name)) is not None:
                added.append(fitting(name, given, batch))
                self.extra[name] = self.n + len(added) - 1
        if "zero" in extra_of(needs, self.names):
            self.extra["zero"] = self.n + len(added)
            added.append(like(batch))
        self.batch = batch if not added else Batch.of([*batch.updates, *added])
        self.batch.template = batch.template

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.extra, key=lambda name: self.extra[name]))


def fitting(name: str, given: Any, batch: Batch) -> Update:
    """An input as an update with the floating tensors of the batch; SchemaError where it has others."""
    opened = open_update(given)
    if opened.schema.segments == batch.schema.segments:
        return opened
    wanted = {t.name for s in batch.schema.segments for t in s.tensors}
    surplus = [t.name for s in opened.schema.segments for t in s.tensors if t.name not in wanted]
    if surplus and not isinstance(given, Update):
        opened = open_update(given, exclude=surplus)
    if opened.schema.segments != batch.schema.segments:
        check_same_schema([_floating(batch.updates[0]), _floating(opened)], ["the updates", name])
    return opened


def _floating(update: Update) -> Update:
    """Stands for an update in a comparison of schemas that leaves integers out."""
    bare = copy(update)
    bare.schema = Schema(tuple(t for s in update.schema.segments for t in s.tensors))
    return bare


# ---- measuring -------------------------------------------------------------------------------------------


def measure(sources: Sources, rows: Sequence[int]) -> tuple[Floats, list[int]]:
    """Squared distances between some rows, and which of them hold NaN or infinity."""
    batch, n = sources.batch, len(rows)
    kernels = kernels_for(batch)
    part, total = np.zeros((n, n)), np.zeros((n, n))
    bad: set[int] = set()
    for index in range(len(batch.schema.segments)):
        for chunk in batch.chunks(index, rows):
            bad.update(rows[i] for i in kernels.distances(chunk, part, total))
        _core.distances_finish(part, total)
    return total, sorted(bad)


def nonfinite(sources: Sources, rows: Sequence[int]) -> list[int]:
    """The rows that hold NaN or infinity."""
    batch, bad = sources.batch, set[int]()
    for index in range(len(batch.schema.segments)):
        for chunk in batch.chunks(index, rows):
            bad.update(rows[i] for i in kernels_for(batch).nonfinite(chunk))
    return sorted(bad)


def sampled(sources: Sources, rows: Sequence[int], seed: int, turn: int, count: int) -> Floats:
    """Distances over `count` of the columns, drawn without repetition."""
    batch, n, first = sources.batch, len(rows), 0
    sizes = [s.size for s in batch.schema.segments]
    chosen = np.array(draw(sum(sizes), count, seed, turn), np.int64)
    part, total = np.zeros((n, n)), np.zeros((n, n))
    for index, size in enumerate(sizes):
        inside = np.sort(chosen[(chosen >= first) & (chosen < first + size)]) - first
        first += size
        if len(inside):
            taken, values = _gathered(batch, index, rows, inside)
            kernels_for(batch).distances(taken, part, total)
            del values
        _core.distances_finish(part, total)
    return total


def _gathered(batch: Batch, index: int, rows: Sequence[int], columns: Any) -> tuple[Rows, Any]:
    """Some columns of a segment as rows of their own, and the memory they lie in.

    On a device every value stays where it is, a piece by itself; on the CPU it is copied, as chunks of files
    are gone when the next one is read.
    """
    dtype = batch.schema.segments[index].dtype
    itemsize, n, done = numpy_dtype(dtype).itemsize, len(rows), 0
    values = np.empty((n, len(columns) * itemsize), np.uint8)
    for chunk in batch.chunks(index, rows):
        here = columns[(columns >= chunk.column) & (columns < chunk.column + chunk.size)] - chunk.column
        piece = np.searchsorted(chunk.bounds, here, side="right") - 1
        skipped = (here - chunk.bounds[piece]).astype(np.uint64) * np.uint64(itemsize)
        addresses = np.ascontiguousarray(chunk.pointers[:, piece] + skipped)
        if batch.device != "cpu":
            return Rows(addresses, np.arange(len(here) + 1, dtype=np.int64), dtype, 0), None
        for row, target in zip(addresses, values, strict=True):
            _core.gather(row, itemsize, target.ctypes.data + done * itemsize)
        done += len(here)
    offsets = np.arange(n, dtype=np.uint64)[:, None] * np.uint64(values.shape[1])
    bounds = np.array([0, len(columns)], np.int64)
    return Rows(np.uint64(values.ctypes.data) + offsets, bounds, dtype, 0), values


def draw(population: int, count: int, seed: int, turn: int) -> list[int]:
    """min(count, population) different numbers below population (Floyd's method), stream 2 + turn."""
    count = min(count, population)
    words = _core.random_words(seed, 2 + turn, 0, count).tolist()
    chosen: dict[int, None] = {}
    for word, top in zip(words, range(population - count, population), strict=True):
        pick = word * (top + 1) >> 64
        chosen[top if pick in chosen else pick] = None
    return list(chosen)


# ---- deciding --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Decided:
    """A plan, and what is said of the clients; keys are rows of the batch."""

    plan: Plan
    selected: list[int]
    reasons: dict[int, str]
    scores: dict[int, float]
    effective: dict[int, float]


class _Mixture:
    """Rows as affine mixtures of base rows: the identity to begin with."""

    def __init__(self, table: Floats | None, n: int, extra: Sequence[str]) -> None:
        self.base, self.extra = table, tuple(extra)
        self.n = n
        self.matrix: Floats | None = None  # of the current rows, extra ones last, in base rows
        self.stands: list[int] = list(range(n))  # of every client: the row it went into
        self._table = table

    @property
    def table(self) -> Floats:
        """Squared distances of the current rows, extra ones last; empty where none were measured."""
        if self.base is None:
            return np.zeros((0, 0))
        if self._table is None:
            assert self.matrix is not None
            self._table = _core.mixed_distances(self.base, self.matrix)
        return self._table

    def mix(self, rows: Floats, stands: Sequence[int]) -> None:
        """stands: the new row that each of the current ones went into."""
        k = len(self.extra)
        stacked = np.zeros((len(rows) + k, self.n + k))
        stacked[: len(rows)] = rows
        for e in range(k):
            stacked[len(rows) + e, self.n + e] = 1.0
        self.matrix = stacked if self.matrix is None else _core.product(stacked, self.matrix)
        self.stands = [stands[row] for row in self.stands]
        self.n, self._table = len(rows), None

    def view(self, shares: Floats, clients: list[int], sample: Sample | None) -> View:
        extra = {name: self.n + e for e, name in enumerate(self.extra)}
        if "state" not in extra and "zero" in extra:
            extra["state"] = extra["zero"]
        return View(self.n, self.n + len(self.extra), self.table, extra, shares, clients, self._of(sample))

    def _of(self, sample: Sample | None) -> Sample | None:
        """Distances over sampled columns, of the current rows without the extra ones."""
        if sample is None:
            return None

        def mixed(seed: int, turn: int, count: int) -> Floats:
            table = sample(seed, turn, count)
            if self.matrix is not None:
                table = _core.mixed_distances(table, self.matrix)
            return np.ascontiguousarray(table[: self.n, : self.n])

        return mixed


def decide(
    stages: Stages,
    clients: Sequence[int],
    total_clients: int,
    extra: Sequence[str],
    table: Floats | None,
    shares: Floats,
    sample: Sample | None = None,
) -> Decided:
    """What the stages make of `clients` (rows of the batch) with these squared distances, extra rows last.

    shares: reported weights of these clients. total_clients: rows of the batch before the extra ones.
    """
    n = len(clients)
    stages = _joined(stages)
    mixture = _Mixture(table, n, extra)
    origin, given = list(clients), shares
    for name, parameters in stages[:-1]:
        spec = STAGES[name]
        assert spec.mix is not None
        rows, stands = spec.mix(mixture.view(given, origin, None), parameters)
        mixture.mix(rows, stands)
        if len(rows) == len(set(stands)) == len(stands):  # every row still stands for one client
            place = np.argsort(stands)
            origin, given = [origin[i] for i in place], given[place]
        else:
            origin, given = [-1] * len(rows), np.ones(len(rows))
    name, parameters = stages[-1]
    spec = RULES[name]
    assert spec.decide is not None
    choice = spec.decide(mixture.view(given, origin, sample), parameters)
    batch_rows = [*clients, *range(total_clients, total_clients + len(extra))]
    plan, used = _plan(choice, mixture.matrix, mixture.n, n, batch_rows, tuple(extra))
    selected = [c for i, c in enumerate(clients) if used[i]]
    scores = [] if choice.scores is None else [float(s) for s in choice.scores]
    return Decided(
        plan=plan,
        selected=selected,
        reasons={c: choice.reason for i, c in enumerate(clients) if not used[i]},
        scores={c: scores[mixture.stands[i]] for i, c in enumerate(clients)} if scores else {},
        effective=_effective(plan, clients),
    )


def _joined(stages: Stages) -> Stages:
    """clipping | mean is norm_clipping of that radius: one correctly rounded sum, also one at a time."""
    if [name for name, _ in stages] != ["clipping", "mean"]:
        return stages
    return [("norm_clipping", {**stages[0][1], **stages[1][1]})]


def mixtures(stage: tuple[str, Parameters], n: int, extra: Sequence[str], table: Floats | None) -> list[Plan]:
    """Every row that a pre-aggregator makes, with the bits that a rule behind it sees: a median of one."""
    mixture, spec = _Mixture(table, n, extra), STAGES[stage[0]]
    assert spec.mix is not None
    mixture.mix(*spec.mix(mixture.view(np.ones(n), list(range(n)), None), stage[1]))
    rows, made = list(range(n + len(extra))), Choice("median", tuple(range(mixture.n)), argument="mid")
    plan, _ = _plan(made, mixture.matrix, mixture.n, n, rows, tuple(extra))
    assert plan.matrix is not None
    return [replace(plan, matrix=plan.matrix[k : k + 1]) for k in range(mixture.n)]


def _plan(
    choice: Choice, matrix: Floats | None, m: int, n: int, rows: list[int], extra: tuple[str, ...]
) -> tuple[Plan, list[bool]]:
    """The choice in rows of the batch, and for every client whether it has a share in it."""
    if choice.weights is not None:
        weights, kernel = choice.weights, choice.kernel
        if matrix is not None:
            if kernel == "mean":
                weights = weights / np.add.accumulate(weights)[-1]
            weights, kernel = _core.product(weights[None, :], matrix)[0], "combine"
        if kernel == "combine" and "zero" in extra:
            weights = weights.copy()
            weights[n + extra.index("zero")] = 0.0
        kept = np.flatnonzero(weights).tolist() or [0]
        plan = Plan(
            kernel,
            tuple(rows[i] for i in kept),
            weights[kept],
            noise=choice.noise,
            extra=extra,
            may_overflow=choice.may_overflow,
        )
        return plan, (weights[:n] != 0).tolist()
    if matrix is None:
        chosen = set(choice.selected)
        at = tuple(rows[i] for i in sorted(chosen))
        plan = Plan(choice.kernel, at, argument=choice.argument, extra=extra)
        return plan, [i in chosen for i in range(n)]
    mixed = matrix[list(choice.selected)].copy()
    if "zero" in extra:
        mixed[:, n + extra.index("zero")] = 0.0
    some = (mixed != 0).any(axis=0)
    kept = np.flatnonzero(some).tolist() or [0]
    plan = Plan(
        "mixed",
        tuple(rows[i] for i in kept),
        argument=choice.argument,
        column=choice.kernel,
        matrix=np.ascontiguousarray(mixed[:, kept]),
        extra=extra,
    )
    return plan, some[:n].tolist()


def _effective(plan: Plan, clients: Sequence[int]) -> dict[int, float]:
    if plan.weights is None:
        return {}
    total = float(np.sum(plan.weights)) if plan.kernel == "mean" else 1.0
    known = set(clients)
    pairs = zip(plan.rows, plan.weights.tolist(), strict=True)
    return {row: weight / total for row, weight in pairs if row in known and weight != 0}


# ---- computing -------------------------------------------------------------------------------------------


def kernel_of(plan: Plan, batch: Batch) -> Callable[[Rows, int], list[int]]:
    """The plan's kernel, from a chunk of its rows and an address to the clients found not finite."""
    kernels = kernels_for(batch)
    if plan.kernel == "mean":
        assert plan.weights is not None
        weights = None if (plan.weights == plan.weights[0]).all() else plan.weights
        return lambda rows, at: kernels.mean(rows, weights, at)
    if plan.kernel == "combine":
        return lambda rows, at: kernels.combine(rows, plan.weights, at)
    if plan.kernel == "mixed":
        return lambda rows, at: kernels.mixed(rows, plan.matrix, plan.column, plan.argument, at)
    if plan.kernel == "majority":
        return lambda rows, at: kernels.majority(rows, at)
    column = getattr(kernels, plan.kernel)
    return lambda rows, at: column(rows, plan.argument, at)


def execute(plan: Plan, sources: Sources, target: Target) -> list[int]:
    """Fills the target; rows of the batch found not finite."""
    plan, batch = with_noise(plan, sources.batch)
    return target.fill(plan.rows, checked(plan, batch), batch)


def checked(plan: Plan, batch: Batch) -> Callable[[Rows, int], list[int]]:
    """The plan's kernel, and a RuleError where a sum that may leave the dtype has left it."""
    kernel = kernel_of(plan, batch)
    if not plan.may_overflow:
        return kernel

    def run(rows: Rows, at: int) -> list[int]:
        found = kernel(rows, at)
        sums = Rows(np.array([[at]], np.uint64), np.array([0, rows.size], np.int64), rows.dtype, 0)
        if not found and kernels_for(batch).nonfinite(sums):
            raise RuleError(f"{plan.may_overflow}: values beyond {rows.dtype} in the aggregate")
        return found

    return run


def with_noise(plan: Plan, batch: Batch) -> tuple[Plan, Batch]:
    """Noise is one more row of the sum: standard normal values, stream 0 of the seed."""
    if plan.noise is None:
        return plan, batch
    assert plan.weights is not None
    sigma, seed = plan.noise
    return replace(plan, weights=np.append(plan.weights, sigma), noise=None), _Noisy(batch, seed)


class _Noisy(Batch):
    """A batch whose chunks have one more row, of noise, made for these columns alone."""

    def __init__(self, batch: Batch, seed: int) -> None:
        self._set(batch.updates)
        self.template, self.given, self.seed = batch.template, (), seed
        sizes = [s.size for s in batch.schema.segments]
        self._first = [sum(sizes[:k]) for k in range(len(sizes))]  # column of each segment in the noise

    def chunks(
        self, index: int, clients: Sequence[int] | None = None, lo: int = 0, hi: int | None = None
    ) -> Iterator[Rows]:
        segment = self.schema.segments[index]
        hi = segment.size if hi is None else hi
        itemsize = np.uint64(numpy_dtype(segment.dtype).itemsize)
        for start in range(lo, hi, NOISE_COLUMNS):
            wide = np.empty(min(NOISE_COLUMNS, hi - start))
            _core.normals(self.seed, 0, self._first[index] + start, wide)
            noise = arrays.view(beside(self, wide, len(wide), segment.dtype))
            for rows in super().chunks(index, clients, start, start + len(wide)):
                columns = rows.column - start + rows.bounds[:-1]
                row = np.uint64(noise.address) + columns.astype(np.uint64) * itemsize
                yield Rows(np.vstack([rows.pointers, row]), rows.bounds, rows.dtype, rows.column)
