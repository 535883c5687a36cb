"""What the parties of a task agree on, and how a run that has not ended goes on."""

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

Errand: TypeAlias = Purpose | Literal["predict", "rehearse", "overlap"]
"""What the parties meet for: what the task is for, a prediction with what it trained, one batch
of it, or the number of ids that they share."""

AT_SPLIT = Mark(0)
"""The checkpoint before the first round."""

MAX_COMPARED = 2000
"""Characters in which the differences of two task files are told: a peer chooses its own."""

WAITS = frozenset({"calculation_timeout", "schedule_timeout", "wait_for_peers"})
"""Fields of the plan that change no number: a run goes on under those that the Host has now."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a party holds once everybody is there.

    Attributes:
        plan: the agreed settings.
        run: 16 random bytes that name this run.
        secret: 32 random bytes that key this run's digests; known to its parties only.
        mask_keys: of all Collaborators in the plan's order, where their features are summed.
        resume: whose checkpoint everybody goes on from; None: from the intersection on.
    """

    plan: Plan
    run: bytes
    secret: bytes
    resume: Mark | None = None
    mask_keys: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Earlier:
    """What this party holds of a run that has not ended.

    Attributes:
        agreement: as the run began.
        marks: where it has a checkpoint, in ascending order.
        split: whether it has kept the split, after which training may have begun.
        complete: whether all parties hold the last checkpoint, so that only goodbyes are left.
    """

    agreement: Agreement
    marks: tuple[Mark, ...]
    split: bool = False
    complete: bool = False

    @property
    def held(self) -> Held:
        """How a Hello says it."""
        return Held(self.agreement.run, self.marks)

    def common(self, others: Sequence[Held | None]) -> Mark | None:
        """The newest checkpoint that this party and all others hold."""
        shared = set(self.marks)
        for each in others:
            shared &= set(each.marks) if each and each.run == self.agreement.run else set()
        return max(shared, default=None)

    def agreed(self, others: Sequence[Held | None]) -> Agreement | None:
        """How all go on with this run; None where not all hold it, or where its training had begun
        and no checkpoint of it is whole at all of them.
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
    """What a Hello says instead of the task id; 32 bytes."""
    return hashlib.sha256(b"heterofed task\0" + task_id.encode()).digest()


def terms_compared(here: bytes, there: bytes) -> str:
    """In what two parties' terms differ; either may have none, and the other's may be anything."""
    if not here or not there:
        return f"there is none {'there' if here else 'here'}"
    try:
        differ = "; ".join(differences(shown_terms(here), shown_terms(there))) or "not in a field"
        return textwrap.shorten(differ, MAX_COMPARED, placeholder=" ...")
    except ValueError:
        return "the other's cannot be read"


def check_same_plan(before: Plan, now: Plan) -> None:
    """Check that a run goes on as it began, but for how long its parties wait for each other.

    Raises:
        ResumeError: naming the settings that changed.
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
