"""Limits how much a peer can make this party read and hold, with a function for each phase.

The limits follow from the plan. A header is measured before it is decoded, and a payload before
memory is allocated for it. The session checks the rest: numbers of values, shapes, turns.
"""

from __future__ import annotations

from dataclasses import dataclass

from heterofed.protocol.messages import MAX_PROBE_BYTES
from heterofed.protocol.plan import MAX_STALENESS, Plan
from heterofed.protocol.states import ENDED, State

MAX_FRAME_BYTES = 1 << 20
"""The largest frame on the wire and the largest chunk of PSI values, in bytes."""

MAX_HEADER_BYTES = 1 << 18
"""The largest header: 256 tensors of 16 dimensions with names of 128 characters fit into it."""

MAX_KEY_BYTES = 1 << 14

PSI_WINDOW = 8
"""The most chunks of blinded values that may wait for their signatures."""

AHEAD_BYTES = 64 << 20
"""No more features are sent ahead while so many bytes of them are under way."""

SERVE_WINDOW = 4
"""The most requests of a standing link that may wait for their answers."""

ROW_COUNT_BYTES = 4
"""The number of a site's rows in a batch."""

ROW_NUMBER_BYTES = 4
"""The number of a row in a request of a standing link."""

MAX_ANSWERS = 2
"""The most `Gradients` for one batch: early ones, and final ones if the step changed them."""

TAG_BYTES = 16

POINT_BYTES = 32
"""A value of a count of common ids."""

MESSAGE_BYTES = 512
"""The approximate memory of a waiting message without its payload, in bytes."""

SMALL_MESSAGES = 1024
"""The most messages without a payload that may wait; `Waiting` comes every few seconds."""

SMALL_HEADER_BYTES = 1 << 12
"""The largest header of a message of names, numbers and digests."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one phase.

    Attributes:
        header: the most bytes of a message's header.
        payload: the most bytes of a message's payload.
    """

    header: int
    payload: int


def joining() -> Limits:
    """Return the limits before the plan is known: names, keys, the plan itself, no payload."""
    return Limits(MAX_HEADER_BYTES, payload=0)


def probing() -> Limits:
    """Return the limits of a probe: facts, and bytes that only take time to be sent."""
    return Limits(SMALL_HEADER_BYTES, MAX_PROBE_BYTES)


def intersecting() -> Limits:
    """Return the limits of the PSI: chunks of values."""
    return Limits(SMALL_HEADER_BYTES, MAX_FRAME_BYTES)


def agreeing() -> Limits:
    """Return the limits between rounds and at the end: names, numbers and digests."""
    return Limits(SMALL_HEADER_BYTES, payload=0)


def splitting(plan: Plan) -> Limits:
    """Return the limits of the split: digests, and the Host's parts if it announces them."""
    return Limits(SMALL_HEADER_BYTES, MAX_FRAME_BYTES if plan.announced_split else 0)


def exchanging(plan: Plan) -> Limits:
    """Return the limits of training, tests and standing links: tensors."""
    return Limits(MAX_HEADER_BYTES, plan.max_batch_bytes)


def describing(plan: Plan) -> Limits:
    """Return the limits of the description of a model, with its weights."""
    return Limits(MAX_HEADER_BYTES, plan.max_batch_bytes)


def averaging(plan: Plan) -> Limits:
    """Return the limits of a horizontal task's rounds: numbers, and the weights of one model."""
    return Limits(SMALL_HEADER_BYTES, plan.max_batch_bytes)


def ended(plan: Plan | None) -> Limits:
    """Return the limits after the end, when late messages are read and dropped."""
    payload = max(MAX_FRAME_BYTES, plan.max_batch_bytes if plan else 0)
    return Limits(MAX_HEADER_BYTES, payload)


def limits_of(state: State, plan: Plan | None) -> Limits:
    """Return the limits in a state of a session."""
    if state in ENDED:
        return ended(plan)
    if state.startswith("probe"):
        return probing()
    if plan is None or state in (State.CONNECTING, State.GREETED):
        return joining()
    if state is State.MODEL_ASKED:
        return describing(plan)
    if plan.averaging is not None and not state.startswith("psi"):
        return averaging(plan)
    if state.startswith("psi"):
        return intersecting()
    if state.startswith(("train", "test", "serving")):
        return exchanging(plan)
    if state is State.SPLIT:
        return splitting(plan)
    if plan.sites and state is State.SPLIT_PROPOSED:
        return describing(plan)
    if plan.sites and state is State.READY:
        return Limits(SMALL_HEADER_BYTES, MAX_FRAME_BYTES)
    return agreeing()


def limits_by_state(plan: Plan | None) -> dict[State, Limits]:
    """Return the limits in each state, which are computed once and not for every message."""
    return {state: limits_of(state, plan) for state in State}


def most_waiting(plan: Plan | None, *, counts: bool = False, probes: bool = False) -> int:
    """Return the most bytes of a peer's messages that wait here, including one that is arriving.

    The number is the same for all phases, because a message may wait until the next phase. In the
    PSI, all tags may arrive while this party is busy with another peer. In training, the answers to
    each open batch may wait. Features arrive by the staleness ahead if each step waits for an
    answer, and otherwise by the credit ahead. In a probe, one ping or its answer may wait.
    """
    small = SMALL_MESSAGES * MESSAGE_BYTES
    if plan is None:
        return small + (MAX_PROBE_BYTES if probes else 0)
    chunk = MAX_FRAME_BYTES + MESSAGE_BYTES
    # In a count both lists of values may come while this party computes.
    tags = plan.max_peer_ids * (2 * POINT_BYTES if counts else TAG_BYTES)
    intersection = (PSI_WINDOW + 2) * chunk + tags + tags // MAX_FRAME_BYTES * MESSAGE_BYTES
    batch = plan.max_batch_bytes + MESSAGE_BYTES
    steps = MAX_STALENESS if plan.max_staleness == "auto" else plan.max_staleness
    answers = MAX_ANSWERS * (steps + 1) * batch
    ahead = min(plan.credit * batch, AHEAD_BYTES + batch)
    return small + max(intersection, answers, ahead)
