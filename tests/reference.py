"""Every operation in the fewest obvious lines of NumPy, Fraction and Python integers: the oracle."""

from __future__ import annotations

import hashlib

# ---- merkle ----


def leaf_hash(data):
    return hashlib.sha256(b"\x00" + bytes(data)).digest()


def node_hash(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def _split(n):
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def merkle_root(leaves):
    """MTH of RFC 9162 section 2.1.1."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    k = _split(len(leaves))
    return node_hash(merkle_root(leaves[:k]), merkle_root(leaves[k:]))


def merkle_path(index, leaves):
    """PATH of RFC 9162 section 2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = _split(len(leaves))
    if index < k:
        return [*merkle_path(index, leaves[:k]), merkle_root(leaves[k:])]
    return [*merkle_path(index - k, leaves[k:]), merkle_root(leaves[:k])]


def merkle_consistency(old, leaves, whole=True):
    """SUBPROOF of RFC 9162 section 2.1.4.1, 0 < old <= len(leaves)."""
    if old == len(leaves):
        return [] if whole else [merkle_root(leaves)]
    k = _split(len(leaves))
    if old <= k:
        return [*merkle_consistency(old, leaves[:k], whole), merkle_root(leaves[k:])]
    return [*merkle_consistency(old - k, leaves[k:], False), merkle_root(leaves[:k])]


def chunks(data, chunk):
    return [data[i : i + chunk] for i in range(0, len(data), chunk)]


def crc32c(data):
    x = 0xFFFFFFFF
    for byte in data:
        x ^= byte
        for _ in range(8):
            x = x >> 1 ^ (0x82F63B78 if x & 1 else 0)
    return x ^ 0xFFFFFFFF
