"""Pre-aggregators: rows that are mixtures of clients, for a rule behind them. None of them is ever formed."""

from __future__ import annotations

import math

import numpy as np

from . import _core
from ._rule_types import Floats, Parameters, Spec, View, count, needs_at_least, no_bounds, real, seed, whole
from ._rules_weighting import all_far, clip_factors
from .errors import RuleError

__all__ = ["STAGES"]


def _nnm(view: View, parameters: Parameters) -> tuple[Floats, list[int]]:
    """Every row becomes the mean of the n - f rows nearest to it, itself one of them."""
    keep, table = view.n - int(parameters["f"]), view.pairs()
    matrix = np.zeros((view.n, view.size))
    for i in range(view.n):
        order = np.argsort(table[i], kind="stable")
        matrix[i, i] = 1.0 / keep
        matrix[i, order[order != i][: keep - 1]] = 1.0 / keep
    return matrix, list(range(view.n))


def _bucketing(view: View, parameters: Parameters) -> tuple[Floats, list[int]]:
    s = int(parameters["s"])
    order = permutation(view.n, int(parameters["seed"]))
    buckets = [order[i : i + s] for i in range(0, view.n, s)]
    matrix, stands = np.zeros((len(buckets), view.size)), [0] * view.n
    for b, bucket in enumerate(buckets):
        matrix[b, bucket] = 1.0 / len(bucket)
        for i in bucket:
            stands[i] = b
    return matrix, stands


def permutation(n: int, seed: int) -> list[int]:
    """Fisher and Yates, from the last place down, by the words of csrc/random.h; stream 1."""
    order = list(range(n))
    words = _core.random_words(seed, 1, 0, n).tolist()
    for i in range(n - 1, 0, -1):
        j = words[i] * (i + 1) >> 64
        order[i], order[j] = order[j], order[i]
    return order


def _scaled(view: View, factors: list[float]) -> tuple[Floats, list[int]]:
    matrix = np.zeros((view.n, view.size))
    for i, factor in enumerate(factors):
        matrix[i, i] = factor
        matrix[i, view.extra["zero"]] = 1.0 - factor
    return matrix, list(range(view.n))


def _clipping(view: View, parameters: Parameters) -> tuple[Floats, list[int]]:
    return _scaled(view, clip_factors(view.to("zero"), float(parameters["radius"])))


def _arc(view: View, parameters: Parameters) -> tuple[Floats, list[int]]:
    """The floor(2 f (n - f) / n) largest norms are cut to the next one."""
    n, f, norms = view.n, int(parameters["f"]), view.to("zero")
    kept = n - 2 * f * (n - f) // n
    radius = sorted(norms)[kept - 1]
    if radius == math.inf:
        raise all_far("arc", norms.count(math.inf), n)
    return _scaled(view, clip_factors(norms, radius))


def _check_nnm(n: int, parameters: Parameters) -> None:
    if int(parameters["f"]) >= n:
        raise RuleError(f"nnm needs n >= f + 1: got n={n}, f={parameters['f']}")


_ZERO = frozenset({"distances", "zero"})
STAGES = {
    "nnm": Spec({"f": count()}, _check_nnm, frozenset({"distances"}), mix=_nnm),
    "bucketing": Spec(
        {"s": whole(None, 1, 2**31), "seed": seed()},
        no_bounds,
        mix=_bucketing,
        rows=lambda n, parameters: -(-n // int(parameters["s"])),
    ),
    "clipping": Spec(
        {"radius": real(None, 0.0, 2.0**500)}, no_bounds, _ZERO, mix=_clipping, keeps_clients=True
    ),
    "arc": Spec({"f": count()}, needs_at_least("arc", 2, 1), _ZERO, mix=_arc, keeps_clients=True),
}
