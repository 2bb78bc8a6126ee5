"""The catalogue over arrays on a device: decisions and bits of the CPU."""

from __future__ import annotations

import numpy as np
import pytest

import device
import tallystick as ts

pytestmark = pytest.mark.gpu

A = ts.aggregate
D = 2000
TEXTS = [
    "krum(f=2)",
    "multi_krum(f=2)",
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
    "nnm(f=2) | meamed(f=2)",
    "nnm(f=2) | phocas(f=2)",
    "nnm(f=2) | majority",
    "nnm(f=2) | bulyan(f=2)",
    "nnm(f=2) | krum(f=2)",
    "bucketing(s=2) | median",
    "arc(f=2) | multi_krum(f=2)",
]


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
    on_device = made([device.Array(r) for r in rows], out=out, **there)
    expected = made(rows, **here)
    assert (on_device.selected, on_device.rejected) == (expected.selected, expected.rejected)
    assert (on_device.scores, on_device.weights) == (expected.scores, expected.weights)
    np.testing.assert_array_equal(out.memory.get(), expected.value)
