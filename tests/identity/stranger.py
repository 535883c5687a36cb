"""A verifier of receipts by `docs/explanation/receipts.md` alone: it imports nothing of heterofed.

`python -m tests.identity.stranger FILE PARTY=KEY...` checks the receipt of the first party.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SAME = ("task", "run", "terms", "plan", "rounds", "link")


def require(holds: bool) -> None:
    if not holds:
        raise ValueError("refused")


def verify(key: str, message: bytes, signature: str) -> None:
    require(re.fullmatch("[0-9a-f]{128}", signature) is not None)
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
    public.verify(bytes.fromhex(signature), message)


def accepts(content: bytes, party: str, keys: dict[str, str]) -> bool:
    """Whether a party wrote and sealed this, and the statements of the others agree with it."""
    try:
        check(content, party, keys)
    except (InvalidSignature, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return False
    return True


def check(content: bytes, party: str, keys: dict[str, str]) -> None:
    *raw, rest = content.split(b"\n")
    require(rest == b"")
    head = "0" * 64
    said: dict[str, Any] = {}
    heard: dict[str, Any] = {}
    lines = [json.loads(each) for each in raw]
    for number, line in enumerate(lines):
        require((line["n"], line["prev"]) == (number, head))
        head, body = hashlib.sha256(raw[number]).hexdigest(), line["body"]
        if line["what"] == "terms":
            terms = b"heterofed terms\0" + body["terms"].encode()
            require(hashlib.sha256(terms).hexdigest() == body["digest"])
        if line["what"] in ("said", "heard"):
            by = party if line["what"] == "said" else body["peer"]
            statement = body["statement"].encode()
            verify(keys[by], b"heterofed statement\0" + statement, body["signature"])
            found = json.loads(statement)
            require(found["party"] == by)
            require(by != party or (found["head"], found["lines"]) == (line["prev"], number))
            (said if by == party else heard)[body["peer"]] = found
    require(lines[0]["body"]["party"] == party and lines[-1]["what"] == "sealed")
    last = json.dumps(lines[-1], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    require(last.encode() == raw[-1] and lines[-1].keys() == {"n", "prev", "what", "body"})
    seal = b"heterofed seal\0" + bytes.fromhex(lines[-1]["prev"])
    verify(keys[party], seal, lines[-1]["body"]["signature"])
    for peer, theirs in heard.items():
        require(all(theirs[each] == said[peer][each] for each in SAME) and theirs["peer"] == party)


if __name__ == "__main__":
    known = dict(each.split("=") for each in sys.argv[2:])
    if not accepts(Path(sys.argv[1]).read_bytes(), next(iter(known)), known):
        sys.exit("refused")
