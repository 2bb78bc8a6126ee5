"""The catalogue over arrays on a device: decisions and bits of the CPU."""

from __future__ import annotations

import numpy as np
import pytest

import device
import tallystick as ts
from tallystick import _backend
from tallystick.errors import DeviceError

pytestmark = pytest.mark.gpu

A = ts.aggregate
D = 2000
TEXTS = [
    "bulyan(f=2)",
    "geometric_median",
    "centered_clipping(tau=20)",
    "norm_clipping",
    "mda(f=2)",
    "monna(f=2)",
    "caf(f=2)",
    "smea(f=2)",
    "cge(f=2)",
    "foolsgold",
    "fltrust",
    "flame(seed=3)",
    "dnc(f=2, columns=700, seed=1)",
    "meamed(f=2)",
    "phocas(f=2)",
    "majority",
    "nnm(f=2) | trimmed_mean(f=2)",
    "bucketing(s=2) | median",
    "arc(f=2) | multi_krum(f=2)",
]


def kernels(text):
    """The CUDA kernels beyond distances and sums that a rule needs."""
    last = text.split("|")[-1].split("(")[0].strip()
    if "|" in text and last in ("median", "trimmed_mean"):
        return {"mixed"}
    return {"meamed"} if last == "bulyan" else {last} & {"meamed", "phocas", "majority"}


@pytest.mark.parametrize("text", TEXTS)
def test_a_rule_on_a_device_decides_and_sums_as_on_the_cpu(text):
    rng = np.random.default_rng(5)
    rows = list((rng.standard_normal((11, D)) + rng.standard_normal(D)).astype(np.float32))
    rows[3], rows[6] = rows[3] * np.float32(-2), rows[6] * np.float32(1e6)
    made = A.rule(text)
    there = {"server": device.Array(rows[0])} if "server" in made.inputs else {}
    there |= {"state": device.Array(rows[1])} if "state" in made.inputs else {}
    here = {"server": rows[0]} if "server" in made.inputs else {}
    here |= {"state": rows[1]} if "state" in made.inputs else {}
    out = device.Array(np.zeros(D, np.float32))
    if missing := {k for k in kernels(text) if not hasattr(_backend.cuda(), k)}:
        with pytest.raises(DeviceError, match="|".join(missing)):
            made([device.Array(r) for r in rows], out=out, **there)
        return
    on_device = made([device.Array(r) for r in rows], out=out, **there)
    expected = made(rows, **here)
    assert (on_device.selected, on_device.rejected) == (expected.selected, expected.rejected)
    assert (on_device.scores, on_device.weights) == (expected.scores, expected.weights)
    np.testing.assert_array_equal(out.memory.get(), expected.value)
