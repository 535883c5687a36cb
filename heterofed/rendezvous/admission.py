"""Decides which visitors a Host admits, and when all parties are connected."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Sequence

from heterofed.errors import PeerLostError
from heterofed.messaging.notices import NOTICE_SECONDS
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Peer
from heterofed.protocol.messages import PROTOCOL_VERSION, Hello, Terms
from heterofed.rendezvous.agreement import Earlier, JoinPurpose, terms_compared
from heterofed.rendezvous.ways import call_for

logger = logging.getLogger("heterofed")


class Admission:
    """The admission of visitors at the Host.

    Args:
        task: the digest of the task id.
        purpose: the purpose of the task.
        host: the Host's own feature key.
        expected: the feature keys of the Collaborators, or their number.
        terms: the terms of the Host's task file; empty without one.
        ended: the last run that ended at this Host; a party that still holds a part of it is told
            so.
        going_on: a run that waits for a lost party, or a complete one that waits for goodbyes; it
            must not be replaced by another run.
        partial: whether to continue without missing parties after `join_timeout`.
        check_usable: raises an error if a key or the task has expired.
    """

    def __init__(
        self,
        task: bytes,
        purpose: JoinPurpose,
        host: str,
        expected: Sequence[str] | int,
        *,
        terms: bytes = b"",
        ended: bytes | None = None,
        going_on: Earlier | None = None,
        partial: bool = False,
        check_usable: Callable[[], object] = lambda: None,
    ) -> None:
        self.partial = partial
        self._check_usable = check_usable
        self._shown_at: dict[str | None, float] = {}
        self._task, self._purpose, self._host = task, purpose, host
        self._terms, self._ended, self._going_on = terms, ended, going_on
        self._names = None if isinstance(expected, int) else list(expected)
        self._count = expected if isinstance(expected, int) else len(expected)
        self._closed = False
        self.checked: set[str] = set()

    def open(self, party: Party) -> None:
        """Judge the visitors of a Host, and let a party that leaves it come again."""
        party.admission = lambda visitor, hello: self.judge(party, visitor, hello)
        party.gathers = True

    def judge(self, party: Party, visitor: Peer, hello: Hello) -> str | None:
        """Return the code of a refusal, or None to admit the visitor.

        Raises:
            ConfigError: a key or the task has expired since the Host was started.
        """
        proven = visitor.channel.party
        if PROTOCOL_VERSION not in hello.versions:
            return "other_version"
        if proven is not None and proven != hello.party:
            return "stranger"
        if hello.task != self._task or hello.purpose not in (self._purpose, "check"):
            if hello.task == self._task:
                logger.warning("%s came to %s", hello.party, _other(hello.purpose, self._purpose))
            return "other_task"
        if hello.terms != self._terms or hello.purpose == "check":
            return self._compare(party, visitor, hello)
        if hello.held is not None and hello.held.run == self._ended:
            return "finished"
        if self._going_on is not None and self._going_on.complete:
            return self._judge_leaving(party, hello, self._going_on)
        if self._names is not None and hello.party not in self._names:
            return "stranger"
        if self._closed:  # the run has checkpoints by now that `going_on` does not name
            return "duplicate_party"
        if self._going_on is not None and self._going_on.common([hello.held]) is None:
            return "resume"
        self._make_way(party, hello)
        if hello.party in party.peers or hello.party == self._host or self.is_complete(party):
            return "duplicate_party"
        self._check_usable()
        visitor.incarnation = hello.incarnation
        return None

    def _make_way(self, party: Party, hello: Hello) -> None:
        """Replace an older connection of the same process, because only the newest one is alive."""
        older = party.peers.get(hello.party)
        if older is not None and older.incarnation == hello.incarnation:
            party.forget(older)

    def _judge_leaving(self, party: Party, hello: Hello, run: Earlier) -> str | None:
        """Judge a visitor as `judge` does, for a complete run in which only goodbyes are
        missing.
        """
        if hello.party not in run.agreement.plan.collaborators:
            return "stranger"
        awaited = self._names is None or hello.party in self._names
        if not awaited or run.common([hello.held]) != run.marks[-1]:
            return "finished"
        return "duplicate_party" if self._closed or hello.party in party.peers else None

    def _compare(self, party: Party, visitor: Peer, hello: Hello) -> str:
        """Send the visitor the Host's terms, and log the differences."""
        with contextlib.suppress(PeerLostError):
            # A visitor that is not admitted must not delay anybody.
            party.post(visitor, Terms(self._terms), patient=False)
        if hello.terms == self._terms:
            self.checked.add(hello.party)
            logger.info("%s has the same terms", hello.party)
        elif party.clock() - self._shown_at.get(visitor.channel.party, -math.inf) > NOTICE_SECONDS:
            self._shown_at[visitor.channel.party] = party.clock()
            logger.warning(
                "the task file of %s differs: %s",
                hello.party,
                terms_compared(self._terms, hello.terms),
            )
        return "other_terms"  # not sent, because Terms was the last message

    def is_complete(self, party: Party) -> bool:
        """Return whether all parties are connected."""
        return len(party.peers) == self._count

    def missing(self, party: Party) -> list[str]:
        """Return a description of the parties that the Host still waits for."""
        if self._names is not None:
            return [name for name in self._names if name not in party.peers]
        lacking = self._count - len(party.peers)
        return [f"{lacking} more Collaborator{'s' if lacking > 1 else ''}"] if lacking else []

    def close(self, party: Party) -> list[str]:
        """Admit no further visitor, and return the parties in task order."""
        self._closed, party.gathers = True, False
        order = self._names if self._names is not None else sorted(party.peers)
        party.peers = {name: party.peers[name] for name in order if name in party.peers}
        return list(party.peers)


def _other(theirs: str, ours: JoinPurpose) -> str:
    """Return a sentence on a party's wrong purpose, with what it should be started by instead."""
    return f"{theirs}, and this Host waits for parties that {ours}: call {call_for(ours)} there"
