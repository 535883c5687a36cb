"""Writes vectors.json from the slow implementation: `python -m tests.psi.make_vectors`."""

from __future__ import annotations

import hashlib
import json
import math
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.psi import reference

PATH = Path(__file__).with_name("vectors.json")

CASES: list[tuple[str, str, list[str], list[str]]] = [
    ("task", "run", ["ann", "bob", "cyd"], ["eve", "cyd", "ann", "dan"]),
    (
        "größe/任务",
        "",
        ["", " ", "é", "e\u0301", "\U0001f600", "0" * 300],
        ["e\u0301", "", "\U0001f600x"],
    ),
    ("one", "many", ["7"], [str(i) for i in range(12)]),
    ("nobody", "asks", [], ["x"]),
    ("nobody", "signs", ["x"], []),
]


SMALL = math.prod(n for n in range(3, 2000, 2) if all(n % k for k in range(3, n, 2)))


def prime(source: random.Random, bits: int) -> int:
    while True:
        found = source.getrandbits(bits) | (3 << (bits - 2)) | 1
        if math.gcd(found, SMALL) != 1 or found % reference.E == 1:
            continue
        if all(pow(base, found - 1, found) == 1 for base in (2, 3, 5, 7)):
            return found


def test_key() -> reference.Key:
    """A fixed key; anyone can read it here, so it is worth nothing."""
    source = random.Random("heterofed psi test vectors")
    return reference.Key(prime(source, 1024), prime(source, 1024))


def build() -> dict[str, Any]:
    key = test_key()
    cases = []
    for number, (task, run, asking, signing) in enumerate(CASES):
        # The first draw is larger than n, and must be skipped.
        stream = b"\xff" * key.width + hashlib.shake_256(b"r%d" % number).digest(60 * key.width)
        bound = reference.domain(task, run)
        played = asdict(reference.play(key, bound, asking, signing, stream))
        texts = {k: v.hex() if isinstance(v, bytes) else v for k, v in played.items()}
        cases.append(
            {"task": task, "run": run, "asking": asking, "signing": signing, "random": number}
            | {"domain": bound.hex()}
            | texts
        )
    return {"p": hex(key.p), "q": hex(key.q), "cases": cases}


if __name__ == "__main__":
    PATH.write_text(json.dumps(build(), indent=1) + "\n", encoding="utf-8")
