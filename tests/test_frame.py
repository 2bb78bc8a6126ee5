"""Frames: one content, one byte string; everything else is refused."""

from __future__ import annotations

import json
import mmap
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from tallystick import arrays, frame, update
from tallystick.errors import ArgumentError, FileChangedError, FormatError
from tallystick.frame import Binding

BF16 = ml_dtypes.bfloat16
GOLDEN = json.loads((Path(__file__).parent / "vectors" / "frames.json").read_text(encoding="utf-8"))["frames"]
TENSORS = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "v": np.array([1.5, -2], np.float32),
    "b": np.ones(3, BF16),
    "steps": np.array(7),
    "mask": np.array([True, False, True]),
}
BINDING = Binding(bytes(range(32)), 17, b"o" * 32, "bank-a", "weights", b"b" * 32, 12_000.0)


def encoded(tensors=None, binding=BINDING):
    return b"".join(frame.encode_plain(TENSORS if tensors is None else tensors, binding))


def from_reference(tensors, b):
    return reference.plain_frame(
        tensors, b.namespace_id, b.round, b.open_hash, b.client, b.kind, b.base_hash, b.weight
    )


def tensors_of(vector):
    return {
        name: np.frombuffer(bytes.fromhex(x["data"]), arrays.numpy_dtype(x["dtype"])).reshape(x["shape"])
        for name, x in vector["tensors"].items()
    }


def binding_of(vector):
    fields = dict(vector["binding"])
    for name in ("namespace_id", "open_hash", "base_hash"):
        fields[name] = bytes.fromhex(fields[name])
    return Binding(**fields)


def forged(data, *changes):
    """data with bytes replaced at offsets, and the checksum of the header made to fit."""
    forgery = bytearray(data)
    for offset, replacement in changes:
        forgery[offset : offset + len(replacement)] = replacement
    head = struct.unpack_from("<I", data, 16)[0]
    forgery[60:64] = struct.pack("<I", frame._crc32c(bytes(forgery[:60] + forgery[64:head])))
    return bytes(forgery)


# ---- one content, one encoding ----


@pytest.mark.parametrize("vector", GOLDEN, ids=lambda v: v["name"])
def test_golden_frames_are_written_and_read_byte_for_byte(vector):
    tensors, binding, data = tensors_of(vector), binding_of(vector), bytes.fromhex(vector["frame"])
    assert encoded(tensors, binding) == data
    decoded = frame.decode(data)
    assert decoded.binding == binding
    assert decoded.tensors.keys() == tensors.keys()
    for name, x in tensors.items():
        got = decoded.tensors[name]
        assert (got.dtype, got.shape, got.tobytes()) == (x.dtype, x.shape, x.tobytes())
    assert frame.value_hash(tensors).hex() == vector["value_hash"]


def test_the_golden_frames_cover_every_codec():
    assert {frame.decode(bytes.fromhex(v["frame"])).codec for v in GOLDEN} == {0, 1, 2, 3, 4}


NAMES = st.text(st.characters(codec="ascii"), min_size=1, max_size=12)


@st.composite
def contents(draw):
    tensors = {}
    for name in draw(st.lists(NAMES, max_size=5, unique=True)):
        dtype = arrays.numpy_dtype(draw(st.sampled_from(list(arrays.ITEMSIZE))))
        shape = draw(st.lists(st.integers(0, 6), max_size=3).map(tuple))
        length = int(np.prod(shape, dtype=int)) * dtype.itemsize
        tensors[name] = np.frombuffer(bytes(k * 91 % 251 for k in range(length)), dtype).reshape(shape)
    hashes = st.binary(min_size=32, max_size=32)
    binding = Binding(
        draw(hashes),
        draw(st.integers(0, 2**53 - 1)),
        draw(hashes),
        draw(st.text(st.characters(codec="ascii"), max_size=128)),
        draw(st.sampled_from(["delta", "gradient", "weights"])),
        draw(hashes),
        draw(st.floats(2.0**-500, 2.0**500)),
    )
    return tensors, binding


@settings(max_examples=80, deadline=None)
@given(contents())
def test_decoding_gives_what_was_encoded_and_the_oracle_the_same_bytes(content):
    tensors, binding = content
    data = encoded(tensors, binding)
    assert data == from_reference(tensors, binding)
    decoded = frame.decode(data)
    assert decoded.binding == binding
    assert {n: (x.dtype, x.shape, x.tobytes()) for n, x in decoded.tensors.items()} == {
        n: (x.dtype, x.shape, x.tobytes()) for n, x in tensors.items()
    }
    assert encoded(decoded.tensors, decoded.binding) == data
    assert len(data) == frame.plain_size(decoded.schema)


def test_the_order_of_a_dict_does_not_matter():
    assert encoded(dict(reversed(TENSORS.items()))) == encoded()


# ---- no copies ----


@pytest.mark.parametrize("dtype", arrays.FLOATING)
def test_values_are_neither_copied_into_a_frame_nor_out_of_it(dtype):
    x = np.arange(100).astype(arrays.numpy_dtype(dtype))
    buffers = frame.encode_plain({"w": x})
    addresses = [np.frombuffer(b, np.uint8).ctypes.data for b in buffers]
    assert addresses[-1] == x.ctypes.data
    data = b"".join(buffers)
    start = np.frombuffer(data, np.uint8).ctypes.data
    got = frame.decode(data).tensors["w"]
    assert got.ctypes.data == start + len(data) - x.nbytes
    assert (got.ctypes.data - start) % 64 == 0
    assert not got.flags.writeable


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_frame_is_decoded_from_any_bytes(kind):
    np.testing.assert_array_equal(frame.decode(kind(encoded())).tensors["w"], TENSORS["w"])


def test_a_frame_is_decoded_from_a_mapped_file_and_at_any_address(tmp_path):
    (tmp_path / "x.tsf").write_bytes(encoded())
    with (tmp_path / "x.tsf").open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        decoded = frame.decode(mapped)
        np.testing.assert_array_equal(decoded.tensors["v"], TENSORS["v"])
        np.testing.assert_array_equal(update.open_update(mapped).array("v"), TENSORS["v"])
        del decoded
    shifted = memoryview(b"\0" + encoded())[1:]
    np.testing.assert_array_equal(frame.decode(shifted).tensors["w"], TENSORS["w"])


@pytest.mark.parametrize("given_", [None, "text", 5, [1], memoryview(b"abcdef")[::2]])
def test_what_is_not_contiguous_bytes_is_refused(given_):
    with pytest.raises(ArgumentError, match="contiguous bytes"):
        frame.decode(given_)


# ---- every other byte string is refused ----


def test_every_change_of_one_bit_is_refused():
    data = encoded()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        with pytest.raises(FormatError, match="frame"):
            frame.decode(bytes(changed))


def test_every_other_length_is_refused():
    data = encoded()
    for length in range(len(data)):
        with pytest.raises(FormatError, match="frame"):
            frame.decode(data[:length])
    for extra in (b"\0", b"\1", bytes(64)):
        with pytest.raises(FormatError, match="bytes after it"):
            frame.decode(data + extra)


def test_every_forged_bit_before_the_values_is_refused_even_with_a_fitting_checksum():
    data = encoded()
    head = struct.unpack_from("<I", data, 16)[0]
    names, weight_and_kind, hashes, client = range(64, 104), range(104, 114), range(128, 192), range(224, 352)
    varies = {*names, *weight_and_kind, *hashes, *client}  # where a forgery can be another, canonical binding
    for position in set(range(head)) - set(range(60, 64)):
        for bit in (position % 8, (position + 3) % 8):
            forgery = forged(data, (position, bytes([data[position] ^ 1 << bit])))
            try:
                decoded = frame.decode(forgery)
            except FormatError:
                assert position not in hashes
                continue
            assert position in varies
            assert decoded.binding != BINDING
            assert encoded(decoded.tensors, decoded.binding) == forgery


SECOND = 64 + 384 + 32  # offset of the second entry of the section table
FORGERIES = {
    "magic": ([(0, b"\x89TSG")], "not a tallystick frame"),
    "major version": ([(8, b"\2\0")], "format 2.0; 1.0 is understood"),
    "minor version": ([(10, b"\1\0")], "format 1.1"),
    "critical flag": ([(12, b"\1\0\0\0")], "unknown flags 0x1"),
    "ancillary flag": ([(12, b"\0\0\0\x80")], "unknown flags 0x80000000"),
    "head size": ([(16, b"\0\0")], "sections after 0 bytes"),
    "no section": ([(20, b"\0")], "0 sections"),
    "too many sections": ([(20, b"\7")], "7 sections"),
    "total size": ([(24, b"\0\0\0\0")], "truncated, or bytes after it"),
    "number of values": ([(32, b"\0")], "not the canonical"),
    "codec": ([(40, b"\1")], "not the canonical"),
    "codec version": ([(42, b"\2")], "not the canonical"),
    "block": ([(44, b"\1")], "not the canonical"),
    "bits": ([(45, b"\7")], "not the canonical"),
    "scale dtype": ([(46, b"\1")], "not the canonical"),
    "rounding mode": ([(47, b"\1")], "not the canonical"),
    "codec parameters": ([(48, b"\1")], "not the canonical"),
    "binding size": ([(52, b"\0\0")], "not the canonical"),
    "reserved": ([(56, b"\1")], "not the canonical"),
    "round over 2^53": ([(64 + 32, b"\xff" * 8)], "round 18446744073709551615"),
    "weight zero": ([(64 + 40, bytes(8))], "weight 0.0"),
    "weight negative": ([(64 + 40, struct.pack("<d", -1))], "weight -1.0"),
    "weight NaN": ([(64 + 40, struct.pack("<d", float("nan")))], "weight nan"),
    "weight infinite": ([(64 + 40, struct.pack("<d", float("inf")))], "weight inf"),
    "kind": ([(64 + 48, b"\4")], "kind '4'; allowed: delta"),
    "client id longer than its field": ([(64 + 49, b"\xff")], "not the canonical"),
    "client id shorter than its bytes": ([(64 + 49, b"\1")], "not the canonical"),
    "client id that is not UTF-8": ([(64 + 160, b"\xff")], "utf-8"),
    "client id that is not NFC": ([(64 + 49, b"\3"), (64 + 160, "e\u0301".encode() + bytes(9))], "NFC"),
    "bytes after the client id": ([(64 + 287, b"x")], "not the canonical"),
    "key hash": ([(64 + 288, b"x")], "not the canonical"),
    "iteration": ([(64 + 320, b"\1")], "not the canonical"),
    "end of the binding": ([(64 + 383, b"\1")], "not the canonical"),
    "schema hash": ([(64 + 128, b"\0")], "schema hash"),
    "schema of another type": ([(64 + 384, b"\2")], "the schema expected"),
    "schema elsewhere": ([(64 + 384 + 8, b"\0")], "the schema expected"),
    "schema longer than the frame": ([(64 + 384 + 16, b"\xff" * 8)], "the schema expected"),
    "schema checksum": ([(64 + 384 + 4, b"\0\0\0\0")], "checksum of the section of schema"),
    "section type": ([(SECOND, b"\3")], "not the canonical"),
    "section codec": ([(SECOND + 2, b"\1")], "not the canonical"),
    "section checksum": ([(SECOND + 4, b"\0\0\0\0")], "checksum of the section of integers"),
    "section offset": ([(SECOND + 8, b"\1")], "not the canonical"),
    "section length": ([(SECOND + 16, b"\1")], "not the canonical"),
    "section count": ([(SECOND + 24, b"\1")], "not the canonical"),
    "end of the table": ([(64 + 384 + 4 * 32 - 1 + 1 - 8, b"\1")], "not the canonical"),
}


@pytest.mark.parametrize("field", FORGERIES)
def test_a_forged_field_is_refused_by_name(field, tmp_path):
    changes, named = FORGERIES[field]
    forgery = forged(encoded(), *changes)
    with pytest.raises(FormatError, match=named):
        frame.decode(forgery)
    (tmp_path / "forged.tsf").write_bytes(forgery)
    with pytest.raises(FormatError, match=named) as caught:
        update.open_update(tmp_path / "forged.tsf")
    assert "forged.tsf" in str(caught.value)


def test_padding_that_is_not_zero_is_refused(tmp_path):
    data = bytearray(encoded())
    sections = frame.decode(bytes(data)).sections
    position = sections[0].offset + sections[0].length
    assert data[position] == 0
    assert position < sections[1].offset
    data[position] = 1
    (tmp_path / "x.tsf").write_bytes(data)
    for obj in (bytes(data), tmp_path / "x.tsf"):
        with pytest.raises(FormatError, match="padding"):
            update.open_update(obj)


def test_a_schema_that_is_not_canonical_is_refused_though_all_hashes_fit():
    tensors = {"w": np.ones(1, np.float32)}
    text = reference.schema_json(tensors)
    spaced = text.replace(b'"w"', b'"\\u0077"')
    data = from_reference(tensors, BINDING)
    old = reference.schema_json
    try:
        reference.schema_json = lambda _: spaced
        forgery = from_reference(tensors, BINDING)
    finally:
        reference.schema_json = old
    assert frame.decode(data)
    with pytest.raises(FormatError, match="canonical"):
        frame.decode(forgery)


# ---- binding ----


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("namespace_id", b"short", "32 bytes"),
        ("open_hash", "0" * 32, "32 bytes"),
        ("base_hash", bytearray(32), "32 bytes"),
        ("round", -1, "round -1"),
        ("round", 2**53, "round 9007199254740992"),
        ("round", 1.0, "round 1.0"),
        ("round", True, "round True"),
        ("kind", "gradients", "allowed: delta, gradient, weights"),
        ("kind", [], "kind"),
        ("weight", 0, "weight 0"),
        ("weight", -1.0, "weight -1.0"),
        ("weight", float("nan"), "weight nan"),
        ("weight", float("inf"), "weight inf"),
        ("weight", 2.0**-501, "weight"),
        ("weight", 2.0**501, "weight"),
        ("weight", "1", "weight '1'"),
        ("client", "x" * 129, "1 to 128 bytes"),
        ("client", "e\u0301", "NFC"),
        ("client", "\ud800", "surrogate"),
        ("client", 7, "client: a string expected, got int"),
    ],
)
def test_a_binding_out_of_range_is_refused(field, value, named):
    with pytest.raises(ArgumentError, match=named):
        Binding(**{field: value})


def test_arrays_in_memory_can_be_bound_when_their_payload_is_taken():
    opened = update.open_update(TENSORS)
    assert b"".join(opened.payload(BINDING)) == encoded()
    assert b"".join(opened.payload()) == encoded(binding=Binding())
    received = update.open_update(encoded())
    assert b"".join(received.payload(Binding())) == encoded()
    assert received.binding == BINDING


# ---- frame files ----


def test_a_frame_file_is_checked_whole_when_it_is_opened(tmp_path):
    path = tmp_path / "x.tsf"
    path.write_bytes(encoded())
    with update.open_update(path) as opened:
        assert opened.binding == BINDING
        assert b"".join(frame.encode_plain(opened, BINDING)) == encoded()
    path.write_bytes(encoded()[:-1] + b"\1")
    with pytest.raises(FormatError, match=r"x.tsf: frame: wrong checksum of the section of values"):
        update.open_update(path)


def test_a_frame_file_truncated_after_opening_is_noticed(tmp_path):
    path = tmp_path / "x.tsf"
    path.write_bytes(encoded())
    with update.open_update(path) as opened:
        path.write_bytes(encoded()[:-4])
        with pytest.raises(FileChangedError, match="ends at byte"):
            opened.array("w")
        with pytest.raises(FileChangedError, match="changed"):
            opened.check_unchanged()


# ---- the hash of values ----


@settings(max_examples=30, deadline=None)
@given(contents())
def test_the_value_hash_is_that_of_the_oracle(content):
    assert frame.value_hash(content[0]) == reference.value_hash(content[0])


@pytest.mark.parametrize("size", [0, 1, 16_375, 16_376, 16_377, 300_001])  # 16376 + schema hash = one chunk
def test_the_value_hash_does_not_depend_on_where_the_values_are(size, tmp_path):
    tensors = {**TENSORS, "big": np.arange(size, dtype=np.float32)}
    update.write_safetensors(tmp_path / "x.safetensors", tensors)
    (tmp_path / "x.tsf").write_bytes(encoded(tensors))
    expected = reference.value_hash(tensors)
    for obj in (tensors, encoded(tensors), tmp_path / "x.safetensors", tmp_path / "x.tsf"):
        with update.open_update(obj) as opened:
            assert frame.value_hash(opened) == expected


def test_the_value_hash_tells_names_shapes_dtypes_and_bits_apart():
    x = np.array([1.0, -0.0], np.float32)
    variants = [
        {"w": x},
        {"v": x},
        {"w": x.reshape(2, 1)},
        {"w": x.view(np.int32)},
        {"w": np.array([1.0, 0.0], np.float32)},
        {"w": x[:1], "x": x[1:]},
        {},
    ]
    assert len({frame.value_hash(tensors) for tensors in variants}) == len(variants)
