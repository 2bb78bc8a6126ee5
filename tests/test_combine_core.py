"""csrc/combine.h against its oracle, bit for bit, at every CPU level."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import reference
from tallystick import _core
from test_aggregate_core import Placed, random_cuts, same_bits

DTYPES = list(reference.DTYPES)
# Up to 16 rows are summed in registers, more four at a time over stretches of 1024 (float64: 512) columns.
CLIENTS = [1, 2, 3, 4, 5, 10, 16, 17, 18, 21, 50, 100, 130]
TILE, STRETCH = 64, 1024
LENGTHS = [0, 1, 15, 16, 17, TILE - 1, TILE, TILE + 1, 521]


def weights_of(n, kind):
    rng = np.random.default_rng(n)
    if kind == "shares":
        return np.full(n, 1 / n)
    if kind == "signs":  # zeros, negative ones
        return rng.integers(-3, 4, n).astype(np.float64)
    return np.ldexp(rng.uniform(-1, 1, n), rng.integers(-1000, 1000, n))


@functools.cache
def edge(n, dtype, d=131):
    return reference.edge_rows(n, d, reference.DTYPES[dtype])


def combined(placed, weights):
    return placed._call(_core.combine, weights)


@pytest.mark.parametrize("kind", ["shares", "signs", "wide"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", CLIENTS)
def test_the_sum_has_the_bits_of_the_reference_order(level, n, dtype, kind):
    weights = weights_of(n, kind)
    same_bits(combined(Placed(edge(n, dtype)), weights), expected(n, dtype, kind))


@functools.cache
def expected(n, dtype, kind):
    return reference.combine(edge(n, dtype), weights_of(n, kind))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", LENGTHS)
def test_no_length_or_alignment_or_cut_changes_a_bit(level, d, dtype):
    rows = np.ascontiguousarray(edge(5, dtype, 521)[:, :d])
    weights = weights_of(5, "signs")
    whole = reference.combine(rows, weights)
    for cut in [(), random_cuts(d, d), range(1, d)] if d > 1 else [()]:
        for shift in (0, 1):
            same_bits(combined(Placed(rows, cut, shift), weights), whole)


@pytest.mark.parametrize("n", [6, 23])
def test_no_number_of_threads_changes_a_bit(threads, n):
    rows = edge(n, "float32", 4 * 4096 + 77)
    placed, weights = Placed(rows, random_cuts(rows.shape[1], 1, 30)), weights_of(n, "shares")
    _core.set_num_threads(1)
    single, _ = combined(placed, weights)
    _core.set_num_threads(threads)
    same_bits(combined(placed, weights), single)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [17, 20])
def test_stretches_and_tiles_give_the_same_bits(level, n, dtype):
    rows = np.tile(edge(n, dtype, 131), (1, 10))  # 1310 columns: a stretch, then tiles
    whole = np.tile(expected(n, dtype, "signs"), 10)
    same_bits(combined(Placed(rows, (), 1), weights_of(n, "signs")), whole)


def test_float64_sums_keep_what_cancellation_would_lose(level):
    rows = np.repeat([[1e300], [1.0], [-1e300]], 70, axis=1)
    same_bits(combined(Placed(rows), np.ones(3)), np.ones(70))
    same_bits(combined(Placed(rows), np.array([1.0, 0.1, 1.0])), np.full(70, 0.1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_overflow_gives_infinities_and_blames_nobody(level, dtype):
    largest = np.array([reference.largest(dtype)] * 2)
    rows = np.repeat(largest[:, None], 70, axis=1).astype(reference.DTYPES[dtype])
    same_bits(combined(Placed(rows), np.array([1.0, 1.0])), np.full(70, np.inf).astype(rows.dtype))
    same_bits(combined(Placed(rows), np.array([-2.0, 0.5])), np.full(70, -np.inf).astype(rows.dtype))
    if dtype != "float16":  # 2^1023 * 65504 and its negative both leave float64: +infinity, not NaN
        opposite = np.array([2.0**1023, -(2.0**1023)])
        same_bits(combined(Placed(rows), opposite), np.full(70, np.inf).astype(rows.dtype))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [2, 16, 17, 50])
def test_clients_with_a_nan_or_infinity_are_named_whatever_their_weight(level, n, dtype, value):
    rows = np.tile(edge(n, dtype), (1, 9))
    weights = weights_of(n, "shares")
    weights[0] = 0
    rows[0, 3], rows[n - 1, rows.shape[1] - 1] = value, value
    assert combined(Placed(rows, (3, 66)), weights)[1] == [0, n - 1]


def test_weights_that_do_not_fit_are_refused():
    placed = Placed(np.zeros((3, 5), np.float32))
    with pytest.raises(ValueError, match="combine: 3 weights expected"):
        combined(placed, np.ones(2))
    for weight in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match="finite weights expected"):
            combined(placed, np.array([1, weight, 1]))
    with pytest.raises(TypeError):
        combined(placed, np.ones(3, np.float32))
    with pytest.raises(ValueError, match="got 'int8'"):
        _core.combine(placed.pointers, placed.bounds, "int8", np.ones(3), 0)
