"""out= of every function that takes it: what can be filled is, all else is refused before it is touched."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import tallystick as ts
from tallystick.errors import ArgumentError

A = ts.aggregate
N, D = 11, 300
ARGUMENTS = {"f": 2, "server": np.ones(D, np.float32)}
FUNCTIONS = sorted(name for name in A.__all__ if "out" in inspect.signature(getattr(A, name)).parameters)


def updates():
    return np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)


def call(name, x, **options):
    function = getattr(A, name)
    wanted = inspect.signature(function).parameters
    given = {
        k: v for k, v in ARGUMENTS.items() if k in wanted and wanted[k].default is inspect.Parameter.empty
    }
    return function(x, **{**given, **options})


def refused(name, x, out, says):
    """The message fits, and neither an input nor out has changed."""
    before, kept = [np.array(r) for r in x], np.array(out)
    with pytest.raises(ArgumentError, match=says):
        call(name, x, out=out)
    for row, was in zip(x, before, strict=True):
        np.testing.assert_array_equal(row, was)
    np.testing.assert_array_equal(np.array(out), kept)


def test_all_functions_with_out_are_known():
    assert len(FUNCTIONS) == 21
    assert {"mean", "krum", "flame", "fltrust", "majority"} <= set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_writeable_out_is_filled_and_returned(name):
    x = updates()
    expected = call(name, x)
    for out in (np.empty(D, np.float32), np.empty((D, 3), np.float32)[:, 1], np.empty(D, np.float32)[::-1]):
        assert call(name, x, out=out) is out
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_cannot_be_written_is_refused(name, tmp_path):
    x = updates()
    fixed = np.zeros(D, np.float32)
    fixed.flags.writeable = False
    np.save(tmp_path / "out.npy", fixed)
    stretched = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (D,), (0,))
    halfway = np.lib.stride_tricks.as_strided(np.zeros(2 * D, np.float32), (D // 2, 2), (4, 4))
    for out, says in (
        (fixed, r"a writeable array float32\[300\] expected, got a read-only ndarray"),
        (fixed[::-1], "read-only ndarray"),
        (np.load(tmp_path / "out.npy", mmap_mode="r"), "read-only memmap"),
        (np.broadcast_to(np.float32(0), (D,)), "read-only ndarray"),
        (memoryview(bytes(4 * D)).cast("f"), "read-only memoryview"),
        (stretched, "several values lie in one place"),
        (halfway, "several values lie in one place"),
    ):
        refused(name, x, out, says)
    writeable = np.load(tmp_path / "out.npy", mmap_mode="r+")
    np.testing.assert_array_equal(call(name, x, out=writeable), call(name, x))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_out_over_an_input_is_refused(name):
    x = updates()
    refused(name, x, x[3], "shares memory with 'update' of input 3")
    refused(name, x, x.reshape(-1)[5 * D - 1 : 6 * D - 1], "of input")
    turned = np.asfortranarray(x)
    refused(name, turned, turned[0], "apart from all inputs")
    refused(name, list(turned), turned[10], "apart from all inputs")


def test_an_out_beside_its_inputs_in_one_array_is_fine():
    block = np.zeros((N + 1, D), np.float32)
    block[:N] = updates()
    np.testing.assert_array_equal(A.median(block[:N], out=block[N]), A.median(updates()))
    columns = np.zeros((D, N + 1), np.float32)
    columns[:, :N] = updates().T
    np.testing.assert_array_equal(A.median(columns.T[:N], out=columns[:, N]), A.median(updates()))


def test_an_out_over_a_state_or_a_server_is_refused():
    x, state = updates(), np.ones(D, np.float32)
    with pytest.raises(ArgumentError, match="shares memory with 'update' of input 11"):
        A.centered_clipping(x, state=state, out=state)
    with pytest.raises(ArgumentError, match="shares memory"):
        A.fltrust(x, state, out=state[:])
    assert (state == 1).all()


def test_named_outs_are_checked_one_by_one_and_against_each_other():
    x = updates()
    named = [{"a": r[:100], "b": r[100:200]} for r in x]
    shared = np.zeros(150, np.float32)
    with pytest.raises(ArgumentError, match="'a' and 'b' share memory"):
        A.mean(named, out={"a": shared[:100], "b": shared[50:]})
    with pytest.raises(ArgumentError, match="shares memory with 'a' of input 2"):
        A.mean(named, out={"a": np.zeros(100, np.float32), "b": x[2, :100]})
    with pytest.raises(ArgumentError, match=r"tensors \['a', 'b'\] expected, got \['5', 'a'\]"):
        A.mean(named, out={"a": shared[:100], 5: shared[:100]})
    outs = {"a": shared[:100], "b": np.zeros((4, 200), np.float32)[2, ::2]}
    assert A.mean(named, out=outs) is outs
    np.testing.assert_array_equal(np.concatenate([outs["a"], outs["b"]]), A.mean(x)[:200])


def test_an_out_that_is_not_an_array_is_refused():
    for out in ([0.0] * D, 5, "out"):
        with pytest.raises(ArgumentError):
            A.mean(updates(), out=out)
    with pytest.raises(ArgumentError, match="in place"):
        A.mean(np.ones((3, 1), np.float32), out=np.float32(0).reshape(1)[0])


def test_read_only_memory_of_another_library_is_refused():
    x = np.zeros(4, np.float32)

    class Elsewhere:
        def __dlpack__(self, **options):
            return x.__dlpack__(**options)

    x.flags.writeable = False
    with pytest.raises(ArgumentError, match="read-only Elsewhere"):
        A.mean(np.ones((3, 4), np.float32), out=Elsewhere())
    x.flags.writeable = True
    A.mean(np.ones((3, 4), np.float32), out=Elsewhere())
    assert (x == 1).all()


def test_torch_outs(torch):
    x = torch.from_numpy(updates())
    out = torch.zeros(D)
    assert A.mean(x, out=out) is out
    with pytest.raises(ArgumentError, match="requires a gradient"):
        A.mean(x, out=torch.zeros(D, requires_grad=True))
    with pytest.raises(ArgumentError, match="several values lie in one place"):
        A.mean(x, out=torch.zeros(1).expand(D))
    with pytest.raises(ArgumentError, match="shares memory"):
        A.mean(x, out=x[1])
