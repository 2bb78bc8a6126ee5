"""csrc/mixed.h against its oracle, bit for bit, at every CPU level."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import reference
from tallystick import _core
from test_aggregate_core import Placed, random_cuts, same_bits

DTYPES = list(reference.DTYPES)
# Quads of clients, 26 of them in a table at a time; eight virtual clients side by side.
CLIENTS = [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33, 50, 104, 105, 130]
TILE = 64
LENGTHS = [0, 1, 15, 17, TILE - 1, TILE, TILE + 1, 521]


@functools.cache
def edge(n, dtype, d=None):
    d = d or (131 if n < 20 else 67)
    return reference.edge_rows(n, d, reference.DTYPES[dtype])


def neighbours(n, f):
    """Nearest neighbour mixing: n - f members in every row, equal weights."""
    rng = np.random.default_rng(n)
    matrix = np.zeros((n, n))
    for row in matrix:
        row[rng.choice(n, n - f, replace=False)] = 1 / (n - f)
    return matrix


def buckets(n, size):
    """Bucketing: every client in one row."""
    order = np.random.default_rng(n).permutation(n)
    rows = [order[lo : lo + size] for lo in range(0, n, size)]
    return np.array([np.isin(np.arange(n), row) / len(row) for row in rows])


def general(n, m):
    matrix = np.random.default_rng([n, m]).standard_normal((m, n))
    matrix[:, ::3] = 0
    return matrix


def some_of_each(n):
    rows = [
        neighbours(n, n // 4)[: n // 2],
        general(n, 5),
        neighbours(n, n // 3)[:9],
        np.zeros((1, n)),
        np.eye(n)[:2],
    ]
    return np.concatenate(rows)[np.random.default_rng(1).permutation(sum(map(len, rows)))]


MATRICES = {
    "neighbours": lambda n: neighbours(n, n // 5),
    "buckets": lambda n: buckets(n, 3),
    "general": lambda n: general(n, 7),
    "some of each": some_of_each,
    "identity": np.eye,
}


def mixed(placed, matrix, rule="median", argument="mid"):
    return placed._call(_core.mixed, matrix, rule, argument)


@functools.cache
def virtual(n, dtype, kind):
    return reference.virtual_clients(edge(n, dtype), MATRICES[kind](n))


@functools.cache
def expected(n, dtype, kind, rule, argument):
    y = virtual(n, dtype, kind)
    return reference.majority(y) if rule == "majority" else getattr(reference, rule)(y, argument)


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", CLIENTS)
def test_the_rule_sees_the_virtual_clients_of_the_reference(level, n, dtype, kind):
    matrix = MATRICES[kind](n)
    placed = Placed(edge(n, dtype))
    for rule, argument in (("median", "lower"), ("trimmed_mean", (len(matrix) - 1) // 3)):
        same_bits(mixed(placed, matrix, rule, argument), expected(n, dtype, kind, rule, argument))


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_virtual_client_has_the_bits_of_the_reference(level, dtype):
    rows, matrix = edge(11, dtype), some_of_each(11)
    for row, y in zip(matrix, reference.virtual_clients(rows, matrix), strict=True):
        same_bits(mixed(Placed(rows), row[None]), y)  # alone: in a table or entry by entry


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", LENGTHS)
def test_no_length_or_alignment_or_cut_changes_a_bit(level, d, dtype):
    rows = np.ascontiguousarray(edge(9, dtype, 521)[:, :d])
    matrix = some_of_each(9)
    whole = reference.mixed(rows, matrix, "median", "mid") if d else np.zeros(0, rows.dtype)
    for cut in [(), random_cuts(d, d), range(1, d)] if d > 1 else [()]:
        for shift in (0, 1):
            same_bits(mixed(Placed(rows, cut, shift), matrix), whole)


def test_no_number_of_threads_changes_a_bit(threads):
    rows = edge(10, "float32", 4 * 4096 + 77)
    placed, matrix = Placed(rows, random_cuts(rows.shape[1], 1, 30)), some_of_each(10)
    _core.set_num_threads(1)
    single, _ = mixed(placed, matrix, "trimmed_mean", 3)
    _core.set_num_threads(threads)
    same_bits(mixed(placed, matrix, "trimmed_mean", 3), single)


@pytest.mark.parametrize("n", [200, 1000])
def test_many_clients_take_several_tables(level, n):
    rows = np.random.default_rng(n).standard_normal((n, 70)).astype(np.float32)
    matrix = neighbours(n, n // 5)[:40]
    same_bits(mixed(Placed(rows), matrix), reference.mixed(rows, matrix, "median", "mid"))


def test_equal_rows_count_as_often_as_they_stand():
    rows, matrix = edge(8, "float32"), neighbours(8, 2)[[0, 1, 0, 0, 2, 1, 3]]
    same_bits(mixed(Placed(rows), matrix), reference.mixed(rows, matrix, "median", "mid"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [9, 20])
def test_every_column_rule_takes_virtual_clients(level, n, dtype):
    matrix, placed = MATRICES["some of each"](n), Placed(edge(n, dtype))
    for rule, argument in [("median", "mid"), ("median", "upper"), ("majority", 0), *RULES]:
        value = expected(n, dtype, "some of each", rule, argument)
        same_bits(mixed(placed, matrix, rule, argument), value)


RULES = [(rule, f) for rule in ("trimmed_mean", "meamed", "phocas") for f in (0, 1, 4)]


def test_a_far_client_that_is_left_out_changes_nothing(level):
    rows = np.random.default_rng(0).standard_normal((12, 200)).astype(np.float32)
    rows[3] = 3e38
    matrix = neighbours(12, 4)
    matrix[:, 3] = 0
    near = np.delete(rows, 3, axis=0).astype(np.float64)
    value, _ = mixed(Placed(rows), matrix)
    mean = np.delete(matrix, 3, axis=1) @ near
    np.testing.assert_allclose(value, np.median(mean, axis=0), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_beyond_the_format_are_its_largest(level, dtype):
    largest = reference.largest(dtype)
    rows = np.array([[largest] * 70, [largest] * 70]).astype(reference.DTYPES[dtype])
    for row, value in [([1.0, 1.0], largest), ([-2.0, 0.0], -largest), ([2.0**1023, -(2.0**1023)], None)]:
        y = reference.virtual_clients(rows, np.array([row]))[0]
        assert value is None or (y == value).all()
        same_bits(mixed(Placed(rows), np.array([row])), y)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["neighbours", "general"])
def test_clients_with_a_nan_or_infinity_are_named_whatever_their_entries(level, kind, dtype, value):
    rows, matrix = edge(20, dtype).copy(), MATRICES[kind](20)
    rows[0, 3], rows[17, 66] = value, value
    matrix[:, 0] = 0
    assert mixed(Placed(rows, (3, 66)), matrix)[1] == [0, 17]


def test_what_does_not_fit_is_refused():
    placed = Placed(np.zeros((3, 5), np.float32))
    eye = np.eye(3)
    with pytest.raises(ValueError, match="a matrix of 3 columns expected"):
        mixed(placed, np.eye(2))
    with pytest.raises(ValueError, match="a matrix of 3 columns expected"):
        mixed(placed, np.zeros((0, 3)))
    with pytest.raises(ValueError, match="finite entries expected, got inf"):
        mixed(placed, np.full((3, 3), np.inf))
    with pytest.raises(ValueError, match="2f < 2 clients expected, got f = 1"):
        mixed(placed, eye[:2], "trimmed_mean", 1)
    with pytest.raises(ValueError, match="meamed: f < 3 clients expected, got f = 3"):
        mixed(placed, eye, "meamed", 3)
    with pytest.raises(ValueError, match="phocas: 2f < 3 clients expected, got f = 2"):
        mixed(placed, eye, "phocas", 2)
    for rule, argument in [("mean", 1), ("median", 1), ("trimmed_mean", "mid"), ("phocas", "mid")]:
        with pytest.raises(ValueError, match="expected, got"):
            mixed(placed, eye, rule, argument)
    with pytest.raises(ValueError, match="'middle'"):
        mixed(placed, eye, "median", "middle")
    with pytest.raises(TypeError):
        mixed(placed, eye.astype(np.float32))
