"""Updates: arrays, files, payload, clients that must fit each other, files that change under us, writing."""

from __future__ import annotations

import array
import gc
import json
import os
import stat
import subprocess
import sys
import time
import weakref
from collections import OrderedDict
from types import MappingProxyType

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from tallystick import _core, arrays, frame, update
from tallystick.errors import ArgumentError, FileChangedError, FormatError, SchemaError
from tallystick.update import Schema, Tensor, open_update

BF16 = ml_dtypes.bfloat16
TENSORS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.arange(3).astype(BF16),
    "steps": np.array(7),
    "empty": np.empty((0, 3), np.float32),
    "c": np.ones(5, np.float32),
}


def write(path, content):
    path.write_bytes(content)
    return path


def columns(opened, index, lo, hi):
    """Columns lo..hi of a segment, read into memory with a guard value behind them."""
    segment = opened.schema.segments[index]
    out = np.full(hi - lo + 1, 77).astype(arrays.numpy_dtype(segment.dtype))
    opened.read(index, lo, hi, out.ctypes.data)
    assert out[-1] == 77
    return out[:-1]


# ---- arrays in memory ----


def test_arrays_are_not_copied_and_one_array_is_called_update():
    opened = open_update(TENSORS)
    assert (opened.source, opened.device) == ("memory", "cpu")
    assert opened.addresses(0) == [TENSORS["a"].ctypes.data]
    assert opened.addresses(1)[:2] == [TENSORS["b"].ctypes.data, TENSORS["c"].ctypes.data]
    assert opened.integer_bytes("steps") == TENSORS["steps"].tobytes()
    one = np.zeros((2, 3))
    assert open_update(one).schema == Schema((Tensor("update", (2, 3), "float64"),))
    assert open_update(one).addresses(0) == [one.ctypes.data]
    opened.check_unchanged()
    opened.close()


def test_the_state_of_a_torch_module_is_an_update_without_copies(torch):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).to(torch.bfloat16)
    state = module.state_dict()
    opened = open_update(state)
    floating = sorted(name for name, x in state.items() if x.is_floating_point())
    assert [t.name for t in opened.schema.segments[0].tensors] == floating
    assert opened.addresses(0) == [state[name].data_ptr() for name in floating]
    assert [t.name for t in opened.schema.integers] == ["1.num_batches_tracked"]
    as_numpy = {name: arrays.view(x).numpy() for name, x in state.items()}
    assert b"".join(opened.payload()) == b"".join(frame.encode_plain(as_numpy))


def test_an_update_is_returned_as_it_is():
    opened = open_update(TENSORS, exclude=["steps"])
    assert open_update(opened) is opened
    assert open_update(opened, exclude={"steps"}) is opened
    with pytest.raises(ArgumentError, match="'a' is to be excluded"):
        open_update(opened, exclude={"a"})


def test_excluded_tensors_may_be_anything_and_absent():
    strange = {**TENSORS, "odd": object(), 5: None}
    assert open_update(strange, exclude=["odd", 5, "never there"]).schema == open_update(TENSORS).schema
    with pytest.raises(ArgumentError, match="got a str"):
        open_update(TENSORS, exclude="steps")


@pytest.mark.parametrize("empty", [{}, {"w": np.empty((0, 4), np.float32)}, np.empty(0)])
def test_an_update_without_values_is_an_update(empty):
    opened = open_update(empty)
    assert opened.schema.size == 0
    assert b"".join(opened.payload()) == b"".join(frame.encode_plain(empty))


@pytest.mark.parametrize(
    ("obj", "error", "named"),
    [
        ({"w": np.zeros(2, complex)}, SchemaError, r"'w'.*complex128.*allowed: bfloat16"),
        ({"w": np.zeros(2, ml_dtypes.float8_e5m2)}, SchemaError, "'w'.*float8_e5m2"),
        ({"w": [1.0]}, SchemaError, "'w'.*list is not an array"),
        ({7: np.zeros(2)}, SchemaError, "tensor name: a string expected, got int"),
        ({"e\u0301": np.zeros(2)}, SchemaError, "NFC"),
        ([1.0, 2.0], SchemaError, "list is not an array"),
        (None, SchemaError, "NoneType"),
        ("weights.pt", ArgumentError, r"weights.pt.*\.safetensors"),
    ],
)
def test_what_is_no_update_is_refused(obj, error, named):
    with pytest.raises(error, match=named):
        open_update(obj)


def test_arrays_on_two_devices_are_refused():
    class OnDevice:
        __cuda_array_interface__ = {"shape": (1,), "typestr": "<f4", "data": (64, False), "version": 3}  # noqa: RUF012

    assert open_update({"w": OnDevice()}).device == "cuda:0"
    assert open_update({"w": OnDevice(), "steps": np.array(1)}).device == "cuda:0"
    with pytest.raises(ArgumentError, match="cpu and cuda:0"):
        open_update({"v": np.zeros(1), "w": OnDevice()})


# ---- dicts of NumPy arrays: one native pass must find what one look at each array finds ----


class Name(str):
    __slots__ = ()


class Kind(np.ndarray):
    pass


def odd_tensors():
    """Arrays that are not plain, beside ones that are."""
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    backing = b"\xff" + x.tobytes()
    read_only = x.copy()
    read_only.flags.writeable = False
    return {
        "z": x,
        "column": x[:, 1],
        "fortran": np.asfortranarray(x),
        "unaligned": np.frombuffer(backing, np.float32, offset=1),
        "read-only": read_only,
        "subclass": x.view(Kind),
        "scalar": np.float32(3),
        "buffer": array.array("d", [1, 2]),
        "view": arrays.view(x[1]),
        "no dimensions": np.array(2.5),
        "half": x.astype(BF16),
        "longlong": np.arange(3, dtype=np.longlong),
        "flags": np.array([True, False]),
        "none": np.empty((0, 3), np.float16),
        "\u00e9": np.ones(2, np.float16),
    }


@pytest.mark.parametrize("kind", [dict, OrderedDict])
@pytest.mark.parametrize("exclude", [(), ["b", "z", "flags", "steps"]])
@pytest.mark.parametrize("tensors", [TENSORS, odd_tensors(), {}])
def test_one_pass_over_a_dict_and_one_array_at_a_time_find_the_same(tensors, exclude, kind):
    fast = update._opened_at_once(kind(tensors), exclude)
    slow = update._opened_one_by_one(tensors, exclude)
    assert fast.schema == slow.schema
    assert fast.schema.hash == slow.schema.hash
    assert fast.device == slow.device == "cpu"
    assert len(fast.views) == len(slow.views) == len(fast.schema.tensors)
    for name in fast.views:
        one, other = fast.views[name], slow.views[name]
        assert (one.shape, one.dtype, one.copied, one.writable) == (
            other.shape,
            other.dtype,
            other.copied,
            other.writable,
        )
        if not one.copied:
            assert one.address == other.address
        assert fast.array(name).tobytes() == slow.array(name).tobytes()
        assert not fast.array(name).flags.writeable
    for index, segment in enumerate(fast.schema.segments):
        assert fast.pointers(index).tolist() == fast.addresses(index)
        assert len(fast.addresses(index)) == len(segment.tensors)
        np.testing.assert_array_equal(
            columns(fast, index, 0, segment.size), columns(slow, index, 0, segment.size)
        )
    assert (
        fast.integers()
        == slow.integers()
        == b"".join(fast.integer_bytes(t.name) for t in fast.schema.integers)
    )
    assert b"".join(fast.payload()) == b"".join(slow.payload())


def test_only_what_is_not_plain_is_looked_at_one_by_one():
    tensors = odd_tensors()
    found = _core.scan(tensors, np.dtype(BF16).num)
    assert found[0] == tuple(tensors)
    assert all(got is x for got, x in zip(found[1], tensors.values(), strict=True))
    not_plain = ["column", "fortran", "subclass", "scalar", "buffer", "view"]
    assert [found[0][k] for k in found[4]] == not_plain
    assert [found[3][k] for k in found[4]] == [None] * 6
    assert not found[2][found[4]].any()
    assert "half" in [found[0][k] for k in _core.scan(tensors, -1)[4]]
    for strange in (
        np.zeros(2, complex),
        np.zeros(2, ">f4"),
        np.zeros(2, np.longdouble),
        np.zeros(2, "M8[s]"),
        np.zeros(2, "m8[s]"),
        np.zeros(2, "f4,f4"),
        np.zeros(2, ml_dtypes.float8_e5m2),
        np.array(["a"]),
        np.array([None]),
        np.ma.masked_array([1.0], [1]),
        [1.0],
        None,
    ):
        assert _core.scan({"w": strange}, np.dtype(BF16).num)[4] == [0]
    assert _core.scan({"w": np.zeros(2), 7: np.zeros(2)}, -1) is None
    assert _core.scan({Name("w"): np.zeros(2)}, -1) is None


@pytest.mark.parametrize(
    "named",
    [
        {"w": np.zeros(2, complex)},
        {"w": np.zeros(2, ">f4")},
        {"w": np.zeros(2, np.longdouble)},
        {"w": np.zeros(2, ml_dtypes.float8_e5m2)},
        {"w": np.zeros(2, "M8[s]")},
        {"w": np.ma.masked_array([1.0], [1])},
        {"w": [1.0]},
        {7: np.zeros(2)},
        {"": np.zeros(2)},
        {"x" * 129: np.zeros(2)},
        {"e\u0301": np.zeros(2)},
        {"\ud800": np.zeros(2)},
        {"w": np.empty((0, 2**53), np.float32)},
        {"w": np.zeros((1,) * 32, np.float32)[None]}
        if np.lib.NumpyVersion(np.__version__) >= "2.0.0"
        else {"w": 1},
        {"v": np.zeros(2, complex), "": np.zeros(2)},
        {"": np.zeros(2), "v": np.zeros(2, complex)},
        {"v": np.empty((0, 2**53)), "w": [1.0]},
        {"v": [1.0], "w": np.empty((0, 2**53))},
    ],
)
def test_a_refusal_of_a_dict_is_that_of_its_first_tensor_to_be_refused(named):
    with pytest.raises(SchemaError) as slow:
        update._opened_one_by_one(named, ())
    for given in (named, OrderedDict(named), MappingProxyType(named)):
        with pytest.raises(SchemaError) as fast:
            open_update(given)
        assert str(fast.value) == str(slow.value)


def test_clients_of_one_model_share_its_schema_and_others_do_not():
    first, second = ({n: x.copy() for n, x in TENSORS.items()} for _ in range(2))
    assert open_update(first).schema is open_update(second).schema
    turned = dict(reversed(second.items()))
    assert open_update(turned).schema == open_update(first).schema
    assert open_update(turned).addresses(1) == open_update(second).addresses(1)
    for name, other in [
        ("c", np.ones(6, np.float32)),
        ("c", np.ones(5)),
        ("b", TENSORS["b"].reshape(3, 2)),
        ("steps", np.array([7])),
    ]:
        assert open_update({**first, name: other}).schema != open_update(first).schema
    assert open_update({**first, "d": np.ones(1)}).schema != open_update(first).schema
    assert open_update({Name("w"): np.ones(2)}).schema == open_update({"w": np.ones(2)}).schema


def test_the_arrays_of_a_dict_live_as_long_as_the_update():
    x = np.full(1000, 7.0)
    watched, named = weakref.ref(x), {"w": x}
    opened = open_update(named)
    del x
    named["w"] = named["v"] = np.zeros(1)
    gc.collect()
    assert (columns(opened, 0, 0, 1000) == 7).all()
    assert [t.name for t in opened.schema.tensors] == ["w"]
    del opened
    gc.collect()
    assert watched() is None


# ---- the same update from every source ----


def sources(tmp_path, tensors):
    """The update in memory, as a frame, as files of both kinds, and in two shards."""
    in_memory = open_update(tensors)
    encoded = b"".join(in_memory.payload())
    names = sorted(tensors)
    shards = {"x-1-of-2.safetensors": names[::2], "x-2-of-2.safetensors": names[1::2]}
    for shard, members in shards.items():
        update.write_safetensors(tmp_path / shard, {name: tensors[name] for name in members})
    weight_map = {name: shard for shard, members in shards.items() for name in members}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    update.write_safetensors(tmp_path / "x.safetensors", tensors)
    return {
        "memory": in_memory,
        "frame": open_update(encoded),
        "tsf": open_update(write(tmp_path / "x.tsf", encoded)),
        "safetensors": open_update(str(tmp_path / "x.safetensors")),
        "sharded": open_update(write(tmp_path / "x.safetensors.index.json", json.dumps(index).encode())),
    }


def test_every_source_gives_the_same_schema_values_and_columns(tmp_path):
    for opened in sources(tmp_path, TENSORS).values():
        assert opened.schema == open_update(TENSORS).schema
        for name, x in TENSORS.items():
            got = opened.array(name)
            assert (got.dtype, got.shape, got.tobytes()) == (x.dtype, x.shape, x.tobytes())
            assert not got.flags.writeable
        flat = np.concatenate([TENSORS["b"].ravel(), TENSORS["c"]])
        for lo in range(12):
            for hi in range(lo, 12):
                np.testing.assert_array_equal(columns(opened, 1, lo, hi), flat[lo:hi])
        for lo, hi in [(-1, 1), (0, 12), (2, 1)]:
            with pytest.raises(ArgumentError, match="columns"):
                opened.read(1, lo, hi, 0)
        for name in ("a", "nothing"):
            with pytest.raises(SchemaError, match="no integer tensor"):
                opened.integer_bytes(name)
        with pytest.raises(SchemaError, match="no tensor"):
            opened.array("nothing")
        opened.close()


def test_the_payload_is_what_was_received_byte_for_byte(tmp_path):
    opened = sources(tmp_path, TENSORS)
    received = {
        "frame": [tmp_path / "x.tsf"],
        "tsf": [tmp_path / "x.tsf"],
        "safetensors": [tmp_path / "x.safetensors"],
        "sharded": [
            tmp_path / f"x{end}"
            for end in (".safetensors.index.json", *(f"-{k}-of-2.safetensors" for k in (1, 2)))
        ],
    }
    for source, paths in received.items():
        payload = b"".join(bytes(piece) for piece in opened[source].payload())
        assert payload == b"".join(path.read_bytes() for path in paths)
        assert opened[source].size == len(payload)
    types = {source: u.media_type for source, u in opened.items()}
    assert types["memory"] == types["frame"] == types["tsf"] == "application/vnd.tallystick.frame"
    assert types["safetensors"] == types["sharded"] == "application/vnd.safetensors"
    assert {source: u.source for source, u in opened.items() if u.source == "memory"}.keys() == {
        "memory",
        "frame",
    }


def test_a_file_payload_comes_in_bounded_pieces(tmp_path):
    update.write_safetensors(tmp_path / "x.safetensors", {"w": np.arange(1_000_003, dtype=np.float32)})
    with open_update(tmp_path / "x.safetensors") as opened:
        pieces = [bytes(piece) for piece in opened.payload()]
        assert max(map(len, pieces)) == 1 << 20
        assert b"".join(pieces) == (tmp_path / "x.safetensors").read_bytes()


def test_a_file_has_no_addresses(tmp_path):
    update.write_safetensors(tmp_path / "x.safetensors", TENSORS)
    with (
        open_update(tmp_path / "x.safetensors") as opened,
        pytest.raises(ArgumentError, match="no addresses"),
    ):
        opened.addresses(0)


def test_excluded_tensors_of_files_are_left_out(tmp_path):
    for opened in list(sources(tmp_path, TENSORS).values())[1:]:
        opened.close()
    for name in ("x.tsf", "x.safetensors", "x.safetensors.index.json"):
        with open_update(tmp_path / name, exclude=["b", "steps"]) as opened:
            assert [t.name for t in opened.schema.tensors] == ["a", "c", "empty"]
            np.testing.assert_array_equal(columns(opened, 1, 1, 5), TENSORS["c"][1:])
    encoded = (tmp_path / "x.tsf").read_bytes()
    assert open_update(encoded, exclude=["b"]).payload().__next__() == encoded


# ---- clients that must fit each other ----


def test_clients_with_the_same_schema_and_integers_fit():
    three = [open_update({name: x.copy() for name, x in TENSORS.items()}) for _ in range(3)]
    assert update.check_same_schema(three, ["a", "b", "c"]) == three[0].schema


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            {"b": np.zeros((3, 2), np.float32)},
            r"'bank-b': tensor 'b' is float32 \(3, 2\).*'bank-a' has float32 \(2, 3\)",
        ),
        ({"a": np.zeros(3, np.float32)}, "'bank-b': tensor 'a' is float32"),
        ({"extra": np.zeros(1)}, "'bank-b' has tensor 'extra', which client 'bank-a' has not"),
        ({"c": None}, "'bank-b' lacks tensor 'c'"),
        ({"steps": np.array(8)}, "'bank-b': integer tensor 'steps' differs.*exclude="),
    ],
)
def test_the_first_difference_is_named_with_its_client(change, named):
    other = {name: x for name, x in {**TENSORS, **change}.items() if x is not None}
    with pytest.raises(SchemaError, match=named):
        update.check_same_schema([open_update(TENSORS), open_update(other)], ["bank-a", "bank-b"])


def test_integers_that_differ_can_be_excluded():
    two = [open_update({**TENSORS, "steps": np.array(k)}, exclude=["steps"]) for k in range(2)]
    update.check_same_schema(two, ["a", "b"])


def test_no_updates_and_wrong_ids_are_refused():
    for updates, ids in [([], []), ([open_update(TENSORS)], [])]:
        with pytest.raises(ArgumentError, match="at least one"):
            update.check_same_schema(updates, ids)


# ---- files that are not there, or change ----


def test_what_cannot_be_opened_is_refused_with_the_reason(tmp_path):
    with pytest.raises(ArgumentError, match="No such file"):
        open_update(tmp_path / "gone.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(FormatError, match="not a regular file"):
        open_update(tmp_path / "folder.safetensors")
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(FormatError, match="not a regular file"):
        open_update(tmp_path / "pipe.safetensors")
    with pytest.raises(ArgumentError, match="null"):
        open_update("a\0b.safetensors")


@pytest.fixture
def big_file(tmp_path):
    path = tmp_path / "x.safetensors"
    update.write_safetensors(path, {"v": np.arange(10_000, dtype=np.float32), "w": np.ones(3, np.float32)})
    return path


def test_a_file_truncated_after_opening_is_noticed_by_every_read(big_file):
    with open_update(big_file) as opened:
        os.truncate(big_file, big_file.stat().st_size - 5)
        np.testing.assert_array_equal(columns(opened, 0, 0, 9_000), np.arange(9_000, dtype=np.float32))
        with pytest.raises(FileChangedError, match=r"x.safetensors: ends at byte"):
            columns(opened, 0, 9_990, 10_003)
        with pytest.raises(FileChangedError, match="ends at byte"):
            list(opened.payload())
        with pytest.raises(FileChangedError, match="changed since it was opened"):
            opened.check_unchanged()


def test_a_file_rewritten_in_place_is_noticed(big_file):
    with open_update(big_file) as opened:
        opened.check_unchanged()
        time.sleep(0.02)  # the kernel's clock for files ticks every 1 to 10 ms
        with big_file.open("r+b") as f:
            f.seek(-1, os.SEEK_END)
            f.write(b"\1")
        with pytest.raises(FileChangedError, match="changed"):
            opened.check_unchanged()


def test_a_rewrite_that_sets_its_old_mtime_back_is_noticed(big_file):
    with open_update(big_file) as opened:
        before = big_file.stat()
        time.sleep(0.02)
        with big_file.open("r+b") as f:
            f.write(big_file.read_bytes()[:1])
        os.utime(big_file, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(FileChangedError, match="changed"):
            opened.check_unchanged()


def test_a_file_replaced_or_removed_is_noticed_but_still_read(big_file):
    with open_update(big_file) as opened:
        update.write_safetensors(big_file, {"v": np.zeros(10_000, np.float32), "w": np.ones(3, np.float32)})
        np.testing.assert_array_equal(columns(opened, 0, 5, 9), [5, 6, 7, 8])
        with pytest.raises(FileChangedError, match="changed"):
            opened.check_unchanged()
        big_file.unlink()
        with pytest.raises(FileChangedError, match="No such file"):
            opened.check_unchanged()


def test_a_closed_update_is_not_read(big_file):
    opened = open_update(big_file)
    opened.close()
    opened.close()
    with pytest.raises(FileChangedError, match="Bad file descriptor"):
        columns(opened, 0, 0, 3)


def test_a_forgotten_update_closes_its_file(big_file):
    before = len(os.listdir("/proc/self/fd"))
    opened = open_update(big_file)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    del opened
    assert len(os.listdir("/proc/self/fd")) == before


# ---- writing ----


def test_a_written_file_has_the_mode_of_any_new_file_and_leaves_nothing_else(tmp_path):
    (tmp_path / "plain").touch()
    update.write_safetensors(tmp_path / "x.safetensors", TENSORS)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes["x.safetensors"] == modes["plain"]
    assert len(modes) == 2


def test_what_is_not_contiguous_is_written_in_order(tmp_path):
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    update.write_safetensors(tmp_path / "x.safetensors", {"w": x.T})
    np.testing.assert_array_equal(safetensors.numpy.load_file(tmp_path / "x.safetensors")["w"], x.T)


def test_an_unwritable_target_is_refused_with_path_and_reason(tmp_path):
    with pytest.raises(ArgumentError, match=r"gone/x.safetensors: cannot be written: No such file"):
        update.write_safetensors(tmp_path / "gone" / "x.safetensors", TENSORS)
    (tmp_path / "x.safetensors").mkdir()
    with pytest.raises(ArgumentError, match="cannot be written"):
        update.write_safetensors(tmp_path / "x.safetensors", TENSORS)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_write_that_fails_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    update.write_safetensors(path, TENSORS)
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    for module, name in [(safetensors.numpy, "save_file"), (os, "fsync"), (os, "replace")]:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(ArgumentError, match="No space left"):
                update.write_safetensors(path, {"other": np.ones(3)})
        assert path.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_disk_that_is_full_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "x.safetensors"
    update.write_safetensors(path, TENSORS)
    before = path.read_bytes()
    code = f"""
import resource, signal, numpy
from tallystick import update
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
update.write_safetensors({str(path)!r}, {{"w": numpy.ones(10_000)}})
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "ArgumentError" in run.stderr
    assert "x.safetensors: cannot be written" in run.stderr
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_names_and_dtypes_are_checked_before_anything_is_written(tmp_path):
    for tensors in ({"": np.ones(1)}, {"w": np.ones(1, complex)}):
        with pytest.raises(ArgumentError):
            update.write_safetensors(tmp_path / "x.safetensors", tensors)
    assert list(tmp_path.iterdir()) == []
