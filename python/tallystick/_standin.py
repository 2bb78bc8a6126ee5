"""Slow and obvious: stands where a native kernel is still to come."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from ._columns import Rows
from .arrays import numpy_dtype


def values(rows: Rows) -> Any:
    dtype = numpy_dtype(rows.dtype)
    out = np.empty((len(rows.pointers), rows.size), dtype)
    for i, row in enumerate(rows.pointers.tolist()):
        for k, at in enumerate(row):
            lo, hi = int(rows.bounds[k]), int(rows.bounds[k + 1])
            if hi > lo:
                ctypes.memmove(out[i, lo:].ctypes.data, at, (hi - lo) * dtype.itemsize)
    return out


def run(rows: Rows, out: int, rule: Any) -> list[int]:
    x = values(rows)
    wide = x.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(wide).all(axis=1)).tolist()
    if not bad and rows.size:
        with np.errstate(over="ignore"):
            result = np.ascontiguousarray(np.asarray(rule(wide)).astype(x.dtype))
        ctypes.memmove(out, result.ctypes.data, result.nbytes)
    return [int(b) for b in bad]


def combine(x: Any, w: Any) -> Any:
    total = np.zeros(x.shape[1])
    for weight, row in zip(w, x, strict=True):
        total = total + weight * row
    return total


def _nearest(x: Any, to: Any, keep: int) -> Any:
    order = np.lexsort((x, np.abs(x - to)), axis=0)[:keep]
    return np.take_along_axis(x, order, axis=0).mean(axis=0)


def meamed(x: Any, f: int) -> Any:
    return _nearest(x, np.median(x, axis=0), len(x) - f)


def phocas(x: Any, f: int) -> Any:
    return _nearest(x, np.sort(x, axis=0)[f : len(x) - f].mean(axis=0), len(x) - f)


def majority(x: Any) -> Any:
    return np.sign(np.sign(x).sum(axis=0))


def mixed(x: Any, matrix: Any, rule: str, argument: Any) -> Any:
    y = np.stack([combine(x, row) for row in matrix])
    if rule == "median":
        ordered, m = np.sort(y, axis=0), len(y)
        low, high = ordered[(m - 1) // 2], ordered[m // 2]
        return {"mid": (low + high) / 2, "lower": low, "upper": high}[argument]
    if rule == "trimmed_mean":
        return np.sort(y, axis=0)[argument : len(y) - argument].mean(axis=0)
    return majority(y) if rule == "majority" else {"meamed": meamed, "phocas": phocas}[rule](y, argument)
