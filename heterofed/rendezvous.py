"""How the parties of a task find each other: the Host gathers, a Collaborator joins.

Whoever starts first waits, and says for whom. Ends when everybody holds the Host's plan.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import secrets
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from msgspec import structs

from heterofed.endings import abort_code, unlawful
from heterofed.errors import (
    DuplicatePartyError,
    HandshakeError,
    JoinTimeoutError,
    OtherTermsError,
    OtherVersionError,
    PeerLostError,
    ResumeError,
    TaskFinishedError,
)
from heterofed.events import StillWaiting
from heterofed.party import NOTICE_SECONDS, Party
from heterofed.peers import Peer, Timeouts, waiting_limit
from heterofed.plan import Plan
from heterofed.protocol.messages import (
    PROTOCOL_VERSION,
    Held,
    Hello,
    Mark,
    Terms,
    Welcome,
    WelcomeBack,
)
from heterofed.task import Purpose, differences, shown_terms
from heterofed.transport.base import Endpoint

logger = logging.getLogger("heterofed")

Errand: TypeAlias = Purpose | Literal["predict", "rehearse"]
"""What the parties meet for: what the task is for, a prediction with what it trained, or one batch
of it."""

RETRY_SECONDS = 0.3

AT_SPLIT = Mark(0)
"""The checkpoint before the first round."""

HANDSHAKES, HANDSHAKE_SECONDS = 3, 15.0
"""How many handshakes in a row fail, and for how long, until the keys are to blame: something in
front of a Host that is not up yet may accept connections, and close them.
"""

JOIN_WAITING = 3600.0
"""How long a Host may wait for others, at least, as far as a Collaborator is concerned."""

NOTICED_SECONDS = 30.0
"""By when a Host has noticed that a connection is dead, and lets that party in again."""


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


MAX_COMPARED = 2000
"""Characters in which the differences of two task files are told: a peer chooses its own."""

SAME_USER = "on this machine, as one user: there is no task file of that name"


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
        terms: those of the Host's task file; empty without one.
        ended: the run that this Host has ended last; whoever still holds a part of it is told so.
        going_on: the run that waits for a party to come back, or is complete and waits for
            goodbyes; others would throw it away.
        partial: once `join_timeout` has passed, go on with whoever is there.
        check_usable: raises where a key or the task has expired by now.
    """

    def __init__(
        self,
        task: bytes,
        purpose: Errand,
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

    def judge(self, party: Party, visitor: Peer, hello: Hello) -> str | None:
        """The code of a refusal, or None to let the visitor in.

        Raises:
            ConfigError: a key or the task has expired since the Host was started.
        """
        proven = visitor.channel.party
        if PROTOCOL_VERSION not in hello.versions:
            return "other_version"
        if proven is not None and proven != hello.party:
            return "stranger"
        if hello.task != self._task or hello.purpose not in (self._purpose, "check"):
            return "other_task"
        if hello.terms != self._terms or hello.purpose == "check":
            return self._compare(party, visitor, hello)
        if hello.held is not None and hello.held.run == self._ended:
            return "finished"
        if self._going_on is not None and self._going_on.complete:
            return self._judge_leaving(party, hello, self._going_on)
        if self._names is not None and hello.party not in self._names:
            return "stranger"
        if self._going_on is not None and self._going_on.common([hello.held]) is None:
            return "resume"
        if self._closed:
            return "duplicate_party"
        self._make_way(party, hello)
        if hello.party in party.peers or hello.party == self._host or self.is_complete(party):
            return "duplicate_party"
        self._check_usable()
        visitor.incarnation = hello.incarnation
        return None

    def _make_way(self, party: Party, hello: Hello) -> None:
        """One process is there once: its newest connection is the living one."""
        older = party.peers.get(hello.party)
        if older is not None and older.incarnation == hello.incarnation:
            del party.peers[hello.party]
            older.session.lost()
            older.channel.close()

    def _judge_leaving(self, party: Party, hello: Hello, run: Earlier) -> str | None:
        """As `judge`, of a complete run: only goodbyes are awaited, of who holds its last mark."""
        if hello.party not in run.agreement.plan.collaborators:
            return "stranger"
        awaited = self._names is None or hello.party in self._names
        if not awaited or run.common([hello.held]) != run.marks[-1]:
            return "finished"
        return "duplicate_party" if self._closed or hello.party in party.peers else None

    def _compare(self, party: Party, visitor: Peer, hello: Hello) -> str:
        """Show the visitor the Host's terms; what differs goes to the Host's log."""
        with contextlib.suppress(PeerLostError):
            # Not patient: whoever was not let in holds nobody up.
            party.post(visitor, Terms(self._terms), patient=False)
        if hello.terms == self._terms:
            self.checked.add(hello.party)
            logger.info("%s has the same terms", hello.party)
        elif party.clock() - self._shown_at.get(visitor.channel.party, -math.inf) > NOTICE_SECONDS:
            self._shown_at[visitor.channel.party] = party.clock()
            logger.warning(
                "the task file of %s differs: %s",
                hello.party,
                _compared(self._terms, hello.terms),
            )
        return "other_terms"  # nobody hears it: Terms were the last word

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
        party.peers = {name: party.peers[name] for name in order if name in party.peers}
        return list(party.peers)


def gather(
    party: Party,
    door: Door,
    make_plan: Callable[[tuple[str, ...]], Plan],
    *,
    join_timeout: float,
    described: str = SAME_USER,
    earlier: Earlier | None = None,
) -> Agreement:
    """Host: wait until everybody is there, then announce the plan.

    Args:
        party: the Host.
        door: whom to let in.
        make_plan: called with the Collaborators' keys in task order.
        join_timeout: seconds to wait for them; 0: for ever.
        described: where they meet, for messages.
        earlier: a run of this Host that has not ended; goes on where all others hold it too, with
            a checkpoint in common once it trains.

    Raises:
        JoinTimeoutError: naming who is missing.
    """
    party.door = lambda visitor, hello: door.judge(party, visitor, hello)
    began = noticed = party.clock()
    while not door.is_complete(party):
        party.pump(0.5)
        now = party.clock()
        missing = door.missing(party)
        if missing and join_timeout and now - began > join_timeout:
            if door.partial:
                logger.warning("going on without %s", ", ".join(missing))
                break
            raise JoinTimeoutError(
                f"{party.name} waited {now - began:.0f} s in phase join for: {', '.join(missing)};"
                f" start them with the same task id ({described})",
                party=party.name,
            )
        if missing and now - noticed >= NOTICE_SECONDS:
            noticed = now
            party.notice_waiting(missing, now - began)
    names = tuple(door.close(party))
    helds = [peer.held for peer in party.peers.values()]
    agreement = earlier.agreed(helds) if earlier is not None else None
    if agreement is None:
        agreement = Agreement(make_plan(names), secrets.token_bytes(16), secrets.token_bytes(32))
    # A complete run masks nothing any more, and not all of its parties are here.
    keys = () if earlier is not None and earlier.complete else _mask_keys(party, agreement.plan)
    common = (PROTOCOL_VERSION, agreement.run, agreement.secret, agreement.plan)
    if agreement.resume is None:
        party.broadcast(Welcome(*common, keys))
    else:
        party.broadcast(WelcomeBack(*common, agreement.resume, keys))
    return agreement


def join(
    open_endpoint: Callable[[], Endpoint],
    make_party: Callable[[Endpoint], Party],
    hello: Hello,
    *,
    link_timeout: float,
    join_timeout: float,
    described: str = SAME_USER,
    objections: Callable[[Plan], list[str]] = lambda _plan: [],
    earlier: Earlier | None = None,
) -> tuple[Party, Peer, Agreement]:
    """Collaborator: find the Host, say Hello and wait until everybody is there.

    Args:
        open_endpoint: opens one connection towards the Host; each attempt is a new one.
        make_party: makes this party over it.
        hello: what to say.
        link_timeout: seconds for one connection to be established.
        join_timeout: seconds to look for the Host; 0: for ever. Its own bounds the wait for the
            others, and so does this one, if it is longer than an hour.
        described: where they meet, for messages.
        objections: in what a plan is not what this party agreed to.
        earlier: what this party holds of a run that has not ended.

    Returns:
        This party, the Host as its peer, and what was agreed. The caller closes the party.

    Raises:
        JoinTimeoutError: the Host did not come online.
        JoinRefusedError: the Host turned this party away.
        HandshakeError: one side does not know the other's key.
        RemoteProtocolError: the Host's plan is not what was agreed.
        ResumeError: the Host goes on with a run under another plan than it began with.
    """
    hello = structs.replace(hello, held=earlier.held if earlier else None)
    began = noticed = time.monotonic()
    failed, failing_since = 0, 0.0
    while True:
        party = make_party(open_endpoint())
        try:
            host = knock(party, hello, link_timeout)
            if host is not None:
                # Long, so that a Host may wait for others longer than this party looks for it.
                waiting = max(join_timeout, JOIN_WAITING) if join_timeout else 0.0
                party.timeouts = replace(party.timeouts, waiting=waiting)
                with party.in_phase("join"):
                    agreement = _be_welcomed(party, host, hello.terms, objections)
                    return party, host, _going_on(agreement, earlier)
        except HandshakeError as error:
            if not failed:
                failing_since = time.monotonic()
                logger.warning("trying again: %s", error)
            failed += 1
            if failed >= HANDSHAKES and time.monotonic() - failing_since >= HANDSHAKE_SECONDS:
                party.close(0)
                raise
        except PeerLostError:
            failed = 0  # it went away before the task began: look for it again
        except DuplicatePartyError:
            # Of a run that is going on: the Host has not noticed yet that we were gone.
            if earlier is None or time.monotonic() - began > NOTICED_SECONDS:
                party.close(0)
                raise
        except BaseException as error:
            party.abort(error, abort_code(error, None))
            party.close()
            raise
        party.close(0)
        now = time.monotonic()
        if join_timeout and now - began > join_timeout:
            raise JoinTimeoutError(
                f"{party.name} waited {now - began:.0f} s in phase join for the Host, which did"
                f" not come online; start it with the same task id ({described})",
                party=party.name,
            )
        if now - noticed >= NOTICE_SECONDS:
            noticed = now
            party.emit(StillWaiting(("the Host",), now - began))
        time.sleep(RETRY_SECONDS)


def knock(party: Party, hello: Hello, link_timeout: float) -> Peer | None:
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


def _be_welcomed(
    party: Party, host: Peer, terms: bytes, objections: Callable[[Plan], list[str]]
) -> Agreement:
    """Wait for the Welcome; the Host says every few seconds whom it still waits for."""
    # The Host shows every few seconds that it is alive, and runs no user code meanwhile.
    patience = max(party.timeouts.schedule, 3 * NOTICE_SECONDS)
    party.timeouts = replace(party.timeouts, schedule=patience)
    mail = party.take(host, Welcome, WelcomeBack, Terms, computing=False)
    welcome = mail.message
    if isinstance(welcome, Terms):
        raise OtherTermsError(
            f"the task file of {party.name} differs from the Host's:"
            f" {_compared(terms, welcome.terms)}; agree on one file and accept it anew (heterofed"
            " task accept)",
            party=party.name,
        )
    if not isinstance(welcome, Welcome | WelcomeBack) or welcome.version != PROTOCOL_VERSION:
        raise OtherVersionError(party=party.name)
    keys = [welcome.plan.host, *welcome.plan.collaborators]
    if party.name not in keys[1:] or len(set(keys)) != len(keys):
        raise unlawful("the Host", "join", "announced a plan in which this party has no place")
    if differ := objections(welcome.plan):
        raise unlawful("the Host", "join", f"announced another plan: {'; '.join(differ)}")
    del party.peers["the Host"]
    party.admit(host, welcome.plan.host)
    party.timeouts = Timeouts(
        calculation=welcome.plan.calculation_timeout,
        schedule=welcome.plan.schedule_timeout,
        moving=party.timeouts.moving,
        waiting=waiting_limit(welcome.plan),
    )
    resume = welcome.mark if isinstance(welcome, WelcomeBack) else None
    wanted = {len(welcome.plan.collaborators) if welcome.plan.fusion == "masked_sum" else 0}
    if resume is not None:
        wanted.add(0)  # where only goodbyes are left; a Collaborator trains on nothing without them
    if len(welcome.mask_keys) not in wanted:
        raise unlawful("the Host", "join", "sent other masking keys than the plan needs")
    return Agreement(welcome.plan, welcome.run, welcome.secret, resume, welcome.mask_keys)


def _mask_keys(party: Party, plan: Plan) -> tuple[bytes, ...]:
    """What the Host relays: the Collaborators' keys, in the plan's order."""
    if plan.fusion != "masked_sum":
        return ()
    keys = []
    for name in plan.collaborators:
        key = party.peers[name].mask_key
        if key is None:
            raise unlawful(name, "join", "sent no masking key")
        keys.append(key)
    return tuple(keys)


def _going_on(agreement: Agreement, earlier: Earlier | None) -> Agreement:
    """Check that the Host's welcome fits what this party holds of the run, and give it back."""
    if earlier is not None and earlier.agreement.run == agreement.run:
        check_same_plan(earlier.agreement.plan, agreement.plan)
        if earlier.agreement.secret != agreement.secret:
            raise unlawful("the Host", "join", "goes on with a run under another secret")
        if agreement.resume is None and any(mark > AT_SPLIT for mark in earlier.marks):
            raise unlawful("the Host", "join", "begins a run again that has trained already")
    elif earlier is not None and earlier.complete:
        raise TaskFinishedError(party=agreement.plan.host)  # this party came to say goodbye
    elif agreement.resume is not None:
        raise unlawful("the Host", "join", "goes on with a run that this party never saw")
    return agreement


def _compared(here: bytes, there: bytes) -> str:
    """In what two parties' terms differ; either may have none, and the other's may be anything."""
    if not here or not there:
        return f"there is none {'there' if here else 'here'}"
    try:
        differ = "; ".join(differences(shown_terms(here), shown_terms(there))) or "not in a field"
        return textwrap.shorten(differ, MAX_COMPARED, placeholder=" ...")
    except ValueError:
        return "the other's cannot be read"


WAITS = frozenset({"calculation_timeout", "schedule_timeout", "wait_for_peers"})
"""Fields of the plan that change no number: a run goes on under those that the Host has now."""


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
