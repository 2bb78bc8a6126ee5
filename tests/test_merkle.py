"""merkle against hashlib, the RFC 6962 vectors, pymerkle and the RFC's recursion; forgeries are refused."""

from __future__ import annotations

import array
import gc
import hashlib
import json
import mmap
import threading
from pathlib import Path

import ml_dtypes
import numpy as np
import pymerkle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
import tallystick as ts
from tallystick import _core, merkle
from tallystick.errors import ArgumentError

KIB64 = 65536
# Behind the prefix, 54 bytes still share a block with the padding; 63 fill it. The same one block later.
BORDERS = [54, 55, 56, 57, 62, 63, 64, 65, 118, 119, 120, 127, 128, 129, KIB64 - 1, KIB64, KIB64 + 1]
VECTORS = json.loads((Path(__file__).parent / "vectors" / "rfc6962.json").read_text())
LEAVES = [bytes([i % 251, i // 251, *range(i % 7)]) for i in range(300)]  # 2 to 8 bytes, all different
EMPTY = hashlib.sha256(b"").digest()


def pattern(size):
    """Bytes i % 251: a prime period, so that swapped blocks and chunks differ."""
    return (np.arange(size, dtype=np.uint32) % 251).astype(np.uint8)


def flip(hash_):
    return bytes([hash_[0] ^ 1]) + hash_[1:]


@pytest.fixture(params=_core.sha256_kernels())
def kernel(request):
    """Every SHA-256 kernel this run may use, also those that dispatch would never pick on this CPU."""
    _core.sha256_force(request.param)
    yield request.param
    _core.sha256_force("")


@pytest.fixture(scope="module")
def big_tree():
    return merkle.Tree(LEAVES)


@pytest.fixture(scope="module")
def roots():
    return [reference.merkle_root(LEAVES[:n]) for n in range(len(LEAVES) + 1)]


# ---- SHA-256 ----


def test_every_length_gives_the_digest_of_hashlib(level):
    data = pattern(301).tobytes()
    for size in range(301):
        assert merkle.hash_chunks(data[:size], chunk=301) == reference.merkle_root(
            [data[:size]] if size else []
        )


@pytest.mark.parametrize("size", BORDERS)
def test_block_borders_give_the_digest_of_hashlib_in_every_lane(kernel, size):
    messages = [bytes(pattern(size) + i) for i in range(19)]  # full lanes, then a rest
    hashes = merkle.chunk_hashes(*messages, chunk=size)
    assert [h.tobytes() for h in hashes] == [reference.leaf_hash(m) for m in messages]


def test_any_number_of_messages_fills_the_lanes_rightly(kernel):
    for width in (0, 1, 31, 32, 33, 64):
        rows = pattern(40 * width).reshape(40, width) if width else np.empty((40, 0), np.uint8)
        for n in (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40):
            assert merkle.Tree(rows[:n]).root == reference.merkle_root([row.tobytes() for row in rows[:n]])


def test_neighbours_of_different_lengths_do_not_mix(kernel):
    leaves = [bytes(pattern(size)) for size in [*range(140), 3, 3, 300, 3, 65, 64, 66, 1000]]
    assert merkle.Tree(leaves).root == reference.merkle_root(leaves)


def test_the_lowest_level_offers_the_scalar_kernel_alone():
    before = ts.cpu_level()
    try:
        ts.set_cpu_level("scalar")
        assert _core.sha256_kernels() == ["scalar"]
        with pytest.raises(ValueError, match="ni1"):
            _core.sha256_force("ni1")
    finally:
        ts.set_cpu_level(before)
    assert "scalar" in _core.sha256_kernels()


def test_an_unknown_kernel_is_refused():
    with pytest.raises(ValueError, match="sha3"):
        _core.sha256_force("sha3")


def test_the_two_public_hashes_are_those_of_the_rfc():
    assert merkle.leaf_hash(b"abc") == hashlib.sha256(b"\x00abc").digest()
    assert merkle.node_hash(EMPTY, flip(EMPTY)) == hashlib.sha256(b"\x01" + EMPTY + flip(EMPTY)).digest()
    with pytest.raises(ArgumentError, match="32 bytes"):
        merkle.node_hash(EMPTY, EMPTY[1:])
    with pytest.raises(ArgumentError, match="bytes expected, got int"):
        merkle.node_hash(EMPTY, 3)


# ---- trees ----


def test_rfc_6962_vectors():
    leaves = [bytes.fromhex(leaf) for leaf in VECTORS["leaves"]]
    tree = merkle.Tree(leaves)
    assert merkle.Tree().root.hex() == VECTORS["empty_root"]
    assert [tree.root_at(n).hex() for n in range(1, 9)] == VECTORS["roots"]
    for v in VECTORS["inclusion"]:
        proof = tree.prove(v["index"], v["size"])
        assert [node.hex() for node in proof] == v["proof"]
        assert merkle.verify(tree.root_at(v["size"]), v["size"], v["index"], leaves[v["index"]], proof)
    for v in VECTORS["consistency"]:
        proof = tree.prove_consistency(v["old_size"], v["size"])
        assert [node.hex() for node in proof] == v["proof"]
        old, new = tree.root_at(v["old_size"]), tree.root_at(v["size"])
        assert merkle.verify_consistency(old, v["old_size"], new, v["size"], proof)


def test_every_size_to_300_has_the_root_of_the_recursion(level, roots):
    for n in range(len(LEAVES) + 1):
        assert merkle.Tree(LEAVES[:n]).root == roots[n]


def test_one_tree_knows_the_roots_of_all_its_past(threads, big_tree, roots):
    assert [big_tree.root_at(n) for n in range(301)] == roots
    assert (big_tree.size, len(big_tree), big_tree.root) == (300, 300, roots[300])
    assert big_tree.root.hex()[:16] in repr(big_tree)


def test_pymerkle_agrees_on_roots_and_proofs(big_tree):
    theirs = pymerkle.InmemoryTree(algorithm="sha256")
    get_root = getattr(theirs, "get_root", None) or theirs.get_state  # renamed in 7.0
    for n, leaf in enumerate(LEAVES[:130], 1):
        assert theirs.append_entry(leaf) == n
        assert get_root(n) == big_tree.root_at(n)
    for size in (1, 2, 3, 64, 65, 100, 127, 128, 129, 130):
        for index in {0, size // 2, size - 1}:
            path = theirs.prove_inclusion(index + 1, size).path  # theirs starts with the leaf's hash
            assert sorted(path[1:]) == sorted(big_tree.prove(index, size))


def test_large_ragged_trees_have_the_root_of_the_recursion(threads):
    rows = np.random.default_rng(0).integers(0, 256, (2**13 + 1, 32), np.uint8)
    leaves = [row.tobytes() for row in rows]
    tree = merkle.Tree(rows)
    for n in (2**13 + 1, 2**13, 2**13 - 1, 5000):
        assert tree.root_at(n) == merkle.Tree(rows[:n]).root
    assert tree.root == reference.merkle_root(leaves) == merkle.Tree(leaves).root
    for index in (0, 4095, 4096, 8191, 8192):
        assert tree.prove(index) == reference.merkle_path(index, leaves)
        assert merkle.verify(tree.root, tree.size, index, leaves[index], tree.prove(index))


def test_appending_extending_and_building_at_once_are_one_tree(roots):
    tree = merkle.Tree()
    assert [tree.append(leaf) for leaf in LEAVES[:70]] == list(range(70))
    tree.extend(LEAVES[70:71])
    tree.extend(iter(LEAVES[71:200]))
    tree.extend([])
    assert tree.root == roots[200]
    tree.extend(LEAVES[200:])
    assert tree.root == roots[300]


def test_known_hashes_give_the_same_tree(roots):
    hashes = [reference.leaf_hash(leaf) for leaf in LEAVES]
    assert merkle.Tree.from_hashes(hashes).root == roots[300]
    rows = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, 32)
    assert merkle.Tree.from_hashes(rows).root == roots[300]
    assert merkle.Tree.from_hashes(list(rows)).root == roots[300]  # rows as buffers
    assert merkle.Tree.from_hashes([]).root == EMPTY


def test_leaves_may_be_any_contiguous_buffers():
    floats = np.arange(5, dtype=np.float32)
    mixed = [
        b"abc",
        bytearray(b"de"),
        memoryview(b"xfgx")[1:3],
        floats,
        floats.astype(ml_dtypes.bfloat16),
        b"",
    ]
    plain = [b"abc", b"de", b"fg", floats.tobytes(), floats.astype(ml_dtypes.bfloat16).tobytes(), b""]
    assert merkle.Tree(mixed).root == reference.merkle_root(plain)


@pytest.mark.parametrize(
    "leaves",
    [
        [b"a", "text"],
        [b"a", 5],
        [b"a", None],
        b"abc",
        bytearray(b"abc"),
        "abc",
        7,
        None,
        [np.arange(6, dtype=np.uint8)[::2]],
        [np.array([object()])],
        np.zeros(32, np.uint8),
        np.zeros((2, 32), np.int8),
        np.zeros((4, 64), np.uint8)[:, ::2],
        np.zeros((4, 32), np.uint8)[::2],
    ],
)
def test_other_leaves_are_refused_and_none_is_added(leaves):
    tree = merkle.Tree([b"before"])
    with pytest.raises(ArgumentError, match="expected"):
        tree.extend(leaves)
    assert (tree.size, tree.root) == (1, reference.leaf_hash(b"before"))


@pytest.mark.parametrize(
    "hashes", [[EMPTY, EMPTY[:31]], [EMPTY + b"x"], ["a" * 32], np.zeros((2, 31), np.uint8), EMPTY, [0] * 32]
)
def test_hashes_of_another_length_are_refused(hashes):
    with pytest.raises(ArgumentError, match="expected"):
        merkle.Tree.from_hashes(hashes)


@pytest.mark.parametrize("n", [5, 0])
def test_sizes_and_indices_out_of_range_are_refused(n):
    tree = merkle.Tree(LEAVES[:n])
    for bad in (n + 1, 1 << 40, 1 << 64, -1, 1.0, "1", None, True):
        with pytest.raises(ArgumentError):
            tree.root_at(bad)
        with pytest.raises(ArgumentError):
            tree.prove_consistency(bad)
        with pytest.raises(ArgumentError):
            tree.prove(bad)
    for call in (lambda: tree.prove(n), lambda: tree.prove(n, n), lambda: tree.prove(0, n + 1)):
        with pytest.raises(ArgumentError, match="expected"):
            call()
    with pytest.raises(ArgumentError, match=f"size {n + 2}: at most {n}"):
        tree.prove_consistency(0, n + 2)


def test_the_tree_outlives_its_leaves():
    rows = pattern(32 * 100).reshape(100, 32).copy()
    tree = merkle.Tree(rows)
    root = tree.root
    rows[:] = 0
    del rows
    gc.collect()
    assert (tree.root, tree.root_at(100)) == (root, root)


def test_threads_may_share_a_tree():
    tree, errors = merkle.Tree(), []

    def work():
        try:
            for _ in range(50):
                tree.extend(LEAVES[:40])
                size = tree.size
                assert len(tree.prove(size - 1, size)) >= 1
                tree.root_at(size)
        except Exception as error:
            errors.append(error)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors
    assert tree.root == merkle.Tree(LEAVES[:40] * 200).root


# ---- inclusion ----


def forged_proofs(proof):
    """Each node changed, each length but the right one, each node of a wrong length."""
    for k in range(len(proof)):
        yield [*proof[:k], flip(proof[k]), *proof[k + 1 :]]
        yield [*proof[:k], proof[k][:31], *proof[k + 1 :]]
        yield [*proof[:k], proof[k] + b"\0", *proof[k + 1 :]]
        yield proof[:k]
        yield proof[:k] + proof[k + 1 :]
        if proof[k] != proof[-1 - k]:
            yield proof[::-1]
    yield [*proof, EMPTY]
    yield [EMPTY, *proof]
    yield [*proof, b""]


def check_inclusion(tree, root, size, index):
    leaf, proof = LEAVES[index], tree.prove(index, size)
    assert proof == reference.merkle_path(index, LEAVES[:size])
    assert merkle.verify(root, size, index, leaf, proof)
    assert merkle.verify_hash(root, size, index, reference.leaf_hash(leaf), proof)
    assert not merkle.verify(flip(root), size, index, leaf, proof)
    assert not merkle.verify(root[:31], size, index, leaf, proof)
    assert not merkle.verify(root, size, index, leaf + b"\0", proof)
    assert not merkle.verify_hash(root, size, index, flip(reference.leaf_hash(leaf)), proof)
    assert not merkle.verify_hash(root, size, index, reference.leaf_hash(leaf)[:31], proof)
    for forged in forged_proofs(proof):
        assert not merkle.verify(root, size, index, leaf, forged)
    for other in {0, index ^ 1, index ^ 2, index - 1, index + 1, size - 1} - {index}:
        if other >= 0:
            assert not merkle.verify(root, size, other, leaf, proof)
    assert not merkle.verify(root, size, size, leaf, proof)
    assert not merkle.verify(root, size, size + index, leaf, proof)
    assert not merkle.verify(root, index, index, leaf, proof)  # index >= size


@pytest.mark.parametrize("size", range(65))
def test_every_leaf_is_proved_and_every_forgery_refused(big_tree, roots, size):
    for index in range(size):
        check_inclusion(big_tree, roots[size], size, index)


@pytest.mark.parametrize("size", [65, 100, 127, 128, 129, 255, 256, 257, 300])
def test_chosen_leaves_of_larger_trees_are_proved_and_forgeries_refused(big_tree, roots, size):
    for index in {0, 1, 63, 64, size // 2, size - 2, size - 1}:
        check_inclusion(big_tree, roots[size], size, index)


def shape(index, size):
    """On which side the siblings of a leaf stand: all that a proof shows about the size."""
    if size == 1:
        return ""
    k = 1 << (size - 1).bit_length() - 1
    return shape(index, k) + "r" if index < k else shape(index - k, size - k) + "l"


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33])
def test_a_proof_for_another_size_is_refused_where_its_shape_differs(big_tree, roots, size):
    for index in range(size):
        proof = big_tree.prove(index, size)
        for other in set(range(index + 1, 41)) - {size}:
            assert not merkle.verify(roots[other], other, index, LEAVES[index], proof)
            fits = shape(index, other) == shape(index, size)
            assert merkle.verify(roots[size], other, index, LEAVES[index], proof) == fits


def test_a_node_cannot_pass_for_a_leaf(big_tree, roots):
    inner = reference.leaf_hash(LEAVES[0]) + reference.leaf_hash(LEAVES[1])
    assert not merkle.verify(roots[4], 2, 0, inner, big_tree.prove(0, 4)[1:])


@pytest.mark.parametrize(
    "arguments",
    [
        ("root", 1, 0, b"", []),
        (None, 1, 0, b"", []),
        (EMPTY, -1, 0, b"", []),
        (EMPTY, 1, -1, b"", []),
        (EMPTY, 1.0, 0, b"", []),
        (EMPTY, 1, "0", b"", []),
        (EMPTY, True, 0, b"", []),
        (EMPTY, 1 << 64, 0, b"", []),
        (EMPTY, 1, 0, "leaf", []),
        (EMPTY, 1, 0, None, []),
        (EMPTY, 1, 0, b"", EMPTY),
        (EMPTY, 1, 0, b"", None),
        (EMPTY, 1, 0, b"", ["00" * 32]),
        (EMPTY, 1, 0, b"", [1]),
    ],
)
def test_what_cannot_be_a_question_about_inclusion_is_an_error(arguments):
    with pytest.raises(ArgumentError, match="expected, got"):
        merkle.verify(*arguments)


def test_numpy_integers_and_other_bytes_are_accepted(big_tree, roots):
    proof = tuple(bytearray(node) for node in big_tree.prove(np.int64(3), np.uint8(9)))
    assert merkle.verify(memoryview(roots[9]), np.int64(9), np.int32(3), bytearray(LEAVES[3]), proof)


# ---- consistency ----


def check_consistency(tree, roots, old, new):
    proof = tree.prove_consistency(old, new)
    assert proof == (reference.merkle_consistency(old, LEAVES[:new]) if old else [])
    assert merkle.verify_consistency(roots[old], old, roots[new], new, proof)
    assert not merkle.verify_consistency(flip(roots[old]), old, roots[new], new, proof)
    assert not merkle.verify_consistency(roots[old][:31], old, roots[new], new, proof)
    assert not merkle.verify_consistency(roots[old], old, roots[new] + b"\0", new, proof)
    if old:  # every root grows from nothing
        assert not merkle.verify_consistency(roots[old], old, flip(roots[new]), new, proof)
    for forged in forged_proofs(proof):
        assert not merkle.verify_consistency(roots[old], old, roots[new], new, forged)
    if old != new:
        assert not merkle.verify_consistency(roots[new], new, roots[old], old, proof)
        assert not merkle.verify_consistency(roots[old], new, roots[new], old, proof)
        assert not merkle.verify_consistency(roots[new], old, roots[new], new, proof)
        assert not merkle.verify_consistency(roots[old], old, roots[old], new, proof) or old == 0
    if 0 < old < new:
        other = new - 1 if old == new - 2 else old + 1  # another old size with the same roots
        assert not merkle.verify_consistency(roots[old], other, roots[new], new, proof)


@pytest.mark.parametrize("new", range(41))
def test_every_pair_of_sizes_is_consistent_and_every_forgery_refused(big_tree, roots, new):
    for old in range(new + 1):
        check_consistency(big_tree, roots, old, new)


@pytest.mark.parametrize("new", [63, 64, 65, 127, 128, 129, 200, 255, 256, 257, 300])
def test_sampled_pairs_of_sizes_are_consistent_and_forgeries_refused(big_tree, roots, new):
    for old in {1, 2, 3, 32, 63, 64, new // 2, new // 3, new - 2, new - 1} & set(range(1, new)):
        check_consistency(big_tree, roots, old, new)


def test_a_rewritten_past_is_refused(roots):
    for size, changed in [(8, 3), (9, 0), (100, 50), (300, 127)]:
        leaves = [*LEAVES[:changed], b"rewritten", *LEAVES[changed + 1 : size]]
        rewritten = merkle.Tree(leaves)
        for old in range(changed + 1, size):
            proof = rewritten.prove_consistency(old)
            assert merkle.verify_consistency(rewritten.root_at(old), old, rewritten.root, size, proof)
            assert not merkle.verify_consistency(roots[old], old, rewritten.root, size, proof)


def test_the_empty_tree_begins_every_tree(roots):
    assert merkle.verify_consistency(EMPTY, 0, roots[5], 5, [])
    assert merkle.verify_consistency(EMPTY, 0, EMPTY, 0, [])
    assert not merkle.verify_consistency(roots[1], 0, roots[5], 5, [])
    assert not merkle.verify_consistency(EMPTY, 0, roots[5], 0, [])
    assert not merkle.verify_consistency(EMPTY, 0, roots[5], 5, [EMPTY])


@pytest.mark.parametrize(
    "arguments",
    [
        ("root", 1, EMPTY, 1, []),
        (EMPTY, 1, 5, 1, []),
        (EMPTY, -1, EMPTY, 1, []),
        (EMPTY, 1, EMPTY, 1.5, []),
        (EMPTY, 1, EMPTY, 1 << 64, []),
        (EMPTY, 1, EMPTY, 1, EMPTY),
        (EMPTY, 1, EMPTY, 1, [None]),
        (EMPTY, 1, EMPTY, 1, 3),
    ],
)
def test_what_cannot_be_a_question_about_consistency_is_an_error(arguments):
    with pytest.raises(ArgumentError, match="expected, got"):
        merkle.verify_consistency(*arguments)


# ---- chunks ----

CUTS = [
    [],
    [0],
    [1],
    [KIB64 - 1, KIB64, KIB64 + 1],
    [100, 200_000, 200_000, 1_100_000],
    [*range(0, 90_000, 997)],
]


@pytest.mark.parametrize("cuts", CUTS)
def test_the_root_does_not_depend_on_where_segments_end(level, threads, cuts):
    data = pattern(20 * KIB64 + 1234)
    segments = np.split(data, cuts)
    assert merkle.hash_chunks(*segments) == reference.merkle_root(reference.chunks(data.tobytes(), KIB64))


@pytest.mark.parametrize("chunk", [1, 2, 63, 64, 65, 100, 1000])
def test_the_root_does_not_depend_on_where_segments_end_in_small_chunks(kernel, chunk):
    data = pattern(1700)
    segments = np.split(data, [0, 1, 3, 64, 64, 65, 130, 700, 701, 1699])
    assert merkle.hash_chunks(*segments, chunk=chunk) == reference.merkle_root(
        reference.chunks(data.tobytes(), chunk)
    )


@pytest.mark.parametrize("size", [0, 1, KIB64 - 1, KIB64, KIB64 + 1, 2 * KIB64, 16 * KIB64, 16 * KIB64 + 1])
def test_chunk_borders(threads, size):
    data = pattern(size).tobytes()
    chunks = reference.chunks(data, KIB64)
    assert merkle.hash_chunks(data) == reference.merkle_root(chunks)
    hashes = merkle.chunk_hashes(data)
    assert hashes.shape == (len(chunks), 32)
    assert [h.tobytes() for h in hashes] == [reference.leaf_hash(c) for c in chunks]


def test_no_bytes_have_the_empty_root():
    assert (
        merkle.hash_chunks() == merkle.hash_chunks(b"") == merkle.hash_chunks(b"", np.empty((3, 0))) == EMPTY
    )
    assert merkle.ChunkHasher().root() == EMPTY
    assert merkle.chunk_hashes().shape == (0, 32)


def test_a_chunk_is_proved_from_its_hashes():
    data = pattern(5 * 100 + 7).tobytes()
    tree = merkle.Tree.from_hashes(merkle.chunk_hashes(data, chunk=100))
    assert tree.root == merkle.hash_chunks(data, chunk=100)
    assert merkle.verify(tree.root, 6, 2, data[200:300], tree.prove(2))
    assert not merkle.verify(tree.root, 6, 2, data[200:299] + b"!", tree.prove(2))


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "int16", "bool", "complex64", ">f4", "M8[s]"]
)
def test_arrays_of_any_dtype_are_hashed_as_their_bytes(dtype):
    values = np.arange(100).astype(dtype).reshape(4, 25)
    assert merkle.hash_chunks(values, chunk=64) == merkle.hash_chunks(values.tobytes(), chunk=64)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_dtypes_without_the_buffer_protocol_are_hashed_as_their_bytes(dtype):
    values = np.arange(96).astype(dtype).reshape(4, 24)
    assert merkle.hash_chunks(values, chunk=64) == merkle.hash_chunks(values.tobytes(), chunk=64)
    assert merkle.hash_chunks(values[0, 0:1].reshape(())) == merkle.hash_chunks(values[0, :1].tobytes())


def test_all_kinds_of_buffers_are_read():
    data = pattern(1000)
    frozen = data.copy()
    frozen.flags.writeable = False
    shifted = np.frombuffer(b"x" + data.tobytes(), np.uint8)[1:]  # unaligned, read-only
    mapped = mmap.mmap(-1, 1000)
    mapped[:] = data.tobytes()
    expected = reference.leaf_hash(data.tobytes())
    for buffer in (
        data.tobytes(),
        bytearray(data),
        memoryview(data),
        array.array("B", data.tobytes()),
        frozen,
    ):
        assert merkle.hash_chunks(buffer) == expected
    assert merkle.hash_chunks(shifted) == merkle.hash_chunks(mapped) == expected
    assert merkle.hash_chunks(data.reshape(10, 100).view(np.recarray)) == expected
    assert merkle.hash_chunks(memoryview(data.reshape(10, 100))) == expected


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros(10)[::2],
        np.zeros((4, 4)).T[:2],
        np.zeros((4, 4), order="F"),
        np.zeros(10, ml_dtypes.bfloat16)[::2],
        memoryview(bytes(10))[::2],
        memoryview(np.zeros((4, 4), order="F")),
        np.array([object()]),
        memoryview(np.array([object()])),
        np.zeros(3, [("a", "O")]),
        np.array(["", ""], "S0") if np.array(["", ""], "S0").itemsize == 0 else np.empty(2, "V0"),
        "text",
        7,
        None,
        [1, 2],
    ],
)
def test_what_is_no_contiguous_buffer_of_values_is_refused(bad):
    for call in (merkle.hash_chunks, merkle.chunk_hashes, merkle.ChunkHasher().update, merkle.leaf_hash):
        with pytest.raises(ArgumentError, match="expected, got"):
            call(bad)


@pytest.mark.parametrize("chunk", [0, -1, 2.0, "64", None, True, (1 << 30) + 1, 1 << 70])
def test_a_chunk_size_out_of_range_is_refused(chunk):
    for call in (lambda: merkle.hash_chunks(b"a", chunk=chunk), lambda: merkle.ChunkHasher(chunk)):
        with pytest.raises(ArgumentError, match="expected, got"):
            call()


def test_any_changed_byte_changes_the_root():
    data = pattern(700)
    root = merkle.hash_chunks(data, chunk=128)
    for i in range(700):
        data[i] ^= 1
        assert merkle.hash_chunks(data, chunk=128) != root
        data[i] ^= 1
    assert merkle.hash_chunks(data, chunk=128) == root
    assert merkle.hash_chunks(data, b"\0", chunk=128) != root


# ---- streams ----


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 300), max_size=12), st.sampled_from([1, 7, 64, 100, 299, 4096]))
def test_a_stream_cut_anywhere_has_the_root_of_the_whole(sizes, chunk):
    data = pattern(sum(sizes))
    hasher = merkle.ChunkHasher(chunk)
    for piece in np.split(data, np.cumsum(sizes)):
        hasher.update(piece)
    assert hasher.size == data.size
    assert hasher.root() == reference.merkle_root(reference.chunks(data.tobytes(), chunk))


@pytest.mark.parametrize("piece", [KIB64 - 1, KIB64, 100_000, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_a_stream_of_large_pieces_has_the_root_of_the_whole(threads, piece):
    data = pattern((3 << 20) + 12345)
    hasher = merkle.ChunkHasher()
    for start in range(0, data.size, piece):
        hasher.update(data[start : start + piece])
    assert hasher.root() == merkle.hash_chunks(data)


def test_a_root_may_be_asked_in_between():
    data = pattern(5000)
    hasher = merkle.ChunkHasher(64)
    for start in range(0, 5000, 333):
        assert hasher.root() == merkle.hash_chunks(data[:start], chunk=64)
        assert hasher.root() == merkle.hash_chunks(data[:start], chunk=64)
        hasher.update(data[start : start + 333])
    assert hasher.root() == merkle.hash_chunks(data, chunk=64)


@pytest.mark.parametrize("leaves", [2**16 - 1, 2**16, 2**16 + 1, 2**17, 2**17 + 2**16 + 5, 3 * 2**20])
def test_streams_of_many_chunks_fold_their_hashes_rightly(leaves):
    data = pattern(leaves)
    hasher = merkle.ChunkHasher(1)
    hasher.update(data[:1000])
    hasher.update(data[1000:])
    assert len(hasher._hashes) < 32 * 2**16
    assert hasher.root() == merkle.hash_chunks(data, chunk=1)


def test_a_stream_keeps_a_copy_of_what_it_has_not_hashed():
    data = pattern(1000)
    hasher = merkle.ChunkHasher()
    hasher.update(data)
    data[:] = 0
    assert hasher.root() == reference.leaf_hash(pattern(1000).tobytes())


def test_a_refused_piece_leaves_the_stream_as_it_was():
    hasher = merkle.ChunkHasher(10)
    hasher.update(b"abc")
    with pytest.raises(ArgumentError):
        hasher.update("def")
    assert hasher.size == 3
    assert hasher.root() == reference.leaf_hash(b"abc")


# ---- CRC-32C ----

RFC3720 = [  # appendix B.4; the check value of "123456789" as in the CRC catalogue
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
    (b"123456789", 0xE3069283),
    (b"", 0),
]


def crc32c(data, crc=0):
    flat = np.frombuffer(data, np.uint8)
    return _core.crc32c(flat.ctypes.data, flat.size, crc)


@pytest.mark.parametrize(("data", "expected"), RFC3720)
def test_crc32c_vectors_of_rfc_3720(level, data, expected):
    assert crc32c(data) == reference.crc32c(data) == expected


def test_crc32c_of_every_length_and_alignment(level):
    data = pattern(400).tobytes()
    for size in range(300):
        start = size % 13
        assert crc32c(data[start : start + size]) == reference.crc32c(data[start : start + size])


@pytest.mark.parametrize("size", [3071, 3072, 3073, 3080, 6143, 6144, 10_000])
def test_crc32c_of_long_input(level, size):
    data = pattern(size).tobytes()
    assert crc32c(data) == reference.crc32c(data)
    assert crc32c(data[1:], 12345) == crc32c(data[5000:], crc32c(data[1:5000], 12345))


def test_crc32c_goes_on_from_what_came_before(level):
    data = pattern(100).tobytes()
    for cut in range(101):
        assert crc32c(data[cut:], crc32c(data[:cut])) == reference.crc32c(data)
