"""RFC 9162 Merkle trees over SHA-256: a root that commits to every byte, and short proofs about it.

A leaf is hashed as SHA-256(0x00 || leaf), a node as SHA-256(0x01 || left || right), no leaves as SHA-256("").
Leaves keep their order. Long byte strings are cut into chunks; chunk i is leaf i. Hashing is native and uses
all threads (tallystick.set_num_threads), which changes no bit; the verifying half is plain hashlib.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import _core
from .errors import ArgumentError

Buffer: TypeAlias = Any  # collections.abc.Buffer needs Python 3.12
_T = TypeVar("_T")

__all__ = [
    "ChunkHasher",
    "Tree",
    "chunk_hashes",
    "hash_chunks",
    "leaf_hash",
    "node_hash",
    "verify",
    "verify_consistency",
    "verify_hash",
]

CHUNK = 65536  # bytes per leaf of a payload
_EMPTY_ROOT = hashlib.sha256().digest()
_MAX_CHUNK = 1 << 30
_BATCH = (
    1 << 20
)  # bytes that ChunkHasher collects from small pieces: 16 chunks, as many as the widest kernel takes
_FOLD = 1 << 16  # leaf hashes that ChunkHasher keeps before it replaces them by their root


def leaf_hash(data: Buffer) -> bytes:
    """Hash of a leaf with these bytes: SHA-256(0x00 || data)."""
    state = hashlib.sha256(b"\0")
    state.update(_flat(data, "leaf").data)
    return state.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of the node over two subtrees with these hashes: SHA-256(0x01 || left || right)."""
    left, right = _exact_bytes(left, "left"), _exact_bytes(right, "right")
    if not _all_hashes(left, right):
        raise ArgumentError(f"two hashes of 32 bytes expected, got {len(left)} and {len(right)} bytes")
    return _node(left, right)


class Tree:
    """An append-only tree; it keeps 64 bytes per leaf, not the leaves.

    leaves: the bytes of each leaf (any contiguous buffers), or a C-contiguous uint8 array of shape (n, width)
    whose rows are the leaves. Appending is amortised O(1), a proof O(log size). Threads may share a tree.

    Raises ArgumentError for anything else, and then adds none of the leaves.
    """

    __slots__ = ("_native",)

    def __init__(self, leaves: Iterable[Buffer] = ()) -> None:
        self._native = _core.MerkleTree()
        self.extend(leaves)

    @classmethod
    def from_hashes(cls, hashes: Iterable[bytes]) -> Tree:
        """The tree whose leaf hashes (32 bytes each, or a uint8 array of shape (n, 32)) are known already."""
        tree = cls()
        tree._extend(hashes, hashed=True)
        return tree

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._native.size()

    @property
    def root(self) -> bytes:
        """Root hash of all leaves, 32 bytes."""
        return self._native.root(self._native.size())

    def __len__(self) -> int:
        return self._native.size()

    def __repr__(self) -> str:
        size = self.size
        return f"<tallystick.merkle.Tree of {size} leaves, root {self.root_at(size).hex()[:16]}...>"

    def append(self, leaf: Buffer) -> int:
        """Adds one leaf; returns its index."""
        return self._extend((leaf,), hashed=False)

    def extend(self, leaves: Iterable[Buffer]) -> None:
        """Adds leaves in order: all of them, or none when one is refused."""
        self._extend(leaves, hashed=False)

    def root_at(self, size: int) -> bytes:
        """Root hash that the tree had when it held `size` leaves, 0 <= size <= self.size."""
        return _asked(self._native.root, _count(size, "size"))

    def prove(self, index: int, size: int | None = None) -> list[bytes]:
        """Proof, for verify(), that leaf `index` is in the tree of the first `size` leaves (None: all).

        Sibling hashes from the leaf upwards (RFC 9162 section 2.1.3.1). 0 <= index < size <= self.size.
        """
        size = self.size if size is None else _count(size, "size")
        return _asked(self._native.prove, _count(index, "index"), size)

    def prove_consistency(self, old_size: int, size: int | None = None) -> list[bytes]:
        """Proof, for verify_consistency(), that the first `size` leaves (None: all) begin with `old_size`.

        RFC 9162 section 2.1.4.1; empty for old_size 0 and size. 0 <= old_size <= size <= self.size.
        """
        size = self.size if size is None else _count(size, "size")
        return _asked(self._native.prove_consistency, _count(old_size, "old_size"), size)

    def _extend(self, leaves: Iterable[Buffer], *, hashed: bool) -> int:
        if isinstance(leaves, np.ndarray):
            return self._extend_rows(leaves, hashed=hashed)
        if isinstance(leaves, (bytes, bytearray, memoryview, str)):
            raise ArgumentError(f"leaves: an iterable of bytes expected, got one {type(leaves).__name__}")
        try:
            items = tuple(leaves)
        except TypeError:
            raise ArgumentError(
                f"leaves: an iterable of bytes expected, got {type(leaves).__name__}"
            ) from None
        add = self._native.extend_hashes if hashed else self._native.extend
        try:
            return add(items)
        except ValueError:  # not all of them bytes: the general way, or its error
            flat = tuple(_flat(item, f"leaf {i}") for i, item in enumerate(items))
        try:
            return add(flat)
        except ValueError as error:
            raise ArgumentError(str(error)) from None

    def _extend_rows(self, rows: NDArray[Any], *, hashed: bool) -> int:
        if rows.ndim != 2 or rows.dtype != np.uint8 or not rows.flags.c_contiguous:
            raise ArgumentError(
                f"leaves: a C-contiguous uint8 array of shape (n, width) expected, got {rows.dtype} of shape "
                f"{rows.shape}{'' if rows.flags.c_contiguous else ', not contiguous'}"
            )
        if hashed and rows.shape[1] != 32:
            raise ArgumentError(f"hashes: 32 bytes per row expected, got {rows.shape[1]}")
        return self._native.extend_rows(_address(rows), rows.shape[1], rows.shape[0], hashed)


def verify(root: bytes, size: int, index: int, leaf: Buffer, proof: Iterable[bytes]) -> bool:
    """Whether the proof shows that leaf `index` of the tree of `size` leaves with this root has these bytes.

    RFC 9162 section 2.1.3.2. False for anything that is not shown: another leaf or root, index >= size, a
    proof of the wrong length or with a hash that is not 32 bytes. ArgumentError for what cannot be a
    question: other types, numbers below 0 or from 2^64 on. The size must come from where the root comes
    from: sizes in which the path of a leaf has the same shape (leaf 0 of 7 and of 8) are not told apart by
    a root.
    """
    return verify_hash(root, size, index, leaf_hash(leaf), proof)


def verify_hash(root: bytes, size: int, index: int, leaf_hash: bytes, proof: Iterable[bytes]) -> bool:
    """verify() for a leaf of which only the hash is at hand."""
    size, index = _count(size, "size"), _count(index, "index")
    root, node = _exact_bytes(root, "root"), _exact_bytes(leaf_hash, "leaf_hash")
    path = _path(proof)
    if index >= size or not _all_hashes(root, node, *path):
        return False
    first, last = index, size - 1  # fn and sn of the RFC
    for sibling in path:
        if last == 0:
            return False
        if first & 1 or first == last:
            node = _node(sibling, node)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            node = _node(node, sibling)
        first, last = first >> 1, last >> 1
    return last == 0 and node == root


def verify_consistency(
    old_root: bytes, old_size: int, new_root: bytes, new_size: int, proof: Iterable[bytes]
) -> bool:
    """Whether the proof shows that the tree of new_size leaves begins with the leaves of the old tree.

    RFC 9162 section 2.1.4.2. Equal sizes need equal roots and an empty proof; the empty tree begins every
    tree, with an empty proof. False and ArgumentError as for verify().
    """
    old_size, new_size = _count(old_size, "old_size"), _count(new_size, "new_size")
    old_root, new_root = _exact_bytes(old_root, "old_root"), _exact_bytes(new_root, "new_root")
    path = _path(proof)
    if old_size > new_size or not _all_hashes(old_root, new_root, *path):
        return False
    if old_size == 0 and old_root != _EMPTY_ROOT:
        return False
    if old_size == new_size:
        return not path and old_root == new_root
    if old_size == 0:
        return not path
    if not path:
        return False
    if old_size & (old_size - 1) == 0:  # the old tree is one subtree of the new one
        path.insert(0, old_root)
    first, last = old_size - 1, new_size - 1  # fn and sn of the RFC
    while first & 1:
        first, last = first >> 1, last >> 1
    old, new = path[0], path[0]
    for node in path[1:]:
        if last == 0:
            return False
        if first & 1 or first == last:
            old, new = _node(node, old), _node(node, new)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            new = _node(new, node)
        first, last = first >> 1, last >> 1
    return last == 0 and old == old_root and new == new_root


def hash_chunks(*segments: Buffer, chunk: int = CHUNK) -> bytes:
    """Root over the concatenation of the segments, cut into chunks of `chunk` bytes, the last one shorter.

    segments: contiguous buffers of any kind (NumPy arrays of all dtypes but object, bfloat16 too; bytes,
    mmap, ...) that are read where they lie. Without any byte: the empty root, SHA-256(""). Raises
    ArgumentError for a segment that is not a contiguous buffer, for chunk < 1.
    """
    parts = [_flat(segment, f"segment {i}") for i, segment in enumerate(segments)]
    return _core.hash_chunks([_address(p) for p in parts], [p.size for p in parts], _chunk_size(chunk))


def chunk_hashes(*segments: Buffer, chunk: int = CHUNK) -> NDArray[np.uint8]:
    """Leaf hashes of the tree of hash_chunks(), shape (chunks, 32): for proofs about single chunks."""
    parts = [_flat(segment, f"segment {i}") for i, segment in enumerate(segments)]
    hashes = _hashes(parts, _chunk_size(chunk))
    return np.frombuffer(hashes, np.uint8).reshape(-1, 32) if hashes else np.empty((0, 32), np.uint8)


class ChunkHasher:
    """hash_chunks() for a stream: the pieces may be cut anywhere. Not for several threads at once.

    Large pieces are hashed where they lie; only an end that does not fill a chunk, and pieces too small to
    hash by themselves, are copied. Memory: 1 MiB or one chunk, 2 MiB of hashes, 32 bytes per 2^16 chunks.
    """

    __slots__ = ("_buffer", "_chunk", "_filled", "_folded", "_hashes", "_size")

    def __init__(self, chunk: int = CHUNK) -> None:
        self._chunk = _chunk_size(chunk)
        self._buffer = np.empty(max(_BATCH // self._chunk, 1) * self._chunk, np.uint8)
        self._filled = 0  # bytes in the buffer
        self._hashes = bytearray()  # of the chunks hashed since the last fold
        self._folded: list[bytes] = []  # roots over _FOLD chunks each
        self._size = 0

    @property
    def size(self) -> int:
        """Number of bytes so far."""
        return self._size

    def update(self, data: Buffer) -> None:
        """Adds the bytes of a contiguous buffer (see hash_chunks)."""
        piece = _flat(data, "data")
        self._size += piece.size
        end = self._filled + piece.size
        if end < self._buffer.size:
            self._buffer[self._filled : end] = piece
            self._filled = end
            return
        taken = end - end % self._chunk - self._filled
        self._hashes += _hashes([self._buffer[: self._filled], piece[:taken]], self._chunk)
        _fold(self._folded, self._hashes)
        self._filled = piece.size - taken
        self._buffer[: self._filled] = piece[taken:]

    def root(self) -> bytes:
        """Root over the bytes so far; more may follow."""
        folded = self._folded.copy()
        hashes = self._hashes + _hashes([self._buffer[: self._filled]], self._chunk)
        _fold(folded, hashes)
        if hashes:
            folded.append(_root_over(hashes))
        return Tree.from_hashes(folded).root  # whole subtrees are paired as leaves are


def _asked(native: Callable[..., _T], *arguments: int) -> _T:
    try:
        return native(*arguments)
    except ValueError as error:
        raise ArgumentError(str(error)) from None


def _fold(folded: list[bytes], hashes: bytearray) -> None:
    """Moves every whole run of _FOLD leaf hashes into one subtree root."""
    while len(hashes) >= 32 * _FOLD:
        folded.append(_root_over(hashes[: 32 * _FOLD]))
        del hashes[: 32 * _FOLD]


def _root_over(hashes: bytearray) -> bytes:
    return Tree.from_hashes(np.frombuffer(hashes, np.uint8).reshape(-1, 32)).root


def _hashes(parts: list[NDArray[np.uint8]], chunk: int) -> bytes:
    return _core.chunk_hashes([_address(p) for p in parts], [p.size for p in parts], chunk)


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def _all_hashes(*values: bytes) -> bool:
    return all(len(value) == 32 for value in values)


def _flat(data: Buffer, what: str) -> NDArray[np.uint8]:
    """The bytes of a contiguous buffer, where they lie."""
    if isinstance(data, np.ndarray):  # also dtypes without the buffer protocol, such as bfloat16
        if not data.flags.c_contiguous:
            raise ArgumentError(f"{what}: a C-contiguous array expected, got strides {data.strides}")
        if data.dtype.hasobject or data.dtype.itemsize == 0:
            raise ArgumentError(f"{what}: an array of plain values expected, got dtype {data.dtype}")
        return np.asarray(data).reshape(-1).view(np.uint8)
    try:
        view = memoryview(data)
    except (TypeError, ValueError, BufferError) as error:
        raise ArgumentError(
            f"{what}: bytes or a buffer expected, got {type(data).__name__} ({error})"
        ) from None
    if not view.c_contiguous or "O" in view.format:
        raise ArgumentError(
            f"{what}: a contiguous buffer of plain values expected, got {type(data).__name__}"
        )
    return np.frombuffer(view, np.uint8) if view.nbytes else np.empty(0, np.uint8)


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def _exact_bytes(value: bytes, what: str) -> bytes:
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise ArgumentError(f"{what}: bytes expected, got {type(value).__name__}")
    return bytes(value)


def _path(proof: Iterable[bytes]) -> list[bytes]:
    if isinstance(proof, (bytes, bytearray, memoryview, str)) or not isinstance(proof, Iterable):
        raise ArgumentError(f"proof: a list of hashes expected, got {type(proof).__name__}")
    return [_exact_bytes(node, f"proof[{i}]") for i, node in enumerate(proof)]


def _count(value: int, what: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if isinstance(value, bool) or not 0 <= number < 1 << 64:
        raise ArgumentError(f"{what}: a whole number from 0 to 2^64 - 1 expected, got {value!r}")
    return number


def _chunk_size(chunk: int) -> int:
    if not 1 <= _count(chunk, "chunk") <= _MAX_CHUNK:
        raise ArgumentError(f"chunk: 1 to {_MAX_CHUNK} bytes expected, got {chunk!r}")
    return operator.index(chunk)
