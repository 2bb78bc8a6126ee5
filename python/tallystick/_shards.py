"""A rule in pieces, so that any engine is a map over ranges of columns and one sum in their order:

    partials = [partial_distances(updates, lo, hi) for lo, hi in shards(updates)]      anywhere, in parallel
    decision = decide(partials, rule)                                                  once, n x n numbers
    values = [combine(updates, decision, lo, hi) for lo, hi in shards(updates)]        anywhere, in parallel

Columns are those of all floating tensors: dtypes in sorted order, names in byte order. A shard lies within
one dtype and begins on a superblock of 2^18 columns of it; so shards change no bit of the result.
Everything handed from step to step can be pickled.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _core, _engine, arrays
from ._columns import Batch
from ._rule_types import Floats, Plan
from ._target import empty_beside, kernels_for
from .aggregate import Client, Rule, checked_ids, checked_weights
from .aggregate import rule as as_rule
from .arrays import numpy_dtype
from .errors import ArgumentError, NonFiniteError, RuleError

__all__ = ["Decision", "Partial", "column_rule", "combine", "decide", "partial_distances", "shards"]

SUPERBLOCK = 1 << 18


@dataclass(frozen=True, slots=True)
class Partial:
    """Squared distances over columns lo..hi: one (rows, rows) matrix per superblock.

    clients: how many; behind their rows stand those of `extra`. nonfinite: rows with NaN or infinity here.
    columns: of the whole.
    """

    lo: int
    hi: int
    columns: int
    clients: int
    extra: tuple[str, ...]
    sums: Floats
    nonfinite: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """What a rule decided; fields as in Outcome, and the plan that combine() follows."""

    rule: str
    plan: Plan
    clients: int
    selected: tuple[Client, ...]
    rejected: dict[Client, str]
    scores: dict[Client, float]
    weights: dict[Client, float]


def shards(updates: Any, *, superblocks: int = 16, exclude: Sequence[str] = ()) -> list[tuple[int, int]]:
    """Ranges of columns, each of at most so many superblocks, in order."""
    if isinstance(superblocks, bool) or not isinstance(superblocks, int) or superblocks < 1:
        raise ArgumentError(f"superblocks: a whole number >= 1 expected, got {superblocks!r}")
    made, first = [], 0
    for segment in Batch(updates, exclude=exclude).schema.segments:
        for lo in range(0, segment.size, superblocks * SUPERBLOCK):
            hi = min(lo + superblocks * SUPERBLOCK, segment.size)
            made.append((first + lo, first + hi))
        first += segment.size
    return made


def _place(batch: Batch, lo: int, hi: int) -> tuple[int, int, int]:
    """Segment and the range within it, checked."""
    try:
        lo, hi = operator.index(lo), operator.index(hi)
    except TypeError:
        raise ArgumentError(f"columns lo, hi: whole numbers expected, got {lo!r:.80}, {hi!r:.80}") from None
    first = 0
    for index, segment in enumerate(batch.schema.segments):
        inside = first <= lo < hi <= first + segment.size
        end = hi - first == segment.size or (hi - first) % SUPERBLOCK == 0
        if inside and (lo - first) % SUPERBLOCK == 0 and end:
            return index, lo - first, hi - first
        first += segment.size
    raise ArgumentError(
        f"columns {lo}..{hi} of {first}: a range within one dtype that begins and ends on multiples of 2^18 "
        "of its columns, or at its end, expected; shards() makes them"
    )


def partial_distances(
    updates: Any, lo: int, hi: int, *, state: Any = None, server: Any = None, exclude: Sequence[str] = ()
) -> Partial:
    """Squared distances between all updates, the origin and the rule's inputs over columns lo..hi."""
    batch = Batch(updates, exclude=exclude)
    inputs = {name: given for name, given in (("state", state), ("server", server)) if given is not None}
    sources = _engine.Sources(batch, frozenset({"zero", *inputs}), inputs, "partial_distances")
    index, lo_, hi_ = _place(batch, lo, hi)
    rows = range(len(sources.batch))
    kernels, bad, sums = kernels_for(batch), set[int](), []
    for start in range(lo_, hi_, SUPERBLOCK):
        part, total = np.zeros((len(rows), len(rows))), np.zeros((len(rows), len(rows)))
        for chunk in sources.batch.chunks(index, rows, start, min(start + SUPERBLOCK, hi_)):
            bad.update(kernels.distances(chunk, part, total))
        _core.distances_finish(part, total)
        sums.append(total)
    columns = sum(s.size for s in batch.schema.segments)
    return Partial(lo, hi, columns, len(batch), sources.names, np.stack(sums), tuple(sorted(bad)))


def decide(
    partials: Sequence[Partial],
    rule: str | Rule,
    *,
    weights: Any = None,
    client_ids: Sequence[str] | None = None,
) -> Decision:
    """What the rule makes of the partials of all shards; clients that are not finite are dropped as in Rule.

    Raises ArgumentError for partials that do not cover all columns or are not of the same updates, RuleError
    for dnc, which draws columns from everywhere, and as Rule does.
    """
    made = as_rule(rule)
    partials = list(partials) if isinstance(partials, Iterable) else [partials]
    for partial in partials:
        if not isinstance(partial, Partial):
            raise ArgumentError(f"partials: what partial_distances() returned expected, got {partial!r:.80}")
    ordered = sorted(partials, key=lambda p: p.lo)
    first = _check_cover(ordered)
    n, needs = first.clients, _engine.needs_of(made.stages)
    if "sample" in needs:
        raise RuleError(f"{made.name} draws columns from whole updates: it cannot be decided from partials")
    if "server" in needs and "server" not in first.extra:
        raise ArgumentError(f"{made.text} needs partials with server=, the server's own update")
    ids = checked_ids(client_ids)
    if ids is not None and len(ids) != n:
        raise ArgumentError(f"{n} updates, but {len(ids)} client ids")
    names: Sequence[Client] = list(range(n)) if ids is None else ids
    shares = checked_weights(weights, n)
    made.check(n)
    table = np.zeros_like(first.sums[0])
    for partial in ordered:
        for sums in partial.sums:
            table += sums
    found = {row for p in ordered for row in p.nonfinite}
    if wrong := [first.extra[row - n] for row in found if row >= n]:
        raise ArgumentError(f"{', '.join(wrong)}: NaN or infinity in it, finite values only")
    bad = sorted(found)
    stages = made.left(bad, names, n)
    active = [i for i in range(n) if i not in found]
    extra = _engine.extra_of(needs, first.extra)
    rows = [*active, *(n + first.extra.index(name) for name in extra)]
    decided = _engine.decide(
        stages,
        active,
        n,
        extra,
        np.ascontiguousarray(table[np.ix_(rows, rows)]),
        np.ones(len(active)) if shares is None else shares[active],
    )
    rejected = {**dict.fromkeys(bad, "NaN or infinity"), **decided.reasons}
    return Decision(
        rule=made.text,
        plan=decided.plan,
        clients=n,
        selected=tuple(names[i] for i in decided.selected),
        rejected={names[i]: rejected[i] for i in sorted(rejected)},
        scores={names[i]: score for i, score in sorted(decided.scores.items())},
        weights={names[i]: weight for i, weight in sorted(decided.effective.items())},
    )


def _check_cover(ordered: Sequence[Partial]) -> Partial:
    if not ordered:
        raise ArgumentError("no partials: at least one expected")
    first, at = ordered[0], 0
    for partial in ordered:
        if (partial.clients, partial.extra, partial.columns) != (first.clients, first.extra, first.columns):
            raise ArgumentError(
                f"partials of different updates: {first.clients} clients with {first.columns} columns, then "
                f"{partial.clients} with {partial.columns}, or other inputs"
            )
        if partial.lo != at:
            raise ArgumentError(f"partials: columns from {at} on expected, got those from {partial.lo} on")
        rows = partial.clients + len(partial.extra)
        shape = (-(-(partial.hi - partial.lo) // SUPERBLOCK), rows, rows)
        if np.shape(partial.sums) != shape:
            raise ArgumentError(f"partials: sums of shape {shape} expected, got {np.shape(partial.sums)}")
        at = partial.hi
    if at != first.columns:
        raise ArgumentError(f"partials: columns {at}..{first.columns} are missing")
    return first


def combine(
    updates: Any,
    decision: Decision,
    lo: int,
    hi: int,
    *,
    state: Any = None,
    server: Any = None,
    exclude: Sequence[str] = (),
) -> Any:
    """Columns lo..hi of the aggregate that the decision stands for, a 1-D array of their dtype.

    Takes the updates, and of the inputs that the partials were made with those that the rule takes.
    """
    if not isinstance(decision, Decision):
        raise ArgumentError(f"decision: what decide() returned expected, got {decision!r:.80}")
    batch = Batch(updates, exclude=exclude)
    if len(batch) != decision.clients:
        raise ArgumentError(f"a decision over {decision.clients} updates, but {len(batch)} were given")
    inputs = {"state": state, "server": server}
    needs = frozenset(decision.plan.extra)
    sources = _engine.Sources(batch, needs, inputs, decision.rule)
    if sources.names != decision.plan.extra:
        raise ArgumentError(f"the decision was made with inputs {decision.plan.extra}, not {sources.names}")
    plan, source = _engine.with_noise(decision.plan, sources.batch)
    return _columns(plan, source, lo, hi)


def column_rule(
    updates: Any, lo: int, hi: int, rule: str | Rule, *, weights: Any = None, exclude: Sequence[str] = ()
) -> Any:
    """Columns lo..hi of a rule that looks at every parameter by itself, without any partials.

    Raises RuleError for a rule that needs distances, NonFiniteError with the clients that hold NaN or
    infinity in these columns: leave them out everywhere, with f less their number.
    """
    made, batch = as_rule(rule), Batch(updates, exclude=exclude)
    if _engine.needs_of(made.stages):
        raise RuleError(f"{made.text} compares whole updates: partial_distances() and decide() expected")
    n, shares = len(batch), checked_weights(weights, len(batch))
    made.check(n)
    given = np.ones(n) if shares is None else shares
    decided = _engine.decide(made.stages, range(n), n, (), None, given)
    return _columns(decided.plan, batch, lo, hi)


def _columns(plan: Plan, batch: Batch, lo: int, hi: int) -> Any:
    index, start, end = _place(batch, lo, hi)
    out = empty_beside(batch, end - start, batch.schema.segments[index].dtype)
    address, itemsize = arrays.view(out).address, numpy_dtype(batch.schema.segments[index].dtype).itemsize
    kernel, bad = _engine.checked(plan, batch), set[int]()
    for rows in batch.chunks(index, plan.rows, start, end):
        bad.update(plan.rows[i] for i in kernel(rows, address + (rows.column - start) * itemsize))
    if bad:
        raise NonFiniteError(sorted(bad))
    return out
