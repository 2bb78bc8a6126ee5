"""Rules over arrays on a CUDA device: clients that are not finite, and what does not run there."""

from __future__ import annotations

import numpy as np
import pytest

import device
import tallystick as ts
from tallystick.errors import DeviceError

pytestmark = pytest.mark.gpu

ROWS = list(np.random.default_rng(3).standard_normal((9, 1000)).astype(np.float32))


def test_a_rule_drops_a_device_client_that_is_not_finite():
    rows = [r.copy() for r in ROWS]
    rows[6][999] = np.nan
    out = device.Array(np.zeros(1000, np.float32))
    outcome = ts.aggregate.rule("trimmed_mean(f=2)")([device.Array(r) for r in rows], out=out)
    assert outcome.rejected == {6: "NaN or infinity"}
    np.testing.assert_array_equal(out.memory.get(), ts.aggregate.trimmed_mean(rows[:6] + rows[7:], 1))


def test_what_does_not_run_on_a_device_says_so():
    on_device = [device.Array(r) for r in ROWS]
    with pytest.raises(DeviceError, match="distances"):
        ts.aggregate.multi_krum(on_device, 2, out=device.Array(np.zeros(1000, np.float32)))
    with pytest.raises(DeviceError, match="incremental"):
        ts.aggregate.rule("mean").begin().add("a", on_device[0])
