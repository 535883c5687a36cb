"""How the parties of a task find each other: the Host gathers, a Collaborator joins.

Whoever starts first waits, and says for whom. Ends when everybody holds the Host's plan.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from heterofed.endings import abort_code, unlawful
from heterofed.errors import JoinTimeoutError, OtherVersionError, PeerLostError
from heterofed.events import StillWaiting
from heterofed.party import NOTICE_SECONDS, Party
from heterofed.peers import Peer, Timeouts
from heterofed.plan import Plan
from heterofed.protocol.messages import PROTOCOL_VERSION, Hello, Welcome
from heterofed.transport.base import Endpoint

Purpose = Literal["train", "psi"]

VISIT_SECONDS = 15.0
"""How long a connection may say nothing before it is closed."""

RETRY_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a party holds once everybody is there.

    Attributes:
        plan: the agreed settings.
        run: 16 random bytes that name this run.
        secret: 32 random bytes that key this run's digests; known to its parties only.
    """

    plan: Plan
    run: bytes
    secret: bytes


def task_digest(task_id: str) -> bytes:
    """What a Hello says instead of the task id; 32 bytes."""
    return hashlib.sha256(b"heterofed task\0" + task_id.encode()).digest()


class Door:
    """The Host's: whom it lets in, and when everybody is there.

    Args:
        task: digest of the task id.
        purpose: what the task is for.
        host: the Host's own feature key.
        expected: the Collaborators' feature keys, or how many of them.
    """

    def __init__(
        self, task: bytes, purpose: Purpose, host: str, expected: Sequence[str] | int
    ) -> None:
        self._task, self._purpose, self._host = task, purpose, host
        self._names = None if isinstance(expected, int) else list(expected)
        self._count = expected if isinstance(expected, int) else len(expected)
        self._closed = False

    def judge(self, party: Party, visitor: Peer, hello: Hello) -> str | None:
        """The code of a refusal, or None to let the visitor in."""
        proven = visitor.channel.party
        if PROTOCOL_VERSION not in hello.versions:
            return "other_version"
        if (hello.task, hello.purpose) != (self._task, self._purpose):
            return "other_task"
        if proven is not None and proven != hello.party:
            return "stranger"
        if self._names is not None and hello.party not in self._names:
            return "stranger"
        if hello.party in party.peers or hello.party == self._host or self.is_complete(party):
            return "duplicate_party"
        return "duplicate_party" if self._closed else None

    def is_complete(self, party: Party) -> bool:
        """Whether everybody is there."""
        return len(party.peers) == self._count

    def missing(self, party: Party) -> list[str]:
        """Whom the Host still waits for, in words."""
        if self._names is not None:
            return [name for name in self._names if name not in party.peers]
        lacking = self._count - len(party.peers)
        return [f"{lacking} more Collaborator{'s' if lacking > 1 else ''}"] if lacking else []

    def close(self, party: Party) -> list[str]:
        """Let nobody in from here on; gives the parties in task order."""
        self._closed = True
        order = self._names if self._names is not None else sorted(party.peers)
        party.peers = {name: party.peers[name] for name in order}
        return order


def gather(
    party: Party,
    door: Door,
    make_plan: Callable[[tuple[str, ...]], Plan],
    *,
    join_timeout: float,
) -> Agreement:
    """Host: wait until everybody is there, then announce the plan.

    Args:
        party: the Host.
        door: whom to let in.
        make_plan: called with the Collaborators' keys in task order.
        join_timeout: seconds to wait for them; 0: for ever.

    Raises:
        JoinTimeoutError: naming who is missing.
    """
    party.door = lambda visitor, hello: door.judge(party, visitor, hello)
    began = noticed = party.clock()
    while not door.is_complete(party):
        party.pump(0.5)
        now = party.clock()
        for visitor in list(party.visitors.values()):
            if now - visitor.turn_began > VISIT_SECONDS:
                party.turn_away(visitor)
        missing = door.missing(party)
        if missing and join_timeout and now - began > join_timeout:
            raise JoinTimeoutError(
                f"{party.name} waited {now - began:.0f} s in phase join for: {', '.join(missing)};"
                " start them with the same task id (on this machine: as the same user)",
                party=party.name,
            )
        if missing and now - noticed >= NOTICE_SECONDS:
            noticed = now
            party.notice_waiting(missing, now - began)
    plan = make_plan(tuple(door.close(party)))
    agreement = Agreement(plan, secrets.token_bytes(16), secrets.token_bytes(32))
    party.broadcast(Welcome(PROTOCOL_VERSION, agreement.run, agreement.secret, plan))
    return agreement


def join(
    open_endpoint: Callable[[], Endpoint],
    make_party: Callable[[Endpoint], Party],
    hello: Hello,
    *,
    link_timeout: float,
    join_timeout: float,
) -> tuple[Party, Peer, Agreement]:
    """Collaborator: find the Host, say Hello and wait until everybody is there.

    Args:
        open_endpoint: opens one connection towards the Host; each attempt is a new one.
        make_party: makes this party over it.
        hello: what to say.
        link_timeout: seconds for one connection to be established.
        join_timeout: seconds to look for the Host (its own bounds the wait for the others); 0: for
            ever.

    Returns:
        This party, the Host as its peer, and what was agreed. The caller closes the party.

    Raises:
        JoinTimeoutError: the Host did not come online.
        JoinRefusedError: the Host turned this party away.
    """
    began = noticed = time.monotonic()
    while True:
        party = make_party(open_endpoint())
        try:
            host = _knock(party, hello, link_timeout)
            if host is not None:
                with party.in_phase("join"):
                    return party, host, _be_welcomed(party, host)
        except PeerLostError:
            pass  # it went away before the task began: look for it again
        except BaseException as error:
            party.abort(error, abort_code(error, None))
            party.close()
            raise
        party.close(0)
        now = time.monotonic()
        if join_timeout and now - began > join_timeout:
            raise JoinTimeoutError(
                f"{party.name} waited {now - began:.0f} s in phase join for the Host, which did"
                " not come online; start it with the same task id (on this machine: as the same"
                " user)",
                party=party.name,
            )
        if now - noticed >= NOTICE_SECONDS:
            noticed = now
            party.emit(StillWaiting(("the Host",), now - began))
        time.sleep(RETRY_SECONDS)


def _knock(party: Party, hello: Hello, link_timeout: float) -> Peer | None:
    """Wait for the link and say Hello; None where nobody answered in time."""
    deadline = party.clock() + link_timeout
    while not party.visitors:
        party.pump(min(0.5, link_timeout))
        if party.clock() > deadline:
            return None
    host = next(iter(party.visitors.values()))
    party.admit(host, "the Host")
    party.post(host, hello)
    return host


def _be_welcomed(party: Party, host: Peer) -> Agreement:
    """Wait for the Welcome; the Host says every few seconds whom it still waits for."""
    # The Host shows every few seconds that it is alive, and runs no user code meanwhile.
    patience = max(party.timeouts.schedule, 3 * NOTICE_SECONDS)
    party.timeouts = replace(party.timeouts, schedule=patience)
    mail = party.take(host, Welcome, computing=False)
    welcome = mail.message
    if not isinstance(welcome, Welcome) or welcome.version != PROTOCOL_VERSION:
        raise OtherVersionError(party=party.name)
    keys = [welcome.plan.host, *welcome.plan.collaborators]
    if party.name not in keys[1:] or len(set(keys)) != len(keys):
        raise unlawful("the Host", "join", "announced a plan in which this party has no place")
    del party.peers["the Host"]
    party.admit(host, welcome.plan.host)
    party.timeouts = Timeouts(
        calculation=welcome.plan.calculation_timeout,
        schedule=welcome.plan.schedule_timeout,
        moving=party.timeouts.moving,
    )
    return Agreement(welcome.plan, welcome.run, welcome.secret)
