"""What is committed about a round: genesis of its namespace, leaf of every client, record, a client's proof.

Genesis       canonical JSON; its SHA-256 is the namespace id and entry 0 of the namespace's log.
ClientLeaf    binary, little-endian, in this order:
                  "tallystick-leaf1"   16 bytes
                  namespace id         32 bytes
                  round                u64
                  salt                 16 bytes
                  payload root         32 bytes
                  payload size         u64
                  weight               binary64
                  verdict              u8: 1 accepted, 2 rejected
                  has score            u8: 0 or 1
                  score                binary64, zero bits where there is none
                  client, media type, reason: each a u16 length and that many bytes of UTF-8
RoundRecord   canonical JSON; its SHA-256 is the record hash. Ids, verdicts and scores of clients are in the
              leaves only, whose order is the byte order of client ids and whose RFC 9162 root the record
              holds.
Log           RFC 9162 tree; leaf data of entry i is the 32-byte hash of record i.
Proof         canonical JSON "tallystick-proof-1" with genesis, record, one leaf and three inclusion proofs:
              all it takes to check that one client's update is in a round, its record and the log. See
              verify_proof().
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from operator import attrgetter
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from . import canonical, merkle
from .canonical import shown
from .errors import ArgumentError, FormatError

__all__ = [
    "Check",
    "ClientLeaf",
    "ClientProof",
    "Genesis",
    "RoundRecord",
    "clients_tree",
    "identity",
    "salts",
    "sorted_leaves",
    "verify_proof",
]

KINDS = ("delta", "gradient", "weights")
MODES = ("plain",)

_HEX_HASH = re.compile(r"[0-9a-f]{64}")
_MEDIA_TYPE = re.compile(r"[!-~]{1,128}")
_KEY = re.compile(r"[a-z0-9._-]{1,64}")


@dataclass(frozen=True)
class Check:
    """One thing that was verified, or could not be."""

    name: str
    status: Literal["ok", "failed", "not checked"]
    detail: str = ""


def _text(value: object, what: str, low: int, high: int) -> str:
    """value if it is a string of low to high bytes in UTF-8."""
    if not isinstance(value, str):
        raise ArgumentError(f"{what}: a string expected, got {type(value).__name__}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise ArgumentError(f"{what}: a lone surrogate, which UTF-8 cannot carry") from None
    if not low <= size <= high:
        raise ArgumentError(f"{what}: {low} to {high} bytes in UTF-8 expected, got {size}")
    return value


def _integer(value: object, what: str, low: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= canonical.MAX_INT:
        raise ArgumentError(f"{what}: an integer from {low} to 2^53 - 1 expected, got {shown(value)}")
    return value


def _hash(value: object, what: str, *, empty: bool = False) -> str:
    if not isinstance(value, str) or not (_HEX_HASH.fullmatch(value) or (empty and value == "")):
        allowed = "64 lower-case hex digits" + (" or nothing" if empty else "")
        raise ArgumentError(f"{what}: {allowed} expected, got {shown(value)}")
    return value


def _one_of(value: object, what: str, allowed: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise ArgumentError(f"{what}: one of {', '.join(allowed)} expected, got {shown(value)}")
    return value


def _object(data: bytes, what: str, form: str, keys: Iterable[str]) -> dict[str, Any]:
    """The canonical JSON object in data, with the right "format" and exactly these keys besides."""
    obj = canonical.loads(data)
    if not isinstance(obj, dict):
        raise FormatError(f"{what}: a JSON object expected")
    found = obj.pop("format", None)
    if found != form:
        raise FormatError(f"{what}: format {form!r} expected, got {shown(found)}")
    expected = set(keys)
    if set(obj) != expected:
        wrong = sorted(set(obj) ^ expected)
        raise FormatError(f"{what}: missing or unknown fields: {', '.join(wrong)[:200]}")
    return obj


# ---- genesis ----


@dataclass(frozen=True, kw_only=True)
class Genesis:
    """The first entry of a namespace's log; its hash is the namespace id.

    log_key: public key that signs anchors, "" if none. membership_root: hex, "" if anybody may take part.
    ledgers: URLs where the log is anchored; public, so without credentials. salt: 16 bytes, random unless
    given.
    """

    FORMAT: ClassVar[str] = "tallystick-genesis-1"

    name: str
    log_key: str = ""
    membership_root: str = ""
    ledgers: tuple[str, ...] = ()
    salt: bytes = field(default_factory=lambda: os.urandom(16))

    def __post_init__(self) -> None:
        canonical.check_id(self.name, "namespace")
        _text(self.log_key, "genesis log_key", 0, 1024)
        _hash(self.membership_root, "genesis membership_root", empty=True)
        if not isinstance(self.ledgers, tuple) or len(self.ledgers) > 64:
            raise ArgumentError("genesis ledgers: a tuple of at most 64 URLs expected")
        for url in self.ledgers:
            _text(url, "genesis ledgers", 1, 1024)
            try:
                secret = urlsplit(url).password is not None
            except ValueError:
                raise ArgumentError("genesis ledgers: not a URL") from None
            if secret:
                raise ArgumentError("genesis ledgers: a URL with a password; the genesis record is public")
        if not isinstance(self.salt, bytes) or len(self.salt) != 16:
            raise ArgumentError("genesis salt: 16 bytes expected")

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": self.FORMAT,
            "ledgers": list(self.ledgers),
            "log_key": self.log_key,
            "membership_root": self.membership_root,
            "name": self.name,
            "salt": self.salt.hex(),
        }

    def encode(self) -> bytes:
        return canonical.dumps(self.to_dict())

    @classmethod
    def decode(cls, data: bytes) -> Genesis:
        """Strict inverse of encode(); FormatError for anything else."""
        obj = _object(data, "genesis", cls.FORMAT, (f.name for f in fields(cls)))
        salt, ledgers = obj["salt"], obj["ledgers"]
        if not isinstance(salt, str) or not re.fullmatch("[0-9a-f]{32}", salt):
            raise FormatError("genesis salt: 32 lower-case hex digits expected")
        if not isinstance(ledgers, list):
            raise FormatError("genesis ledgers: a list expected")
        try:
            return cls(**{**obj, "salt": bytes.fromhex(salt), "ledgers": tuple(ledgers)})
        except ArgumentError as error:
            raise FormatError(str(error)) from None

    @property
    def namespace_id(self) -> bytes:
        """32 bytes that name this namespace everywhere."""
        return hashlib.sha256(self.encode()).digest()


# ---- client leaves ----

_TAG = b"tallystick-leaf1"
_LEAF = struct.Struct("<16s32sQ16s32sQdBBdH")  # up to the length of the client id
_SALT = slice(56, 72)
_VERDICTS = {"accepted": 1, "rejected": 2}
_VERDICT_NAMES = {code: name for name, code in _VERDICTS.items()}
_INF = float("inf")


def salts(count: int) -> list[bytes]:
    """count independent 16-byte salts from the operating system, in one call."""
    block = os.urandom(16 * count)
    return [block[i : i + 16] for i in range(0, 16 * count, 16)]


@lru_cache(maxsize=64)
def _is_media_type(text: str) -> bool:
    return _MEDIA_TYPE.fullmatch(text) is not None


@dataclass(frozen=True, init=False)
class ClientLeaf:
    """What is committed about one client of one round; see the module's docstring for the bytes.

    namespace_id, payload_root: 32 bytes. salt: 16 bytes (salts()), so that the root tells nothing about a
    client's values.
    weight: positive and finite. verdict: "accepted", or "rejected" with a reason. score: None where the rule
    has none.
    """

    namespace_id: bytes
    round: int
    client: str
    weight: float
    payload_root: bytes
    size: int
    media_type: str
    verdict: str
    reason: str
    score: float | None
    salt: bytes

    def __init__(
        self,
        namespace_id: bytes,
        round: int,
        client: str,
        weight: float,
        payload_root: bytes,
        size: int,
        media_type: str,
        verdict: str,
        reason: str,
        score: float | None,
        salt: bytes,
    ) -> None:
        # Once per client: written out, as the generated __init__ and a __post_init__ take twice as long.
        put = self.__dict__
        put["namespace_id"] = namespace_id
        put["round"] = round
        put["client"] = client
        put["weight"] = weight
        put["payload_root"] = payload_root
        put["size"] = size
        put["media_type"] = media_type
        put["verdict"] = verdict
        put["reason"] = reason
        put["score"] = score
        put["salt"] = salt
        # What is nearly always so; otherwise _refuse() looks closer.
        if not (
            type(namespace_id) is type(payload_root) is type(salt) is bytes
            and len(namespace_id) == len(payload_root) == 32
            and len(salt) == 16
            and type(round) is type(size) is int
            and 0 <= round <= canonical.MAX_INT
            and 0 <= size <= canonical.MAX_INT
            and type(weight) is float
            and 0.0 < weight < _INF
            and (score is None or (type(score) is float and score == score))
            and type(client) is type(media_type) is str
            and client.isascii()
            and 0 < len(client) <= canonical.MAX_ID_BYTES
            and _is_media_type(media_type)
            and verdict == "accepted"
            and reason == ""
        ):
            self._refuse()

    def _refuse(self) -> None:
        """ArgumentError that says what is wrong with this leaf, if anything is."""
        for name, length in (("namespace_id", 32), ("payload_root", 32), ("salt", 16)):
            value = getattr(self, name)
            if type(value) is not bytes or len(value) != length:
                raise ArgumentError(f"leaf {name}: {length} bytes expected, got {shown(value)}")
        canonical.check_id(self.client, "client")
        _integer(self.round, "leaf round")
        _integer(self.size, "leaf size")
        if not isinstance(self.weight, float) or not 0.0 < self.weight < _INF:
            raise ArgumentError(
                f"weight of client {self.client!r}: positive finite float expected, got {shown(self.weight)}"
            )
        if self.score is not None and (not isinstance(self.score, float) or self.score != self.score):
            raise ArgumentError(
                f"score of client {self.client!r}: None or a float, not NaN expected, got {shown(self.score)}"
            )
        if not isinstance(self.media_type, str) or not _is_media_type(self.media_type):
            raise ArgumentError(
                f"leaf media_type: 1 to 128 printable ASCII characters expected, got {shown(self.media_type)}"
            )
        _one_of(self.verdict, "leaf verdict", tuple(_VERDICTS))
        _text(self.reason, "leaf reason", 0, 1024)
        if (self.verdict == "rejected") != (self.reason != ""):
            raise ArgumentError(
                f"leaf of client {self.client!r}: a rejected client has a reason, an accepted one has none"
            )

    def encode(self) -> bytes:
        """The bytes that are a leaf of the round's tree."""
        cached: bytes | None = self.__dict__.get("_encoded")
        if cached is not None:
            return cached
        client, score = self.client.encode(), self.score
        data = (
            _LEAF.pack(
                _TAG,
                self.namespace_id,
                self.round,
                self.salt,
                self.payload_root,
                self.size,
                self.weight,
                _VERDICTS[self.verdict],
                score is not None,
                0.0 if score is None else score,
                len(client),
            )
            + client
            + _leaf_end(self.media_type, self.reason)
        )
        self.__dict__["_encoded"] = data
        return data

    @classmethod
    def decode(cls, data: bytes) -> ClientLeaf:
        """Strict inverse of encode(); FormatError for anything else."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise FormatError(f"leaf: bytes expected, got {type(data).__name__}")
        data = bytes(data)
        if len(data) < _LEAF.size:
            raise FormatError(f"leaf: at least {_LEAF.size} bytes expected, got {len(data)}")
        values = _LEAF.unpack_from(data)
        tag, namespace_id, round, salt, root, size, weight, verdict, has_score, score, _ = values
        if tag != _TAG:
            raise FormatError(f"leaf: it starts with {tag!r}, not with {_TAG!r}")
        if verdict not in _VERDICT_NAMES or has_score not in (0, 1):
            raise FormatError(
                f"leaf: verdict {verdict} (1 or 2 allowed), has score {has_score} (0 or 1 allowed)"
            )
        client, at = _leaf_text(data, _LEAF.size - 2, "client")
        media_type, at = _leaf_text(data, at, "media type")
        reason, at = _leaf_text(data, at, "reason")
        if at != len(data):
            raise FormatError(f"leaf: {len(data) - at} bytes after its end")
        try:
            leaf = cls(
                namespace_id,
                round,
                client,
                weight,
                root,
                size,
                media_type,
                _VERDICT_NAMES[verdict],
                reason,
                score if has_score else None,
                salt,
            )
        except ArgumentError as error:
            raise FormatError(str(error)) from None
        if leaf.encode() != data:
            raise FormatError("leaf: not in canonical form (the score's bits are zero where there is none)")
        return leaf


@lru_cache(maxsize=256)
def _leaf_end(*texts: str) -> bytes:
    """Length-prefixed texts; those at the end of leaves are nearly always the same."""
    return b"".join(len(data).to_bytes(2, "little") + data for data in (text.encode() for text in texts))


def _leaf_text(data: bytes, at: int, what: str) -> tuple[str, int]:
    """The length-prefixed text at this offset, and the offset behind it."""
    start = at + 2
    end = start + int.from_bytes(data[at:start], "little")
    if len(data) < start or len(data) < end:
        raise FormatError(f"leaf: it ends inside its {what}")
    try:
        return data[start:end].decode(), end
    except UnicodeDecodeError:
        raise FormatError(f"leaf: its {what} is not UTF-8") from None


_client_of = attrgetter("client")


def sorted_leaves(leaves: Iterable[ClientLeaf]) -> list[ClientLeaf]:
    """The leaves in the order of the tree: bytes of client ids. ArgumentError if an id is there twice."""
    ordered = sorted(leaves, key=_client_of)  # code points sort like their UTF-8 bytes
    if len({leaf.client for leaf in ordered}) != len(ordered):
        twice = next(a.client for a, b in itertools.pairwise(ordered) if a.client == b.client)
        raise ArgumentError(f"client {twice!r} is there twice; a round has one leaf per client")
    return ordered


def clients_tree(leaves: Iterable[ClientLeaf]) -> merkle.Tree:
    """The RFC 9162 tree over the encoded leaves, sorted by the bytes of client ids."""
    return merkle.Tree([leaf.encode() for leaf in sorted_leaves(leaves)])


# ---- round records ----


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One closed round. Hashes are lower-case hex; "" stands for "none" where that is allowed (base_hash and
    what follows).

    rule: canonical text with all parameters. f: hostile clients tolerated. time: seconds since 1970, UTC.
    schema_hash, aggregate_hash, model_hash: see update.Schema and frame.value_hash. inputs: {name: hash} of
    all else that the rule read. previous: hash of the log entry before this one (hex); log_index: this
    entry's place, 1 or more.
    """

    FORMAT: ClassVar[str] = "tallystick-record-1"

    namespace_id: str
    round: int
    time: int
    rule: str
    f: int
    clients_root: str
    accepted: int
    rejected: int
    schema_hash: str
    aggregate_hash: str
    previous: str
    log_index: int
    mode: str = "plain"
    kind: str = "delta"
    base_hash: str = ""
    model_hash: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    membership_root: str = ""
    proof_hash: str = ""
    rewards_root: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("namespace_id", "clients_root", "schema_hash", "aggregate_hash", "previous"):
            _hash(getattr(self, name), f"record {name}")
        for name in ("base_hash", "model_hash", "membership_root", "proof_hash", "rewards_root"):
            _hash(getattr(self, name), f"record {name}", empty=True)
        for name in ("round", "time", "f", "accepted", "rejected"):
            _integer(getattr(self, name), f"record {name}")
        _integer(self.log_index, "record log_index", 1)
        if self.accepted + self.rejected == 0:
            raise ArgumentError("record: a round without clients has no record")
        _text(self.rule, "record rule", 1, 4096)
        _one_of(self.mode, "record mode", MODES)
        _one_of(self.kind, "record kind", KINDS)
        for name in ("inputs", "versions"):
            value = getattr(self, name)
            if not isinstance(value, Mapping) or len(value) > 256:
                raise ArgumentError(f"record {name}: a mapping of at most 256 entries expected")
            for key, item in value.items():
                if not isinstance(key, str) or not _KEY.fullmatch(key):
                    raise ArgumentError(f"record {name}: key {shown(key)}, [a-z0-9._-]{{1,64}} expected")
                if name == "inputs":
                    _hash(item, f"record inputs {key}")
                else:
                    _text(item, f"record versions {key}", 1, 128)
            object.__setattr__(self, name, dict(value))  # the caller's mapping may change later

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that encode() writes."""
        return {"format": self.FORMAT, **{name: getattr(self, name) for name in _RECORD_FIELDS}}

    def encode(self) -> bytes:
        cached: bytes | None = self.__dict__.get("_encoded")
        if cached is None:
            cached = self.__dict__["_encoded"] = canonical.dumps(self.to_dict())
        return cached

    @classmethod
    def decode(cls, data: bytes) -> RoundRecord:
        """Strict inverse of encode(); FormatError for anything else."""
        obj = _object(data, "record", cls.FORMAT, _RECORD_FIELDS)
        try:
            return cls(**obj)
        except ArgumentError as error:
            raise FormatError(str(error)) from None

    @property
    def hash(self) -> bytes:
        """SHA-256 of the encoding, 32 bytes: the entry of the log."""
        return hashlib.sha256(self.encode()).digest()

    def __hash__(self) -> int:
        return int.from_bytes(self.hash[:8], "big")


_RECORD_FIELDS = tuple(f.name for f in fields(RoundRecord))


def identity(record: RoundRecord, leaves: Iterable[ClientLeaf]) -> bytes:
    """What makes a round the same round when it is closed again: 32 bytes.

    Left out is what differs between two honest runs on the same updates: the time, the versions, the salts
    (so clients_root is replaced by the root over leaves with zero salts), and the place in the log (previous,
    log_index).
    """
    body = record.to_dict()
    for name in ("time", "versions", "clients_root", "previous", "log_index"):
        del body[name]
    plain = [leaf.encode() for leaf in sorted_leaves(leaves)]
    saltless = merkle.Tree([data[: _SALT.start] + bytes(16) + data[_SALT.stop :] for data in plain])
    body["clients"] = saltless.root.hex()
    return hashlib.sha256(canonical.dumps(body)).digest()


# ---- the proof a client takes home ----


def _hashes(value: object, what: str) -> tuple[bytes, ...]:
    if not isinstance(value, list) or len(value) > 64:
        raise FormatError(f"proof {what}: a list of at most 64 hashes expected")
    try:
        return tuple(bytes.fromhex(_hash(item, f"proof {what}")) for item in value)
    except ArgumentError as error:
        raise FormatError(str(error)) from None


@dataclass(frozen=True, kw_only=True)
class ClientProof:
    """Everything that shows one client's leaf to be in a round's record, and that record in the log of
    log_size entries.

    genesis, record: their canonical JSON. leaf: its bytes, salt included. *_proof: RFC 9162 inclusion proofs,
    of the leaf in the record's clients root, of the record and of the genesis in the log.
    """

    FORMAT: ClassVar[str] = "tallystick-proof-1"

    genesis: bytes
    record: bytes
    leaf: bytes
    leaf_index: int
    leaf_proof: tuple[bytes, ...]
    log_size: int
    log_root: bytes
    record_proof: tuple[bytes, ...]
    genesis_proof: tuple[bytes, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": self.FORMAT,
            "genesis": canonical.loads(self.genesis),
            "genesis_proof": [h.hex() for h in self.genesis_proof],
            "leaf": self.leaf.hex(),
            "leaf_index": self.leaf_index,
            "leaf_proof": [h.hex() for h in self.leaf_proof],
            "log_root": self.log_root.hex(),
            "log_size": self.log_size,
            "record": canonical.loads(self.record),
            "record_proof": [h.hex() for h in self.record_proof],
        }

    def to_json(self) -> bytes:
        return canonical.dumps(self.to_dict())

    @classmethod
    def from_json(cls, data: bytes) -> ClientProof:
        """Strict inverse of to_json(), FormatError otherwise. What it proves is for verify_proof()."""
        obj = _object(data, "proof", cls.FORMAT, (f.name for f in fields(cls)))
        leaf = obj["leaf"]
        if not isinstance(leaf, str) or not re.fullmatch("([0-9a-f]{2})*", leaf):
            raise FormatError("proof leaf: lower-case hex expected")
        try:
            return cls(
                genesis=canonical.dumps(obj["genesis"]),
                record=canonical.dumps(obj["record"]),
                leaf=bytes.fromhex(leaf),
                leaf_index=_integer(obj["leaf_index"], "proof leaf_index"),
                leaf_proof=_hashes(obj["leaf_proof"], "leaf_proof"),
                log_size=_integer(obj["log_size"], "proof log_size", 1),
                log_root=bytes.fromhex(_hash(obj["log_root"], "proof log_root")),
                record_proof=_hashes(obj["record_proof"], "record_proof"),
                genesis_proof=_hashes(obj["genesis_proof"], "genesis_proof"),
            )
        except ArgumentError as error:
            raise FormatError(str(error)) from None


def verify_proof(
    proof: Mapping[str, Any] | bytes,
    *,
    payload: tuple[bytes, int] | None = None,
    log_root: bytes | None = None,
) -> list[Check]:
    """Check a proof file with nothing but itself; one Check per claim. FormatError if it is not a proof at
    all.

    proof: the file's bytes, or the JSON object in it.
    payload: (merkle.hash_chunks(file), size) of the client's own update, compared with what the leaf commits.
    log_root: a root of the log that was obtained elsewhere, of the size the proof names. Without it the proof
    shows only that its parts belong together, and the last Check says so.
    """
    data = proof if isinstance(proof, (bytes, bytearray, memoryview)) else canonical.dumps(proof)
    given = ClientProof.from_json(bytes(data))
    checks: list[Check] = []

    def check(name: str, ok: bool, good: str, bad: str) -> None:
        checks.append(Check(name, "ok" if ok else "failed", good if ok else bad))

    def skip(*names: str) -> None:
        checks.extend(Check(name, "not checked", "what it needs could not be read") for name in names)

    genesis = _parsed(Genesis.decode, given.genesis, "genesis", checks)
    record = _parsed(RoundRecord.decode, given.record, "record", checks)
    leaf = _parsed(ClientLeaf.decode, given.leaf, "leaf", checks)

    if genesis is None or record is None:
        skip("namespace id")
    else:
        check(
            "namespace id",
            record.namespace_id == genesis.namespace_id.hex(),
            f"namespace {genesis.name!r} is {genesis.namespace_id.hex()}",
            f"the genesis hashes to {genesis.namespace_id.hex()}, the record says {record.namespace_id}",
        )
    if record is None or leaf is None:
        skip("leaf of this round", "leaf in clients root")
    else:
        check(
            "leaf of this round",
            (leaf.namespace_id.hex(), leaf.round) == (record.namespace_id, record.round),
            f"client {leaf.client!r}, round {leaf.round}, {leaf.verdict}",
            f"the leaf is of round {leaf.round} in namespace {leaf.namespace_id.hex()}",
        )
        clients, root = record.accepted + record.rejected, bytes.fromhex(record.clients_root)
        index = given.leaf_index
        check(
            "leaf in clients root",
            index < clients and merkle.verify(root, clients, index, given.leaf, list(given.leaf_proof)),
            f"leaf {index} of {clients}, root {record.clients_root}",
            f"leaf {index} of {clients} does not lead to the record's clients root {record.clients_root}",
        )
    size, log = given.log_size, given.log_root
    if record is None:
        skip("record in log")
    else:
        index = record.log_index
        check(
            "record in log",
            index < size and merkle.verify(log, size, index, record.hash, list(given.record_proof)),
            f"record {record.hash.hex()} is entry {index} of {size}",
            f"record {record.hash.hex()} as entry {index} of {size} does not lead to log root {log.hex()}",
        )
    digest = hashlib.sha256(given.genesis).digest()
    check(
        "genesis in log",
        merkle.verify(log, size, 0, digest, list(given.genesis_proof)),
        f"genesis {digest.hex()} is entry 0",
        f"genesis {digest.hex()} as entry 0 of {size} does not lead to log root {log.hex()}",
    )
    if payload is None or leaf is None:
        why = "no file was given" if payload is None else "the leaf could not be read"
        checks.append(Check("payload", "not checked", why))
    else:
        check(
            "payload",
            payload == (leaf.payload_root, leaf.size),
            f"{leaf.size} bytes, root {leaf.payload_root.hex()}",
            f"the file has {payload[1]} bytes and root {payload[0].hex()}, "
            f"the leaf says {leaf.size} bytes and {leaf.payload_root.hex()}",
        )
    if log_root is None:
        detail = f"compare it with one obtained elsewhere: log of {size} entries, root {log.hex()}"
        checks.append(Check("trusted log root", "not checked", detail))
    else:
        check(
            "trusted log root",
            log_root == log,
            log.hex(),
            f"{log_root.hex()} is trusted, the proof has {log.hex()}",
        )
    return checks


def _parsed(decode: Any, data: bytes, name: str, checks: list[Check]) -> Any:
    try:
        return decode(data)
    except FormatError as error:
        checks.append(Check(name, "failed", str(error)))
        return None
