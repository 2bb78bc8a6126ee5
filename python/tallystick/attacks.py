"""What hostile clients send: the attacks that robust aggregation is judged by.

Every attack knows all honest updates of the round, the strongest position, and is a plain function

    attack(honest, f, ...) -> (f, d) float64

    honest  (m, d), one row per honest client, finite, m >= 1; never written into
    f       number of hostile clients, 0 or more; so n = m + f clients take part

A result is in the units of the updates. Where all attackers send the same vector its f rows are equal.
label_flip is missing here: it acts on data, not on updates (`tallystick demo --attack label_flip`).

Bad arguments raise ArgumentError, honest updates with NaN or infinity NonFiniteError. Not imported by
`import tallystick`: these are for tests, benchmarks and demonstrations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from . import aggregate
from .errors import ArgumentError, NonFiniteError

__all__ = [
    "DIRECTIONS",
    "alie",
    "foe",
    "gaussian",
    "inf",
    "ipm",
    "line_search",
    "mimic",
    "min_max",
    "min_sum",
    "nan",
    "optimal_alie",
    "optimal_ipm",
    "scaling",
    "sign_flip",
    "z_max",
    "zero",
]

Floats = npt.NDArray[np.float64]
AnyRule = str | aggregate.Rule | Callable[[Floats], Any]  # text, rule, or (n, d) -> (d,)

DIRECTIONS = ("std", "unit", "sign")


# ---- the way back ----------------------------------------------------------------------------------------


def sign_flip(honest: npt.ArrayLike, f: int = 1, *, factor: float = 1.0) -> Floats:
    """-factor times the mean of the honest updates: the way back.

    factor 1 is the bare flip. A plain mean over 10 clients of which 2 attack survives it, as 0.8 - 0.2 > 0;
    whoever wants to turn that model round boosts the flip.
    Reference: Allen-Zhu et al., ICLR 2021; boosted: Bhagoji et al., ICML 2019.
    """
    return _opposite("sign_flip", honest, f, factor)


def ipm(honest: npt.ArrayLike, f: int = 1, *, factor: float = 0.5) -> Floats:
    """Inner product manipulation: -factor times the honest mean, small enough to hide among honest updates.

    Reference: Xie, Koyejo, Gupta, UAI 2019 (their epsilon is the factor).
    """
    return _opposite("ipm", honest, f, factor)


def foe(honest: npt.ArrayLike, f: int = 1, *, factor: float = 100.0) -> Floats:
    """Fall of empires: inner product manipulation with a large factor, as the same paper has it."""
    return _opposite("foe", honest, f, factor)


def scaling(
    honest: npt.ArrayLike, f: int = 1, *, target: npt.ArrayLike | None = None, factor: float | None = None
) -> Floats:
    """Model replacement: what makes the plain mean of all n updates equal to `target`.

    target: (d,), where the attacker wants the global model to go, such as an update trained on wrong or
    backdoored data; minus the honest mean when None. factor None: (n target - sum of honest updates) / f, for
    which the replacement is exact; a number: factor * target, as attackers send who do not see the others
    (n / f, if the honest updates cancel out as they do late in training).
    Reference: Bagdasaryan et al., AISTATS 2020.
    """
    rows, f = _checked("scaling", honest, f)
    mean = rows.mean(axis=0)
    goal = -mean if target is None else _vector("scaling: target", target, rows.shape[1])
    if factor is not None:
        return _all(_real("scaling", "factor", factor) * goal, f)
    if f == 0:
        return _all(goal, 0)
    return _all(goal + (goal - mean) * (len(rows) / f), f)


# ---- inside the honest spread ----------------------------------------------------------------------------


def z_max(n: int, f: int) -> float:
    """How many standard deviations f of n clients may lie off the mean and still pass for honest ones.

    The normal quantile of (n - f - s) / (n - f), where s = floor(n / 2 + 1) - f honest clients have to be won
    over for a majority. It is 0 for n = 10, f = 2 and below 0 for fewer attackers, who win nobody over.
    1 <= f, 2 f < n. Reference: Baruch, Baruch, Goldberg, NeurIPS 2019, algorithm 3.
    """
    n, f = _count("z_max", "n", n), _count("z_max", "f", f)
    if f < 1 or 2 * f >= n:
        raise ArgumentError(
            f"z_max: at least one hostile client and an honest majority expected, got n={n}, f={f}"
        )
    supporters = n // 2 + 1 - f
    return NormalDist().inv_cdf((n - f - supporters) / (n - f))


def alie(
    honest: npt.ArrayLike, f: int = 1, *, z: float | None = None, sign: int = 1, ddof: int = 0
) -> Floats:
    """A little is enough: honest mean + sign * z standard deviations, per parameter.

    z None: z_max(n, f). sign: 1 (ByzFL) or -1 (the paper's code, Blades); rules and data differ in which of
    the two hurts. ddof: the standard deviation divides by m - ddof, 0 (the paper's code) or 1 (ByzFL; m > 1).
    Reference: Baruch, Baruch, Goldberg, NeurIPS 2019.
    """
    rows, f = _checked("alie", honest, f)
    size = z_max(len(rows) + f, f) if z is None else _real("alie", "z", z)
    return _all(rows.mean(axis=0) + size * _deviation("alie", rows, sign, ddof), f)


def min_max(
    honest: npt.ArrayLike, f: int = 1, *, direction: str = "std", factor: float = 1.0, sign: int = -1
) -> Floats:
    """Honest mean + gamma p, with the largest gamma for which no honest update is farther away than the two
    farthest honest updates are from one another.

    direction: what p is: "std", the standard deviation per parameter; "unit", the honest mean at length 1;
    "sign", its signs. sign -1 points them backwards, as the paper does. factor multiplies gamma; above 1 the
    promise is broken. gamma is the root of a quadratic per client, where the paper halves intervals.
    Reference: Shejwalkar and Houmansadr, NDSS 2021, AGR-agnostic min-max.
    """
    rows, f = _checked("min_max", honest, f)
    stretch = _real("min_max", "factor", factor)
    center, p = rows.mean(axis=0), _direction("min_max", rows, direction, sign)
    a = _inner(p, p)
    if a == 0:  # nothing to follow: all honest updates are the same, or their mean is 0
        return _all(center, f)
    offsets = center - rows
    b = np.array([_inner(offset, p) for offset in offsets])
    room = np.maximum(_squared_distances(rows).max() - (offsets * offsets).sum(axis=1), 0.0)
    root = np.sqrt(b * b + a * room)
    towards = np.where(b > 0, room / np.where(b > 0, b + root, 1.0), (root - b) / a)  # no cancellation
    return _all(center + stretch * towards.min() * p, f)


def min_sum(
    honest: npt.ArrayLike, f: int = 1, *, direction: str = "std", factor: float = 1.0, sign: int = -1
) -> Floats:
    """As min_max, but the sum of squared distances to all honest updates stays within the largest such sum
    that an honest update has.

    About the mean that sum is S + m gamma^2 |p|^2, so gamma is a square root.
    Reference: Shejwalkar and Houmansadr, NDSS 2021, AGR-agnostic min-sum.
    """
    rows, f = _checked("min_sum", honest, f)
    stretch = _real("min_sum", "factor", factor)
    center, p = rows.mean(axis=0), _direction("min_sum", rows, direction, sign)
    a = len(rows) * _inner(p, p)
    if a == 0:
        return _all(center, f)
    spread = float(((rows - center) ** 2).sum())
    room = max(float(_squared_distances(rows).sum(axis=1).max()) - spread, 0.0)
    return _all(center + stretch * math.sqrt(room / a) * p, f)


def mimic(honest: npt.ArrayLike, f: int = 1, *, client: int = 0) -> Floats:
    """All attackers send what one honest client sends, which then counts f + 1 times.

    client: its row, 0 <= client < m (ByzFL's epsilon; the paper picks the client that stands out most over
    many rounds). Reference: Karimireddy, He, Jaggi, ICLR 2022.
    """
    rows, f = _checked("mimic", honest, f)
    if isinstance(client, bool) or not hasattr(type(client), "__index__") or not 0 <= client < len(rows):
        raise ArgumentError(
            f"mimic: client {client!r} cannot be copied; an index from 0 to {len(rows) - 1} expected"
        )
    return _all(rows[client], f)


# ---- against the rule in use -----------------------------------------------------------------------------


def line_search(
    harm: Callable[[float], float],
    *,
    evals: int = 20,
    start: float = 0.0,
    delta: float = 10.0,
    ratio: float = 0.8,
) -> float:
    """The factor that does most harm, among `evals` tried: ByzFL's search, step for step.

    From `start` it goes on by delta, twice as far after each gain; after the first failure every further step
    is `ratio` times the one before, taken only if it gains. Where harm grows up to a boundary and collapses
    behind it, the result lies before the boundary and near it.
    evals >= 1; delta finite, not 0, negative to search downwards; 0.5 < ratio < 1.
    """
    if _count("line_search", "evals", evals) < 1:
        raise ArgumentError("line_search: evals >= 1 expected, got 0")
    best, step = _real("line_search", "start", start), _real("line_search", "delta", delta)
    if step == 0:
        raise ArgumentError("line_search: a delta other than 0 expected")
    if not 0.5 < _real("line_search", "ratio", ratio) < 1:
        raise ArgumentError(f"line_search: 0.5 < ratio < 1 expected, got {ratio}")
    most, growing = harm(best), True
    for _ in range(evals - 1):
        tried = harm(best + step)
        gained = tried > most
        if gained:
            best, most = best + step, tried
        growing = growing and gained
        step *= 2.0 if growing else ratio
    return best


def optimal_alie(
    honest: npt.ArrayLike,
    f: int,
    rule: AnyRule,
    *,
    sign: int = 1,
    ddof: int = 0,
    evals: int = 20,
    start: float = 0.0,
    delta: float = 10.0,
    ratio: float = 0.8,
) -> Floats:
    """alie() with the z that takes the result of `rule` farthest from the honest mean (Euclidean distance).

    rule: a rule, its text, or any function from (n, d) to (d,); it sees the honest updates first, then the f
    equal forged ones. sign, ddof: as in alie(); the rest as in line_search(). Reference: Allouah et al.,
    AISTATS 2023; ByzFL.
    """
    rows, f = _checked("optimal_alie", honest, f)
    center, spread = rows.mean(axis=0), _deviation("optimal_alie", rows, sign, ddof)
    return _optimal(rows, f, rule, lambda z: center + z * spread, evals, start, delta, ratio)


def optimal_ipm(
    honest: npt.ArrayLike,
    f: int,
    rule: AnyRule,
    *,
    evals: int = 20,
    start: float = 0.0,
    delta: float = 10.0,
    ratio: float = 0.8,
) -> Floats:
    """ipm() with the factor that takes the result of `rule` farthest from the honest mean.

    Arguments as in optimal_alie(). Reference: Allouah et al., AISTATS 2023; ByzFL.
    """
    rows, f = _checked("optimal_ipm", honest, f)
    center = rows.mean(axis=0)
    return _optimal(rows, f, rule, lambda factor: -factor * center, evals, start, delta, ratio)


# ---- noise and rubbish -----------------------------------------------------------------------------------


def gaussian(
    honest: npt.ArrayLike, f: int = 1, *, mean: float = 0.0, std: float = 1.0, seed: int | list[int] = 0
) -> Floats:
    """Independent normal noise, other noise for every attacker. seed: what numpy.random.Philox takes; one
    seed gives one result.
    """
    rows, f = _checked("gaussian", honest, f)
    center, width = _real("gaussian", "mean", mean), _real("gaussian", "std", std)
    if width < 0:
        raise ArgumentError(f"gaussian: std >= 0 expected, got {std}")
    try:
        bits = np.random.Philox(seed)
    except (TypeError, ValueError):
        raise ArgumentError(
            f"gaussian: seed is a whole number >= 0 or a list of them, got {seed!r}"
        ) from None
    return center + width * np.random.Generator(bits).standard_normal((f, rows.shape[1]))


def zero(honest: npt.ArrayLike, f: int = 1, *, value: float = 0.0) -> Floats:
    """Nothing learnt: `value` in every parameter. A free rider more than an attacker."""
    rows, f = _checked("zero", honest, f)
    return np.full((f, rows.shape[1]), _real("zero", "value", value))


def nan(honest: npt.ArrayLike, f: int = 1) -> Floats:
    """Not a number in every parameter."""
    rows, f = _checked("nan", honest, f)
    return np.full((f, rows.shape[1]), np.nan)


def inf(honest: npt.ArrayLike, f: int = 1, *, sign: int = 1) -> Floats:
    """Infinity in every parameter, sign 1 or -1."""
    rows, f = _checked("inf", honest, f)
    return np.full((f, rows.shape[1]), _sign("inf", sign) * math.inf)


# ---- parts -----------------------------------------------------------------------------------------------


def _opposite(name: str, honest: npt.ArrayLike, f: int, factor: float) -> Floats:
    rows, f = _checked(name, honest, f)
    return _all(-_real(name, "factor", factor) * rows.mean(axis=0), f)


def _optimal(
    rows: Floats,
    f: int,
    rule: AnyRule,
    forged: Callable[[float], Floats],
    evals: int,
    start: float,
    delta: float,
    ratio: float,
) -> Floats:
    combine, center = _function(rule), rows.mean(axis=0)
    everybody = np.concatenate([rows, np.zeros((f, rows.shape[1]))])

    def harm(factor: float) -> float:
        everybody[len(rows) :] = forged(factor)
        moved = np.asarray(combine(everybody), np.float64) - center
        return math.sqrt(_inner(moved, moved))

    if f == 0:  # nobody to send it
        return _all(center, 0)
    best = line_search(harm, evals=evals, start=start, delta=delta, ratio=ratio)
    return _all(forged(best), f)


def _function(rule: AnyRule) -> Callable[[Floats], Any]:
    if isinstance(rule, (str, aggregate.Rule)):
        made = aggregate.rule(rule)
        return lambda rows: made(rows).value
    if not callable(rule):
        raise ArgumentError(f"a rule, its text or a function expected, got {rule!r:.80}")
    return rule


def _checked(name: str, honest: npt.ArrayLike, f: int) -> tuple[Floats, int]:
    try:
        rows = np.asarray(honest, np.float64)
    except (TypeError, ValueError):
        raise ArgumentError(f"{name}: honest updates as a 2-D array of numbers expected") from None
    if rows.ndim != 2 or not len(rows):
        raise ArgumentError(
            f"{name}: honest updates of shape {rows.shape}: (clients, parameters) with at least one row of "
            "parameters expected"
        )
    if not np.isfinite(rows).all():
        raise NonFiniteError(np.flatnonzero(~np.isfinite(rows).all(axis=1)).tolist())
    return rows, _count(name, "f", f)


def _vector(name: str, value: npt.ArrayLike, d: int) -> Floats:
    try:
        vector = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise ArgumentError(f"{name}: {d} numbers expected") from None
    if vector.shape != (d,) or not np.isfinite(vector).all():
        raise ArgumentError(f"{name}: {d} finite numbers expected, got shape {vector.shape}")
    return vector


def _count(name: str, key: str, value: int) -> int:
    if isinstance(value, bool) or not hasattr(type(value), "__index__") or int(value) < 0:
        raise ArgumentError(f"{name}: {key} is a whole number, 0 or more, got {value!r}")
    return int(value)


def _real(name: str, key: str, value: float) -> float:
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ArgumentError(f"{name}: {key} is a finite number, got {value!r}")
    return number


def _sign(name: str, value: int) -> int:
    if isinstance(value, bool) or value not in (1, -1):
        raise ArgumentError(f"{name}: sign is 1 or -1, got {value!r}")
    return int(value)


def _deviation(name: str, rows: Floats, sign: int, ddof: int) -> Floats:
    """Standard deviation per parameter, with a sign."""
    if isinstance(ddof, bool) or ddof not in (0, 1) or ddof >= len(rows):
        raise ArgumentError(f"{name}: ddof is 0, or 1 if two or more clients are honest, got {ddof!r}")
    deviation: Floats = rows.std(axis=0, ddof=ddof)
    return _sign(name, sign) * deviation


def _direction(name: str, rows: Floats, direction: str, sign: int) -> Floats:
    mean: Floats = rows.mean(axis=0)
    forwards = mean
    if direction == "std":
        forwards = rows.std(axis=0)
    elif direction == "sign":
        forwards = np.sign(mean)
    elif direction == "unit":
        length = math.sqrt(_inner(mean, mean))
        forwards = mean / length if length else mean
    else:
        raise ArgumentError(f"{name}: direction is one of {', '.join(DIRECTIONS)}, got {direction!r}")
    return _sign(name, sign) * forwards


def _all(vector: Floats, f: int) -> Floats:
    """The same vector from every attacker."""
    return np.tile(vector, (f, 1))


def _inner(x: Floats, y: Floats) -> float:
    return float((x * y).sum())


def _squared_distances(rows: Floats) -> Floats:
    """Between all rows, without forming all differences at once."""
    return np.stack([((rows - row) ** 2).sum(axis=1) for row in rows])
