"""Lets the parties of a task connect: the Host gathers them, and a Collaborator joins.

The party that starts first waits, and logs for whom. Joining ends when all parties hold the Host's
plan.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import cast

from msgspec import structs

from heterofed.errors import (
    DuplicatePartyError,
    HandshakeError,
    JoinTimeoutError,
    OtherTermsError,
    OtherVersionError,
    PeerLostError,
    TaskFinishedError,
)
from heterofed.events import StillWaiting
from heterofed.messaging.aborts import abort_code, unlawful
from heterofed.messaging.notices import NOTICE_SECONDS, Notices
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Peer, Timeouts, waiting_limit
from heterofed.protocol.messages import (
    PROTOCOL_VERSION,
    Hello,
    MaskKeys,
    Terms,
    Welcome,
    WelcomeBack,
)
from heterofed.protocol.plan import Plan
from heterofed.rendezvous.admission import Admission
from heterofed.rendezvous.agreement import (
    AT_SPLIT,
    Agreement,
    Earlier,
    check_same_plan,
    terms_compared,
)
from heterofed.rendezvous.ways import no_host
from heterofed.transport.base import Endpoint

logger = logging.getLogger("heterofed")

RETRY_SECONDS = 0.3

HANDSHAKES, HANDSHAKE_SECONDS = 3, 15.0
"""The number of failed handshakes in a row, and their seconds, after which keys are to blame.

A proxy in front of a Host that has not started may accept connections and close them.
"""

JOIN_WAITING = 3600.0
"""The least seconds for which a Collaborator lets the Host wait for other parties."""

NOTICED_SECONDS = 30.0
"""The seconds after which a Host has noticed a dead connection and admits the party again."""


SAME_USER = "on this machine, as one user: there is no task file of that name"


def gather(
    party: Party,
    admission: Admission,
    make_plan: Callable[[tuple[str, ...]], Plan],
    *,
    join_timeout: float,
    described: str = SAME_USER,
    compare: str = "",
    start: str = "start them",
    earlier: Earlier | None = None,
    check_keys: Callable[[Mapping[str, bytes]], object] = lambda _keys: None,
) -> tuple[Agreement, MaskKeys]:
    """At the Host: wait for all parties, and agree with them on what `announce` tells them.

    Args:
        party: the Host.
        admission: decides which visitors are admitted.
        make_plan: returns the plan for the Collaborators' keys in task order.
        join_timeout: the seconds to wait for the parties; 0 waits for ever.
        described: a description of the meeting place, for messages.
        compare: see `StillWaiting`.
        start: what to do at the parties that do not connect.
        earlier: an unfinished run of this Host. It is resumed if all parties hold it and, after
            training has begun, have a checkpoint in common.
        check_keys: raises an error if the Collaborators' masking keys, by feature key, are invalid.

    Returns:
        What was agreed, and the masking keys of all Collaborators, if they need them.

    Raises:
        JoinTimeoutError: parties are missing. The message names them.
        PeerLostError: a party disconnected after all were there.
        RemoteProtocolError: a Collaborator sent no valid masking key although one is needed.
    """
    admission.open(party)
    began = noticed = party.clock()
    while not admission.is_complete(party):
        party.pump(0.5)
        now = party.clock()
        missing = admission.missing(party)
        if missing and join_timeout and now - began > join_timeout:
            if admission.partial:
                logger.warning("going on without %s", ", ".join(missing))
                break
            who = f": {', '.join(missing)}; {start}"
            raise _nobody_came(party, now - began, who, described, compare)
        if missing and now - noticed >= NOTICE_SECONDS:
            noticed = now
            party.notice_waiting(missing, now - began, f"{compare}; {start}" if compare else "")
    names = tuple(admission.close(party))
    helds = [peer.held for peer in party.peers.values()]
    agreement = earlier.agreed(helds) if earlier is not None else None
    if agreement is None:
        agreement = Agreement(make_plan(names), secrets.token_bytes(16), secrets.token_bytes(32))
    # A complete run masks nothing any more, and some of its parties may have left.
    complete = earlier is not None and earlier.complete
    keys = () if complete else _mask_keys(party, agreement.plan, check_keys)
    return agreement, keys


def announce(party: Party, agreement: Agreement, keys: MaskKeys) -> None:
    """At the Host: tell all parties what was agreed.

    Raises:
        PeerLostError: a party disconnected.
    """
    common = (PROTOCOL_VERSION, agreement.run, agreement.secret, agreement.plan)
    if agreement.resume is None:
        party.broadcast(Welcome(*common, keys))
    else:
        party.broadcast(WelcomeBack(*common, agreement.resume, keys))


def join(
    open_endpoint: Callable[[], Endpoint],
    make_party: Callable[[Endpoint], Party],
    hello: Hello,
    *,
    link_timeout: float,
    join_timeout: float,
    described: str = SAME_USER,
    compare: str = "",
    diagnose: Callable[[], str] = str,
    objections: Callable[[Plan], list[str]] = lambda _plan: [],
    earlier: Earlier | None = None,
    knows_host: bool = False,
    is_silent: Callable[[], bool] = lambda: False,
) -> tuple[Party, Peer, Agreement]:
    """At a Collaborator: find the Host, send Hello, and wait until all parties are connected.

    Args:
        open_endpoint: opens a connection to the Host; it is called for each attempt.
        make_party: makes the `Party` of this connection.
        hello: the Hello to send.
        link_timeout: the seconds in which a connection must be established.
        join_timeout: seconds to look for it; 0: for ever. One above an hour bounds all waiting.
        described: where they meet, for messages.
        compare: see `StillWaiting`.
        diagnose: why a handshake fails, where it is not for the keys; empty otherwise.
        objections: in what a plan is not what this party agreed to.
        earlier: what this party holds of a run that has not ended.
        knows_host: whether this process was connected to it before, so that no key is wrong.
        is_silent: whether something there accepts connections for a Host that may still come.

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
    began, notices = time.monotonic(), Notices(NOTICE_SECONDS)
    failures = _Failures(began, earlier, diagnose, is_silent, knows_host=knows_host)
    while True:
        party = make_party(open_endpoint())
        party.check_welcome = partial(_check_welcome, party.name, objections)
        with failures.noted(party):
            if (host := knock(party, hello, link_timeout)) is not None:
                party.timeouts = replace(party.timeouts, waiting=_waiting(join_timeout))
                with party.in_phase("join"):
                    agreement = _be_welcomed(party, host, hello.terms)
                    return party, host, _going_on(agreement, earlier)
        party.close(0)
        waited = time.monotonic() - began
        if join_timeout and waited > join_timeout:
            raise _no_host_came(party, waited, described, failures.advice or compare)
        if notices.due(waited):
            party.emit(StillWaiting(("the Host",), waited, f"{compare}; {no_host()}"))
        time.sleep(RETRY_SECONDS)


def _waiting(join_timeout: float) -> float:
    """Return how long the Host may say that it waits for others, which may be late."""
    return max(join_timeout, JOIN_WAITING) if join_timeout else 0.0


def _no_host_came(party: Party, waited: float, described: str, compare: str) -> JoinTimeoutError:
    missing = f" the Host, which did not come online; start it ({no_host()})"
    return _nobody_came(party, waited, missing, described, compare)


def _nobody_came(
    party: Party, waited: float, missing: str, described: str, compare: str
) -> JoinTimeoutError:
    hint = f"; if it runs already, compare {compare}" if compare else "; compare the task ids"
    return JoinTimeoutError(
        f"{party.name} waited {waited:.0f} s in phase join for{missing} with the same task id"
        f" ({described}){hint}",
        party=party.name,
    )


class _Failures:
    """Records failed attempts of a Collaborator to join, and decides whether to try again.

    Args:
        began: the time at which it began to look for the Host.
        earlier: the state of an unfinished run at this party.
        diagnose: returns why a handshake fails if it is not for the keys; empty otherwise.
        is_silent: returns whether something accepts connections there and says nothing, as a proxy
            does whose Host is not up. The Host may still come.
        knows_host: whether this process was connected to it before, so that no key is wrong.
    """

    def __init__(
        self,
        began: float,
        earlier: Earlier | None,
        diagnose: Callable[[], str],
        is_silent: Callable[[], bool],
        *,
        knows_host: bool,
    ) -> None:
        self._began, self._earlier, self._diagnose = began, earlier, diagnose
        self._is_silent, self._knows_host = is_silent, knows_host
        self._handshakes, self._since = 0, 0.0
        self._was_silent = False

    @property
    def advice(self) -> str:
        """Return what to compare if something answered for the Host and said nothing; else ""."""
        return self._diagnose() if self._was_silent else ""

    @contextmanager
    def noted(self, party: Party) -> Iterator[None]:
        """Enclose one attempt; if its error is final, close the party and raise the error."""
        try:
            yield
        except HandshakeError as error:
            if self._are_keys_to_blame(error):
                party.close(0)
                raise explained(error, self._diagnose) from None
        except PeerLostError:
            self._handshakes = 0  # the Host left before the task began, so look for it again
        except DuplicatePartyError:
            # The Host of a running task has not noticed yet that the old connection was lost.
            if self._earlier is None or time.monotonic() - self._began > NOTICED_SECONDS:
                party.close(0)
                raise
        except BaseException as error:
            party.abort(error, abort_code(error, None))
            party.close()
            raise

    def _are_keys_to_blame(self, error: HandshakeError) -> bool:
        now = time.monotonic()
        if self._is_silent():
            if not self._was_silent:
                logger.warning("trying again: %s", explained(error, self._diagnose))
            self._was_silent, self._handshakes = True, 0
            return False
        if not self._handshakes:
            self._since = now
            logger.warning("trying again: %s", explained(error, self._diagnose))
        self._handshakes += 1
        often = self._handshakes >= HANDSHAKES and now - self._since >= HANDSHAKE_SECONDS
        return often and not self._knows_host


def explained(error: HandshakeError, diagnose: Callable[[], str]) -> HandshakeError:
    """Return the error of a handshake, with another text if the keys are not to blame."""
    advice = diagnose()
    return HandshakeError(f"{advice} (phase join)", party=error.party) if advice else error


def knock(party: Party, hello: Hello, link_timeout: float) -> Peer | None:
    """Wait for the link and send Hello; return None if no answer came in time."""
    deadline = party.clock() + link_timeout
    while not party.visitors:
        party.pump(min(0.5, link_timeout))
        if party.clock() > deadline:
            return None
    host = next(iter(party.visitors.values()))
    party.admit(host, "the Host")
    party.post(host, hello)
    return host


def _check_welcome(
    name: str, objections: Callable[[Plan], list[str]], welcome: Welcome | WelcomeBack
) -> None:
    """Raise an error if the party `name` refuses a Welcome, or the names in it."""
    if welcome.version != PROTOCOL_VERSION:
        raise OtherVersionError(party=name)
    keys = [welcome.plan.host, *welcome.plan.collaborators]
    if name not in keys[1:] or len(set(keys)) != len(keys):
        raise unlawful("the Host", "join", "announced a plan in which this party has no place")
    if differ := objections(welcome.plan):
        raise unlawful("the Host", "join", f"announced another plan: {'; '.join(differ)}")


def _be_welcomed(party: Party, host: Peer, terms: bytes) -> Agreement:
    """Wait for the Welcome; the Host reports every few seconds whom it still waits for."""
    # The Host sends a message every few seconds, and runs no user code meanwhile.
    patience = max(party.timeouts.schedule, 3 * NOTICE_SECONDS)
    party.timeouts = replace(party.timeouts, schedule=patience)
    mail = party.take(host, Welcome, WelcomeBack, Terms, computing=False)
    if isinstance(mail.message, Terms):
        raise OtherTermsError(
            f"the task file of {party.name} differs from the Host's:"
            f" {terms_compared(terms, mail.message.terms)}; agree on one file and accept it anew"
            " (heterofed task accept)",
            party=party.name,
        )
    welcome = cast("Welcome | WelcomeBack", mail.message)
    party.timeouts = Timeouts(
        calculation=welcome.plan.calculation_timeout,
        schedule=welcome.plan.schedule_timeout,
        moving=party.timeouts.moving,
        waiting=waiting_limit(welcome.plan),
    )
    resume = welcome.mark if isinstance(welcome, WelcomeBack) else None
    wanted = {len(welcome.plan.collaborators) if welcome.plan.shares_secrets else 0}
    if resume is not None:
        # For a complete run; in any other run, a Collaborator needs the keys to train.
        wanted.add(0)
    if len(welcome.mask_keys) not in wanted:
        raise unlawful("the Host", "join", "sent other masking keys than the plan needs")
    return Agreement(welcome.plan, welcome.run, welcome.secret, resume, welcome.mask_keys)


def _mask_keys(
    party: Party, plan: Plan, check: Callable[[Mapping[str, bytes]], object]
) -> tuple[bytes, ...]:
    """Return the Collaborators' keys in the plan's order, which the Host relays."""
    if not plan.shares_secrets:
        return ()
    keys = {}
    for name in plan.collaborators:
        key = party.peers[name].mask_key
        if key is None:
            raise unlawful(name, "join", "sent no masking key")
        keys[name] = key
    check(keys)
    return tuple(keys.values())


def _going_on(agreement: Agreement, earlier: Earlier | None) -> Agreement:
    """Check that the Host's agreement fits this party's state of the run, and return it."""
    if earlier is not None and earlier.agreement.run == agreement.run:
        check_same_plan(earlier.agreement.plan, agreement.plan)
        if earlier.agreement.secret != agreement.secret:
            raise unlawful("the Host", "join", "goes on with a run under another secret")
        if agreement.resume is None and any(mark > AT_SPLIT for mark in earlier.marks):
            raise unlawful("the Host", "join", "begins a run again that has trained already")
    elif earlier is not None and earlier.complete:
        # This party only connected to say goodbye.
        raise TaskFinishedError(party=agreement.plan.host)
    elif agreement.resume is not None:
        raise unlawful("the Host", "join", "goes on with a run that this party never saw")
    return agreement
