"""Rules over arrays on a CUDA device: clients that are not finite, and what does not run there."""

from __future__ import annotations

import numpy as np
import pytest

import device
import tallystick as ts
from tallystick.errors import ArgumentError, DeviceError

pytestmark = pytest.mark.gpu

ROWS = list(np.random.default_rng(3).standard_normal((9, 1000)).astype(np.float32))


def test_a_rule_drops_a_device_client_that_is_not_finite():
    rows = [r.copy() for r in ROWS]
    rows[6][999] = np.nan
    out = device.Array(np.zeros(1000, np.float32))
    outcome = ts.aggregate.rule("trimmed_mean(f=2)")([device.Array(r) for r in rows], out=out)
    assert outcome.rejected == {6: "NaN or infinity"}
    np.testing.assert_array_equal(out.memory.get(), ts.aggregate.trimmed_mean(rows[:6] + rows[7:], 1))


def test_device_memory_that_is_read_only_or_an_input_is_no_out():
    rows, out = [device.Array(r) for r in ROWS], device.Array(np.zeros(1000, np.float32))
    out.__cuda_array_interface__["data"] = (out.memory.address, True)
    with pytest.raises(ArgumentError, match="read-only Array"):
        ts.aggregate.median(rows, out=out)
    with pytest.raises(ArgumentError, match="shares memory with 'update' of input 4"):
        ts.aggregate.median(rows, out=rows[4])
    np.testing.assert_array_equal(rows[4].memory.get(), ROWS[4])


@pytest.mark.parametrize("text", ["krum(f=2)", "multi_krum(f=2)", "multi_krum(f=3, m=4, weights=use)"])
def test_krum_on_a_device_decides_as_on_the_cpu(text):
    rows = [*ROWS[:7], ROWS[7] + 3, ROWS[8] * 5]
    out = device.Array(np.zeros(1000, np.float32))
    weights = np.arange(1.0, 10.0)
    rule = ts.aggregate.rule(text)
    there, here = rule([device.Array(r) for r in rows], weights, out=out), rule(rows, weights)
    assert (there.selected, there.rejected, there.scores) == (here.selected, here.rejected, here.scores)
    np.testing.assert_array_equal(out.memory.get(), here.value)


def test_krum_drops_a_device_client_that_is_not_finite():
    rows = [r.copy() for r in ROWS]
    rows[6][999] = np.inf
    out = device.Array(np.zeros(1000, np.float32))
    outcome = ts.aggregate.rule("multi_krum(f=2)")([device.Array(r) for r in rows], out=out)
    assert outcome.rejected[6] == "NaN or infinity"
    np.testing.assert_array_equal(out.memory.get(), ts.aggregate.multi_krum(rows[:6] + rows[7:], 1))


def test_distances_of_arrays_on_a_device_come_back_as_numbers():
    there = ts.aggregate.distances([device.Array(r) for r in ROWS])
    np.testing.assert_array_equal(there, ts.aggregate.distances(ROWS))


def test_what_does_not_run_on_a_device_says_so():
    on_device = [device.Array(r) for r in ROWS]
    with pytest.raises(DeviceError, match="incremental"):
        ts.aggregate.rule("mean").begin().add("a", on_device[0])
