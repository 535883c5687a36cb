"""The suite ristretto255-SHA512 gives the test vectors of RFC 9497, appendix A.1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import psi
from psi.ecdh import rfc9497
from psi.ecdh.group import ORDER, find_group, scalar

SUITES: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("rfc9497.json").read_text(encoding="utf-8")
)
CASES = [(suite, case) for suite in SUITES for case in suite["vectors"]]
NAMES = [f"mode{suite['mode']}-{case['Input'][:6]}" for suite, case in CASES]
BATCH = CASES[-1]


def parts(text: str) -> list[bytes]:
    return [bytes.fromhex(each) for each in text.split(",")]


def joined(text: str) -> bytes:
    return b"".join(parts(text))


@pytest.mark.parametrize(("suite", "case"), CASES, ids=NAMES)
def test_vectors(suite: dict[str, Any], case: dict[str, Any]) -> None:
    key, inputs, blinds = bytes.fromhex(suite["skSm"]), parts(case["Input"]), joined(case["Blind"])
    blinded = rfc9497.blind(inputs, blinds, suite["mode"])
    assert blinded == joined(case["BlindedElement"])
    evaluated = rfc9497.evaluate(key, blinded)
    assert evaluated == joined(case["EvaluationElement"])
    outputs = rfc9497.finalize(inputs, blinds, evaluated)
    assert outputs == parts(case["Output"])
    assert rfc9497.output_of(key, inputs, suite["mode"]) == outputs
    if suite["mode"] == rfc9497.VOPRF:
        public, proof = bytes.fromhex(suite["pkSm"]), case["Proof"]
        assert find_group().base(key) == public
        made = rfc9497.prove(key, blinded, evaluated, bytes.fromhex(proof["r"]))
        assert made == bytes.fromhex(proof["proof"])
        rfc9497.verify(public, blinded, evaluated, made)


def test_all_vectors_of_both_modes_are_here() -> None:
    assert [(suite["mode"], case["Batch"]) for suite, case in CASES] == [
        *[(0, 1)] * 2,
        *[(1, 1)] * 2,
        (1, 2),
    ]


def test_another_key_or_changed_bytes_are_noticed() -> None:
    suite, case = BATCH
    public, blinded = bytes.fromhex(suite["pkSm"]), joined(case["BlindedElement"])
    good, proof = joined(case["EvaluationElement"]), bytes.fromhex(case["Proof"]["proof"])
    other = scalar(7)
    swapped = good[32:] + good[:32]
    hostile = [
        (rfc9497.evaluate(other, blinded), proof),
        (good[:32] + rfc9497.evaluate(other, blinded[32:]), proof),
        (swapped, proof),
        (good, proof[32:] + proof[:32]),
        (good, proof[:-1]),
        (good, b""),
        (good, bytes(64)),
        (good, proof[:32] + ORDER.to_bytes(32, "little")),
        (good, b"\xff" * 64),
        (good[:32], proof),
        (good[:32] + bytes(32), proof),
        (good[:32] + b"\xff" * 32, proof),
        (good, rfc9497.prove(other, blinded, rfc9497.evaluate(other, blinded), scalar(5))),
    ]
    for evaluated, claimed in hostile:
        with pytest.raises(psi.SignatureError):
            rfc9497.verify(public, blinded, evaluated, claimed)
    with pytest.raises(psi.ValueRefusedError):
        rfc9497.evaluate(other, bytes(32))
    with pytest.raises(psi.SignatureError):
        rfc9497.finalize([b"a"], scalar(3), bytes(32))


def test_a_sum_of_points() -> None:
    group = find_group()
    points = b"".join(group.base(scalar(each)) for each in (1, 2, 3))
    assert group.sum(points) == group.base(scalar(6))
    assert group.sum(b"") == bytes(32)
