"""Aggregation rules over client updates: plain functions, and the same as rules that report whom they
left out.

updates: a 2-D array (clients, values), or a sequence of arrays, of dicts of named arrays, of
.safetensors or frame paths. float64, float32, float16 and bfloat16; NumPy, torch, JAX, CuPy; never
changed, never stacked. Where the arrays live decides between CPU and GPU.

Sums over clients are correctly rounded: the exact real result, rounded once to the output type. So
client order, threads, CPU level, chunking and device cannot change a bit. NaN and infinity are
refused: functions raise NonFiniteError with the clients, rules drop such clients, report them and
count them against f.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core, _rule_text
from ._columns import Batch, Rows
from ._target import Target, kernels_for
from .errors import ArgumentError, NonFiniteError, RuleError

if TYPE_CHECKING:
    from ._incremental import Accumulator
    from .update import Schema

__all__ = [
    "Outcome",
    "Rule",
    "distances",
    "krum",
    "mean",
    "median",
    "multi_krum",
    "rule",
    "trimmed_mean",
]

Client = str | int
Parameters = dict[str, _rule_text.Value]

WEIGHT_LIMIT = 2.0**500  # weights lie in [1 / limit, limit], so that no product leaves float64


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rule found.

    value: the aggregate, as the caller's kind of array (dict of arrays for named tensors and files).
    selected: clients whose values entered; rejected: the others, each with the reason.
    scores: Krum scores (sums of squared distances), empty for rules without; weights: effective
    weights (sum 1) where the result is a weighted sum of whole updates, else empty. Keys are client
    ids, or indices where no ids were given.
    """

    value: Any
    rule: str
    selected: tuple[Client, ...]
    rejected: dict[Client, str]
    scores: dict[Client, float]
    weights: dict[Client, float]
    model: Any = None
    record: Any = None
    receipt: Any = None
    times: dict[str, float] = field(default_factory=dict)
    uncertain: int = 0


# ---- plain functions -------------------------------------------------------------------------------------


def mean(
    updates: Any,
    weights: Any = None,
    *,
    precision: str = "exact",
    out: Any = None,
    exclude: Sequence[str] = (),
) -> Any:
    """Weighted mean of every parameter: sum(w_i x_i) / sum(w_i), correctly rounded.

    weights: n positive finite numbers in [2^-500, 2^500]; 1 each when None. precision: "exact".
    out: array or dict of arrays of the result's shapes and dtype, returned; allocated when None.
    Raises ArgumentError, SchemaError, NonFiniteError.
    """
    if precision != "exact":
        raise ArgumentError(f"precision: 'exact' expected, got {precision!r}")
    batch = Batch(updates, exclude=exclude)
    checked = checked_weights(weights, len(batch))
    return _plain(batch, out, lambda rows, at: kernels_for(batch).mean(rows, checked, at))


def median(updates: Any, *, kind: str = "mid", out: Any = None, exclude: Sequence[str] = ()) -> Any:
    """Median of every parameter over clients.

    kind: what an even number of clients gives: "mid", the correctly rounded mean of the middle two;
    "lower"; "upper".
    out, errors: as in mean(). Reference: Yin et al., ICML 2018.
    """
    kind = _choice("median", "kind", kind, ("mid", "lower", "upper"))
    batch = Batch(updates, exclude=exclude)
    return _plain(batch, out, lambda rows, at: kernels_for(batch).median(rows, kind, at))


def trimmed_mean(updates: Any, f: int, *, out: Any = None, exclude: Sequence[str] = ()) -> Any:
    """Mean of every parameter over clients, without its f smallest and f largest values; correctly rounded.

    f: number of hostile clients tolerated (a count, not a fraction), 0 <= 2 f < n, else RuleError.
    out, errors: as in mean(). Reference: Yin et al., ICML 2018 (their beta is f / n).
    """
    batch = Batch(updates, exclude=exclude)
    f = _count("trimmed_mean", "f", f)
    _check_trimmed(len(batch), {"f": f})
    return _plain(batch, out, lambda rows, at: kernels_for(batch).trimmed_mean(rows, f, at))


def distances(updates: Any, *, exclude: Sequence[str] = ()) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Squared Euclidean distances between all pairs of updates: (n, n) float64, symmetric, zero diagonal.

    Direct sums of (x - y)^2: float32 differences in 16 fma lanes over blocks of 512 values (float64
    data: float64), float64 across blocks, superblocks of 2^18 values; never a Gram matrix of raw
    values, which one far update would ruin. A sum beyond float32 is +Inf.
    Raises NonFiniteError with the indices of clients that hold NaN or infinity.
    """
    batch = Batch(updates, exclude=exclude)
    table, bad = _distances(batch, range(len(batch)))
    if bad:
        raise NonFiniteError(bad)
    return table


def krum(
    updates: Any, f: int, *, neighbors: str = "n-f-2", out: Any = None, exclude: Sequence[str] = ()
) -> Any:
    """The update with the lowest Krum score: the sum of its squared distances to its nearest n-f-2 others.

    f: number of hostile clients tolerated, n >= 2 f + 3, else RuleError. neighbors: "n-f-2" (the
    paper) or "n-f-1" (ByzFL). Ties go to the lowest index. Reference: Blanchard et al., NeurIPS 2017.
    """
    return _selected_mean(updates, "krum", {"f": f, "neighbors": neighbors}, out, exclude)


def multi_krum(
    updates: Any,
    f: int,
    m: int | None = None,
    *,
    neighbors: str = "n-f-2",
    out: Any = None,
    exclude: Sequence[str] = (),
) -> Any:
    """Unweighted mean of the m updates with the lowest Krum scores; m = n - f unless given, 1 <= m <= n - f.

    Other parameters, ties and errors as in krum(). Reference: Blanchard et al., NeurIPS 2017.
    """
    parameters: Parameters = {"f": f, "m": "n-f" if m is None else m, "neighbors": neighbors}
    return _selected_mean(updates, "multi_krum", parameters, out, exclude)


# ---- rules -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Run:
    """What one rule works on: finite clients of a batch, by index."""

    batch: Batch
    active: list[int]
    weights: np.ndarray[Any, np.dtype[np.float64]]  # of all clients of the batch
    target: Target
    selected: list[int] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)
    effective: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Spec:
    """A rule: its parameters with defaults, its bounds, and what it does; run returns clients found
    not finite.
    """

    defaults: Parameters
    choices: Mapping[str, tuple[str, ...]]
    check: Callable[[int, Parameters], None]
    run: Callable[[_Run, Parameters], list[int]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule with all its parameters; `text` is canonical and goes into the record.

    Called with updates, weights and client ids it returns an Outcome. Clients with NaN or infinity are
    dropped and reported; the rule then runs on the other n - r with f - r, and more than f of them is
    a NonFiniteError.
    """

    text: str
    name: str
    parameters: Parameters

    def __call__(
        self,
        updates: Any,
        weights: Any = None,
        client_ids: Sequence[str] | None = None,
        *,
        out: Any = None,
        exclude: Sequence[str] = (),
    ) -> Outcome:
        ids = None if client_ids is None else list(client_ids)
        if ids is not None and len(set(ids)) < len(ids):
            twice = sorted({i for i in ids if ids.count(i) > 1})
            raise ArgumentError(f"client ids given twice: {', '.join(twice[:8])}")
        batch = Batch(updates, ids, exclude)
        return self.run(batch, checked_weights(weights, len(batch)), ids, out=out)

    def run(self, batch: Batch, weights: Any, ids: Sequence[Client] | None, *, out: Any = None) -> Outcome:
        """The same on updates that are open already."""
        spec, n = _SPECS[self.name], len(batch)
        spec.check(n, self.parameters)
        weights = np.ones(n) if weights is None else weights
        names: Sequence[Client] = list(range(n)) if ids is None else ids
        target = Target(batch, out)
        active, bad = list(range(n)), list[int]()
        while True:
            run = _Run(batch, active, weights, target)
            found = spec.run(run, self._without(bad, names, n))
            if not found:
                break
            bad = sorted({*bad, *found})
            self._without(bad, names, n)  # refuses more than f of them
            active = [i for i in range(n) if i not in set(bad)]
        rejected = {**dict.fromkeys(bad, "NaN or infinity"), **run.reasons}
        return Outcome(
            value=target.value(),
            rule=self.text,
            selected=tuple(names[i] for i in run.selected),
            rejected={names[i]: rejected[i] for i in sorted(rejected)},
            scores={names[i]: run.scores[i] for i in sorted(run.scores)},
            weights={names[i]: run.effective[i] for i in sorted(run.effective)},
        )

    def _without(self, bad: Sequence[int], names: Sequence[Client], n: int) -> Parameters:
        """Parameters for the n - r clients left: f - r for rules that count hostile clients."""
        if len(bad) == n:
            raise NonFiniteError([names[i] for i in bad])
        if not bad or "f" not in self.parameters:
            return self.parameters
        f = int(self.parameters["f"])
        if len(bad) > f:
            given = [names[i] for i in bad]
            shown = ", ".join(map(str, given[:8]))
            raise NonFiniteError(given, f"NaN or infinity in {len(bad)} updates ({shown}), but f={f}")
        return {**self.parameters, "f": f - len(bad)}

    def begin(self, schema: Schema | None = None, *, spool: str | Path | None = None) -> Accumulator:
        """Starts an incremental run: add(client_id, update, weight) as updates arrive, then finish().

        schema: what every update must have; the first one's when None. The mean takes 24 bytes per value
        however many updates come. Other rules keep the updates, not to be changed until finish(), or copy
        them to files in the folder `spool` and read them from there.
        """
        from ._incremental import Kept, RunningMean

        if self.name == "mean" and spool is None:
            return RunningMean(self, schema)
        return Kept(self, schema, spool)


def rule(text: str | Rule) -> Rule:
    """Rule from its text, such as "trimmed_mean(f=2)"; RuleError for unknown names, parameters or values."""
    if isinstance(text, Rule):
        return text
    name, given = _rule_text.parse(text)
    if name not in _SPECS:
        raise RuleError(f"unknown rule {name!r}: {', '.join(sorted(_SPECS))} expected")
    return _make(name, given)


def _make(name: str, given: Parameters) -> Rule:
    spec = _SPECS[name]
    unknown = sorted(set(given) - set(spec.defaults))
    if unknown:
        allowed = ", ".join(spec.defaults) or "none"
        raise RuleError(f"{name}: unknown parameter {', '.join(unknown)}; allowed: {allowed}")
    parameters: Parameters = {}
    for key, default in spec.defaults.items():
        value = given.get(key, default)
        if value == "required":
            raise RuleError(f"{name}: {key} is required, such as {name}({key}=1)")
        if key in spec.choices:
            value = _choice(name, key, value, spec.choices[key])
        elif value != default or key == "f":
            value = _count(name, key, value)
        parameters[key] = value
    return Rule(_rule_text.write(name, parameters), name, parameters)


# ---- what the rules do -----------------------------------------------------------------------------------


def _run_mean(run: _Run, parameters: Parameters) -> list[int]:
    weights = run.weights[run.active] if parameters["weights"] == "use" else None
    kernels = kernels_for(run.batch)
    bad = run.target.fill(run.active, lambda rows, at: kernels.mean(rows, weights, at))
    run.selected = list(run.active)
    total = float(np.sum(weights)) if weights is not None else float(len(run.active))
    each = weights if weights is not None else np.ones(len(run.active))
    run.effective = {c: float(w) / total for c, w in zip(run.active, each, strict=True)}
    return bad


def _run_median(run: _Run, parameters: Parameters) -> list[int]:
    kernels, kind = kernels_for(run.batch), str(parameters["kind"])
    run.selected = list(run.active)
    return run.target.fill(run.active, lambda rows, at: kernels.median(rows, kind, at))


def _run_trimmed(run: _Run, parameters: Parameters) -> list[int]:
    kernels, f = kernels_for(run.batch), int(parameters["f"])
    run.selected = list(run.active)
    return run.target.fill(run.active, lambda rows, at: kernels.trimmed_mean(rows, f, at))


def _run_krum(run: _Run, parameters: Parameters) -> list[int]:
    """Krum is Multi-Krum with m = 1: the mean of one update is that update."""
    table, bad = _distances(run.batch, run.active)
    if bad:
        return bad
    n, f = len(run.active), int(parameters["f"])
    scores = _krum_scores(table, n - f - (2 if parameters["neighbors"] == "n-f-2" else 1))
    m = parameters.get("m", 1)
    m = n - f if m == "n-f" else min(int(m), n - f)
    order = np.argsort(scores, kind="stable")  # ties: lowest index
    kept = sorted(int(i) for i in order[:m])
    run.scores = {run.active[i]: float(s) for i, s in enumerate(scores)}
    run.selected = [run.active[i] for i in kept]
    run.reasons = {c: "Krum score too high" for c in run.active if c not in set(run.selected)}
    weights = run.weights[run.selected] if parameters.get("weights") == "use" else None
    each = np.ones(m) if weights is None else weights
    run.effective = {c: float(w / each.sum()) for c, w in zip(run.selected, each, strict=True)}
    kernels = kernels_for(run.batch)
    return run.target.fill(run.selected, lambda rows, at: kernels.mean(rows, weights, at))


def _krum_scores(
    table: np.ndarray[Any, np.dtype[np.float64]], neighbors: int
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Per row, the sum of its `neighbors` smallest off-diagonal values, smallest first."""
    ordered = np.sort(table, axis=1)[:, 1 : neighbors + 1]  # one zero, its own or an equal one, is left out
    sums: np.ndarray[Any, np.dtype[np.float64]] = np.add.accumulate(ordered, axis=1)[
        :, -1
    ]  # in order, by definition
    return sums


def _no_bounds(n: int, parameters: Parameters) -> None:
    """Any n >= 1 will do."""


def _check_trimmed(n: int, parameters: Parameters) -> None:
    f = int(parameters["f"])
    if 2 * f >= n:
        raise RuleError(f"trimmed_mean(f={f}) needs more than {2 * f} clients (2f < n), got {n}")


def _check_krum(n: int, parameters: Parameters) -> None:
    f = int(parameters["f"])
    if n < 2 * f + 3:
        raise RuleError(f"krum with f={f} needs at least {2 * f + 3} clients (n >= 2f + 3), got {n}")
    m = parameters.get("m", 1)
    if m != "n-f" and not 1 <= int(m) <= n - f:
        raise RuleError(f"multi_krum: 1 <= m <= n - f = {n - f} expected, got m={m}")


_NEIGHBORS = {"neighbors": ("n-f-2", "n-f-1")}
_WEIGHTS = {"weights": ("ignore", "use")}
_SPECS: dict[str, _Spec] = {
    "mean": _Spec({"weights": "use"}, _WEIGHTS, _no_bounds, _run_mean),
    "median": _Spec({"kind": "mid"}, {"kind": ("mid", "lower", "upper")}, _no_bounds, _run_median),
    "trimmed_mean": _Spec({"f": "required"}, {}, _check_trimmed, _run_trimmed),
    "krum": _Spec({"f": "required", "neighbors": "n-f-2"}, _NEIGHBORS, _check_krum, _run_krum),
    "multi_krum": _Spec(
        {"f": "required", "m": "n-f", "neighbors": "n-f-2", "weights": "ignore"},
        {**_NEIGHBORS, **_WEIGHTS},
        _check_krum,
        _run_krum,
    ),
}


# ---- checks ----------------------------------------------------------------------------------------


def _plain(batch: Batch, out: Any, kernel: Callable[[Rows, int], list[int]]) -> Any:
    target = Target(batch, out)
    bad = target.fill(range(len(batch)), kernel)
    if bad:
        raise NonFiniteError(bad)
    return target.value()


def _selected_mean(updates: Any, name: str, parameters: Parameters, out: Any, exclude: Sequence[str]) -> Any:
    """krum() and multi_krum(): the rule's own run, but a client with NaN or infinity is an error."""
    made, batch = _make(name, parameters), Batch(updates, exclude=exclude)
    _SPECS[name].check(len(batch), made.parameters)
    run = _Run(batch, list(range(len(batch))), np.ones(len(batch)), Target(batch, out))
    bad = _SPECS[name].run(run, made.parameters)
    if bad:
        raise NonFiniteError(bad)
    return run.target.value()


def _distances(
    batch: Batch, clients: Sequence[int]
) -> tuple[np.ndarray[Any, np.dtype[np.float64]], list[int]]:
    n, kernels = len(clients), kernels_for(batch)
    part, total = np.zeros((n, n)), np.zeros((n, n))
    bad: set[int] = set()
    for index in range(len(batch.schema.segments)):
        for rows in batch.chunks(index, clients):
            found = kernels.distances(rows, part, total)
            bad.update(clients[i] for i in found)
        _core.distances_finish(part, total)
    return total, sorted(bad)


def checked_weights(weights: Any, n: int) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    if weights is None:
        return None
    try:
        checked = np.array(weights, dtype=np.float64)
    except (TypeError, ValueError):
        raise ArgumentError(f"weights: {n} numbers expected, got {weights!r:.200}") from None
    if checked.shape != (n,):
        raise ArgumentError(f"weights: {n} numbers expected, got shape {checked.shape}")
    with np.errstate(invalid="ignore"):
        wrong = ~((checked >= 1 / WEIGHT_LIMIT) & (checked <= WEIGHT_LIMIT))
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ArgumentError(
            f"weights: positive numbers in [2^-500, 2^500] expected, got {checked[i]} at index {i}"
        )
    return checked


def _count(name: str, key: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise RuleError(f"{name}: {key} is a number of clients, a whole number >= 0 expected, got {value!r}")
    count = int(value)
    if count < 0:
        raise RuleError(f"{name}: {key} >= 0 expected, got {count}")
    return count


def _choice(name: str, key: str, value: Any, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise RuleError(f"{name}: {key} is one of {', '.join(allowed)}, got {value!r}")
    return str(value)
