"""Aggregation rules over client updates: plain functions, and the same as rules that report whom they
left out.

updates: a 2-D array (clients, values), or a sequence of arrays, of dicts of named arrays, of
.safetensors or frame paths. float64, float32, float16 and bfloat16; NumPy, torch, JAX, CuPy; never
changed, never stacked. Where the arrays live decides between CPU and GPU. out= must be writeable and share no
memory with an input, or ArgumentError is raised before anything is written.

Sums over clients are correctly rounded: the exact real result, rounded once to the output type. So
client order, threads, CPU level, chunking and device cannot change a bit. NaN and infinity are
refused: functions raise NonFiniteError with the clients, rules drop such clients, report them and
count them against f.

Rules that compare whole updates look at squared distances (distances.h) and decide in float64 in a fixed
order. Ties go to the lowest index. An update so far away that its distance is infinite ranks last or gets
weight 0; where so many are that one of them would have to count (more than f; half of all where a rule goes
by the median of norms; all of them for foolsgold), it is a RuleError. f counts hostile clients; every rule's
bound on n is checked before it runs, and again for the clients left when some are dropped.

Weights that clients report never scale a robust rule, a composition among them, unless its text says
weights=use (functions: unless weights= is given). The mean by itself uses them: a plain mean is not robust
anyhow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core, _engine, _rule_text
from ._columns import Batch, Rows
from ._rule_types import Floats, Parameters, Spec
from ._target import Target, kernels_for
from .errors import ArgumentError, NonFiniteError, RuleError

if TYPE_CHECKING:
    from ._incremental import Accumulator
    from .update import Schema

__all__ = [
    "Decision",
    "Outcome",
    "Partial",
    "Rule",
    "arc",
    "bucketing",
    "bulyan",
    "caf",
    "centered_clipping",
    "cge",
    "clipping",
    "column_rule",
    "combine",
    "decide",
    "distances",
    "dnc",
    "flame",
    "fltrust",
    "foolsgold",
    "geometric_median",
    "gram",
    "krum",
    "majority",
    "mda",
    "meamed",
    "mean",
    "median",
    "monna",
    "multi_krum",
    "nnm",
    "norm_clipping",
    "partial_distances",
    "phocas",
    "rule",
    "shards",
    "smea",
    "trimmed_mean",
]

Client = str | int

WEIGHT_LIMIT = 2.0**500  # weights lie in [1 / limit, limit], so that no product leaves float64


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rule found.

    value: the aggregate, as the caller's kind of array (dict of arrays for named tensors and files).
    selected: clients whose values entered; rejected: the others, each with the reason.
    scores: what the rule judged clients by (see its function), empty for rules without; weights: effective
    weights where the result is a weighted sum of whole updates, else empty. Their sum is 1; less where a rule
    clips; fltrust's, which bring updates to the server's length, add up to anything. Keys are client ids, or
    indices where no ids were given.
    state: what a rule with a state (centered_clipping) takes in the next round.
    """

    value: Any
    rule: str
    selected: tuple[Client, ...]
    rejected: dict[Client, str]
    scores: dict[Client, float]
    weights: dict[Client, float]
    state: Any = None
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
    Takes no weights. out, errors: as in mean(). Reference: Yin et al., ICML 2018.
    """
    batch = Batch(updates, exclude=exclude)
    checked = _checked("median", {"kind": kind}, len(batch))
    return _plain(batch, out, lambda rows, at: kernels_for(batch).median(rows, str(checked["kind"]), at))


def trimmed_mean(updates: Any, f: int, *, out: Any = None, exclude: Sequence[str] = ()) -> Any:
    """Mean of every parameter over clients, without its f smallest and f largest values; correctly rounded.

    f: number of hostile clients tolerated (a count, not a fraction), 0 <= 2 f < n, else RuleError.
    Takes no weights. out, errors: as in mean(). Reference: Yin et al., ICML 2018 (their beta is f / n).
    """
    batch = Batch(updates, exclude=exclude)
    checked = _checked("trimmed_mean", {"f": f}, len(batch))
    return _plain(batch, out, lambda rows, at: kernels_for(batch).trimmed_mean(rows, int(checked["f"]), at))


def distances(updates: Any, *, exclude: Sequence[str] = ()) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Squared Euclidean distances between all pairs of updates: (n, n) float64, symmetric, zero diagonal.

    Direct sums of (x - y)^2: float32 differences in 16 fma lanes over blocks of 512 values (float64
    data: float64), float64 across blocks, superblocks of 2^18 values; never a Gram matrix of raw
    values, which one far update would ruin. A sum beyond float32 is +Inf.
    Raises NonFiniteError with the indices of clients that hold NaN or infinity.
    """
    sources = _engine.Sources(Batch(updates, exclude=exclude), frozenset(), {}, "distances")
    table, bad = _engine.measure(sources, range(sources.n))
    if bad:
        raise NonFiniteError(bad)
    return table


def gram(updates: Any, *, exclude: Sequence[str] = ()) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Inner products of all updates less the medoid: (n, n) float64, from distances().

    The medoid is the update with the least sum of squared distances. Rows infinitely far from it are 0, and
    so are pairs whose lengths differ by more than 2^20: their angle is lost in the distances' rounding.
    Raises NonFiniteError as distances() does.
    """
    table = distances(updates, exclude=exclude)
    return _core.gram(table, _core.medoid(table))[0]


def meamed(updates: Any, f: int, *, out: Any = None, exclude: Sequence[str] = ()) -> Any:
    """Mean, per parameter, of the n - f values nearest to the median; correctly rounded. Takes no weights.

    The median of an even number is the mean of the middle two, as in ByzFL; peers that take the lower or
    upper one (AggregaThor, Garfield) are not covered. n >= 2 f + 1, else RuleError. Equally near: the smaller
    value.
    Reference: Xie, Koyejo, Gupta, 2018, "Generalized Byzantine-tolerant SGD" (mean around median).
    """
    return _run("meamed", {"f": f}, updates, None, out, exclude)


def phocas(updates: Any, f: int, *, out: Any = None, exclude: Sequence[str] = ()) -> Any:
    """Mean, per parameter, of the n - f values nearest to the f-trimmed mean. Takes no weights.

    n >= 2 f + 1, else RuleError. Reference: Xie, Koyejo, Gupta, 2018, "Phocas".
    """
    return _run("phocas", {"f": f}, updates, None, out, exclude)


def majority(updates: Any, *, out: Any = None, exclude: Sequence[str] = ()) -> Any:
    """Sign, per parameter, of the positive less the negative values: -1, 0 or 1. Takes no weights.

    Reference: Bernstein et al., ICLR 2019 (signSGD with majority vote).
    """
    return _run("majority", {}, updates, None, out, exclude)


def krum(
    updates: Any, f: int, *, neighbors: str = "n-f-2", out: Any = None, exclude: Sequence[str] = ()
) -> Any:
    """The update with the lowest Krum score: the sum of its squared distances to its nearest n-f-2 others.

    f: number of hostile clients tolerated, n >= 2 f + 3, else RuleError. neighbors: "n-f-2" (the
    paper, Flower) or "n-f-1" (ByzFL). Scores of distances that are not squared (p = 1) or squared twice
    (Blades: d^4) are not covered. Takes no weights. Reference: Blanchard et al., NeurIPS 2017.
    """
    return _run("krum", {"f": f, "neighbors": neighbors}, updates, None, out, exclude)


def multi_krum(
    updates: Any,
    f: int,
    m: int | None = None,
    *,
    weights: Any = None,
    neighbors: str = "n-f-2",
    out: Any = None,
    exclude: Sequence[str] = (),
) -> Any:
    """Mean of the m updates with the lowest Krum scores; m = n - f unless given, 1 <= m <= n - f.

    Other parameters, ties and errors as in krum(). Reference: Blanchard et al., NeurIPS 2017.
    """
    parameters: Parameters = {"f": f, "m": "n-f" if m is None else m, "neighbors": neighbors}
    return _run("multi_krum", parameters, updates, weights, out, exclude)


def bulyan(
    updates: Any,
    f: int,
    *,
    variant: str = "iterative",
    neighbors: str = "n-f-2",
    out: Any = None,
    exclude: Sequence[str] = (),
) -> Any:
    """Per parameter, the mean of the n - 4 f values nearest to the median of n - 2 f selected updates.

    variant: "iterative" selects one update after another by Krum among those left (the paper; then at least
    one neighbour counts), "oneshot" the n - 2 f lowest Krum scores at once (Flower's Message API). Garfield's
    Bulyan, which selects n - 2 f - 2 updates and averages Multi-Krum's on the way, is not covered.
    n >= 4 f + 3, else RuleError. Takes no weights. Reference: El Mhamdi et al., ICML 2018.
    """
    parameters: Parameters = {"f": f, "variant": variant, "neighbors": neighbors}
    return _run("bulyan", parameters, updates, None, out, exclude)


def mda(updates: Any, f: int, *, weights: Any = None, out: Any = None, exclude: Sequence[str] = ()) -> Any:
    """Mean of the n - f updates of least diameter (greatest distance between two of them), found exactly.

    n >= 2 f + 1, f <= 32, n <= 1024, else RuleError; also where the search takes too many steps. Equal
    diameters: the first subset in lexicographic order. Reference: El Mhamdi et al., PODC 2021.
    """
    return _run("mda", {"f": f}, updates, weights, out, exclude)


def monna(
    updates: Any,
    f: int,
    *,
    pivot: int = 0,
    weights: Any = None,
    out: Any = None,
    exclude: Sequence[str] = (),
) -> Any:
    """Mean of the n - f updates nearest to that of client `pivot` (an index), itself one of them.

    n >= 2 f + 1, else RuleError, also if the pivot's update is not finite: it must be a client that is
    trusted. Reference: Farhadkhani et al., ICML 2023.
    """
    return _run("monna", {"f": f, "pivot": pivot}, updates, weights, out, exclude)


def cge(updates: Any, f: int, *, weights: Any = None, out: Any = None, exclude: Sequence[str] = ()) -> Any:
    """Mean of the n - f updates of least norm (the paper takes their sum).

    n >= 2 f + 1, else RuleError. scores: norms. Reference: Gupta, Liu, Vaidya, DSN-W 2021.
    """
    return _run("cge", {"f": f}, updates, weights, out, exclude)


def caf(updates: Any, f: int, *, out: Any = None, exclude: Sequence[str] = ()) -> Any:
    """Weighted mean after down-weighting updates along the top direction of their covariance, repeatedly.

    The weights of the least top eigenvalue met while their sum is above n - 2 f (of n) are taken; an exact
    eigenvector, no random start. n >= 2 f + 1, else RuleError. scores: weights. Takes no weights.
    Reference: Allouah, Guerraoui, Stephan, ICML 2025.
    """
    return _run("caf", {"f": f}, updates, None, out, exclude)


def smea(updates: Any, f: int, *, weights: Any = None, out: Any = None, exclude: Sequence[str] = ()) -> Any:
    """Mean of the n - f updates whose covariance has the least top eigenvalue, found exactly.

    n >= 2 f + 1 and at most 250,000 subsets, else RuleError. Equal eigenvalues (to 1e-12 of the least one, as
    rounding tells equal ones apart): the first subset in lexicographic order. Reference: Allouah et al., ICML
    2023.
    """
    return _run("smea", {"f": f}, updates, weights, out, exclude)


def dnc(
    updates: Any,
    f: int,
    *,
    iterations: int = 5,
    filter: float = 1.0,
    columns: int = 10_000,
    seed: int = 0,
    weights: Any = None,
    out: Any = None,
    exclude: Sequence[str] = (),
) -> Any:
    """Mean of the updates that are never among the floor(filter f) farthest along the top direction.

    Every iteration draws other columns (all of them where there are no more than `columns`), by the seed.
    n >= 2 f + 1, else RuleError, also if nobody is left. Reference: Shejwalkar, Houmansadr, NDSS 2021.
    """
    parameters: Parameters = {
        "f": f,
        "iterations": iterations,
        "filter": filter,
        "columns": columns,
        "seed": seed,
    }
    return _run("dnc", parameters, updates, weights, out, exclude)


def geometric_median(
    updates: Any,
    weights: Any = None,
    *,
    nu: float = 1e-6,
    iterations: int = 32,
    start: str = "zero",
    out: Any = None,
    exclude: Sequence[str] = (),
) -> Any:
    """The point of least sum of distances to all updates, by a fixed number of smoothed Weiszfeld iterations.

    nu: the least distance that counts. start: "zero", which one far update cannot move, or "mean". The
    paper leaves the start open and takes few iterations as each one costs it a round; here they cost n x n
    work. ByzFL: nu=0.1, iterations=3. scores: distances to the result.
    Reference: Pillutla, Kakade, Harchaoui, IEEE TSP 2022 (RFA).
    """
    parameters: Parameters = {"nu": nu, "iterations": iterations, "start": start}
    return _run("geometric_median", parameters, updates, weights, out, exclude)


def centered_clipping(
    updates: Any,
    weights: Any = None,
    *,
    state: Any = None,
    tau: float = 10.0,
    iterations: int = 1,
    out: Any = None,
    exclude: Sequence[str] = (),
) -> Any:
    """v + mean of (x_i - v) min(1, tau / |x_i - v|), `iterations` times from v = state (zeros when None).

    The result is the state of the next call; nothing is kept in between. scores: distances to the result.
    Reference: Karimireddy, He, Jaggi, ICML 2021 (ByzFL: tau=100).
    """
    parameters: Parameters = {"tau": tau, "iterations": iterations}
    return _run("centered_clipping", parameters, updates, weights, out, exclude, {"state": state})


def norm_clipping(
    updates: Any,
    radius: float | str = "median",
    *,
    weights: Any = None,
    out: Any = None,
    exclude: Sequence[str] = (),
) -> Any:
    """Mean of the updates after those longer than radius are shortened to it; correctly rounded.

    radius: a number, or "median" of the norms; RuleError where that is infinite, as it would clip nobody.
    scores: norms. Reference: Sun et al., 2019.
    """
    return _run("norm_clipping", {"radius": radius}, updates, weights, out, exclude)


def foolsgold(updates: Any, *, kappa: float = 1.0, out: Any = None, exclude: Sequence[str] = ()) -> Any:
    """Weighted mean in which updates that point the same way as others count less: against sybils.

    Cosines of the updates given: hand over sums of past rounds to have the paper's memory. A zero update has
    cosine 0. All alike: the plain mean. All infinitely long: RuleError. It does not bound a single outlier,
    put a rule that does behind it. scores: largest cosine to another. Takes no weights. Reference: Fung,
    Yoon, Beschastnikh, RAID 2020.
    """
    return _run("foolsgold", {"kappa": kappa}, updates, None, out, exclude)


def fltrust(updates: Any, server: Any, *, out: Any = None, exclude: Sequence[str] = ()) -> Any:
    """Mean of the updates, each at the length of the server's own, weighted by max(cosine to it, 0).

    server: an update like the others, computed on data that the server trusts; RuleError if its norm is 0 or
    infinite. Zeros if nobody's update points its way. scores: cosines. Takes no weights. Reference: Cao et
    al., NDSS 2021.
    """
    return _run("fltrust", {}, updates, None, out, exclude, {"server": server})


def flame(
    updates: Any, *, noise: float = 0.001, seed: int = 0, out: Any = None, exclude: Sequence[str] = ()
) -> Any:
    """Mean of the majority cluster by cosine, clipped to the median norm, plus Gaussian noise.

    Cluster: what HDBSCAN finds for a least size of n // 2 + 1. noise: standard deviation as a share of the
    median norm; seed: of the noise, so that it can be made again. RuleError where noise takes a value beyond
    the dtype: nothing infinite is returned. scores: norms. Takes no weights.
    Reference: Nguyen et al., USENIX Security 2022.
    """
    return _run("flame", {"noise": noise, "seed": seed}, updates, None, out, exclude)


# ---- pre-aggregators -------------------------------------------------------------------------------------
# In a rule text they stand before a rule, and what they return is never formed. They take no weights; whether
# the rule behind them may use reported weights is said at each.


def nnm(updates: Any, f: int, *, exclude: Sequence[str] = ()) -> list[Any]:
    """n updates, each the mean of the n - f nearest to one of them, itself included. n >= f + 1.

    Takes no weights, and as it mixes clients no rule behind it may either (weights=use is a RuleError).
    Reference: Allouah et al., AISTATS 2023 (nearest neighbour mixing).
    """
    return _mixed("nnm", {"f": f}, updates, exclude)


def bucketing(updates: Any, s: int, *, seed: int = 0, exclude: Sequence[str] = ()) -> list[Any]:
    """ceil(n / s) updates: means of s at a time (the last: of the rest) in an order drawn by the seed.

    Takes no weights, and as it mixes clients no rule behind it may either (weights=use is a RuleError).
    Reference: Karimireddy, He, Jaggi, ICLR 2022.
    """
    return _mixed("bucketing", {"s": s, "seed": seed}, updates, exclude)


def clipping(updates: Any, radius: float, *, exclude: Sequence[str] = ()) -> list[Any]:
    """The updates, those longer than radius shortened to it.

    Takes no weights; a rule behind it ignores them unless its text says weights=use, the mean too.
    `clipping(radius=r) | mean` is norm_clipping(radius=r), also one update at a time.
    """
    return _mixed("clipping", {"radius": radius}, updates, exclude)


def arc(updates: Any, f: int, *, exclude: Sequence[str] = ()) -> list[Any]:
    """The updates, the floor(2 f (n - f) / n) longest shortened to the next longest. n >= 2 f + 1.

    Takes no weights; a rule behind it ignores them unless its text says weights=use, the mean too. RuleError
    where more norms than are cut are infinite.
    Reference: Allouah et al., ICLR 2025 (adaptive robust clipping).
    """
    return _mixed("arc", {"f": f}, updates, exclude)


# ---- rules -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule with all its parameters, after the pre-aggregators in front of it; `text` is canonical and goes
    into the record.

    Called with updates, weights and client ids it returns an Outcome. Clients with NaN or infinity are
    dropped and reported; the rule then runs on the other n - r with f - r, and more than f of them is
    a NonFiniteError.
    """

    text: str
    stages: tuple[tuple[str, Parameters], ...]

    @property
    def name(self) -> str:
        """Of the last stage, the rule proper."""
        return self.stages[-1][0]

    @property
    def parameters(self) -> Parameters:
        return self.stages[-1][1]

    @property
    def f(self) -> int:
        """Hostile clients tolerated: the largest f of all stages, 0 for rules without."""
        return max(int(parameters.get("f", 0)) for _, parameters in self.stages)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Updates beside the clients' that the rule takes: "state" (may be left out), "server"."""
        needs = _engine.needs_of(self.stages)
        return tuple(name for name in _engine.INPUTS if name in needs)

    def __call__(
        self,
        updates: Any,
        weights: Any = None,
        client_ids: Sequence[str] | None = None,
        *,
        state: Any = None,
        server: Any = None,
        out: Any = None,
        exclude: Sequence[str] = (),
    ) -> Outcome:
        """state, server: updates like the clients', for rules that take them."""
        ids = checked_ids(client_ids)
        batch = Batch(updates, ids, exclude)
        inputs = {"state": state, "server": server}
        return self.run(batch, checked_weights(weights, len(batch)), ids, inputs=inputs, out=out)

    def run(
        self,
        batch: Batch,
        weights: Any,
        ids: Sequence[Client] | None,
        *,
        inputs: Mapping[str, Any] | None = None,
        out: Any = None,
        strict: bool = False,
    ) -> Outcome:
        """The same on updates that are open already. strict: NonFiniteError for any client not finite."""
        n = len(batch)
        names: Sequence[Client] = list(range(n)) if ids is None else ids
        self.check(n)
        needs = _engine.needs_of(self.stages)
        sources = _engine.Sources(batch, needs, inputs or {}, self.text)
        target = Target(batch, out, sources.batch.updates[n:])
        table, bad = self._measured(sources, needs)
        while True:
            if strict and bad:
                raise NonFiniteError([names[i] for i in bad])
            stages = self.left(bad, names, n)
            active = [i for i in range(n) if i not in set(bad)]
            rows = [*active, *range(n, len(sources.batch))]
            decided = _engine.decide(
                stages,
                active,
                n,
                sources.names,
                None if table is None else _part(table, rows),
                np.ones(len(active)) if weights is None else weights[active],
                partial(_engine.sampled, sources, rows),
            )
            found = _engine.execute(decided.plan, sources, target)
            if not found:
                break
            bad = sorted({*bad, *found})
        rejected = {**dict.fromkeys(bad, "NaN or infinity"), **decided.reasons}
        value = target.value()
        return Outcome(
            value=value,
            rule=self.text,
            selected=tuple(names[i] for i in decided.selected),
            rejected={names[i]: rejected[i] for i in sorted(rejected)},
            scores={names[i]: score for i, score in sorted(decided.scores.items())},
            weights={names[i]: weight for i, weight in sorted(decided.effective.items())},
            state=value if self.name == "centered_clipping" else None,
        )

    def check(self, n: int) -> None:
        """RuleError if n clients are too few for a stage, or too many."""
        for name, parameters in self.stages:
            spec = _spec(name)
            spec.check(n, parameters)
            n = spec.rows(n, parameters)

    def _measured(self, sources: _engine.Sources, needs: frozenset[str]) -> tuple[Floats | None, list[int]]:
        """Distances of all rows, where the rule needs them, and the clients found not finite."""
        rows = range(len(sources.batch))
        if "distances" in needs:
            table, bad = _engine.measure(sources, rows)
        elif "sample" in needs:
            table, bad = None, _engine.nonfinite(sources, rows)
        else:
            return None, []
        for name, row in sources.extra.items():
            if row in bad:
                raise ArgumentError(f"{name}: NaN or infinity in it, finite values only")
        return table, bad

    def _without(
        self, bad: Sequence[int], names: Sequence[Client], n: int
    ) -> tuple[tuple[str, Parameters], ...]:
        """Stages for the n - r clients left: f - r for those that count hostile clients."""
        if len(bad) == n:
            raise NonFiniteError([names[i] for i in bad])
        if not bad or not any("f" in parameters for _, parameters in self.stages):
            return self.stages
        if len(bad) > self.f:
            given = [names[i] for i in bad]
            shown = ", ".join(map(str, given[:8]))
            raise NonFiniteError(given, f"NaN or infinity in {len(bad)} updates ({shown}), but f={self.f}")
        return tuple(
            (name, {**p, "f": max(int(p["f"]) - len(bad), 0)} if "f" in p else p) for name, p in self.stages
        )

    def left(self, bad: Sequence[int], names: Sequence[Client], n: int) -> tuple[tuple[str, Parameters], ...]:
        """Stages for the clients left when those in `bad` are dropped, their bounds checked again."""
        stages = self._without(bad, names, n)
        try:
            if bad:  # a pivot is one of all n clients, and was checked with them
                bounds = tuple((name, {**p, "pivot": 0} if "pivot" in p else p) for name, p in stages)
                replace(self, stages=bounds).check(n - len(bad))
        except RuleError as error:
            shown = ", ".join(str(names[i]) for i in bad[:8]) + (", ..." if len(bad) > 8 else "")
            raise RuleError(
                f"{error}, once {len(bad)} of {n} clients were left out for NaN or infinity ({shown})"
            ) from None
        return stages

    def begin(
        self,
        schema: Schema | None = None,
        *,
        spool: str | Path | None = None,
        state: Any = None,
        server: Any = None,
        exclude: Sequence[str] = (),
    ) -> Accumulator:
        """Starts an incremental run: add(client_id, update, weight) as updates arrive, then finish().

        schema: what every update must have; the first one's when None. The mean, norm_clipping of a fixed
        radius and clipping | mean take 24 bytes per value however many updates come. Other rules keep the
        updates, not to be changed until finish(), or copy them to files in the folder `spool` and read them
        from there.
        exclude: tensors to leave out of every update.
        """
        from ._incremental import Kept, RunningMean
        from .update import Schema, Update, open_update

        if not (schema is None or isinstance(schema, Schema)):
            raise ArgumentError(
                f"schema: a Schema, such as open_update(x).schema, expected, got {schema!r:.80}"
            )
        if not (spool is None or isinstance(spool, (str, Path))):
            raise ArgumentError(f"spool: a folder expected, got {spool!r:.80}")
        inputs = {"state": state, "server": server}
        _engine.check_inputs(self.text, _engine.needs_of(self.stages), inputs)
        for given in (state, server):
            if not (given is None or isinstance(given, Update)):
                open_update(given).close()
        if clip_radius(self) is not None and spool is None:
            return RunningMean(self, schema, exclude)
        return Kept(self, schema, exclude, spool, inputs)


def clip_radius(made: Rule) -> float | None:
    """The radius of a rule that is a mean of updates clipped to it (infinity: the mean), else None."""
    names, last = [name for name, _ in made.stages], made.stages[-1][1]
    if names == ["mean"]:
        return math.inf
    if names == ["clipping", "mean"]:
        return float(made.stages[0][1]["radius"])
    return float(last["radius"]) if names == ["norm_clipping"] and last["radius"] != "median" else None


def rule(text: str | Rule) -> Rule:
    """Rule from its text, such as "trimmed_mean(f=2)" or "nnm(f=2) | trimmed_mean(f=2)".

    RuleError for unknown names, parameters or values.
    """
    return text if isinstance(text, Rule) else _make(_rule_text.parse(text))


def _make(given: Sequence[tuple[str, Parameters]]) -> Rule:
    stages = []
    for place, (name, parameters) in enumerate(given):
        known, what = (
            (_engine.RULES, "rule") if place == len(given) - 1 else (_engine.STAGES, "pre-aggregator")
        )
        if name not in known:
            stray = "a rule, it comes last: " if name in _engine.RULES else ""
            stray = "a pre-aggregator, a rule comes last: " if name in _engine.STAGES else stray
            raise RuleError(f"unknown {what} {name!r}: {stray}{', '.join(sorted(known))} expected")
        stages.append((name, _parameters(name, known[name], parameters)))
    name, parameters = stages[-1]
    if len(stages) > 1 and parameters.get("weights") == "use" and "weights" not in given[-1][1]:
        parameters["weights"] = "ignore"  # a composition is a robust rule, though its last stage is the mean
    mixed = [name for name, _ in stages[:-1] if not _engine.STAGES[name].keeps_clients]
    if mixed and parameters.get("weights") == "use":
        raise RuleError(f"{name}: weights=use has no meaning behind {mixed[0]}, which mixes clients")
    return Rule(_rule_text.write(stages), tuple(stages))


def _parameters(name: str, spec: Spec, given: Mapping[str, Any]) -> Parameters:
    unknown = sorted(set(given) - set(spec.parameters))
    if unknown:
        allowed = ", ".join(spec.parameters) or "none"
        raise RuleError(f"{name}: unknown parameter {', '.join(unknown)}; allowed: {allowed}")
    parameters: Parameters = {}
    for key, parameter in spec.parameters.items():
        value = given.get(key, parameter.default)
        if value is None:
            raise RuleError(f"{name}: {key} is required, such as {name}({key}=1)")
        parameters[key] = parameter.check(name, key, value)
    return parameters


def _spec(name: str) -> Spec:
    return _engine.RULES.get(name) or _engine.STAGES[name]


# ---- checks ----------------------------------------------------------------------------------------------


def _plain(batch: Batch, out: Any, kernel: Callable[[Rows, int], list[int]]) -> Any:
    target = Target(batch, out)
    bad = target.fill(range(len(batch)), kernel)
    if bad:
        raise NonFiniteError(bad)
    return target.value()


def _checked(name: str, parameters: Mapping[str, Any], n: int) -> Parameters:
    """A rule's parameters after its own checks, the bounds on n among them."""
    spec = _spec(name)
    checked = _parameters(name, spec, parameters)
    spec.check(n, checked)
    return checked


def _run(
    name: str,
    parameters: Mapping[str, Any],
    updates: Any,
    weights: Any,
    out: Any,
    exclude: Sequence[str],
    inputs: Mapping[str, Any] | None = None,
) -> Any:
    """A plain function: the rule's own run, but a client with NaN or infinity is an error."""
    used = {} if weights is None else {"weights": "use"}
    made, batch = _make([(name, {**parameters, **used})]), Batch(updates, exclude=exclude)
    checked = checked_weights(weights, len(batch))
    return made.run(batch, checked, None, inputs=inputs, out=out, strict=True).value


def _mixed(name: str, parameters: Mapping[str, Any], updates: Any, exclude: Sequence[str]) -> list[Any]:
    """A pre-aggregator by itself: what it would hand to a rule, one sum for every new row."""
    stage, batch = (name, _parameters(name, _spec(name), parameters)), Batch(updates, exclude=exclude)
    _spec(name).check(len(batch), stage[1])
    sources = _engine.Sources(batch, _spec(name).needs, {}, name)
    table, bad = None, list[int]()
    if "distances" in _spec(name).needs:
        table, bad = _engine.measure(sources, range(len(sources.batch)))
    plans = [] if bad else _engine.mixtures(stage, len(batch), sources.names, table)
    mixed = []
    for plan in plans:
        target = Target(batch)
        bad = sorted({*bad, *_engine.execute(plan, sources, target)})
        mixed.append(target.value())
    if bad:
        raise NonFiniteError(bad)
    return mixed


def _part(table: Floats, rows: Sequence[int]) -> Floats:
    return table if len(rows) == len(table) else np.ascontiguousarray(table[np.ix_(rows, rows)])


def checked_weights(weights: Any, n: int) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    if weights is None:
        return None
    try:
        given = np.asarray(weights)
        if given.dtype.kind in "bcSUMm" or isinstance(weights, (Mapping, set, frozenset)):
            raise TypeError
        checked = np.array(given, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError):
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


def checked_ids(client_ids: Any) -> list[str] | None:
    """Client ids as a list of different strings, or None."""
    if client_ids is None:
        return None
    if isinstance(client_ids, (str, bytes, set, frozenset)) or not isinstance(client_ids, Iterable):
        raise ArgumentError(f"client ids: a sequence of strings expected, got {client_ids!r:.80}")
    ids = list(client_ids)
    for given in ids:
        if not isinstance(given, str):
            raise ArgumentError(f"client ids: strings expected, got {given!r:.80}")
    if len(set(ids)) < len(ids):
        twice = sorted({i for i in ids if ids.count(i) > 1})
        raise ArgumentError(f"client ids given twice: {', '.join(twice[:8])}")
    return ids


from ._shards import (  # noqa: E402  (they are built on Rule)
    Decision,
    Partial,
    column_rule,
    combine,
    decide,
    partial_distances,
    shards,
)
