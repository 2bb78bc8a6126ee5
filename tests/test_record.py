"""Genesis, leaves, records, proofs: golden bytes, strict decoding, and what each refuses."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick import canonical, ledger, merkle, record
from tallystick.errors import ArgumentError, FormatError
from tallystick.ledger.conformance import make_round
from tallystick.record import (
    Check,
    ClientLeaf,
    ClientProof,
    Genesis,
    RoundRecord,
    clients_tree,
    identity,
    salts,
    verify_proof,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "records.json").read_text())

GENESIS = Genesis(
    name="cards",
    log_key="ed25519:" + "5a" * 32,
    membership_root="0f" * 32,
    ledgers=("sqlite:///rounds.db", "evm+https://node.example?contract=0x00"),
    salt=bytes(range(16)),
)
NAMESPACE = GENESIS.namespace_id


def leaf(**changes):
    fields = {
        "namespace_id": NAMESPACE,
        "round": 17,
        "client": "bank-a",
        "weight": 12_000.0,
        "payload_root": bytes(range(32)),
        "size": 4096,
        "media_type": "application/vnd.tallystick.frame",
        "verdict": "accepted",
        "reason": "",
        "score": 0.1,
        "salt": bytes(range(16, 32)),
    }
    return ClientLeaf(**{**fields, **changes})


LEAVES = [
    leaf(),
    leaf(client="bank-b", score=None, weight=5e-324, size=0, payload_root=hashlib.sha256(b"").digest()),
    leaf(client="bank-c", score=math.inf, size=2**53 - 1),
    leaf(client="bank-ç", score=-0.0, media_type="application/vnd.safetensors"),
    leaf(client="银行", verdict="rejected", reason="NaN or infinity in column 7", score=None),
]
SCHEMA = b'{"tensors":[{"dtype":"float32","name":"update","shape":[1024]}]}'


def round_record(**changes):
    fields = {
        "namespace_id": NAMESPACE.hex(),
        "round": 17,
        "time": 1_764_000_000,
        "rule": "multi_krum(f=1, m=3)",
        "f": 1,
        "clients_root": clients_tree(LEAVES).root.hex(),
        "accepted": 4,
        "rejected": 1,
        "schema_hash": hashlib.sha256(SCHEMA).hexdigest(),
        "aggregate_hash": "a1" * 32,
        "previous": NAMESPACE.hex(),
        "log_index": 1,
        "kind": "delta",
        "base_hash": "b2" * 32,
        "model_hash": "c3" * 32,
        "inputs": {"seed": "d4" * 32, "clipping.state": "e5" * 32},
        "versions": {"tallystick": "0.1.0"},
    }
    return RoundRecord(**{**fields, **changes})


def golden():
    """What vectors/records.json holds, made from the values above."""
    written = round_record()
    return {
        "genesis": {"json": GENESIS.encode().decode(), "namespace_id": NAMESPACE.hex()},
        "leaves": [
            {"client": x.client, "bytes": x.encode().hex(), "hash": merkle.leaf_hash(x.encode()).hex()}
            for x in LEAVES
        ],
        "clients_root": clients_tree(LEAVES).root.hex(),
        "record": {
            "json": written.encode().decode(),
            "hash": written.hash.hex(),
            "identity": identity(written, LEAVES).hex(),
        },
        "log_root": merkle.Tree([NAMESPACE, written.hash]).root.hex(),
    }


def test_the_golden_bytes_have_not_changed():
    assert {k: v for k, v in VECTORS.items() if k != "about"} == golden()


def test_the_golden_hashes_hold_with_hashlib_alone():
    sha = lambda *parts: hashlib.sha256(b"".join(parts)).digest()  # noqa: E731
    assert sha(VECTORS["genesis"]["json"].encode()).hex() == VECTORS["genesis"]["namespace_id"]
    assert sha(VECTORS["record"]["json"].encode()).hex() == VECTORS["record"]["hash"]
    a, b, c, d, e = (sha(b"\0", bytes.fromhex(x["bytes"])) for x in VECTORS["leaves"])
    for found, x in zip((a, b, c, d, e), VECTORS["leaves"], strict=True):
        assert found.hex() == x["hash"]
    node = lambda left, right: sha(b"\1", left, right)  # noqa: E731
    assert node(node(node(a, b), node(c, d)), e).hex() == VECTORS["clients_root"]
    entries = (bytes.fromhex(VECTORS["genesis"]["namespace_id"]), bytes.fromhex(VECTORS["record"]["hash"]))
    assert node(sha(b"\0", entries[0]), sha(b"\0", entries[1])).hex() == VECTORS["log_root"]


def test_the_golden_bytes_are_decoded():
    assert Genesis.decode(VECTORS["genesis"]["json"].encode()) == GENESIS
    assert [ClientLeaf.decode(bytes.fromhex(x["bytes"])) for x in VECTORS["leaves"]] == LEAVES
    assert RoundRecord.decode(VECTORS["record"]["json"].encode()) == round_record()


def test_a_leaf_has_the_layout_of_the_docstring():
    data = leaf().encode()
    assert data == b"".join(
        (
            b"tallystick-leaf1",
            NAMESPACE,
            struct.pack("<Q", 17),
            bytes(range(16, 32)),
            bytes(range(32)),
            struct.pack("<Qd", 4096, 12_000.0),
            b"\x01\x01",
            struct.pack("<d", 0.1),
            b"\x06\x00bank-a",
            b"\x20\x00application/vnd.tallystick.frame",
            b"\x00\x00",
        )
    )


# ---- genesis ----


def test_two_namespaces_of_one_name_have_two_ids():
    assert Genesis(name="cards").namespace_id != Genesis(name="cards").namespace_id
    assert Genesis(name="cards", salt=bytes(16)) == Genesis(name="cards", salt=bytes(16))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ""}, "namespace"),
        ({"name": "e\u0301"}, "NFC"),
        ({"log_key": "x" * 1025}, "log_key"),
        ({"log_key": None}, "log_key"),
        ({"log_key": "\ud800"}, "surrogate"),
        ({"membership_root": "ab"}, "membership_root"),
        ({"membership_root": "AB" * 32}, "membership_root"),
        ({"ledgers": ["memory://"]}, "tuple"),
        ({"ledgers": ("memory://",) * 65}, "64"),
        ({"ledgers": ("",)}, "ledgers"),
        ({"ledgers": (7,)}, "ledgers"),
        ({"ledgers": ("evm+https://user:secret@node",)}, "password"),
        ({"ledgers": ("http://[",)}, "URL"),
        ({"salt": bytes(15)}, "16 bytes"),
        ({"salt": "ab" * 16}, "16 bytes"),
    ],
    ids=str,
)
def test_a_genesis_that_is_not_allowed_is_refused(changes, words):
    with pytest.raises(ArgumentError, match=words) as error:
        dataclasses.replace(GENESIS, **changes)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "tallystick-genesis-2"},
        {"name": ""},
        {"name": 7},
        {"salt": "AB" * 16},
        {"salt": "ab"},
        {"salt": 7},
        {"ledgers": "memory://"},
        {"ledgers": [7]},
        {"ledgers": {}},
        {"membership_root": 7},
        {"log_key": []},
        {"more": 1},
    ],
    ids=str,
)
def test_genesis_bytes_that_are_not_one_are_refused(changes):
    with pytest.raises(FormatError):
        Genesis.decode(canonical.dumps({**GENESIS.to_dict(), **changes}))


# ---- leaves ----

BIT_PATTERNS = st.floats(allow_nan=False)


@given(
    round=st.integers(0, canonical.MAX_INT),
    client=st.text(st.sampled_from("aé银\U0001f600"), min_size=1, max_size=32),
    weight=st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False),
    size=st.integers(0, canonical.MAX_INT),
    score=st.none() | BIT_PATTERNS,
    reason=st.text(st.characters(exclude_categories=["Cs"]), max_size=256),
)
def test_a_leaf_is_read_back(round, client, weight, size, score, reason):
    verdict = "rejected" if reason else "accepted"
    written = leaf(
        round=round, client=client, weight=weight, size=size, score=score, verdict=verdict, reason=reason
    )
    found = ClientLeaf.decode(written.encode())
    assert found == written
    assert found.encode() == written.encode()
    for same in (copy.deepcopy(written), pickle.loads(pickle.dumps(written)), dataclasses.replace(written)):
        assert same.encode() == written.encode()


def test_absent_zero_and_negative_zero_scores_differ():
    assert len({leaf(score=score).encode() for score in (None, 0.0, -0.0)}) == 3


def test_a_leaf_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        leaf().weight = 2.0


@pytest.mark.parametrize("weight", [0.0, -0.0, -1.0, math.inf, math.nan, 1, "1", None, np.float32(1)])
def test_a_weight_that_is_not_positive_and_finite_is_refused(weight):
    with pytest.raises(ArgumentError, match=r"weight of client 'bank-a'"):
        leaf(weight=weight)


def test_a_numpy_float64_is_a_float():
    assert leaf(weight=np.float64(12_000), score=np.float64(0.1)).encode() == leaf().encode()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"score": math.nan}, "NaN"),
        ({"score": 1}, "score"),
        ({"namespace_id": bytes(31)}, "namespace_id: 32 bytes"),
        ({"namespace_id": "ab" * 32}, "namespace_id"),
        ({"payload_root": bytearray(32)}, "payload_root"),
        ({"salt": bytes(17)}, "salt: 16 bytes"),
        ({"round": -1}, "round"),
        ({"round": 2**53}, "round"),
        ({"size": 10**5000}, "size"),
        ({"round": True}, "round"),
        ({"round": 1.0}, "round"),
        ({"size": -1}, "size"),
        ({"size": 2**53}, "size"),
        ({"client": ""}, "client"),
        ({"client": "x" * 129}, "client"),
        ({"client": "e\u0301"}, "NFC"),
        ({"client": "\ud800"}, "surrogate"),
        ({"client": b"a"}, "client"),
        ({"media_type": ""}, "media_type"),
        ({"media_type": "a b"}, "media_type"),
        ({"media_type": "é"}, "media_type"),
        ({"media_type": "x" * 129}, "media_type"),
        ({"media_type": None}, "media_type"),
        ({"media_type": []}, "media_type"),
        ({"verdict": "maybe"}, "accepted, rejected"),
        ({"verdict": None}, "accepted, rejected"),
        ({"verdict": "rejected"}, "reason"),
        ({"reason": "too large"}, "reason"),
        ({"verdict": "rejected", "reason": "x" * 1025}, "reason"),
        ({"verdict": "rejected", "reason": "\ud800"}, "surrogate"),
        ({"verdict": "rejected", "reason": None}, "reason"),
    ],
    ids=lambda x: canonical.shown(x)[:30],
)
def test_a_leaf_that_is_not_allowed_is_refused(changes, words):
    with pytest.raises(ArgumentError, match=words):
        leaf(**changes)


@pytest.mark.parametrize("whose", LEAVES, ids=lambda x: ascii(x.client))
def test_every_cut_extension_and_flip_of_a_leaf_is_refused_or_another_leaf(whose):
    data = whose.encode()
    for size in range(len(data)):
        with pytest.raises(FormatError):
            ClientLeaf.decode(data[:size])
    with pytest.raises(FormatError, match="after its end"):
        ClientLeaf.decode(data + b"\0")
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            try:
                other = ClientLeaf.decode(bytes(flipped))
            except FormatError:
                continue
            assert other.encode() == bytes(flipped)
            assert other != whose or position == 129  # the sign of zero


@pytest.mark.parametrize("data", [b"", "text", None, 7, [1]], ids=repr)
def test_what_is_no_leaf_at_all_is_refused(data):
    with pytest.raises(FormatError):
        ClientLeaf.decode(data)


def test_a_leaf_without_score_has_zero_score_bits():
    data = bytearray(leaf(score=None).encode())
    at = data.index(b"\x06\x00bank-a") - 8
    data[at] = 1
    with pytest.raises(FormatError, match="canonical form"):
        ClientLeaf.decode(bytes(data))


def test_salts_are_random_and_independent():
    many = salts(1000)
    assert len(set(many)) == 1000
    assert {len(salt) for salt in many} == {16}
    assert salts(0) == []


# ---- the tree over clients ----


def test_the_tree_does_not_depend_on_the_order_of_arrival():
    assert clients_tree(LEAVES[::-1]).root == clients_tree(LEAVES).root
    assert clients_tree(iter(LEAVES)).root == merkle.Tree([x.encode() for x in LEAVES]).root


def test_clients_are_in_the_order_of_their_bytes():
    ids = [
        "z",
        "a",
        "\U00010000",
        "\uffff",
        "é",
        "aa",
        "A",
        "\U0001f600",
        "~",
    ]  # UTF-16 would order two otherwise
    found = record.sorted_leaves(leaf(client=x) for x in ids)
    assert [x.client.encode() for x in found] == sorted(x.encode() for x in ids)


def test_a_client_that_is_there_twice_is_refused():
    with pytest.raises(ArgumentError, match="'bank-a' is there twice"):
        clients_tree([leaf(), leaf(client="bank-b"), leaf(weight=2.0)])


# ---- records ----


def test_a_record_is_read_back_and_its_hash_is_of_its_bytes():
    written = round_record()
    assert RoundRecord.decode(written.encode()) == written
    assert written.hash == hashlib.sha256(written.encode()).digest()
    assert hash(written) == hash(round_record())
    for same in (copy.deepcopy(written), pickle.loads(pickle.dumps(written)), dataclasses.replace(written)):
        assert same.encode() == written.encode()


def test_a_record_does_not_follow_the_mapping_it_was_made_from():
    inputs = {"seed": "ab" * 32}
    written = round_record(inputs=inputs)
    inputs["seed"] = "cd" * 32
    assert written.inputs == {"seed": "ab" * 32}


def test_every_field_changes_the_hash():
    other = {
        "round": 18, "time": 1, "rule": "mean()", "f": 2, "accepted": 3, "rejected": 2, "log_index": 2,
        "kind": "weights", "inputs": {}, "versions": {},
    }  # fmt: skip
    written = round_record()
    for field in dataclasses.fields(RoundRecord):
        if field.name != "mode":
            changed = round_record(**{field.name: other.get(field.name, "ff" * 32)})
            assert changed.hash != written.hash, field.name
            assert RoundRecord.decode(changed.encode()) == changed


HASHES = ["namespace_id", "clients_root", "schema_hash", "aggregate_hash", "previous"]
MAYBE_HASHES = ["base_hash", "model_hash", "membership_root", "proof_hash", "rewards_root"]
BAD_HASHES = [
    "ab" * 31,
    "ab" * 33,
    "AB" * 32,
    "zz" * 32,
    " " + "ab" * 32,
    "ab" * 32 + "\n",
    b"ab" * 32,
    None,
    7,
]


@pytest.mark.parametrize("name", HASHES + MAYBE_HASHES)
def test_a_hash_is_64_lower_case_hex_digits(name):
    for bad in BAD_HASHES + ([""] if name in HASHES else []):
        with pytest.raises(ArgumentError, match=f"record {name}"):
            round_record(**{name: bad})
    if name in MAYBE_HASHES:
        assert getattr(round_record(**{name: ""}), name) == ""


@pytest.mark.parametrize("name", ["round", "time", "f", "accepted", "rejected", "log_index"])
def test_a_number_is_a_small_whole_number(name):
    for bad in (-1, 2**53, 10**5000, 1.0, True, "1", None):
        with pytest.raises(ArgumentError, match=f"record {name}"):
            round_record(**{name: bad})
    assert getattr(round_record(**{name: 2**53 - 1}), name) == 2**53 - 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"log_index": 0}, "log_index"),
        ({"accepted": 0, "rejected": 0}, "without clients"),
        ({"rule": ""}, "rule"),
        ({"rule": "x" * 4097}, "rule"),
        ({"rule": "\ud800"}, "surrogate"),
        ({"mode": "secure"}, "one of plain"),
        ({"kind": "other"}, "delta, gradient, weights"),
        ({"kind": None}, "delta, gradient, weights"),
        ({"inputs": {"Seed": "ab" * 32}}, "inputs: key"),
        ({"inputs": {"": "ab" * 32}}, "inputs: key"),
        ({"inputs": {7: "ab" * 32}}, "inputs: key"),
        ({"inputs": {"seed": ""}}, "inputs seed"),
        ({"inputs": [("seed", "ab" * 32)]}, "mapping"),
        ({"inputs": {f"x{i}": "ab" * 32 for i in range(257)}}, "256"),
        ({"versions": {"tallystick": ""}}, "versions tallystick"),
        ({"versions": {"tallystick": 1}}, "versions tallystick"),
        ({"versions": {"numpy": "x" * 129}}, "versions numpy"),
        ({"versions": None}, "mapping"),
    ],
    ids=lambda x: canonical.shown(x)[:30],
)
def test_a_record_that_is_not_allowed_is_refused(changes, words):
    with pytest.raises(ArgumentError, match=words):
        round_record(**changes)


def test_record_bytes_that_are_not_one_are_refused():
    body = round_record().to_dict()
    for name in body:
        with pytest.raises(FormatError, match=r"record: "):
            RoundRecord.decode(canonical.dumps({k: v for k, v in body.items() if k != name}))
    for changes in (
        {"format": "tallystick-record-2"},
        {"more": 1},
        {"round": "17"},
        {"round": -1},
        {"inputs": []},
        {"inputs": {"seed": 7}},
        {"previous": "zz" * 32},
        {"rule": {}},
    ):
        with pytest.raises(FormatError, match="record"):
            RoundRecord.decode(canonical.dumps({**body, **changes}))
    for data in (b"", b"7", b"[]", b"{}", round_record().encode() + b"\n", json.dumps(body).encode()):
        with pytest.raises(FormatError):
            RoundRecord.decode(data)


# ---- identity ----


def salted_again(leaves):
    return [dataclasses.replace(x, salt=salt) for x, salt in zip(leaves, salts(len(leaves)), strict=True)]


def test_identity_leaves_out_time_versions_salts_and_place():
    other = salted_again(LEAVES)[::-1]
    again = round_record(
        time=1,
        versions={"tallystick": "9"},
        clients_root=clients_tree(other).root.hex(),
        previous="77" * 32,
        log_index=9,
    )
    assert again.hash != round_record().hash
    assert identity(again, other) == identity(round_record(), LEAVES)


def test_identity_holds_everything_else():
    seen = {identity(round_record(), LEAVES)}
    changes = {
        "namespace_id": "ff" * 32, "round": 18, "rule": "mean()", "f": 2, "accepted": 5, "rejected": 2,
        "schema_hash": "ff" * 32, "aggregate_hash": "ff" * 32, "kind": "weights",
        "base_hash": "", "model_hash": "", "inputs": {},
        "membership_root": "ff" * 32, "proof_hash": "ff" * 32, "rewards_root": "ff" * 32,
    }  # fmt: skip
    left_out = {"time", "versions", "clients_root", "previous", "log_index", "mode"}
    assert set(changes) | left_out == {field.name for field in dataclasses.fields(RoundRecord)}
    for name, value in changes.items():
        seen.add(identity(round_record(**{name: value}), LEAVES))
    leaf_changes = {
        "namespace_id": bytes(32), "round": 18, "client": "bank-aa", "weight": 2.0, "payload_root": bytes(32),
        "size": 1, "media_type": "x", "reason": "r", "score": None,
    }  # fmt: skip
    assert set(leaf_changes) | {"salt", "verdict"} == {field.name for field in dataclasses.fields(ClientLeaf)}
    for name, value in leaf_changes.items():
        more = {"verdict": "rejected"} if name == "reason" else {}
        seen.add(identity(round_record(), [leaf(**{name: value}, **more), *LEAVES[1:]]))
    seen.add(identity(round_record(), LEAVES[1:]))
    assert len(seen) == 1 + len(changes) + len(leaf_changes) + 1


# ---- proofs ----


@pytest.fixture(scope="module")
def proven():
    """A proof for every client of one round in a log of several, with the log's root."""
    with ledger.connect("memory://") as log:
        log.open_namespace("cards")
        for number in range(1, 8):
            sample = make_round(log, "cards", number, clients=5)
            sample.append_to(log, "cards")
            if number == 3:
                leaves = sample.leaves
        proofs = [ledger.prove(log, "cards", 3, x.client) for x in leaves]
        return proofs, leaves, log.head("cards").root


def statuses(checks):
    return {check.name: check.status for check in checks}


ALL = [
    "namespace id",
    "leaf of this round",
    "leaf in clients root",
    "record in log",
    "genesis in log",
    "payload",
    "trusted log root",
]


def test_a_proof_convinces_with_nothing_but_itself(proven):
    proofs, leaves, root = proven
    for proof, x in zip(proofs, leaves, strict=True):
        data = canonical.dumps(proof)
        alone = verify_proof(data)
        assert [c.name for c in alone] == ALL
        assert statuses(alone) == {
            **dict.fromkeys(ALL, "ok"),
            "payload": "not checked",
            "trusted log root": "not checked",
        }
        full = verify_proof(proof, payload=(x.payload_root, x.size), log_root=root)
        assert statuses(full) == dict.fromkeys(ALL, "ok")
        assert x.client in " ".join(c.detail for c in full)
        assert ClientProof.from_json(data).to_json() == data


def test_another_file_or_another_log_is_named(proven):
    proofs, leaves, root = proven
    x = leaves[0]
    for payload in ((bytes(32), x.size), (x.payload_root, x.size + 1)):
        checks = statuses(verify_proof(proofs[0], payload=payload, log_root=root))
        assert {name for name, status in checks.items() if status != "ok"} == {"payload"}
        assert checks["payload"] == "failed"
    checks = statuses(verify_proof(proofs[0], log_root=bytes(32)))
    assert checks["trusted log root"] == "failed"


def failed(proof):
    return {c.name for c in verify_proof(proof) if c.status == "failed"}


def flip(text, position=0):
    return text[:position] + ("0" if text[position] != "0" else "1") + text[position + 1 :]


def test_every_forgery_is_named(proven):
    proofs, _, _ = proven
    proof = proofs[2]
    other = proofs[3]
    record_ = proof["record"]

    def forged(**changes):
        return failed({**copy.deepcopy(proof), **changes})

    assert forged() == set()
    assert forged(leaf=other["leaf"]) == {"leaf in clients root"}
    assert forged(leaf_index=3) == {"leaf in clients root"}
    assert forged(leaf_index=5) == {"leaf in clients root"}
    assert forged(leaf_proof=other["leaf_proof"]) == {"leaf in clients root"}
    assert forged(leaf_proof=proof["leaf_proof"][1:]) == {"leaf in clients root"}
    assert forged(leaf_proof=[*proof["leaf_proof"], "00" * 32]) == {"leaf in clients root"}
    assert forged(leaf=flip(proof["leaf"], 2 * 60)) == {"leaf in clients root"}  # the salt
    assert "leaf" in forged(leaf=flip(proof["leaf"]))  # its tag
    assert "leaf" in forged(leaf="")
    assert forged(record_proof=proof["record_proof"][1:]) == {"record in log"}
    assert forged(genesis_proof=proof["genesis_proof"][1:]) == {"genesis in log"}
    for i in range(len(proof["record_proof"])):
        changed = [flip(h) if k == i else h for k, h in enumerate(proof["record_proof"])]
        assert forged(record_proof=changed) == {"record in log"}
    assert forged(log_root=flip(proof["log_root"])) == {"record in log", "genesis in log"}
    assert forged(log_size=4) == {"record in log", "genesis in log"}
    assert forged(log_size=3) == {"record in log", "genesis in log"}
    assert forged(record={**record_, "rule": "mean()"}) == {"record in log"}
    assert forged(record={**record_, "round": 4}) == {"record in log", "leaf of this round"}
    assert forged(record={**record_, "clients_root": "ab" * 32}) == {"record in log", "leaf in clients root"}
    assert forged(record={**record_, "log_index": 2}) == {"record in log"}
    assert forged(record={**record_, "namespace_id": "ab" * 32}) >= {"record in log", "namespace id"}
    assert forged(record={**record_, "round": -1}) == {"record"}
    assert forged(record="text") == {"record"}
    assert forged(genesis={**proof["genesis"], "name": "loans"}) == {"genesis in log", "namespace id"}
    assert forged(genesis={**proof["genesis"], "name": ""}) == {"genesis", "genesis in log"}
    assert forged(genesis=[]) == {"genesis", "genesis in log"}


def test_what_could_not_be_read_is_not_checked_but_never_ok(proven):
    proofs, leaves, root = proven
    payload = (leaves[0].payload_root, leaves[0].size)
    checks = statuses(verify_proof({**proofs[0], "record": 7}, payload=payload, log_root=root))
    assert checks["record"] == "failed"
    for name in ("namespace id", "leaf of this round", "leaf in clients root", "record in log"):
        assert checks[name] == "not checked"
    checks = statuses(verify_proof({**proofs[0], "leaf": "00"}, payload=payload))
    assert (checks["leaf"], checks["payload"]) == ("failed", "not checked")


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "tallystick-proof-2"},
        {"more": 1},
        {"leaf": "abc"},
        {"leaf": "AB"},
        {"leaf": 7},
        {"leaf_index": -1},
        {"leaf_index": "1"},
        {"leaf_proof": "ab"},
        {"leaf_proof": ["ab"]},
        {"leaf_proof": ["ab" * 32] * 65},
        {"record_proof": [7]},
        {"genesis_proof": {}},
        {"log_size": 0},
        {"log_size": "8"},
        {"log_root": "ab"},
        {"log_root": []},
    ],
    ids=lambda x: canonical.shown(x)[:30],
)
def test_what_is_no_proof_at_all_is_bad_input(proven, changes):
    with pytest.raises(FormatError):
        verify_proof({**proven[0][0], **changes})


def test_a_proof_file_is_read_strictly(proven):
    proof = proven[0][0]
    for name in proof:
        with pytest.raises(FormatError):
            verify_proof({k: v for k, v in proof.items() if k != name})
    for data in (b"", b"7", b"[]", b"{}", canonical.dumps(proof) + b"\n", json.dumps(proof).encode()):
        with pytest.raises(FormatError):
            verify_proof(data)


def test_a_check_is_a_small_frozen_thing():
    assert Check("payload", "ok") == Check("payload", "ok", "")
