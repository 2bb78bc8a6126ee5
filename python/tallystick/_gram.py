"""Inner products of updates from their squared distances, in float64:
(D_ib + D_jb - D_ij) / 2 about a row b.
"""

from __future__ import annotations

import numpy as np

from . import _core
from ._rule_types import Floats, View
from .errors import RuleError

__all__ = ["cosines", "gram_of"]


def gram_of(view: View, f: int) -> tuple[list[int], int, Floats]:
    """Rows at finite distance from the medoid, f less the number of other rows, Gram matrix of those rows.

    Rows so far away that their distance is infinite count as hostile: no sum can hold them.
    """
    table = view.pairs()
    g, far = _core.gram(table, _core.medoid(table))
    rows = [i for i in range(view.n) if not far[i]]
    out = view.n - len(rows)
    if out > f:
        raise RuleError(f"{out} of {view.n} updates are infinitely far from the others, but f={f}")
    return rows, f - out, np.ascontiguousarray(g[np.ix_(rows, rows)])


def cosines(view: View) -> tuple[Floats, list[bool]]:
    """Cosines between all rows of the view, extra ones included, about the origin, and which rows have none
    (a norm of zero or infinity); theirs are 0.
    """
    zero = view.extra["zero"]
    g, far = _core.gram(view.table, zero)
    norms = np.sqrt(g.diagonal())
    none = [bool(f or n == 0) for f, n in zip(far, norms.tolist(), strict=True)]
    norms[none] = 1.0
    return np.clip(g / norms[:, None] / norms[None, :], -1.0, 1.0), none
