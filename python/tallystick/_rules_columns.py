"""Rules that look at every parameter by itself; no distances, so shards need not talk to one another."""

from __future__ import annotations

import numpy as np

from ._rule_types import Choice, Parameters, Spec, View, choice, count, needs_at_least, no_bounds

__all__ = ["RULES"]


def _mean(view: View, parameters: Parameters) -> Choice:
    weights = np.zeros(view.size)
    weights[: view.n] = view.shares if parameters["weights"] == "use" else 1.0
    return Choice("mean", range(view.n), weights)


def _median(view: View, parameters: Parameters) -> Choice:
    return Choice("median", range(view.n), argument=parameters["kind"])


def _trimmed_mean(view: View, parameters: Parameters) -> Choice:
    return Choice("trimmed_mean", range(view.n), argument=int(parameters["f"]))


def _meamed(view: View, parameters: Parameters) -> Choice:
    return Choice("meamed", range(view.n), argument=int(parameters["f"]))


def _phocas(view: View, parameters: Parameters) -> Choice:
    return Choice("phocas", range(view.n), argument=int(parameters["f"]))


def _majority(view: View, parameters: Parameters) -> Choice:
    return Choice("majority", range(view.n))


_F = {"f": count()}
RULES = {
    "mean": Spec({"weights": choice("use", "ignore", "use")}, no_bounds, decide=_mean),
    "median": Spec({"kind": choice("mid", "mid", "lower", "upper")}, no_bounds, decide=_median),
    "trimmed_mean": Spec(_F, needs_at_least("trimmed_mean", 2, 1), decide=_trimmed_mean),
    "meamed": Spec(_F, needs_at_least("meamed", 2, 1), decide=_meamed),
    "phocas": Spec(_F, needs_at_least("phocas", 2, 1), decide=_phocas),
    "majority": Spec({}, no_bounds, decide=_majority),
}
