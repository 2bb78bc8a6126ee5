"""Rules that keep some updates and take their mean: by distances to one another, by norm, by spread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from . import _core
from ._gram import gram_of
from ._rule_types import (
    Choice,
    Floats,
    Parameters,
    Spec,
    View,
    choice,
    count,
    needs_at_least,
    real,
    seed,
    whole,
)
from .errors import RuleError

__all__ = ["RULES"]

MDA_MOST_F, MOST_CLIENTS = 32, 1024
SMEA_MOST_SUBSETS = 250_000


def _mean_of(
    view: View,
    parameters: Parameters,
    kept: Iterable[int],
    scores: Sequence[float] | Floats | None,
    reason: str,
) -> Choice:
    """Mean of the rows kept, by reported weights where the rule's text says so."""
    selected = sorted(int(i) for i in kept)
    if scores is not None:
        refuse_far(view, parameters, selected, scores)
    weights = np.zeros(view.size)
    weights[selected] = view.shares[selected] if parameters.get("weights") == "use" else 1.0
    return Choice("mean", selected, weights, scores=scores, reason=reason)


def refuse_far(
    view: View, parameters: Parameters, kept: Sequence[int], scores: Sequence[float] | Floats
) -> None:
    """RuleError where an infinite score would be kept: then more than f rows are infinitely far away."""
    if any(scores[i] == np.inf for i in kept):
        raise RuleError(
            f"more than f={parameters['f']} of {view.n} updates are infinitely far from the others "
            "or the origin"
        )


def krum_scores(table: Floats, neighbors: int) -> Floats:
    """Per row, the sum of its `neighbors` smallest off-diagonal values, smallest first."""
    ordered = np.sort(table, axis=1)[:, 1 : neighbors + 1]  # one zero, its own or an equal one, is left out
    sums: Floats = np.add.accumulate(ordered, axis=1)[:, -1]  # in order, by definition
    return sums


def _away(parameters: Parameters) -> int:
    return 2 if parameters["neighbors"] == "n-f-2" else 1


def _krum(view: View, parameters: Parameters) -> Choice:
    """Krum is Multi-Krum with m = 1: the mean of one update is that update."""
    f = int(parameters["f"])
    scores = krum_scores(view.pairs(), view.n - f - _away(parameters))
    m = parameters.get("m", 1)
    m = view.n - f if m == "n-f" else min(int(m), view.n - f)
    order = np.argsort(scores, kind="stable")  # ties: lowest index
    return _mean_of(view, parameters, order[:m], scores, "Krum score too high")


def _bulyan(view: View, parameters: Parameters) -> Choice:
    f = int(parameters["f"])
    theta = view.n - 2 * f
    if parameters["variant"] == "iterative":
        kept, scores = _core.bulyan(view.pairs(), f, _away(parameters), theta)
    else:
        scores = krum_scores(view.pairs(), view.n - f - _away(parameters))
        kept = [int(i) for i in np.argsort(scores, kind="stable")[:theta]]
    refuse_far(view, parameters, kept, scores)
    return Choice("meamed", sorted(kept), argument=2 * f, scores=scores, reason="Krum score too high")


def _mda(view: View, parameters: Parameters) -> Choice:
    try:
        kept = _core.mda(view.pairs(), int(parameters["f"]))
    except RuntimeError as error:
        raise RuleError(f"{error}: n={view.n}, f={parameters['f']}") from None
    farthest = np.zeros(view.n)
    farthest[kept] = view.pairs()[np.ix_(kept, kept)].max(axis=1)
    refuse_far(view, parameters, kept, farthest)
    return _mean_of(view, parameters, kept, None, "not in the subset of least diameter")


def _monna(view: View, parameters: Parameters) -> Choice:
    pivot = int(parameters["pivot"])
    if pivot not in view.clients:
        raise RuleError(f"monna: client {pivot}, the reference, was left out (NaN or infinity) or mixed")
    row = view.clients.index(pivot)
    squared = view.pairs()[row]
    order = [row, *(int(i) for i in np.argsort(squared, kind="stable") if i != row)]
    kept = order[: view.n - int(parameters["f"])]
    return _mean_of(view, parameters, kept, np.sqrt(squared), f"too far from client {pivot}")


def _cge(view: View, parameters: Parameters) -> Choice:
    norms = np.array(view.to("zero"))
    order = np.argsort(norms, kind="stable")
    return _mean_of(view, parameters, order[: view.n - int(parameters["f"])], norms, "norm too large")


def _smea(view: View, parameters: Parameters) -> Choice:
    rows, f, g = gram_of(view, int(parameters["f"]))
    kept = [rows[i] for i in _core.smea(g, f)] if len(rows) > 1 else rows
    return _mean_of(view, parameters, kept, None, "not in the subset of least covariance")


def _dnc(view: View, parameters: Parameters) -> Choice:
    f, times = int(parameters["f"]), int(parameters["iterations"])
    assert view.sample is not None
    good, worst = set(range(view.n)), [0.0] * view.n
    out = int(float(parameters["filter"]) * f)
    for t in range(times):
        table = view.sample(int(parameters["seed"]), t, int(parameters["columns"]))
        sampled = View(view.n, view.n, table, {}, view.shares, view.clients)
        rows, _, g = gram_of(sampled, f)
        scores = np.full(view.n, np.inf)
        scores[rows] = _core.principal_scores(g)
        good &= {int(i) for i in np.argsort(scores, kind="stable")[: view.n - out]}
        worst = [max(a, b) for a, b in zip(worst, scores.tolist(), strict=True)]
    if not good:
        raise RuleError(f"dnc: no client passed all {times} iterations: fewer of them or a smaller filter")
    return _mean_of(view, parameters, good, worst, "spread along the top direction")


# ---- bounds ----------------------------------------------------------------------------------------------


def _check_krum(name: str) -> Callable[[int, Parameters], None]:
    at_least = needs_at_least(name, 2, 3)

    def check(n: int, parameters: Parameters) -> None:
        at_least(n, parameters)
        f, m = int(parameters["f"]), parameters.get("m", 1)
        if m != "n-f" and not 1 <= int(m) <= n - f:
            raise RuleError(f"{name}: 1 <= m <= n - f = {n - f} expected, got m={m}")

    return check


def _check_mda(n: int, parameters: Parameters) -> None:
    needs_at_least("mda", 2, 1)(n, parameters)
    if int(parameters["f"]) > MDA_MOST_F or n > MOST_CLIENTS:
        raise RuleError(
            f"mda searches subsets: f <= {MDA_MOST_F} and n <= {MOST_CLIENTS} expected, got "
            f"n={n}, f={parameters['f']}"
        )


def _check_smea(n: int, parameters: Parameters) -> None:
    needs_at_least("smea", 2, 1)(n, parameters)
    subsets, f = 1, int(parameters["f"])
    for k in range(f):
        subsets = subsets * (n - k) // (k + 1)
        if subsets > SMEA_MOST_SUBSETS:
            raise RuleError(
                f"smea searches all subsets of n - f clients: at most {SMEA_MOST_SUBSETS} expected, got more "
                f"with n={n}, f={f}"
            )


def _check_monna(n: int, parameters: Parameters) -> None:
    needs_at_least("monna", 2, 1)(n, parameters)
    if int(parameters["pivot"]) >= n:
        raise RuleError(f"monna: pivot < n expected, got pivot={parameters['pivot']}, n={n}")


_F, _NEIGHBORS = {"f": count()}, {"neighbors": choice("n-f-2", "n-f-2", "n-f-1")}
_WEIGHTS = {"weights": choice("ignore", "ignore", "use")}
_PAIRS = frozenset({"distances"})
_ZERO = frozenset({"distances", "zero"})
RULES = {
    "krum": Spec({**_F, **_NEIGHBORS}, _check_krum("krum"), _PAIRS, _krum),
    "multi_krum": Spec(
        {**_F, "m": count("n-f", "n-f"), **_NEIGHBORS, **_WEIGHTS}, _check_krum("multi_krum"), _PAIRS, _krum
    ),
    "bulyan": Spec(
        {**_F, "variant": choice("iterative", "iterative", "oneshot"), **_NEIGHBORS},
        needs_at_least("bulyan", 4, 3),
        _PAIRS,
        _bulyan,
    ),
    "mda": Spec({**_F, **_WEIGHTS}, _check_mda, _PAIRS, _mda),
    "monna": Spec({**_F, "pivot": count(0), **_WEIGHTS}, _check_monna, _PAIRS, _monna),
    "cge": Spec({**_F, **_WEIGHTS}, needs_at_least("cge", 2, 1), _ZERO, _cge),
    "smea": Spec({**_F, **_WEIGHTS}, _check_smea, _PAIRS, _smea),
    "dnc": Spec(
        {
            **_F,
            "iterations": whole(5, 1, 1000),
            "filter": real(1.0, 0.0, 100.0),
            "columns": whole(10_000, 1, 2**31),
            "seed": seed(),
            **_WEIGHTS,
        },
        needs_at_least("dnc", 2, 1),
        frozenset({"sample"}),
        _dnc,
    ),
}
