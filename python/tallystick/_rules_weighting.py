"""Rules whose result is a weighted sum of all updates: medians in space, clipping, trust by angle."""

from __future__ import annotations

import decimal
import math

import numpy as np

from . import _core
from ._gram import cosines, gram_of
from ._rule_types import (
    Choice,
    Floats,
    Parameters,
    Spec,
    View,
    choice,
    count,
    needs_at_least,
    no_bounds,
    real,
    seed,
    whole,
)
from .errors import RuleError

__all__ = ["RULES"]

_LN = decimal.Context(prec=30, Emin=-999, Emax=999)


def _shares(view: View, parameters: Parameters) -> Floats:
    """Of every row of the view, extra ones 0: reported weights or 1 each, sum 1."""
    shares = np.zeros(view.size)
    shares[: view.n] = view.shares if parameters["weights"] == "use" else 1.0
    total: Floats = shares / np.add.accumulate(shares)[-1]
    return total


def _having_weight(view: View, weights: Floats) -> list[int]:
    return [i for i in range(view.n) if weights[i] != 0]


def all_far(rule: str, far: int, n: int, what: str = "the origin") -> RuleError:
    return RuleError(f"{rule}: {far} of {n} updates are infinitely far from {what}")


def _geometric_median(view: View, parameters: Parameters) -> Choice:
    start = view.extra["zero"] if parameters["start"] == "zero" else view.size
    weights, scores = _core.weiszfeld(
        view.table,
        start,
        _shares(view, parameters),
        float(parameters["nu"]),
        int(parameters["iterations"]),
    )
    kept = _having_weight(view, weights)
    if parameters["iterations"] and 2 * len(kept) < view.n:
        raise all_far("geometric_median", view.n - len(kept), view.n, "the others")
    reason = "infinitely far from the others" if parameters["iterations"] else "no iteration was made"
    return Choice("combine", kept, weights, scores=scores[: view.n], reason=reason)


def _centered_clipping(view: View, parameters: Parameters) -> Choice:
    weights, scores = _core.centered_clipping(
        view.table,
        view.extra["state"],
        _shares(view, parameters),
        float(parameters["tau"]),
        int(parameters["iterations"]),
    )
    kept = _having_weight(view, weights)
    reason = "infinitely far from the state"
    if not parameters["tau"] or not parameters["iterations"]:
        reason = "clipped to nothing: tau=0" if parameters["iterations"] else "no iteration was made"
    return Choice("combine", kept, weights, scores=scores[: view.n], reason=reason)


def clip_factors(norms: list[float], radius: float) -> list[float]:
    return [radius / norm if norm > radius else 1.0 for norm in norms]


def _middle(values: list[float]) -> float:
    ordered, n = sorted(values), len(values)
    low, high = ordered[(n - 1) // 2], ordered[n // 2]
    return low if low == high else low / 2 + high / 2


def median_norm(rule: str, norms: list[float]) -> float:
    """RuleError where half of the norms or more are infinite: then the median clips nobody."""
    radius = _middle(norms)
    if radius == math.inf:
        raise all_far(rule, norms.count(math.inf), len(norms))
    return radius


def _norm_clipping(view: View, parameters: Parameters) -> Choice:
    """The clipped-off share stands at the origin, so that the mean is one exact, correctly rounded sum."""
    norms = view.to("zero")
    radius = parameters["radius"]
    radius = median_norm("norm_clipping", norms) if radius == "median" else float(radius)
    shares = view.shares if parameters["weights"] == "use" else np.ones(view.n)
    clipped = clipped_weights(shares.tolist(), clip_factors(norms, radius))
    weights = np.zeros(view.size)
    weights[: view.n], weights[view.extra["zero"]] = clipped[:-1], clipped[-1]
    kept = _having_weight(view, weights)
    return Choice("mean", kept, weights, scores=norms, reason=too_long(radius))


SMALLEST_WEIGHT = 2.0**-500


def too_long(radius: float) -> str:
    """Why clipping to a radius leaves nothing of an update."""
    return "norm infinitely larger than the radius" if radius > 0 else "clipped to nothing: radius=0"


def clipped_weights(shares: list[float], factors: list[float]) -> list[float]:
    """Weight of every clipped update and, last, of the origin."""
    weights = [share * factor for share, factor in zip(shares, factors, strict=True)]
    weights = [w if w >= SMALLEST_WEIGHT else 0.0 for w in weights]
    return [*weights, clipped_rest(shares, weights)]


def clipped_rest(shares: list[float], weights: list[float]) -> float:
    """Weight of the origin: what clipping took."""
    rest = 0.0
    for share, weight in zip(shares, weights, strict=True):
        rest += share - weight
    return rest if rest >= SMALLEST_WEIGHT else 0.0


def _caf(view: View, parameters: Parameters) -> Choice:
    rows, f, g = gram_of(view, int(parameters["f"]))
    weights = np.zeros(view.size)
    weights[rows] = _core.caf(g, f)
    kept = _having_weight(view, weights)
    return Choice("combine", kept, weights, scores=weights[: view.n], reason="weight 0: spreads too far")


def _foolsgold(view: View, parameters: Parameters) -> Choice:
    n, kappa = view.n, float(parameters["kappa"])
    table, none = cosines(view)
    cs = table[:n, :n].copy()
    np.fill_diagonal(cs, 0.0)
    most = cs.max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        pardon = np.where(most[:, None] < most[None, :], most[:, None] / most[None, :], 1.0)
    cs = cs * np.where(np.isfinite(pardon), pardon, 1.0)
    learned = np.clip(1.0 - cs.max(axis=1), 0.0, 1.0)
    far = [i for i in range(n) if none[i] and view.table[i, view.extra["zero"]] != 0]
    if len(far) == n:
        raise all_far("foolsgold", n, n)
    learned[far] = 0.0
    if learned.max() > 0:
        learned = learned / learned.max()
    weights = np.zeros(view.size)
    weights[:n] = [_logit(a, kappa) for a in learned.tolist()]
    total = np.add.accumulate(weights)[-1]
    if total > 0:
        weights = weights / total
    else:  # all alike: nothing tells copies from a common truth
        weights[:n] = 1.0 / (n - len(far))
        weights[far] = 0.0
    kept = _having_weight(view, weights)
    return Choice("combine", kept, weights, scores=most, reason="too similar to another client")


def _logit(a: float, kappa: float) -> float:
    """kappa (ln(a / (1 - a)) + 1/2), held in [0, 1]; the logarithm in decimal, the same everywhere."""
    a = 0.99 if a == 1.0 else a
    if a <= 0.0:
        return 0.0
    ln = float(_LN.ln(decimal.Decimal(a / (1.0 - a))))
    return min(max(kappa * (ln + 0.5), 0.0), 1.0)


def _fltrust(view: View, parameters: Parameters) -> Choice:
    table, _ = cosines(view)
    server = view.extra["server"]
    scores = table[: view.n, server]
    norms = view.to("zero")
    length = math.sqrt(view.table[server, view.extra["zero"]])
    if not 0 < length < math.inf:
        size = "infinite norm" if length else "norm 0"
        raise RuleError(
            f"fltrust: the server's update has {size}: one with a direction and a length expected"
        )
    trust = np.maximum(scores, 0.0)
    total = np.add.accumulate(trust)[-1]
    weights = np.zeros(view.size)
    for i in range(view.n):
        if trust[i] > 0:
            weights[i] = trust[i] / total * (length / norms[i])
    kept = _having_weight(view, weights)
    return Choice(
        "combine",
        kept,
        weights,
        scores=scores,
        reason="does not point where the server's does",
        may_overflow=f"fltrust: updates at the length of the server's, {length!r}",
    )


def _flame(view: View, parameters: Parameters) -> Choice:
    table, none = cosines(view)
    n, norms = view.n, view.to("zero")
    kept = _majority_cluster(1.0 - table[:n, :n], [i for i in range(n) if not (none[i] and norms[i] > 0)])
    if len(kept) <= n // 2:
        raise all_far("flame", n - len(kept), n)
    radius = median_norm("flame", norms)
    factors = clip_factors(norms, radius)
    weights = np.zeros(view.size)
    for i in kept:
        weights[i] = factors[i] / len(kept)
    sigma = float(parameters["noise"]) * radius
    noise = (sigma, int(parameters["seed"])) if sigma > 0 else None
    reason = "not in the cluster of most clients"
    overflow = f"flame: noise={parameters['noise']!r} times the median norm of {radius!r}"
    return Choice(
        "combine",
        kept,
        weights,
        scores=norms,
        reason=reason,
        noise=noise,
        may_overflow=overflow if noise else "",
    )


def _majority_cluster(table: Floats, rows: list[int]) -> list[int]:
    """The first cluster of more than half of all clients when clients are joined by distance, nearest first,
    all pairs of one distance together.

    That is what HDBSCAN returns for min_cluster_size = n // 2 + 1, min_samples = 1, allow_single_cluster.
    """
    n = len(table)
    edges = sorted((table[i, j], i, j) for a, i in enumerate(rows) for j in rows[a + 1 :])
    cluster = {i: [i] for i in range(n)}
    biggest, reached = rows[:1], 0.0
    for distance, i, j in edges:
        if len(biggest) > n // 2 and distance > reached:
            break
        reached = distance
        if cluster[i] is cluster[j]:
            continue
        joined = cluster[i] + cluster[j]
        for k in joined:
            cluster[k] = joined
        biggest = joined if len(joined) > len(biggest) else biggest
    return sorted(biggest)


_WEIGHTS = {"weights": choice("ignore", "ignore", "use")}
_PAIRS, _ZERO = frozenset({"distances"}), frozenset({"distances", "zero"})
_BIG = 2.0**500
RULES = {
    "geometric_median": Spec(
        {
            "nu": real(1e-6, 1e-300, _BIG),
            "iterations": whole(32, 0, 100_000),
            "start": choice("zero", "zero", "mean"),
            **_WEIGHTS,
        },
        no_bounds,
        _ZERO,
        _geometric_median,
    ),
    "centered_clipping": Spec(
        {"tau": real(10.0, 0.0, _BIG), "iterations": whole(1, 0, 100_000), **_WEIGHTS},
        no_bounds,
        frozenset({"distances", "state"}),
        _centered_clipping,
    ),
    "norm_clipping": Spec(
        {"radius": real("median", 0.0, _BIG, "median"), **_WEIGHTS}, no_bounds, _ZERO, _norm_clipping
    ),
    "caf": Spec({"f": count()}, needs_at_least("caf", 2, 1), _PAIRS, _caf),
    "foolsgold": Spec({"kappa": real(1.0, 0.0, _BIG)}, no_bounds, _ZERO, _foolsgold),
    "fltrust": Spec({}, no_bounds, frozenset({"distances", "zero", "server"}), _fltrust),
    "flame": Spec({"noise": real(0.001, 0.0, _BIG), "seed": seed()}, no_bounds, _ZERO, _flame),
}
