"""Defines what the parties of a task agree on, and how they resume an unfinished run."""

from __future__ import annotations

import hashlib
import logging
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from heterofed.errors import ResumeError
from heterofed.identity.task_terms import Purpose, differences, shown_terms
from heterofed.protocol.messages import Held, Mark
from heterofed.protocol.plan import Plan

logger = logging.getLogger("heterofed")

JoinPurpose: TypeAlias = (
    Purpose | Literal["predict", "serve", "rehearse", "overlap", "stored", "average", "probe"]
)
"""The purpose for which parties connect: that of the task, a prediction, a standing link, a dry
run, a count, a request to a stored set, a horizontal task, or a probe of the machines and the
connection.
"""

AT_SPLIT = Mark(0)
"""The checkpoint before the first round."""

MAX_COMPARED = 2000
"""The most characters of a report on two task files, because a peer chooses its own terms."""

WAITS = frozenset({"calculation_timeout", "schedule_timeout", "wait_for_peers"})
"""The fields of the plan that change no result; a resumed run takes the Host's current values."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """The agreement that every party holds after all are connected.

    Attributes:
        plan: the agreed settings.
        run: the 16 random bytes that identify this run.
        secret: the 32 random bytes that key this run's digests; only its parties know them.
        mask_keys: the keys of all Collaborators in the plan's order, if something of theirs is
            summed.
        resume: the mark of the checkpoint from which all parties resume; None starts with the
            intersection.
    """

    plan: Plan
    run: bytes
    secret: bytes
    resume: Mark | None = None
    mask_keys: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Earlier:
    """The state of an unfinished run at this party.

    Attributes:
        agreement: the agreement with which the run began.
        marks: the marks of its checkpoints, in ascending order.
        split: whether the split is stored, after which training may have begun.
        complete: whether all parties hold the last checkpoint, so that only goodbyes are left.
    """

    agreement: Agreement
    marks: tuple[Mark, ...]
    split: bool = False
    complete: bool = False

    @property
    def held(self) -> Held:
        """The form of this state in a Hello."""
        return Held(self.agreement.run, self.marks)

    def common(self, others: Sequence[Held | None]) -> Mark | None:
        """Return the mark of the newest checkpoint that all parties hold."""
        shared = set(self.marks)
        for each in others:
            shared &= set(each.marks) if each and each.run == self.agreement.run else set()
        return max(shared, default=None)

    def agreed(self, others: Sequence[Held | None]) -> Agreement | None:
        """Return the agreement by which all parties resume this run, or None.

        It is None if some parties do not hold the run, or if training had begun and no checkpoint
        is undamaged at all parties.
        """
        if any(each is None or each.run != self.agreement.run for each in others):
            return None
        common = self.common(others)
        marks = {mark for each in others if each for mark in each.marks}
        if common is None and (self.split or any(mark > AT_SPLIT for mark in marks)):
            logger.warning("no checkpoint of the run that waits here is whole at all parties")
            return None
        return replace(self.agreement, resume=common)


def task_digest(task_id: str) -> bytes:
    """Return the digest of 32 bytes that a Hello contains instead of the task id."""
    return hashlib.sha256(b"heterofed task\0" + task_id.encode()).digest()


def terms_compared(here: bytes, there: bytes) -> str:
    """Return how the terms of two parties differ; either may be empty, and the peer's may be
    invalid.
    """
    if not here or not there:
        return f"there is none {'there' if here else 'here'}"
    try:
        differ = "; ".join(differences(shown_terms(here), shown_terms(there))) or "not in a field"
        return textwrap.shorten(differ, MAX_COMPARED, placeholder=" ...")
    except ValueError:
        return "the other's cannot be read"


def check_same_plan(before: Plan, now: Plan) -> None:
    """Check that a run is resumed under the plan that it began with, except for the timeouts.

    Raises:
        ResumeError: some settings changed. The message names them.
    """
    changed = [
        f"{name} was {getattr(before, name)!r} and is {getattr(now, name)!r}"
        for name in Plan.__struct_fields__
        if name not in WAITS and getattr(before, name) != getattr(now, name)
    ]
    if changed:
        raise ResumeError(
            f"the run that waits here began otherwise: {'; '.join(changed)}; start the Host as it"
            ' was, or all parties with resume="never" for a new run'
        )
