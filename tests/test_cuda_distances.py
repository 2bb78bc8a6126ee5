"""Distances and combine on the device, or emulated, give the bits of the CPU."""

from __future__ import annotations

import numpy as np
import pytest

import device
import reference
from tallystick import _core

pytestmark = pytest.mark.gpu

DTYPES = list(reference.DTYPES)
# Up to 16 clients: squares of 4 x 4, by groups of 4; more: tiles of 32 x 32 (float64: 16 x 16).
CLIENTS = [2, 3, 4, 5, 8, 9, 12, 13, 16, 17, 31, 32, 33, 50, 65]
BLOCK, SUPERBLOCK = 512, 1 << 18


def edge(n, dtype, d):
    return reference.edge_rows(n, d, reference.DTYPES[dtype])


def same(got, expected):
    assert got[1] == expected[1] == []
    np.testing.assert_array_equal(got[0].view(np.uint64), expected[0].view(np.uint64))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", CLIENTS)
def test_distances_have_the_bits_of_the_cpu(n, dtype):
    rows = device.Rows(edge(n, dtype, 1100))
    same(rows.distances_on_device(), rows.distances_on_cpu())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 15, 17, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_no_length_or_alignment_or_cut_changes_a_distance(d, dtype):
    values = edge(6, dtype, 1600)[:, :d]
    inner = sorted(np.random.default_rng(d).choice(np.arange(1, d), min(7, d - 1), False).tolist())
    for cuts in [(), inner] if d > 1 else [()]:
        for shift in (0, 1):
            rows = device.Rows(values, cuts, shift)
            same(rows.distances_on_device(), rows.distances_on_cpu())


@pytest.mark.parametrize("n", [3, 18])
def test_pieces_of_one_column_are_found(n):
    rows = device.Rows(edge(n, "bfloat16", 9), range(1, 9))
    same(rows.distances_on_device(), rows.distances_on_cpu())


@pytest.mark.parametrize("d", [SUPERBLOCK - 3, SUPERBLOCK, SUPERBLOCK + 3 * BLOCK + 5, 2 * SUPERBLOCK + 1])
def test_superblocks_are_added_in_order(d):
    values = np.random.default_rng(d).standard_normal((2, d)).astype(np.float32)
    rows = device.Rows(values)
    same(rows.distances_on_device(), rows.distances_on_cpu())


@pytest.mark.parametrize("chunk", [20 * 4096, SUPERBLOCK])
def test_distances_of_chunks_are_those_of_the_whole(chunk):
    from tallystick import _cuda

    d = SUPERBLOCK + 3 * BLOCK + 5
    values = np.random.default_rng(5).standard_normal((3, d)).astype(np.float32)
    part, total = np.zeros((2, 3, 3))
    for lo in range(0, d, chunk):
        piece = device.Rows(values[:, lo : lo + chunk])
        assert _cuda.distances(piece.pointers, piece.bounds, "float32", lo, part, total, 0) == []
    _core.distances_finish(part, total)
    same((total, []), device.Rows(values).distances_on_cpu())


def test_distances_that_overflow_are_infinite_and_never_nan():
    values = np.zeros((4, 600), np.float32)
    values[1, 3], values[2, 3], values[3, 3] = 3e38, -3e38, 1e15
    rows = device.Rows(values)
    total, bad = rows.distances_on_device()
    assert total[1, 2] == np.inf
    same((total, bad), rows.distances_on_cpu())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 5, 40])
def test_a_nan_client_is_named_and_leaves_the_other_distances_alone(n, dtype):
    values = edge(n, dtype, 700)
    clean, _ = device.Rows(values).distances_on_device()
    values[n // 2, 650] = np.nan
    total, bad = device.Rows(values, (7, 649), 1).distances_on_device()
    assert bad == [n // 2]
    others = [i for i in range(n) if i != n // 2]
    np.testing.assert_array_equal(total[np.ix_(others, others)], clean[np.ix_(others, others)])


# ---- products and norms ----

KINDS = [("products", ()), ("norms", ()), ("distances_to", (1,)), ("products_with", (1,))]


def alike(rows, kind, row):
    same(rows.measured_on_device(kind, *row), rows.measured_on_cpu(kind, *row))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", CLIENTS)
def test_products_and_norms_have_the_bits_of_the_cpu(n, dtype):
    values = edge(n, dtype, 1100)
    if dtype == "float64":  # squares stay finite
        values = np.clip(values, -1e150, 1e150)
    for cuts, shift in [((), 0), ((7, 100), 1)]:
        rows = device.Rows(values, cuts, shift)
        for kind, row in KINDS:
            alike(rows, kind, row)


@pytest.mark.parametrize(
    "d", [1, 15, 17, BLOCK - 1, BLOCK, BLOCK + 1, SUPERBLOCK, SUPERBLOCK + 3 * BLOCK + 5]
)
def test_products_and_norms_of_any_length_have_the_bits_of_the_cpu(d):
    rows = device.Rows(np.random.default_rng(d).standard_normal((2, d)).astype(np.float32))
    for kind, row in KINDS:
        alike(rows, kind, row)


@pytest.mark.parametrize("n", [2, 40])
def test_products_name_a_nan_client_and_leave_the_others_alone(n):
    values = edge(n, "float32", 700)
    clean = device.Rows(values).measured_on_device("products")[0]
    norms = device.Rows(values).measured_on_device("norms")[0]
    values[0, 650] = np.nan
    damaged = device.Rows(values, (7, 649), 1)
    total, bad = damaged.measured_on_device("products")
    assert bad == [0]
    np.testing.assert_array_equal(total[1:, 1:], clean[1:, 1:])
    for kind, row in KINDS[1:]:
        total, bad = damaged.measured_on_device(kind, *row)
        assert bad == [0]
        if kind == "norms":
            np.testing.assert_array_equal(total[1:], norms[1:])


def test_one_client_has_a_norm():
    rows = device.Rows(edge(1, "float32", 300))
    for kind, row in (("products", ()), ("norms", ()), ("products_with", (0,)), ("distances_to", (0,))):
        alike(rows, kind, row)


def weights_of(n, kind):
    rng = np.random.default_rng(n)
    if kind == "signs":
        return rng.integers(-3, 4, n).astype(np.float64)
    return np.ldexp(rng.uniform(-1, 1, n), rng.integers(-1000, 1000, n))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 9, 50, 128, 129])
def test_weighted_sums_have_the_bits_of_the_cpu(n, dtype):
    for cuts, shift in [((), 0), ((7, 100), 1)]:
        rows = device.Rows(edge(n, dtype, 300), cuts, shift)
        for kind in ("signs", "wide"):
            got, expected = (f("combine", weights_of(n, kind)) for f in (rows.on_device, rows.on_cpu))
            assert got[1] == expected[1] == []
            np.testing.assert_array_equal(got[0].view(np.uint8), expected[0].view(np.uint8))


def test_a_client_that_is_not_finite_is_named_whatever_its_weight():
    values = edge(4, "float16", 300)
    values[2, 7], values[3, 299] = np.inf, np.nan
    assert device.Rows(values).on_device("combine", np.array([1.0, 2.0, 0.0, -1.0]))[1] == [2, 3]


def test_what_distances_and_combine_cannot_take_is_refused_in_words():
    from tallystick import _cuda

    rows = device.Rows(edge(3, "float32", 8))
    arguments, square = (rows.pointers, rows.bounds, "float32"), np.zeros((3, 3))
    with pytest.raises(ValueError, match="multiple of 4096"):
        _cuda.distances(*arguments, 512, square, square.copy(), 0)
    with pytest.raises(ValueError, match="total: shape"):
        _cuda.distances(*arguments, 0, square, np.zeros((2, 2)), 0)
    with pytest.raises(TypeError):
        _cuda.distances(*arguments, 0, square.astype(np.float32), square, 0)
    with pytest.raises(ValueError, match="row: below 3"):
        _cuda.distances_to(*arguments, 3, 0, np.zeros(3), np.zeros(3), 0)
    with pytest.raises(ValueError, match="products_with: column"):
        _cuda.products_with(*arguments, 0, 5, np.zeros(6), np.zeros(6), 0)
    with pytest.raises(ValueError, match="total: 6 values"):
        _cuda.products_with(*arguments, 0, 0, np.zeros(6), np.zeros(3), 0)
    with pytest.raises(ValueError, match="combine: 3 weights"):
        rows.on_device("combine", np.ones(2))
    with pytest.raises(ValueError, match="finite weights"):
        rows.on_device("combine", np.array([1, np.inf, 1]))


@pytest.mark.parametrize("n", [5, 20])
def test_tsan_distances_and_combine_without_a_race(n):
    rows = device.Rows(edge(n, "float32", 600), (5,))
    same(rows.distances_on_device(), rows.distances_on_cpu())
    rows.on_device("combine", np.ones(n))
    for kind, row in KINDS:
        alike(rows, kind, row)
