"""Chunk hashing, trees, proofs, CRC-32C: every kernel of this CPU, hashlib, pymerkle, zlib; one thread."""

from __future__ import annotations

import hashlib
import zlib
from functools import partial

import numpy as np
import pymerkle
import pytest

import tallystick as ts
from tallystick import _core, merkle

CHUNK = 65536
DATA = np.random.default_rng(0).integers(0, 256, 4 << 20, np.uint8)  # beyond L2
ROWS = DATA[: 1 << 20].reshape(-1, 32)  # 2^15 leaves
LEAVES = [row.tobytes() for row in ROWS]
INDEX = 12345
KERNELS = ["", *_core.sha256_kernels()]  # "": the one that dispatch picks


def tree_by_hashlib(hashes):
    while len(hashes) > 1:
        pairs = [
            hashlib.sha256(b"\1" + a + b).digest() for a, b in zip(hashes[::2], hashes[1::2], strict=False)
        ]
        hashes = pairs + hashes[len(hashes) & ~1 :]
    return hashes[0]


def chunks_by_hashlib():
    hashes = []
    for start in range(0, DATA.size, CHUNK):
        state = hashlib.sha256(b"\0")
        state.update(DATA[start : start + CHUNK].data)
        hashes.append(state.digest())
    return tree_by_hashlib(hashes)


def leaves_by_hashlib():
    return tree_by_hashlib([hashlib.sha256(b"\0" + leaf).digest() for leaf in LEAVES])


def tree_by_pymerkle():
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    tree.append_entries(LEAVES)
    return tree


ROOT_OF_CHUNKS, ROOT_OF_LEAVES = chunks_by_hashlib(), leaves_by_hashlib()


@pytest.fixture(autouse=True)
def kernel_by_dispatch():
    yield
    _core.sha256_force("")


def implementations(*peers):
    return pytest.mark.parametrize("impl", [*peers, *(f"tallystick {kernel}".strip() for kernel in KERNELS)])


def force(impl):
    _core.sha256_force(impl.removeprefix("tallystick").strip())


@pytest.mark.benchmark(group="root of 4 MiB in chunks of 64 KiB")
@implementations("one read", "hashlib")
def bench_hash_chunks(benchmark, impl):
    if impl == "one read":  # the machine's limit
        run, expected = DATA.view(np.uint64).max, DATA.view(np.uint64).max()
    elif impl == "hashlib":
        run, expected = chunks_by_hashlib, ROOT_OF_CHUNKS
    else:
        force(impl)
        run, expected = partial(merkle.hash_chunks, DATA), ROOT_OF_CHUNKS
    assert run() == expected
    benchmark.extra_info["bytes"] = DATA.nbytes
    benchmark(run)


@pytest.mark.benchmark(group="root of 4 MiB in segments of 100,000 bytes")
@pytest.mark.parametrize("impl", ["hashlib", "tallystick", "tallystick stream"])
def bench_hash_segments(benchmark, impl):
    segments = np.split(DATA, range(100_000, DATA.size, 100_000))

    def stream():
        hasher = merkle.ChunkHasher()
        for segment in segments:
            hasher.update(segment)
        return hasher.root()

    run = {"hashlib": chunks_by_hashlib, "tallystick": partial(merkle.hash_chunks, *segments)}.get(
        impl, stream
    )
    assert run() == ROOT_OF_CHUNKS
    benchmark.extra_info["bytes"] = DATA.nbytes
    benchmark(run)


@pytest.mark.benchmark(group="tree of 32,768 leaves of 32 bytes")
@implementations("hashlib", "pymerkle", "tallystick from a list")
def bench_tree(benchmark, impl):
    if impl == "pymerkle":
        tree = tree_by_pymerkle()
        assert (getattr(tree, "get_root", None) or tree.get_state)() == ROOT_OF_LEAVES
        run = tree_by_pymerkle
    elif impl == "hashlib":
        run = leaves_by_hashlib
        assert run() == ROOT_OF_LEAVES
    else:
        listed = impl == "tallystick from a list"
        force("tallystick" if listed else impl)
        run = partial(merkle.Tree, LEAVES if listed else ROWS)
        assert run().root == ROOT_OF_LEAVES
    benchmark.extra_info["bytes"] = ROWS.nbytes
    benchmark.extra_info["leaves"] = len(LEAVES)
    benchmark(run)


@pytest.mark.benchmark(group="inclusion proof in a tree of 32,768 leaves")
@pytest.mark.parametrize("impl", ["pymerkle", "tallystick"])
@pytest.mark.parametrize("step", ["prove", "verify"])
def bench_inclusion(benchmark, step, impl):
    if impl == "pymerkle":
        theirs = tree_by_pymerkle()
        prove = partial(theirs.prove_inclusion, INDEX + 1)
        base, proof = theirs.get_leaf(INDEX + 1), prove()
        verify = partial(
            pymerkle.verify_inclusion, base, ROOT_OF_LEAVES, proof
        )  # raises when it does not hold
        assert verify() is None
    else:
        tree = merkle.Tree(ROWS)
        prove = partial(tree.prove, INDEX)
        verify = partial(merkle.verify, ROOT_OF_LEAVES, len(LEAVES), INDEX, LEAVES[INDEX], prove())
        assert verify()
    benchmark(prove if step == "prove" else verify)


@pytest.mark.benchmark(group="checksum of 512 KiB")
@pytest.mark.parametrize("impl", ["one read", "zlib crc32", *dict.fromkeys(["scalar", ts.cpu_level()])])
def bench_crc32c(benchmark, impl):
    data = DATA[: 512 << 10]
    run = {"one read": data.view(np.uint64).max, "zlib crc32": partial(zlib.crc32, data)}.get(impl)
    if run is None:
        before = ts.cpu_level()
        run = partial(_core.crc32c, data.ctypes.data, data.size)
        ts.set_cpu_level("scalar")
        expected = run()
        ts.set_cpu_level(impl)
        assert run() == expected
        benchmark(run)
        ts.set_cpu_level(before)
    else:
        benchmark(run)
    benchmark.extra_info["bytes"] = data.nbytes
