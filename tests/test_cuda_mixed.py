"""Column rules over virtual clients on the device, or emulated, give the bits of the CPU."""

from __future__ import annotations

import numpy as np
import pytest

import device
import reference
from test_mixed_core import MATRICES, neighbours, some_of_each

pytestmark = pytest.mark.gpu

DTYPES = list(reference.DTYPES)
# Eight quads of clients in shared memory at a time, 64 virtual clients a block.
CLIENTS = [1, 2, 5, 9, 33, 70]


def edge(n, dtype, d):
    return reference.edge_rows(n, d, reference.DTYPES[dtype])


def agree(rows, *arguments):
    got, expected = rows.on_device("mixed", *arguments), rows.on_cpu("mixed", *arguments)
    assert got[1] == expected[1] == []
    np.testing.assert_array_equal(got[0].view(np.uint8), expected[0].view(np.uint8))


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", CLIENTS)
def test_virtual_clients_have_the_bits_of_the_cpu(n, dtype, kind):
    matrix = MATRICES[kind](n)
    rows = device.Rows(edge(n, dtype, 150), (7, 100), 1)
    agree(rows, matrix, "median", "lower")
    f = (len(matrix) - 1) // 3
    agree(rows, matrix, "trimmed_mean", f)
    agree(rows, matrix, "meamed", f)
    agree(rows, matrix, "phocas", f)
    agree(rows, matrix, "majority", 0)


def test_more_columns_than_a_tile_of_virtual_clients_has():
    values = np.random.default_rng(0).standard_normal((2, (1 << 20) + 77)).astype(np.float32)
    agree(device.Rows(values), np.array([[0.5, 0.5], [1.0, 0.0], [2.0, -1.0]]), "median", "mid")


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_beyond_the_format_are_its_largest(dtype):
    rows = np.full((2, 40), reference.largest(dtype)).astype(reference.DTYPES[dtype])
    for row in ([1.0, 1.0], [-2.0, 0.0], [2.0**1023, -(2.0**1023)]):
        agree(device.Rows(rows), np.array([row]), "median", "mid")


def test_clients_with_a_nan_or_infinity_are_named_whatever_their_entries():
    values, matrix = edge(9, "float16", 90), neighbours(9, 2)
    values[0, 3], values[7, 89], matrix[:, 0] = np.nan, np.inf, 0
    assert device.Rows(values).on_device("mixed", matrix, "median", "mid")[1] == [0, 7]


def test_what_does_not_fit_is_refused_in_words():
    rows = device.Rows(edge(3, "float32", 8))
    with pytest.raises(ValueError, match="a matrix of 3 columns"):
        rows.on_device("mixed", np.eye(2), "median", "mid")
    with pytest.raises(ValueError, match="2f < 3 clients expected, got f = 2"):
        rows.on_device("mixed", np.eye(3), "trimmed_mean", 2)
    with pytest.raises(ValueError, match="meamed: f < 3 clients expected, got f = 3"):
        rows.on_device("mixed", np.eye(3), "meamed", 3)
    with pytest.raises(ValueError, match="phocas: 2f < 3 clients expected, got f = 2"):
        rows.on_device("mixed", np.eye(3), "phocas", 2)


def test_tsan_virtual_clients_without_a_race():
    agree(device.Rows(edge(9, "float32", 70)), some_of_each(9), "median", "mid")
