"""Every operation in the fewest obvious lines of NumPy, Fraction and Python integers: the oracle."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import struct
from fractions import Fraction

import ml_dtypes
import numpy as np

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


# ---- aggregate ----

DTYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_SHAPE = {"float64": (53, -1074), "float32": (24, -149), "float16": (11, -24), "bfloat16": (8, -133)}


def rounded(x, dtype):
    """The rational x to the nearest value of dtype, ties to even, as a float; a zero is +0. No overflow."""
    if x == 0:
        return 0.0
    digits, lowest = _SHAPE[np.dtype(dtype).name]
    top = abs(x.numerator).bit_length() - x.denominator.bit_length()
    top -= abs(x) < Fraction(2) ** top  # 2^top <= |x| < 2^(top + 1)
    unit = Fraction(2) ** max(top - digits + 1, lowest)
    return float(round(x / unit) * unit) + 0.0


def ulp(x, dtype):
    """Distance of x > 0, not denormal, to the next larger value of dtype."""
    return 2.0 ** (math.frexp(x)[1] - _SHAPE[np.dtype(dtype).name][0])


def largest(dtype):
    """The largest finite value of dtype."""
    return float(ml_dtypes.finfo(DTYPES[dtype]).max)


def _fixed(x):
    """x * 2^1100, an integer."""
    numerator, denominator = float(x).as_integer_ratio()
    return numerator * (2**1100 // denominator)


def weighted_mean(rows, weights=None):
    """sum(w_i x_i) / sum(w_i) of every column, exactly, rounded once."""
    w = [_fixed(v) for v in (np.ones(len(rows)) if weights is None else weights)]
    sums = [sum(a * _fixed(x) for a, x in zip(w, column, strict=True)) for column in rows.T]
    return np.array([rounded(Fraction(s, sum(w) << 1100), rows.dtype) for s in sums]).astype(rows.dtype)


def median(rows, kind="mid"):
    ordered = np.sort(rows.astype(np.float64), axis=0).astype(rows.dtype)
    n = len(rows)
    low, high = ordered[(n - 1) // 2], ordered[n // 2]
    return weighted_mean(np.stack({"mid": (low, high), "lower": (low,), "upper": (high,)}[kind]))


def trimmed_mean(rows, f):
    ordered = np.sort(rows.astype(np.float64), axis=0).astype(rows.dtype)
    return weighted_mean(ordered[f : len(rows) - f])


def nearest_mean(rows, f, center):
    """Mean of the n - f values of every column nearest to center; of two equally near, the smaller first."""
    kept = np.empty((len(rows) - f, rows.shape[1]), rows.dtype)
    for j, c in enumerate(center.tolist()):
        ranked = sorted(rows[:, j].tolist(), key=lambda x: (abs(Fraction(x) - Fraction(c)), x))
        kept[:, j] = ranked[: len(kept)]
    return weighted_mean(kept)


def meamed(rows, f):
    return nearest_mean(rows, f, median(rows))


def phocas(rows, f):
    return nearest_mean(rows, f, trimmed_mean(rows, f))


def majority(rows):
    return np.sign(np.sign(rows.astype(np.float64)).sum(axis=0)).astype(rows.dtype)


def _fma(x, y, z):
    if not math.isfinite(z):
        return z
    exact = Fraction(x) * Fraction(y) + Fraction(z)
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


def fma(a, b, c):
    """a * b + c, rounded once, elementwise; float32 or float64, results finite or infinite."""
    if a.dtype == np.float64:
        return np.frompyfunc(_fma, 3, 1)(a, b, c).astype(np.float64)
    p, c = (
        a.astype(np.float64) * b,
        c.astype(np.float64),
    )  # exact product; sum rounded to odd, then to float32
    with np.errstate(over="ignore", invalid="ignore"):
        s = p + c
        back = s - p
        error = (p - (s - back)) + (c - back)
        even = s.view(np.int64) % 2 == 0
        toward = np.where(error > 0, np.inf, -np.inf)
        s = np.where((error != 0) & np.isfinite(error) & even, np.nextafter(s, toward), s)
        return s.astype(np.float32)


def distances(rows):
    """Squared distances in the shape of csrc/distances.h: blocks of 512, 16 lanes, superblocks of 2^18."""
    x = rows if rows.dtype == np.float64 else rows.astype(np.float32)
    result = np.zeros((len(x), len(x)))
    for i in range(len(x)):
        for j in range(i):
            with np.errstate(over="ignore"):
                t = x[i] - x[j]
            result[i, j] = result[j, i] = _summed(t, t)
    return result


def products(rows):
    """Inner products in float64, in the same shape."""
    x = rows.astype(np.float64)
    result = np.zeros((len(x), len(x)))
    for i in range(len(x)):
        for j in range(i + 1):
            result[i, j] = result[j, i] = _summed(x[i], x[j], exact=rows.dtype != np.float64)
    return result


def _summed(a, b, exact=False):
    """exact: products of single values lose nothing in float64, so that no fma is needed."""
    a, b = (np.pad(v, (0, -len(v) % 512)).reshape(-1, 32, 16) for v in (a, b))
    lanes = np.zeros((len(a), 16), a.dtype)
    with np.errstate(over="ignore"):
        for step in range(32):
            x, y = a[:, step], b[:, step]
            lanes = x * y + lanes if exact else fma(x, y, lanes)
        for w in (8, 4, 2, 1):
            lanes = lanes[:, :w] + lanes[:, w:]
    total = 0.0
    for first in range(0, len(lanes), 512):  # blocks of one superblock
        part = 0.0
        for block in lanes[first : first + 512, 0].tolist():
            part += block
        total += part
    return total


def combine(rows, weights):
    """sum w_i x_i in the order of csrc/combine.h, rounded once; overflow is an infinity."""
    high, low = np.zeros(rows.shape[1]), np.zeros(rows.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        for w, x in zip(np.broadcast_to(weights, len(rows)), rows.astype(np.float64), strict=True):
            if rows.dtype != np.float64:
                high = fma(np.full_like(x, w), x, high)
                continue
            p = w * x
            lost = fma(np.full_like(x, w), x, -p)
            s = high + p
            part = s - high
            low += (high - (s - part)) + (p - part) + lost
            high = s
        result = np.where(np.isnan(high + low), high, high + low)
        result = np.where(np.isnan(result), np.inf, result) + 0.0
        return _narrowed(result, rows.dtype)


def _narrowed(x, dtype):
    """float64 rounded to dtype once; a zero is +0."""
    return (_to_odd_float(x) if dtype.itemsize == 2 else x).astype(dtype) + dtype.type(0)


def virtual_clients(rows, matrix):
    """matrix times rows in the order of csrc/mixed.h, each in the format of the rows."""
    x, limit = rows.astype(np.float64), float(ml_dtypes.finfo(rows.dtype).max)
    result = []
    with np.errstate(over="ignore", invalid="ignore"):
        for w in matrix:
            s, members = np.zeros(rows.shape[1]), np.flatnonzero(w)
            if len(set(w[members].tolist())) > 1:
                for i in members:
                    s = fma(np.full_like(s, w[i]), x[i], s)
            else:
                for q in sorted({i // 4 for i in members}):
                    inside = [[x[i] for i in pair if i in members] for pair in _pairs(q)]
                    halves = [sum(pair[1:], pair[0]) for pair in inside if pair]
                    s = s + sum(halves[1:], halves[0])
                s = s * (w[members[0]] if len(members) else 0.0)
            s = np.clip(np.where(np.isnan(s), limit, s), -limit, limit)
            result.append(_narrowed(s, rows.dtype))
    return np.stack(result)


def _pairs(quad):
    return (4 * quad, 4 * quad + 1), (4 * quad + 2, 4 * quad + 3)


def mixed(rows, matrix, rule, argument):
    rules = {"median": median, "trimmed_mean": trimmed_mean, "meamed": meamed, "phocas": phocas}
    y = virtual_clients(rows, matrix)
    return majority(y) if rule == "majority" else rules[rule](y, argument)


def _to_odd_float(x):
    """float64 to float32, last bit set where anything is cut off: rounding that again is rounding x."""
    near = x.astype(np.float32)
    cut = near.view(np.uint32) - (np.abs(near.astype(np.float64)) > np.abs(x)).astype(np.uint32)
    return (cut | (near.astype(np.float64) != x)).view(np.float32)


def edge_rows(n, d, dtype, seed=0):
    """n x d values; the kind of difficulty depends on the column: see the comments."""
    dtype = np.dtype(dtype)
    digits, lowest = _SHAPE[dtype.name]
    largest = float(ml_dtypes.finfo(dtype).max)
    top = math.frexp(largest)[1]
    rng = np.random.default_rng([seed, n, digits])
    x = rng.standard_normal((n, d))
    x[:, 1::9] = rng.integers(-9, 10, x[:, 1::9].shape)  # exact ties
    wide = x[:, 2::9]
    x[:, 2::9] = np.ldexp(np.clip(wide, -0.9, 0.9), rng.integers(lowest, top, wide.shape))  # every exponent
    x[:, 3::9] = np.ldexp(rng.integers(-40, 41, x[:, 3::9].shape).astype(float), lowest)  # denormals
    x[:, 4::9] = rng.choice([largest, -largest, largest / 2], x[:, 4::9].shape)  # sums overflow
    half = x[: n // 2, 5::9]
    x[n // 2 : n // 2 + len(half), 5::9] = -half  # cancellation: the rest decides
    x[:, 6::9] = rng.choice([0.0, -0.0], x[:, 6::9].shape)
    x[:, 7::9] = x[0, 7::9]  # all equal
    odd = np.ldexp(1.0 + np.ldexp(rng.integers(0, 4, x[:, 8::9].shape).astype(float), 1 - digits), 3)
    x[:, 8::9] = odd  # neighbours: means lie on midpoints
    with np.errstate(over="ignore"):
        x = np.clip(x, -largest, largest).astype(dtype)
    return x[:, rng.permutation(d)]


# ---- rules: float64, as in their papers; rows are clients ----


def squared_distances(x):
    return ((x[:, None] - x[None]) ** 2).sum(2)


def lowest(scores, count):
    """Indices of the lowest scores, ties to the lowest index."""
    return sorted(sorted(range(len(scores)), key=lambda i: (scores[i], i))[:count])


def krum_scores(x, neighbors):
    table = squared_distances(x)
    return [sum(sorted(np.delete(table[i], i))[: max(neighbors, 1)]) for i in range(len(x))]


def multi_krum(x, f, m=None, away=2):
    return x[lowest(krum_scores(x, len(x) - f - away), m or len(x) - f)].mean(0)


def bulyan(x, f, variant="iterative", away=2):
    theta, left, chosen = len(x) - 2 * f, list(range(len(x))), []
    if variant == "oneshot":
        chosen = lowest(krum_scores(x, len(x) - f - away), theta)
    while len(chosen) < theta:
        chosen.append(left.pop(lowest(krum_scores(x[left], len(left) - f - away), 1)[0]))
    return meamed(x[sorted(chosen)], 2 * f)


def geometric_median(x, nu=1e-6, iterations=32, start="zero", weights=None):
    alpha = np.ones(len(x)) if weights is None else np.array(weights)
    z = np.zeros(x.shape[1]) if start == "zero" else alpha @ x / alpha.sum()
    for _ in range(iterations):
        beta = alpha / np.maximum(np.linalg.norm(x - z, axis=1), nu)
        z = beta @ x / beta.sum()
    return z


def centered_clipping(x, state=None, tau=10.0, iterations=1, weights=None):
    alpha = np.ones(len(x)) if weights is None else np.array(weights)
    v = np.zeros(x.shape[1]) if state is None else state
    for _ in range(iterations):
        v = v + (alpha / alpha.sum()) @ clipping(x - v, tau)
    return v


def subsets(n, f):
    return [list(s) for s in itertools.combinations(range(n), n - f)]


def mda(x, f):
    table = squared_distances(x)
    return x[min(subsets(len(x), f), key=lambda s: table[np.ix_(s, s)].max())].mean(0)


def top_eigenvalue(x):
    return np.linalg.eigvalsh((x - x.mean(0)) @ (x - x.mean(0)).T)[-1]


def smea(x, f):
    return x[min(subsets(len(x), f), key=lambda s: top_eigenvalue(x[s]))].mean(0)


def monna(x, f, pivot=0):
    return x[lowest(squared_distances(x)[pivot], len(x) - f)].mean(0)


def cge(x, f):
    return x[lowest(np.linalg.norm(x, axis=1), len(x) - f)].mean(0)


def caf(x, f):
    n, c, best, result = len(x), np.ones(len(x)), math.inf, x.mean(0)
    while c.sum() > n - 2 * f:
        mean = c @ x / c.sum()
        y = x - mean
        _, s, v = np.linalg.svd(np.sqrt(c)[:, None] * y, full_matrices=False)
        if s[0] ** 2 / c.sum() < best:
            best, result = s[0] ** 2 / c.sum(), mean
        tau = (y @ v[0]) ** 2 * (c > 0)  # or the loop need not end
        c = c * (1 - tau / tau.max())
    return result


def cosine(a, b):
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return a @ b / norms if norms > 0 else 0.0


def foolsgold(x, kappa=1.0):
    n = len(x)
    cs = np.array([[cosine(a, b) * (i != j) for j, b in enumerate(x)] for i, a in enumerate(x)])
    v = cs.max(1)
    for i in range(n):
        for j in range(n):
            if v[i] < v[j]:
                cs[i, j] *= v[i] / v[j]
    alpha = np.clip(1 - cs.max(1), 0, 1)
    alpha = alpha / alpha.max()
    alpha[alpha == 1] = 0.99
    with np.errstate(divide="ignore"):
        alpha = np.clip(kappa * (np.log(alpha / (1 - alpha)) + 0.5), 0, 1)
    return alpha @ x / alpha.sum()


def fltrust(x, server):
    trust = [max(cosine(a, server), 0) for a in x]
    return sum(
        t * a * np.linalg.norm(server) / np.linalg.norm(a) for t, a in zip(trust, x, strict=True) if t > 0
    ) / sum(trust)


def flame(x):
    """Without noise. The first cluster of more than half when all pairs up to a distance are joined."""
    d = np.array([[1 - cosine(a, b) for b in x] for a in x])
    for limit in sorted(set(d.ravel())):
        for i in range(len(x)):
            cluster = {i}
            while True:
                more = {k for j in cluster for k in range(len(x)) if d[j, k] <= limit} | cluster
                if more == cluster:
                    break
                cluster = more
            if len(cluster) > len(x) // 2:
                return clipping(x, np.median(np.linalg.norm(x, axis=1)))[sorted(cluster)].mean(0)
    raise AssertionError


def dnc(x, f, iterations=1, filter=1.0):
    """On all columns: the iterations are alike."""
    y = x - x.mean(0)
    scores = (y @ np.linalg.svd(y, full_matrices=False)[2][0]) ** 2
    return x[lowest(scores, len(x) - int(filter * f))].mean(0)


def norm_clipping(x, radius="median", weights=None):
    radius = np.median(np.linalg.norm(x, axis=1)) if radius == "median" else radius
    return np.average(clipping(x, radius), axis=0, weights=weights)


def clipping(x, radius):
    norms = np.linalg.norm(x, axis=1)
    return x * np.where(norms > radius, radius / np.where(norms > 0, norms, 1), 1.0)[:, None]


def arc(x, f):
    return clipping(x, np.sort(np.linalg.norm(x, axis=1))[len(x) - 2 * f * (len(x) - f) // len(x) - 1])


def nnm(x, f):
    return np.array([x[lowest(row, len(x) - f)].mean(0) for row in squared_distances(x)])


def bucketing(x, s, order):
    return np.array([x[order[i : i + s]].mean(0) for i in range(0, len(x), s)])


def philox(seed, counter, stream):
    """Philox4x32-10: two 64-bit words."""
    key = [seed & 0xFFFFFFFF, seed >> 32]
    c = [counter & 0xFFFFFFFF, counter >> 32, stream & 0xFFFFFFFF, stream >> 32]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ key[0], b & 0xFFFFFFFF, a >> 32 ^ c[3] ^ key[1], a & 0xFFFFFFFF]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c[0] | c[1] << 32, c[2] | c[3] << 32


def random_words(seed, stream, count):
    return [philox(seed, j // 2, stream)[j % 2] for j in range(count)]


def permutation(n, seed):
    order, words = list(range(n)), random_words(seed, 1, n)
    for i in reversed(range(1, n)):
        j = words[i] * (i + 1) >> 64
        order[i], order[j] = order[j], order[i]
    return order
