"""The CUDA module gives the bits of the CPU module, on a GPU or emulated (tests/gpu/emulate.sh)."""

from __future__ import annotations

import importlib.util
import threading

import numpy as np
import pytest

import device
import reference
import tallystick as ts
from tallystick import _backend

gpu = pytest.mark.gpu
DTYPES = list(reference.DTYPES)
# Networks take 8, 16, 32, 64, 128 rows, those of float64 up to 64; more rows take the wide kernels.
CLIENTS = [1, 2, 3, 8, 9, 10, 16, 17, 32, 33, 50, 64, 65, 100, 128, 129, 200]
WARP, BLOCK = 32, 256
LENGTHS = [0, 1, WARP - 1, WARP, WARP + 1, BLOCK - 1, BLOCK, BLOCK + 1, 521]  # 521: prime


def edge(n, dtype, d=131, seed=0):
    return reference.edge_rows(n, d, reference.DTYPES[dtype], seed)


def weights_of(n, kind):
    rng = np.random.default_rng(n)
    if kind == "equal":
        return None
    if kind == "integer":
        return rng.integers(1, 5000, n).astype(np.float64)
    return np.ldexp(rng.uniform(0.5, 1, n), rng.integers(-490, 490, n))


def same_bits(got, expected):
    assert got[1] == expected[1] == []
    assert got[0].dtype == expected[0].dtype
    np.testing.assert_array_equal(got[0].view(np.uint8), expected[0].view(np.uint8))


def agree(rows, name, *arguments):
    same_bits(rows.on_device(name, *arguments), rows.on_cpu(name, *arguments))


# ---- The bits of the CPU ----


@gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", CLIENTS)
def test_every_rule_gives_the_bits_of_the_cpu(n, dtype):
    rows = device.Rows(edge(n, dtype))
    for kind in ("equal", "integer", "wide"):
        agree(rows, "mean", weights_of(n, kind))
    for kind in ("mid", "lower", "upper"):
        agree(rows, "median", kind)
    for f in sorted({0, min(1, (n - 1) // 2), n // 5, (n - 1) // 2}):
        agree(rows, "trimmed_mean", f)
        agree(rows, "phocas", f)
        agree(rows, "meamed", f)
    agree(rows, "meamed", n - 1)
    agree(rows, "majority")


@gpu
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_results_are_the_exact_ones_rounded_once(dtype):
    values = edge(7, dtype, 61)
    rows, weights = device.Rows(values), weights_of(7, "integer")
    same_bits(rows.on_device("mean", weights), (reference.weighted_mean(values, weights), []))
    same_bits(rows.on_device("median", "mid"), (reference.median(values), []))
    same_bits(rows.on_device("trimmed_mean", 2), (reference.trimmed_mean(values, 2), []))


@gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", LENGTHS)
def test_no_length_or_alignment_or_cut_changes_a_bit(d, dtype):
    values = edge(5, dtype, 521)[:, :d]
    inner = (
        sorted(np.random.default_rng(d).choice(np.arange(1, d), min(5, d - 1), False).tolist())
        if d > 1
        else []
    )
    for cuts in [(), inner] if inner else [()]:
        for shift in (0, 1):
            rows = device.Rows(values, cuts, shift)
            agree(rows, "mean", weights_of(5, "integer"))
            agree(rows, "median", "mid")
            agree(rows, "trimmed_mean", 1)
            agree(rows, "meamed", 3)
            agree(rows, "phocas", 1)
            agree(rows, "majority")


@gpu
@pytest.mark.parametrize("n", [5, 130])
def test_pieces_of_one_column_and_clients_beyond_the_arguments_agree(n):
    values = edge(n, "bfloat16", 9)
    rows = device.Rows(values, range(1, 9))
    agree(rows, "mean", None)
    agree(rows, "median", "upper")
    agree(rows, "trimmed_mean", 2)
    agree(rows, "phocas", 2)
    agree(rows, "majority")


@gpu
@pytest.mark.parametrize(
    "rule", [("mean", None), ("median", "mid"), ("trimmed_mean", 1), ("phocas", 1), ("majority",)]
)
def test_threads_loop_over_more_columns_than_the_grid_has(rule):
    rows = device.Rows(edge(3, "float16", 16 * BLOCK + 77))  # one processor's 16 blocks when emulated
    agree(rows, *rule)


@gpu
def test_rows_that_need_a_copy_go_through_it_in_runs():
    values = np.random.default_rng(0).standard_normal((2, (1 << 16) + 3)).astype(np.float32)
    same_bits(device.Rows(values, (), 2).on_device("mean", None), device.Rows(values).on_cpu("mean", None))


# ---- Columns that the first tiers cannot settle ----


def undecided_columns(dtype, n, d, seed=0):
    """Columns whose exact mean is decided by a value that a double-double sum loses on its way."""
    rng = np.random.default_rng(seed)
    huge, large, middle, tiny = 2.0**100, 2.0**90, 2.0**10, 2.0**-120
    if dtype == "float64":
        huge, large, middle, tiny = 2.0**200, 2.0**120, 1.0, 2.0**-300
    digits = {"float64": 53, "float32": 24, "bfloat16": 8}[dtype]
    x = np.zeros((n, d))
    x[0], x[1] = huge, huge * 2.0**-digits  # the mean is a midpoint for n a power of two ...
    x[2], x[3] = large, -large
    x[4], x[n - 1] = middle, -middle
    x[5] = tiny * rng.integers(-1, 2, d)  # ... but for this
    return x.astype(reference.DTYPES[dtype])


@gpu
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("n", [8, 64, 256])
def test_columns_that_only_integers_settle_are_marked_and_settled(n, dtype):
    values = undecided_columns(dtype, n, 300)
    rows = device.Rows(values)
    got = rows.on_device("mean", None)
    same_bits(got, (reference.weighted_mean(values), []))
    assert len(np.unique(got[0].astype(np.float64))) == 2  # the tiny value counted: up, or down with the ties
    agree(rows, "mean", np.full(n, 3.0))


@gpu
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("n", [10, 66, 258])
def test_trimmed_columns_that_only_integers_settle_are_settled(n, dtype):
    values = undecided_columns(dtype, n - 2, 70)
    largest = 2 * np.abs(values.astype(np.float64)).max()
    outer = np.repeat([[largest], [-largest]], 70, axis=1).astype(values.dtype)
    values = np.concatenate([outer[:1], values, outer[1:]])
    same_bits(device.Rows(values).on_device("trimmed_mean", 1), (reference.trimmed_mean(values, 1), []))


@gpu
@pytest.mark.parametrize("n", [3, 20, 140])
def test_ties_at_the_borders_of_a_trimmed_mean_are_kept_so_often_as_they_should(n):
    values = np.random.default_rng(n).integers(-2, 3, (n, 200)).astype(np.float32)
    for f in {1, n // 4, (n - 1) // 2}:
        same_bits(device.Rows(values).on_device("trimmed_mean", f), (reference.trimmed_mean(values, f), []))


@gpu
@pytest.mark.parametrize("n", [3, 20, 70, 140])
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_equally_near_to_a_center_are_kept_as_on_the_cpu(n, dtype):
    rng = np.random.default_rng(n)
    few = rng.integers(-2, 3, (n, 100)).astype(np.float64)
    mirrored = np.repeat(rng.standard_normal((n, 1)), 100, axis=1)  # around 0 in all columns, up to the sign
    mirrored[n // 2 :] = -mirrored[: n - n // 2][::-1]
    values = np.concatenate([few, mirrored], axis=1).astype(reference.DTYPES[dtype])
    rows = device.Rows(values)
    for f in sorted({1, n // 4, (n - 1) // 2, n - 1}):
        agree(rows, "meamed", f)
        if 2 * f < n:
            agree(rows, "phocas", f)


@gpu
@pytest.mark.parametrize("n", [6, 70])
def test_nearness_is_exact_where_sums_and_differences_overflow_or_round(n):
    largest, least = np.finfo(np.float64).max, np.finfo(np.float64).smallest_subnormal
    pool = [largest, -largest, largest / 2, -largest / 2, 2.0**1000, least, -least, 0.0, 1.0, 1 + 2.0**-52]
    values = np.random.default_rng(n).choice(pool, (n, 400))
    rows = device.Rows(values)
    for f in {1, n // 3, (n - 1) // 2}:
        agree(rows, "meamed", f)
        agree(rows, "phocas", f)
    agree(rows, "meamed", n - 2)


@gpu
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("n", [10, 66, 130])
def test_nearest_values_that_only_integers_settle_are_settled(n, dtype):
    values = undecided_columns(dtype, n - 2, 70)
    largest = 2 * np.abs(values.astype(np.float64)).max()
    outer = np.repeat([[largest], [-largest]], 70, axis=1).astype(values.dtype)
    values = np.concatenate([outer[:1], values, outer[1:]])
    rows = device.Rows(values)
    agree(rows, "phocas", 1)  # a trimmed mean that takes integers, as center
    agree(rows, "meamed", 2)  # the outer two are dropped: a mean that takes integers
    got = rows.on_device("meamed", 2)[0].astype(np.float64)
    assert len(np.unique(got)) == 2


@gpu
def test_a_majority_is_a_sign_and_zeros_do_not_vote():
    values = np.array([[1, -1, 0, -0.0, 1, -1], [2, -3, 0, 0, -1, 0], [-9, 5, 0, -0.0, 0, 0]], np.float32)
    got, bad = device.Rows(values).on_device("majority")
    assert bad == []
    np.testing.assert_array_equal(got, np.array([1, -1, 0, 0, 0, -1], np.float32))
    assert not np.signbit(got[2:5]).any()


@gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("n", [2, 4])
def test_exact_ties_of_short_formats_go_to_even(n, dtype):
    kind = reference.DTYPES[dtype]
    values = np.random.default_rng(n).integers(0, 1 << 15, (n, 512)).astype(np.uint16)
    values = np.where((values >> {"float16": 10, "bfloat16": 7}[dtype]) % 32 == 31, 1, values).astype(
        np.uint16
    )
    values = values.view(kind)
    values = np.where(np.isfinite(values.astype(np.float32)), values, np.ones_like(values))
    agree(device.Rows(values), "mean", None)


# ---- NaN and infinity ----

RULES = [
    ("mean", None),
    ("mean", "weights"),
    ("median", "mid"),
    ("trimmed_mean", 1),
    ("meamed", 1),
    ("phocas", 1),
    ("majority",),
    ("nonfinite",),
]


@gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [3, 16, 40, 70, 140])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: "-".join(str(part) for part in rule))
def test_clients_with_a_nan_or_infinity_are_named(rule, n, dtype):
    name, *arguments = rule
    if arguments == ["weights"]:
        arguments = [weights_of(n, "integer")]
    values = edge(n, dtype, 300)
    bad = {0: (0, np.nan), n // 2: (299, np.inf), n - 1: (257, -np.inf)}
    for client, (column, value) in bad.items():
        values[client, column] = value
    for cuts, shift in [((), 0), ((7, 260), 1)]:
        got = device.Rows(values, cuts, shift).on_device(name, *arguments)
        assert (got if name == "nonfinite" else got[1]) == sorted(bad)


@gpu
@pytest.mark.parametrize("column", [[np.nan, 0, 0], [0, np.nan, 0], [np.inf, -np.inf, 0], [0, 0, -np.nan]])
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_order_of_values_hides_a_nan(column, dtype):
    values = np.array([column] * 3).T.astype(reference.DTYPES[dtype])
    bad = [i for i, x in enumerate(column) if not np.isfinite(x)]
    for rule in [
        ("mean", None),
        ("mean", np.array([1.0, 2.0, 3.0])),
        ("median", "lower"),
        ("trimmed_mean", 1),
        ("meamed", 1),
        ("phocas", 1),
        ("majority",),
    ]:
        assert device.Rows(values).on_device(*rule)[1] == bad


@gpu
def test_finite_rows_whose_sum_overflows_are_not_blamed():
    values = np.full((4, 40), np.finfo(np.float64).max)
    rows = device.Rows(values)
    same_bits(rows.on_device("mean", None), (values[0], []))
    same_bits(rows.on_device("median", "mid"), (values[0], []))
    same_bits(rows.on_device("trimmed_mean", 1), (values[0], []))
    same_bits(rows.on_device("meamed", 1), (values[0], []))
    same_bits(rows.on_device("phocas", 1), (values[0], []))
    assert rows.on_device("nonfinite") == []


# ---- Refusals ----


@gpu
def test_what_the_module_cannot_take_is_refused_in_words():
    from tallystick import _cuda

    rows = device.Rows(edge(4, "float32", 8))
    out = device.Memory(np.zeros(8, np.float32))
    arguments = rows.pointers, rows.bounds
    with pytest.raises(ValueError, match="2f < 4 clients expected, got f = 2"):
        _cuda.trimmed_mean(*arguments, "float32", 2, out.address, 0)
    with pytest.raises(ValueError, match="meamed: f < 4 clients expected, got f = 4"):
        _cuda.meamed(*arguments, "float32", 4, out.address, 0)
    with pytest.raises(ValueError, match="phocas: 2f < 4 clients expected, got f = 2"):
        _cuda.phocas(*arguments, "float32", 2, out.address, 0)
    with pytest.raises(ValueError, match="aligned"):
        _cuda.phocas(*arguments, "float32", 1, out.address + 1, 0)
    with pytest.raises(ValueError, match="aligned"):
        _cuda.majority(*arguments, "float32", out.address + 2, 0)
    with pytest.raises(ValueError, match="int8"):
        _cuda.mean(*arguments, "int8", None, out.address, 0)
    with pytest.raises(ValueError, match="mid, lower or upper"):
        _cuda.median(*arguments, "float32", "middle", out.address, 0)
    with pytest.raises(ValueError, match="aligned"):
        _cuda.mean(*arguments, "float32", None, out.address + 2, 0)
    with pytest.raises(ValueError, match="4 weights expected"):
        _cuda.mean(*arguments, "float32", np.ones(3), out.address, 0)
    with pytest.raises(ValueError, match="bounds"):
        _cuda.mean(rows.pointers, rows.bounds[:1], "float32", None, out.address, 0)
    with pytest.raises(TypeError):
        _cuda.mean(rows.pointers.astype(np.int32), rows.bounds, "float32", None, out.address, 0)


def test_the_status_says_how_many_devices_or_why_none():
    count, why = ts.cuda_status()
    assert count >= 0
    assert why or count
    if importlib.util.find_spec("tallystick._cuda") is None:
        assert (count, "no CUDA module" in why) == (0, True)
        with pytest.raises(ts.errors.DeviceError, match="no CUDA module"):
            _backend.cuda()


# ---- Through the public functions: arrays on a device are aggregated there ----


@gpu
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_arrays_on_the_device_give_what_arrays_on_the_cpu_give(dtype):
    values = edge(6, dtype, 300)
    there = [device.hand_over(row) for row in values]
    weights = weights_of(6, "integer")
    for rule in (
        lambda updates: ts.aggregate.mean(updates, weights),
        lambda updates: ts.aggregate.median(updates, kind="lower"),
        lambda updates: ts.aggregate.trimmed_mean(updates, 2),
        lambda updates: ts.aggregate.rule("meamed(f=2)")(updates).value,
        lambda updates: ts.aggregate.rule("phocas(f=2)")(updates).value,
        lambda updates: ts.aggregate.rule("majority")(updates).value,
    ):
        same_bits((device.host(rule(there)), []), (rule(list(values)), []))


@gpu
def test_named_tensors_on_the_device_are_aggregated_by_name():
    values = [{"b": row[:7], "w": row[7:].reshape(2, -1)} for row in edge(5, "float32", 27)]
    there = [{name: device.hand_over(x) for name, x in update.items()} for update in values]
    got, expected = ts.aggregate.trimmed_mean(there, 1), ts.aggregate.trimmed_mean(values, 1)
    assert sorted(got) == ["b", "w"]
    for name, x in expected.items():
        np.testing.assert_array_equal(device.host(got[name]), x)


@gpu
def test_out_on_the_device_is_written_and_returned():
    values = edge(5, "float32", 300)
    out = device.hand_over(np.zeros(300, np.float32))
    assert ts.aggregate.median([device.hand_over(row) for row in values], out=out) is out
    np.testing.assert_array_equal(device.host(out), ts.aggregate.median(list(values)))


@gpu
def test_a_nan_on_the_device_is_refused_with_the_client():
    values = edge(5, "float32", 300)
    values[3, 299] = np.nan
    with pytest.raises(ts.errors.NonFiniteError) as error:
        ts.aggregate.mean([device.hand_over(row) for row in values])
    assert error.value.clients == (3,)


@gpu
def test_updates_or_out_on_two_devices_are_refused():
    values = edge(3, "float32", 8)
    there = [device.hand_over(row) for row in values]
    with pytest.raises(ts.errors.DeviceError, match="different devices"):
        ts.aggregate.mean([*there[:2], values[2]])
    with pytest.raises(ts.errors.DeviceError, match="out is on cpu"):
        ts.aggregate.mean(there, out=np.zeros(8, np.float32))


# ---- Few kernels, all kinds of them: what runs under TSan (tests/gpu/emulate.sh thread) ----


@gpu
@pytest.mark.parametrize(("n", "d"), [(3, 300), (40, 40), (140, 40)])
def test_tsan_all_kernels_without_a_race(n, d):
    values = edge(n, "float32", d)
    rows = device.Rows(values)
    agree(rows, "mean", weights_of(n, "integer"))
    agree(rows, "median", "mid")
    agree(rows, "trimmed_mean", 1)
    agree(rows, "phocas", 1)
    agree(rows, "majority")
    values[1, :] = np.nan
    assert device.Rows(values).on_device("mean", None)[1] == [1]
    assert device.Rows(values).on_device("nonfinite") == [1]


@gpu
def test_tsan_calls_from_several_threads_do_not_meet():
    rows = [device.Rows(edge(4, "float32", 40, seed)) for seed in range(3)]
    expected = [r.on_cpu("mean", None) for r in rows]
    got = [None] * 3

    def work(i):
        got[i] = rows[i].on_device("mean", None)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for a, b in zip(got, expected, strict=True):
        same_bits(a, b)
