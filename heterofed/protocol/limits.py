"""How much a peer may make this party read and hold, derived from the plan: a function per phase.

A header is measured before it is decoded, a payload before it is given room. The finer guards (how
many values, which shapes, whose turn) are the session's.
"""

from __future__ import annotations

from dataclasses import dataclass

from heterofed.plan import MAX_STALENESS, Plan
from heterofed.protocol.states import ENDED, State

MAX_FRAME_BYTES = 1 << 20
"""Largest frame on the wire, and largest chunk of PSI values."""

MAX_HEADER_BYTES = 1 << 18
"""Enough for the largest message: 256 tensors of 16 dimensions with names of 128 characters."""

MAX_KEY_BYTES = 1 << 14

PSI_WINDOW = 8
"""Chunks of blinded values that may wait for their signatures."""

AHEAD_BYTES = 64 << 20
"""Bytes of features under way from which on nothing more goes ahead, whatever the credit."""

SMALL_HEADER_BYTES = 1 << 12
"""Enough for a message of names, numbers and digests."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one phase allows a peer.

    Attributes:
        header: bytes of one message's header.
        payload: bytes of one message's payload.
        memory: bytes that all its messages which nobody has taken yet may hold.
    """

    header: int
    payload: int
    memory: int


def joining() -> Limits:
    """Before the plan is known: names, keys, the plan itself; no payload."""
    header = 1 << 17
    return Limits(header, payload=0, memory=2 * header)


def intersecting(plan: Plan) -> Limits:
    """PSI: chunks of values, as many as may be under way."""
    del plan  # how many ids there are is a guard of its own: chunks are dealt with as they come
    one = SMALL_HEADER_BYTES + MAX_FRAME_BYTES
    return Limits(SMALL_HEADER_BYTES, MAX_FRAME_BYTES, memory=(PSI_WINDOW + 1) * one)


def agreeing() -> Limits:
    """Split, between rounds, and goodbye: names, numbers and digests."""
    return Limits(SMALL_HEADER_BYTES, payload=0, memory=8 * SMALL_HEADER_BYTES)


def exchanging(plan: Plan) -> Limits:
    """Train and test: tensors. Steps ahead where each waits for an answer, else the credit."""
    steps = MAX_STALENESS if plan.max_staleness == "auto" else plan.max_staleness
    answered = (steps + 1) * plan.max_batch_bytes
    ahead = min(plan.credit * plan.max_batch_bytes, AHEAD_BYTES + plan.max_batch_bytes)
    headers = (max(steps, plan.credit) + 1) * MAX_HEADER_BYTES
    return Limits(MAX_HEADER_BYTES, plan.max_batch_bytes, max(answered, ahead) + headers)


def ended(plan: Plan | None) -> Limits:
    """After the end: late mail is read and dropped."""
    payload = max(MAX_FRAME_BYTES, plan.max_batch_bytes if plan else 0)
    return Limits(MAX_HEADER_BYTES, payload, memory=MAX_HEADER_BYTES + payload)


def limits_of(state: State, plan: Plan | None) -> Limits:
    """What a peer may do in this state of its session."""
    if state in ENDED:
        return ended(plan)
    if plan is None or state in (State.CONNECTING, State.GREETED):
        return joining()
    if state.startswith("psi"):
        return intersecting(plan)
    if state.startswith(("train", "test")):
        return exchanging(plan)
    return agreeing()
