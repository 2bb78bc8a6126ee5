"""csrc/distances.h beyond distances themselves: products, norms, one row against all, at every CPU level."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import reference
from tallystick import _core
from test_aggregate_core import BLOCK, DTYPES, SUPERBLOCK, Placed, edge, one_thread_distances, random_cuts


def sums(kind, n):
    """part and total of one of the functions."""
    shape = {"distances": (n, n), "products": (n, n), "products_with": (2, n)}.get(kind, (n,))
    return np.zeros(shape), np.zeros(shape)


class Measured(Placed):
    def measured(self, kind, *row):
        part, total = sums(kind, len(self.rows))
        bad = getattr(_core, kind)(self.pointers, self.bounds, self.dtype, *row, 0, part, total)
        _core.distances_finish(part, total)
        assert not part.any()
        return total, bad


@pytest.mark.parametrize("n", [*range(1, 131), 200, 1000])
def test_distances_of_any_number_of_clients_are_right(n):
    rows = np.random.default_rng(n).standard_normal((n, 13)).astype(np.float32)
    wide = rows.astype(np.float64)
    table = Measured(rows).distances()[0]
    assert (table == table.T).all()
    assert (table.diagonal() == 0).all()
    expected = np.array([((wide - row) ** 2).sum(1) for row in wide])
    np.testing.assert_allclose(table, expected, rtol=1e-6)
    np.testing.assert_allclose(Measured(rows).measured("products")[0], wide @ wide.T, atol=1e-12 * n)


@pytest.mark.parametrize("d", [4095, 4096, 4097, 100_003])
def test_distances_and_products_of_long_rows_are_right(d):
    rows = np.random.default_rng(d).standard_normal((5, d)).astype(np.float32)
    wide = rows.astype(np.float64)
    expected = ((wide[:, None] - wide[None]) ** 2).sum(2)
    np.testing.assert_allclose(Measured(rows, random_cuts(d, 1)).distances()[0], expected, rtol=1e-6)
    np.testing.assert_allclose(Measured(rows).measured("products")[0], wide @ wide.T, rtol=1e-12, atol=1e-9)


# ---- Products and norms ----

SINGLE = ["norms", "distances_to", "products_with"]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 16])
def test_products_have_the_bits_of_the_reference_shape(level, n, dtype):
    rows = edge(n, dtype, 1100)
    expected = reference.products(rows)
    for cuts, shift in (((), 0), (random_cuts(1100, n), 1)):
        total, bad = Measured(rows, cuts, shift).measured("products")
        assert bad == []
        np.testing.assert_array_equal(total.view(np.uint64), expected.view(np.uint64))


def test_float64_products_have_the_bits_of_the_reference_shape(level):
    rows = np.random.default_rng(3).standard_normal((6, 530))
    np.testing.assert_array_equal(Measured(rows, (5, 511)).measured("products")[0], reference.products(rows))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 5, 11, 40])
def test_one_row_against_all_has_the_bits_of_the_whole_table(level, n, dtype):
    rows = edge(n, dtype, 1100) if dtype != "float64" else np.random.default_rng(n).standard_normal((n, 1100))
    placed = Measured(rows, random_cuts(1100, n), 1)
    table, products = placed.distances()[0], placed.measured("products")[0]
    same = np.testing.assert_array_equal
    same(placed.measured("norms")[0], products.diagonal())
    for row in {0, n // 2, n - 1}:
        same(placed.measured("distances_to", row)[0], table[row])
        same(placed.measured("products_with", row)[0], [products.diagonal(), products[row]])


@pytest.mark.parametrize(
    "d", [1, 15, 16, 17, BLOCK - 1, BLOCK, BLOCK + 1, SUPERBLOCK - 1, SUPERBLOCK, SUPERBLOCK + 1]
)
def test_products_over_every_border_of_the_shape(level, d):
    rows = np.random.default_rng(d).standard_normal((3, d)).astype(np.float32)
    expected = reference.products(rows)
    np.testing.assert_array_equal(Measured(rows).measured("products")[0], expected)
    np.testing.assert_array_equal(Measured(rows).measured("norms")[0], expected.diagonal())


@functools.cache
def long_rows():
    return np.random.default_rng(5).standard_normal((7, SUPERBLOCK + 3 * BLOCK + 5)).astype(np.float32)


@pytest.mark.parametrize("chunk", [20 * 4096, SUPERBLOCK, 2 * SUPERBLOCK])
def test_no_chunk_or_number_of_threads_changes_a_product(threads, chunk):
    rows = long_rows()
    expected = reference.products(rows[:3])
    for kind, row in (("products", ()), ("norms", ()), ("products_with", (2,)), ("distances_to", (2,))):
        part, total = sums(kind, 7)
        for lo in range(0, rows.shape[1], chunk):
            piece = Measured(rows[:, lo : lo + chunk])
            arguments = piece.pointers, piece.bounds, "float32", *row, lo, part, total
            assert getattr(_core, kind)(*arguments) == []
        _core.distances_finish(part, total)
        if kind == "products":
            np.testing.assert_array_equal(total[:3, :3], expected)
        elif kind == "distances_to":
            np.testing.assert_array_equal(total, one_thread_distances()[2])
        else:
            np.testing.assert_array_equal(np.atleast_2d(total)[0, :3], expected.diagonal())


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_no_scale_of_float32_takes_a_product_out_of_range(level, scale):
    rows = np.random.default_rng(7).standard_normal((4, 600)).astype(np.float32)
    scaled = rows.copy()
    scaled[1] *= np.float32(scale)
    wide = scaled.astype(np.float64)
    np.testing.assert_allclose(
        Measured(scaled).measured("products")[0] / np.sqrt((wide**2).sum(1)[:, None] * (wide**2).sum(1)),
        wide @ wide.T / np.sqrt((wide**2).sum(1)[:, None] * (wide**2).sum(1)),
        atol=1e-13,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "row"), [("products", ()), ("norms", ()), *((k, (2,)) for k in SINGLE[1:])])
def test_a_client_that_is_not_finite_is_named_by_every_sum(level, kind, row, dtype):
    rows = np.random.default_rng(1).standard_normal((7, 700)).astype(reference.DTYPES[dtype])
    clean, _ = Measured(rows).measured(kind, *row)
    rows[3, 650], rows[5, 3] = np.nan, np.inf
    for cuts in ((), (100, 651)):
        total, bad = Measured(rows, cuts).measured(kind, *row)
        assert bad == [3, 5]
        others = [0, 1, 2, 4, 6]
        at = np.ix_(others, others) if kind == "products" else (..., others)
        np.testing.assert_array_equal(total[at], clean[at])


def test_a_row_against_which_all_stand_is_not_finite_alone():
    rows = np.ones((4, 9), np.float32)
    rows[2, 5] = np.inf
    for kind in ("distances_to", "products_with"):
        assert Measured(rows).measured(kind, 2)[1] == [2]


def test_arguments_out_of_range_are_refused():
    p = Placed(np.zeros((3, 5), np.float32))
    for kind, row, count in (("norms", (), 3), ("distances_to", (0,), 3), ("products_with", (0,), 6)):
        arguments = p.pointers, p.bounds, "float32", *row
        with pytest.raises(ValueError, match=f"total: {count} values"):
            getattr(_core, kind)(*arguments, 0, np.zeros(count), np.zeros(count + 1))
        with pytest.raises(ValueError, match=f"{kind}: column: a multiple of 4096"):
            getattr(_core, kind)(*arguments, 512, np.zeros(count), np.zeros(count))
    with pytest.raises(ValueError, match="row: below 3 expected, got 3"):
        _core.distances_to(p.pointers, p.bounds, "float32", 3, 0, np.zeros(3), np.zeros(3))
    with pytest.raises(ValueError, match="total: 3 values"):
        _core.distances_finish(np.zeros(3), np.zeros(4))
