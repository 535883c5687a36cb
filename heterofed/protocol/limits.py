"""How much a peer may make this party read and hold, derived from the plan: a function per phase.

A header is measured before it is decoded, a payload before it is given room. The finer guards (how
many values, which shapes, whose turn) are the session's.
"""

from __future__ import annotations

from dataclasses import dataclass

from heterofed.protocol.plan import MAX_STALENESS, Plan
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

MAX_ANSWERS = 2
"""Gradients for one batch: those sent ahead of the step, and others if it changed them."""

TAG_BYTES = 16

MESSAGE_BYTES = 512
"""What a message takes beside its payload, roughly, as long as nobody has taken it."""

SMALL_MESSAGES = 1024
"""Messages without a payload that may wait: a party says that it goes on every few seconds."""

SMALL_HEADER_BYTES = 1 << 12
"""Enough for a message of names, numbers and digests."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one phase allows a peer.

    Attributes:
        header: bytes of one message's header.
        payload: bytes of one message's payload.
    """

    header: int
    payload: int


def joining() -> Limits:
    """Before the plan is known: names, keys, the plan itself; no payload."""
    return Limits(1 << 17, payload=0)


def intersecting() -> Limits:
    """PSI: chunks of values."""
    return Limits(SMALL_HEADER_BYTES, MAX_FRAME_BYTES)


def agreeing() -> Limits:
    """Between rounds, and goodbye: names, numbers and digests."""
    return Limits(SMALL_HEADER_BYTES, payload=0)


def splitting(plan: Plan) -> Limits:
    """The split: digests, and the Host's parts where it announces them."""
    return Limits(SMALL_HEADER_BYTES, MAX_FRAME_BYTES if plan.announced_split else 0)


def exchanging(plan: Plan) -> Limits:
    """Train and test: tensors."""
    return Limits(MAX_HEADER_BYTES, plan.max_batch_bytes)


def ended(plan: Plan | None) -> Limits:
    """After the end: late mail is read and dropped."""
    payload = max(MAX_FRAME_BYTES, plan.max_batch_bytes if plan else 0)
    return Limits(MAX_HEADER_BYTES, payload)


def limits_of(state: State, plan: Plan | None) -> Limits:
    """What a peer may do in this state of its session."""
    if state in ENDED:
        return ended(plan)
    if plan is None or state in (State.CONNECTING, State.GREETED):
        return joining()
    if state.startswith("psi"):
        return intersecting()
    if state.startswith(("train", "test")):
        return exchanging(plan)
    if state is State.SPLIT:
        return splitting(plan)
    return agreeing()


def most_waiting(plan: Plan | None) -> int:
    """Bytes that all messages of one peer may hold which nobody has taken yet, and one that comes.

    One number for all phases, because mail of one may wait in the next. In PSI all tags may come
    while this party is busy with another one. In training each open batch may wait for its answers;
    features come steps ahead where each waits for an answer, else as far as the credit goes.
    """
    small = SMALL_MESSAGES * MESSAGE_BYTES
    if plan is None:
        return small
    chunk = MAX_FRAME_BYTES + MESSAGE_BYTES
    tags = plan.max_peer_ids * TAG_BYTES
    intersection = (PSI_WINDOW + 2) * chunk + tags + tags // MAX_FRAME_BYTES * MESSAGE_BYTES
    batch = plan.max_batch_bytes + MESSAGE_BYTES
    steps = MAX_STALENESS if plan.max_staleness == "auto" else plan.max_staleness
    answers = MAX_ANSWERS * (steps + 1) * batch
    ahead = min(plan.credit * batch, AHEAD_BYTES + batch)
    return small + max(intersection, answers, ahead)
