"""Feeds damaged bytes to every decoder of records: each gives them back bit for bit or raises FormatError.

python tests/fuzz/fuzz_record.py --seconds 20 [--seed N]
"""

from __future__ import annotations

import argparse
import random
import sys
import time

from tallystick import canonical, ledger
from tallystick.errors import FormatError
from tallystick.ledger.base import Receipt
from tallystick.ledger.conformance import make_round
from tallystick.record import ClientLeaf, ClientProof, Genesis, RoundRecord, verify_proof

TOKENS = [
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b",",
    b":",
    b"\\u",
    b"\\",
    b"\xff",
    b"\xed\xa0\x80",
    b"e\xcc\x81",
    b"null",
    b"-0",
]
TOKENS += [
    b"1e9",
    b"NaN",
    b"9007199254740992",
    b"[" * 5000,
    b'{"a":' * 5000,
    b"1" * 5000,
    b"\0" * 16,
    b"\xff" * 8,
    b'""',
]


def seeds() -> dict[str, list[bytes]]:
    """Valid inputs by decoder."""
    with ledger.connect("memory://") as log:
        genesis = log.open_namespace("cards")
        for number in range(1, 6):
            sample = make_round(log, "cards", number, inputs={"seed": "ab" * 32})
            receipt = sample.append_to(log, "cards")
        proofs = [canonical.dumps(ledger.prove(log, "cards", 5, leaf.client)) for leaf in sample.leaves]
    record = sample.record.encode()
    nested = canonical.dumps({"a": [1, -5, "é\n\u2028", {}], "b.c": {"d": [[]]}})
    return {
        "json": [nested, genesis.encode(), record, proofs[0]],
        "leaf": [leaf.encode() for leaf in sample.leaves],
        "genesis": [genesis.encode()],
        "record": [record],
        "receipt": [receipt.to_json()],
        "proof": proofs,
    }


def proof(data: bytes) -> bytes:
    """Verifies whatever is a proof; only the untouched parts may be ok, which the unit tests look at."""
    for check in verify_proof(data, payload=(bytes(32), 7), log_root=bytes(32)):
        assert check.status in {"ok", "failed", "not checked"}
    return ClientProof.from_json(data).to_json()


DECODERS = {
    "json": lambda data: canonical.dumps(canonical.loads(data)),
    "leaf": lambda data: ClientLeaf.decode(data).encode(),
    "genesis": lambda data: Genesis.decode(data).encode(),
    "record": lambda data: RoundRecord.decode(data).encode(),
    "receipt": lambda data: Receipt.from_json(data).to_json(),
    "proof": proof,
}


def damaged(data: bytes, draw: random.Random) -> bytes:
    """data after one to four random edits."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 4))):
        at = draw.randrange(len(out) + 1)
        end = min(len(out), at + draw.choice((0, 1, 1, 2, 8, 40)))
        edit = draw.randrange(7)
        if edit == 0 and at < len(out):
            out[at] ^= 1 << draw.randrange(8)
        elif edit == 1:
            del out[at:end]
        elif edit == 2:
            out[at:at] = out[at:end]
        elif edit == 3:
            out[at:end] = draw.randbytes(end - at)
        elif edit == 4:
            out[at:at] = draw.choice(TOKENS)
        elif edit == 5:
            out[at:end] = draw.choice(TOKENS)
        else:
            del out[at:]
    return bytes(out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=time.time_ns() & 0xFFFFFFFF)
    options = parser.parse_args()
    draw, corpus = random.Random(options.seed), seeds()
    end, tried, decoded = time.monotonic() + options.seconds, 0, 0
    for name, inputs in corpus.items():
        for data in inputs:
            assert DECODERS[name](data) == data, name
    while time.monotonic() < end:
        for name, decode in DECODERS.items():
            data = damaged(draw.choice(corpus[name]), draw)
            tried += 1
            try:
                again = decode(data)
            except FormatError:
                continue
            except Exception:
                print(f"seed {options.seed}: {name} on {data!r}", file=sys.stderr)
                raise
            if again != data:
                print(f"seed {options.seed}: {name} gives {again!r} for {data!r}", file=sys.stderr)
                return 1
            decoded += 1
    print(f"fuzz_record: {tried} inputs, {decoded} of them decoded, seed {options.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
