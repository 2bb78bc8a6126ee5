"""Every operation in the fewest obvious lines of NumPy, Fraction and Python integers: the oracle."""

from __future__ import annotations

import hashlib
import json
import struct

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


# ---- data ----


def schema_json(tensors):
    """Canonical JSON of the schema of a dict of arrays."""
    entries = [
        {"dtype": x.dtype.name, "name": name, "shape": list(x.shape)}
        for name, x in sorted(tensors.items(), key=lambda item: item[0].encode())
    ]
    content = {"format": "tallystick-schema-1", "tensors": entries}
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()


def frame_sections(tensors):
    """(type, codec, number of values, bytes) of every section of a plain frame, in order."""
    names = sorted(tensors, key=str.encode)
    codecs = {"bfloat16": 4, "float16": 3, "float32": 2, "float64": 1}
    integers = [tensors[n] for n in names if tensors[n].dtype.name not in codecs]
    sections = [(1, 0, 0, schema_json(tensors))]
    if integers:
        sections.append((2, 0, sum(x.size for x in integers), b"".join(x.tobytes() for x in integers)))
    for dtype, codec in codecs.items():
        values = [tensors[n] for n in names if tensors[n].dtype.name == dtype]
        if values:
            sections.append((3, codec, sum(x.size for x in values), b"".join(x.tobytes() for x in values)))
    return sections


def plain_frame(tensors, namespace_id, number, open_hash, client, kind, base_hash, weight):
    """The plain frame of a dict of arrays, field by field as in the table of frame.py."""

    def pad(data):
        return data + bytes(-len(data) % 64)

    sections = frame_sections(tensors)
    binding = namespace_id + struct.pack("<Qd", number, weight)
    binding += bytes([{"delta": 1, "gradient": 2, "weights": 3}[kind], len(client.encode())]) + bytes(14)
    binding += open_hash + base_hash + hashlib.sha256(sections[0][3]).digest()
    binding += client.encode().ljust(128, b"\0") + bytes(32 + 8 + 8 + 48)
    first = 64 + len(pad(binding + bytes(32 * len(sections))))
    table, body = b"", b""
    for kind_code, codec, count, data in sections:
        body = pad(body)
        fields = (kind_code, codec, crc32c(data), first + len(body), len(data), count)
        table += struct.pack("<HHIQQQ", *fields)
        body += data
    codecs = [codec for _, codec, _, _ in sections if codec]
    codec = codecs[0] if len(codecs) == 1 else 0
    values = sum(count for kind_code, _, count, _ in sections if kind_code == 3)
    header = b"\x89TSF\r\n\x1a\n" + struct.pack("<HHI", 1, 0, 0)
    header += struct.pack("<IIQQ", first, len(sections), first + len(body), values)
    header += struct.pack("<HHBBBB", codec, int(codec > 0), 0, [0, 64, 32, 16, 16][codec], 0, 0)
    header += struct.pack("<III", 0, len(binding), 0)
    rest = pad(binding + table)
    return header + struct.pack("<I", crc32c(header + rest)) + rest + body


def value_hash(tensors):
    """Merkle root over chunks of the schema hash and the sections after the schema."""
    sections = frame_sections(tensors)
    data = hashlib.sha256(sections[0][3]).digest() + b"".join(section[3] for section in sections[1:])
    return merkle_root(chunks(data, 65536))
