"""csrc/aggregate.h and distances.h against the exact oracle, bit for bit, at every CPU level."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess

import numpy as np
import pytest

import reference
from tallystick import _core

DTYPES = list(reference.DTYPES)
# Up to 16 rows are sorted in registers, more in blocks of 16, merged in tiles that narrow from 64 columns on.
CLIENTS = [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 32, 33, 50, 64, 65, 100, 128, 129, 200]
SIMD, TILE, BLOCK, SUPERBLOCK = 16, 64, 512, 1 << 18
LENGTHS = [0, 1, SIMD - 1, SIMD, SIMD + 1, TILE - 1, TILE, TILE + 1, 255, 256, 257, BLOCK - 1, BLOCK, 521]


class Placed:
    """Rows as _core takes them: every piece in memory of its own, `shift` bytes off any alignment."""

    def __init__(self, rows, cuts=(), shift=0):
        n, d = rows.shape
        self.dtype = rows.dtype.name
        self.rows = rows
        self.bounds = np.array([0, *cuts, d], np.int64)
        self.keep = []
        self.pointers = np.zeros((n, len(self.bounds) - 1), np.uint64)
        for i in range(n):
            for k in range(len(self.bounds) - 1):
                raw = rows[i, self.bounds[k] : self.bounds[k + 1]].tobytes()
                memory = np.zeros(len(raw) + shift + 1, np.uint8)
                memory[shift : shift + len(raw)] = np.frombuffer(raw, np.uint8)
                self.keep.append(memory)
                self.pointers[i, k] = memory.ctypes.data + shift

    def _call(self, function, *arguments):
        guard = 8
        d = self.rows.shape[1]
        memory = np.full((d + 2 * guard) * self.rows.itemsize, 0xA5, np.uint8)
        start = guard * self.rows.itemsize
        bad = function(self.pointers, self.bounds, self.dtype, *arguments, memory.ctypes.data + start)
        end = start + d * self.rows.itemsize
        assert (memory[:start] == 0xA5).all()
        assert (memory[end:] == 0xA5).all()
        return memory[start:end].view(self.rows.dtype), bad

    def mean(self, weights=None):
        return self._call(_core.mean, weights)

    def median(self, kind="mid"):
        return self._call(_core.median, kind)

    def trimmed_mean(self, f):
        return self._call(_core.trimmed_mean, f)

    def meamed(self, f):
        return self._call(_core.meamed, f)

    def phocas(self, f):
        return self._call(_core.phocas, f)

    def majority(self):
        return self._call(_core.majority)

    def nonfinite(self):
        return _core.nonfinite(self.pointers, self.bounds, self.dtype)

    def distances(self):
        n = len(self.rows)
        part, total = np.zeros((n, n)), np.zeros((n, n))
        bad = _core.distances(self.pointers, self.bounds, self.dtype, 0, part, total)
        _core.distances_finish(part, total)
        assert not part.any()
        return total, bad


def same_bits(got, expected):
    value, bad = got
    assert bad == []
    assert value.dtype == expected.dtype
    np.testing.assert_array_equal(
        np.ascontiguousarray(value).view(np.uint8), np.ascontiguousarray(expected).view(np.uint8)
    )


def random_cuts(d, seed, count=9):
    inner = np.random.default_rng(seed).choice(np.arange(1, d), min(count, d - 1), replace=False)
    return sorted(inner.tolist())


@functools.cache
def edge(n, dtype, d=131):
    return reference.edge_rows(n, d, reference.DTYPES[dtype])


def integer_weights(n):
    return np.random.default_rng(n).integers(1, 5000, n).astype(np.float64)


def wide_weights(n):
    rng = np.random.default_rng(n + 1)
    return np.ldexp(rng.uniform(0.5, 1, n), rng.integers(-490, 490, n))


WEIGHTS = {"equal": lambda n: None, "integer": integer_weights, "wide": wide_weights}


@functools.cache
def expected_mean(n, dtype, weights):
    return reference.weighted_mean(edge(n, dtype), WEIGHTS[weights](n))


@functools.cache
def expected_median(n, dtype, kind):
    return reference.median(edge(n, dtype), kind)


@functools.cache
def expected_trimmed_mean(n, dtype, f):
    return reference.trimmed_mean(edge(n, dtype), f)


@functools.cache
def expected_rule(rule, n, dtype, *arguments):
    return getattr(reference, rule)(edge(n, dtype), *arguments)


# ---- The right bits ----


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", CLIENTS)
def test_the_mean_is_the_exact_one_rounded_once(level, n, dtype, weights):
    same_bits(Placed(edge(n, dtype)).mean(WEIGHTS[weights](n)), expected_mean(n, dtype, weights))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", CLIENTS)
def test_the_median_is_the_middle_value_or_the_rounded_mean_of_two(level, n, dtype):
    rows = Placed(edge(n, dtype))
    for kind in ("mid", "lower", "upper"):
        same_bits(rows.median(kind), expected_median(n, dtype, kind))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", CLIENTS)
def test_the_trimmed_mean_is_the_exact_mean_of_what_is_kept(level, n, dtype):
    rows = Placed(edge(n, dtype))
    for f in sorted({0, min(1, (n - 1) // 2), n // 5, (n - 1) // 2}):
        same_bits(rows.trimmed_mean(f), expected_trimmed_mean(n, dtype, f))


@pytest.mark.parametrize("rule", ["meamed", "phocas"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", CLIENTS)
def test_the_values_nearest_to_the_center_are_averaged(level, n, dtype, rule):
    rows = Placed(edge(n, dtype))
    for f in sorted({0, min(1, (n - 1) // 2), n // 5, (n - 1) // 2}):
        same_bits(getattr(rows, rule)(f), expected_rule(rule, n, dtype, f))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [3, 7, 20, 50])
def test_meamed_keeps_as_few_as_one_value(level, n, dtype):
    for f in (n // 2 + 1, n - 2, n - 1):  # fewer are kept than left out: one slot takes several ranks
        same_bits(Placed(edge(n, dtype)).meamed(f), expected_rule("meamed", n, dtype, f))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [225, 258, 600])
def test_of_many_clients_the_narrowest_tiles_stay_inside(level, n, dtype):
    rows, f = Placed(edge(n, dtype, 70)), n // 5
    for rule, arguments in (("median", ()), ("trimmed_mean", (f,)), ("meamed", (f,))):
        expected = getattr(reference, rule)(edge(n, dtype, 70), *arguments)
        same_bits(getattr(rows, rule)(*arguments), expected)


def test_of_two_values_equally_near_the_smaller_one_is_kept(level):
    rows = np.repeat(np.array([[1.0], [3.0], [5.0]], np.float32), 70, axis=1)
    same_bits(Placed(rows).meamed(1), np.full(70, 2, np.float32))  # 1 and 3, not 3 and 5
    same_bits(Placed(rows).phocas(1), np.full(70, 2, np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", CLIENTS)
def test_the_majority_of_signs_wins(level, n, dtype):
    same_bits(Placed(edge(n, dtype)).majority(), expected_rule("majority", n, dtype))


def test_of_many_votes_none_is_lost(level):
    rows = np.concatenate([np.full((501, 70), 1e-45, np.float32), np.full((500, 70), -3e38, np.float32)])
    same_bits(Placed(rows).majority(), np.ones(70, np.float32))
    rows[0] = -0.0
    same_bits(Placed(rows).majority(), np.zeros(70, np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", LENGTHS)
def test_no_length_or_alignment_or_cut_changes_a_bit(level, d, dtype):
    rows = edge(5, dtype, 521)[:, :d]
    whole = [np.zeros(0, rows.dtype)] * 6
    if d > 0:
        whole = [reference.weighted_mean(rows), reference.median(rows), reference.trimmed_mean(rows, 1)]
        whole += [reference.meamed(rows, 2), reference.phocas(rows, 2), reference.majority(rows)]
    cuts = [(), random_cuts(d, d), range(1, d)] if d > 1 else [()]
    for cut in cuts:
        for shift in (0, 1):
            placed = Placed(rows, cut, shift)
            same_bits(placed.mean(), whole[0])
            same_bits(placed.median(), whole[1])
            same_bits(placed.trimmed_mean(1), whole[2])
            same_bits(placed.meamed(2), whole[3])
            same_bits(placed.phocas(2), whole[4])
            same_bits(placed.majority(), whole[5])


@pytest.mark.parametrize("rule", ["mean", "median", "trimmed_mean", "meamed", "phocas", "majority"])
def test_no_number_of_threads_changes_a_bit(threads, rule):
    d = 4 * 4096 + 77  # more blocks than threads
    rows = edge(6, "float32", d)
    placed = Placed(rows, random_cuts(d, 1, 30))
    arguments = {"mean": (integer_weights(6),), "median": (), "majority": ()}.get(rule, (2,))
    _core.set_num_threads(1)
    single, _ = getattr(placed, rule)(*arguments)
    _core.set_num_threads(threads)
    same_bits(getattr(placed, rule)(*arguments), single)
    head = np.ascontiguousarray(rows[:, :99])
    same_bits(
        (single[:99], []),
        getattr(reference, {"mean": "weighted_mean"}.get(rule, rule))(head, *arguments),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [3, 16, 20, 50])
def test_the_order_of_clients_changes_no_bit(n, dtype):
    rows, weights = edge(n, dtype), wide_weights(n)
    order = np.random.default_rng(7).permutation(n)
    a, b = Placed(rows), Placed(rows[order])
    same_bits(b.mean(weights[order]), a.mean(weights)[0])
    same_bits(b.median(), a.median()[0])
    for rule in ("trimmed_mean", "meamed", "phocas"):
        same_bits(getattr(b, rule)(n // 4), getattr(a, rule)(n // 4)[0])
    total = a.distances()[0]
    np.testing.assert_array_equal(b.distances()[0], total[order][:, order])


def test_scaling_all_weights_changes_no_bit():
    rows = Placed(edge(9, "float32"))
    same_bits(rows.mean(integer_weights(9) * 2.0**-300), expected_mean(9, "float32", "integer"))
    same_bits(rows.mean(np.full(9, 0.1)), expected_mean(9, "float32", "equal"))


# ---- Every tier of exact.h ----


def redone(call):
    before = _core.redone()
    result = call()
    return result, tuple(b - a for a, b in zip(before, _core.redone(), strict=True))


def test_ordinary_columns_need_the_first_tier_only(level):
    rows = np.random.default_rng(0).standard_normal((7, 4096)).astype(np.float32)
    result, (second, third) = redone(lambda: Placed(rows).mean(integer_weights(7)))
    same_bits(result, reference.weighted_mean(rows, integer_weights(7)))
    assert second < 4
    assert third == 0


def test_ties_of_exact_sums_are_settled_in_the_first_tier(level):
    rows = np.array([[1.0] * 64, [1 + 2.0**-23] * 64], np.float32)
    result, counts = redone(lambda: Placed(rows).mean())
    same_bits(result, np.ones(64, np.float32))
    assert counts == (0, 0)


# What hides from the first tier that the sum is exact: nothing of float16, whose sums always are.
@pytest.mark.parametrize(
    ("dtype", "hiding", "redone_by"),
    [("float16", 2.0**-24, 0), ("bfloat16", 2.0**-60, 64), ("float32", 2.0**-60, 64), ("float64", 0.0, 64)],
)
def test_other_ties_are_settled_in_the_second_tier(level, dtype, hiding, redone_by):
    # A quarter of 4 + 2 ulp.
    values = np.array([[2.0], [2 + reference.ulp(2.0, dtype)], [hiding], [-hiding]])
    rows = np.repeat(values, 64, axis=1).astype(reference.DTYPES[dtype])
    result, (second, third) = redone(lambda: Placed(rows).mean())
    same_bits(result, np.ones(64, rows.dtype))
    assert (second, third) == (redone_by, 0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("n", [2, 6, 16, 17, 48, 50, 130])
def test_ties_among_zeros_are_settled_in_the_first_tier(level, dtype, n):
    # Means halfway between two neighbours, of values above and below.
    half = n // 2
    low = 1 + np.arange(64) * reference.ulp(1.0, dtype)
    values = np.concatenate([np.tile(2 * low, (half, 1)), np.zeros((n - half, 64))])
    values[half] = n * reference.ulp(1.0, dtype) / 2
    rows = values.astype(reference.DTYPES[dtype])
    result, counts = redone(lambda: Placed(rows).mean())
    same_bits(result, reference.weighted_mean(rows))
    assert counts == (0, 0)


def test_float16_sums_of_many_clients_are_not_taken_for_exact(level):
    rows = np.full((8200, 64), 65504, np.float16)
    rows[::3] = 2.0**-24
    rows[1] = 1
    same_bits(Placed(rows).mean(), reference.weighted_mean(rows))


@pytest.mark.parametrize("n", [1, 3, 10, 17])
def test_bfloat16_means_among_denormals(level, n):
    rng = np.random.default_rng(n)
    rows = (rng.integers(-300, 300, (n, 256)) * 2.0**-133).astype(reference.DTYPES["bfloat16"])
    same_bits(Placed(rows).mean(), reference.weighted_mean(rows))


@pytest.mark.parametrize("sign", [1, -1])
def test_what_even_two_floats_lose_is_settled_in_integers(level, sign):
    # The mean is 1 + 2^-24, halfway between two floats, plus or minus 2^-152: 2^-60 hides 2^-149 from TwoSum.
    values = [8, 2.0**-21, 2.0**-60, sign * 2.0**-149, -(2.0**-60), 0, 0, 0]
    rows = np.repeat(np.array(values, np.float32)[:, None], 64, axis=1)
    result, (_, third) = redone(lambda: Placed(rows).mean())
    same_bits(result, np.full(64, 1 + 2.0**-23 if sign > 0 else 1, np.float32))
    assert third == 64


@pytest.mark.parametrize("largest", [1.7e308, 5e-324])
def test_float64_sums_that_overflow_or_underflow_are_done_in_integers(level, largest):
    rows = np.full((3, 64), largest)
    rows[1] *= -1
    result, (_, third) = redone(lambda: Placed(rows).mean())
    same_bits(result, reference.weighted_mean(rows))
    assert third == 64


# ---- NaN and infinity ----


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 10, 16, 17, 50])
def test_no_network_or_sum_swallows_a_nan_or_infinity(level, n, dtype, value):
    clean = edge(n, dtype)
    rng = np.random.default_rng(n)
    for column in (0, 63, 130):
        rows = clean.copy()
        bad = sorted(rng.choice(n, min(n, 2), replace=False).tolist())
        rows[bad[0], column] = value
        rows[bad[-1], (column + 70) % 131] = value
        placed = Placed(rows, (3, 66))
        assert placed.mean()[1] == bad
        assert placed.mean(integer_weights(n))[1] == bad
        assert placed.median()[1] == bad
        assert placed.trimmed_mean((n - 1) // 2)[1] == bad
        assert placed.nonfinite() == bad
        assert placed.distances()[1] == bad


def test_opposite_infinities_of_one_client_each_are_both_found(level):
    rows = np.zeros((4, 70), np.float32)
    rows[1, 5], rows[3, 5] = np.inf, -np.inf
    placed = Placed(rows)
    for result in (placed.mean(), placed.median(), placed.trimmed_mean(1), placed.distances()):
        assert result[1] == [1, 3]


def test_the_largest_finite_values_are_not_reported(level):
    for dtype in DTYPES:
        largest = np.finfo(dtype).max if dtype != "bfloat16" else 3.3895313892515355e38
        rows = np.full((5, 65), largest).astype(reference.DTYPES[dtype])
        placed = Placed(rows)
        assert placed.nonfinite() == []
        same_bits(placed.mean(), rows[0])
        same_bits(placed.median(), rows[0])
        same_bits(placed.trimmed_mean(1), rows[0])


def test_the_columns_beside_a_nan_client_do_not_hide_another(threads):
    rows = np.zeros((5, 3 * 4096), np.float32)
    rows[4] = np.nan
    rows[2, -1] = np.inf
    placed = Placed(rows)
    for result in (placed.mean(), placed.median(), placed.trimmed_mean(1), placed.distances()):
        assert result[1] == [2, 4]


# ---- Distances ----


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 16])
def test_distances_have_the_bits_of_the_reference_shape(level, n, dtype):
    rows = edge(n, dtype, 1100)
    expected = reference.distances(rows)
    for cuts, shift in (((), 0), (random_cuts(1100, n), 1)):
        total, bad = Placed(rows, cuts, shift).distances()
        assert bad == []
        np.testing.assert_array_equal(total.view(np.uint64), expected.view(np.uint64))
    assert (np.diag(total) == 0).all()


def test_float64_distances_have_the_bits_of_the_reference_shape(level):
    rows = np.random.default_rng(3).standard_normal((6, 530))
    total, _ = Placed(rows, (5, 511)).distances()
    np.testing.assert_array_equal(total, reference.distances(rows))


@pytest.mark.parametrize(
    "d", [1, 15, 16, 17, BLOCK - 1, BLOCK, BLOCK + 1, SUPERBLOCK - 1, SUPERBLOCK, SUPERBLOCK + 1]
)
def test_distances_over_every_border_of_the_shape(level, d):
    rows = np.random.default_rng(d).standard_normal((3, d)).astype(np.float32)
    np.testing.assert_array_equal(Placed(rows).distances()[0], reference.distances(rows))


def test_no_number_of_threads_changes_a_distance(threads):
    rows = np.random.default_rng(5).standard_normal((7, SUPERBLOCK + 3 * BLOCK + 5)).astype(np.float32)
    total, _ = Placed(rows).distances()
    np.testing.assert_array_equal(total, one_thread_distances())


@functools.cache
def one_thread_distances():
    rows = np.random.default_rng(5).standard_normal((7, SUPERBLOCK + 3 * BLOCK + 5)).astype(np.float32)
    before = _core.num_threads()
    _core.set_num_threads(1)
    total = Placed(rows).distances()[0]
    _core.set_num_threads(before)
    return total


@pytest.mark.parametrize("chunk", [4096, 20 * 4096, SUPERBLOCK])
def test_distances_of_chunks_are_those_of_the_whole(threads, chunk):
    d = SUPERBLOCK + 3 * BLOCK + 5
    rows = np.random.default_rng(5).standard_normal((7, d)).astype(np.float32)
    part, total = np.zeros((7, 7)), np.zeros((7, 7))
    for lo in range(0, d, chunk):
        piece = Placed(rows[:, lo : lo + chunk])
        assert _core.distances(piece.pointers, piece.bounds, "float32", lo, part, total) == []
    _core.distances_finish(part, total)
    np.testing.assert_array_equal(total, one_thread_distances())


def test_distances_that_overflow_are_infinite_and_never_nan(level):
    rows = np.zeros((4, 600), np.float32)
    rows[1, 3], rows[2, 3], rows[3, 3] = 3e38, -3e38, 1e15
    total, bad = Placed(rows).distances()
    assert bad == []
    assert total[1, 2] == total[0, 1] == np.inf
    np.testing.assert_array_equal(total[0, 3], np.float64(np.float32(1e15) * np.float32(1e15)))
    assert not np.isnan(total).any()


def test_a_nan_client_leaves_the_other_distances_alone(level):
    rows = np.random.default_rng(1).standard_normal((7, 700)).astype(np.float32)
    clean, _ = Placed(rows).distances()
    rows[3, 650] = np.nan
    total, bad = Placed(rows).distances()
    assert bad == [3]
    others = [0, 1, 2, 4, 5, 6]
    np.testing.assert_array_equal(total[np.ix_(others, others)], clean[np.ix_(others, others)])


# ---- Refusals ----


def test_arguments_out_of_range_are_refused():
    p = Placed(np.zeros((3, 5), np.float32))
    out, square = np.zeros(5, np.float32), np.zeros((3, 3))
    with pytest.raises(ValueError, match="got 'int8'"):
        _core.mean(p.pointers, p.bounds, "int8", None, out.ctypes.data)
    with pytest.raises(ValueError, match="3 weights"):
        _core.mean(p.pointers, p.bounds, "float32", np.ones(2), out.ctypes.data)
    for weight in (0.0, -1.0, np.nan, np.inf, 2.0**501, 2.0**-501):
        with pytest.raises(ValueError, match="weights from"):
            _core.mean(p.pointers, p.bounds, "float32", np.array([1.0, weight, 1.0]), out.ctypes.data)
    with pytest.raises(ValueError, match="2f < 3 clients expected, got f = 2"):
        _core.trimmed_mean(p.pointers, p.bounds, "float32", 2, out.ctypes.data)
    with pytest.raises(ValueError, match="'middle'"):
        _core.median(p.pointers, p.bounds, "float32", "middle", out.ctypes.data)
    with pytest.raises(ValueError, match="multiple of 4096"):
        _core.distances(p.pointers, p.bounds, "float32", 512, square, square.copy())
    with pytest.raises(ValueError, match=re.escape("part: shape (3, 3)")):
        _core.distances(p.pointers, p.bounds, "float32", 0, np.zeros((2, 2)), square)
    with pytest.raises(ValueError, match="pointers"):
        _core.nonfinite(p.pointers, np.array([0, 2, 5], np.int64), "float32")
    for bounds in ([1, 5], [0, -1]):
        with pytest.raises(ValueError, match="growing"):
            _core.nonfinite(p.pointers, np.array(bounds, np.int64), "float32")


def test_arrays_that_would_have_to_be_copied_are_refused():
    p = Placed(np.zeros((3, 5), np.float32))
    with pytest.raises(TypeError):
        _core.distances(p.pointers, p.bounds, "float32", 0, np.zeros((3, 3), np.float32), np.zeros((3, 3)))
    with pytest.raises(TypeError):
        _core.nonfinite(p.pointers.astype(np.int32), p.bounds, "float32")
    with pytest.raises(TypeError):
        _core.nonfinite(np.asfortranarray(np.repeat(p.pointers, 2, axis=1)), p.bounds, "float32")


# ---- The build ----


@pytest.mark.skipif(
    shutil.which("objdump") is None or os.uname().machine != "x86_64", reason="needs objdump, x86-64"
)
def test_no_weak_symbol_carries_code_of_a_high_cpu_level():
    symbols = subprocess.run(
        ["objdump", "-t", "-C", _core.__file__], capture_output=True, text=True, check=True
    )
    weak = [line for line in symbols.stdout.splitlines() if re.match(r"[0-9a-f]+ +(w|u|gw)", line)]
    assert not [line for line in weak if re.search(r"::(avx2|avx512)::", line)]
    code = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", _core.__file__], capture_output=True, text=True, check=True
    ).stdout
    names = {
        line.split()[-1]
        for line in subprocess.run(
            ["objdump", "-t", _core.__file__], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        if re.match(r"[0-9a-f]+ +w +F", line)
    }
    current, found, vectors = "", set(), 0
    for line in code.splitlines():
        if line.endswith(">:"):
            current = line[line.index("<") + 1 : -2]
        elif "%ymm" in line or "%zmm" in line:
            vectors += 1
            if current in names:
                found.add(current)
    assert vectors > 0
    assert not found
