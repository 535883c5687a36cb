"""Visits the Host of a task outside of a run, to ask it something."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Literal, TypeVar

from heterofed.errors import HandshakeError, JoinTimeoutError, PeerLostError
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Peer, Timeouts
from heterofed.protocol.messages import PROTOCOL_VERSION, Hello
from heterofed.protocol.states import Role
from heterofed.rendezvous.agreement import task_digest
from heterofed.rendezvous.backend import TaskPlace
from heterofed.rendezvous.join import HANDSHAKES, RETRY_SECONDS, explained, knock

LINK_SECONDS = 10.0

Told = TypeVar("Told")


def visit(
    place: TaskPlace,
    name: str,
    purpose: Literal["check", "probe"],
    talk: Callable[[Party, Peer], Told],
    *,
    wait: float,
    start: str,
) -> Told:
    """Connect to the Host, and return what the conversation returns.

    Args:
        place: the place where the parties of the task meet.
        name: the feature key of this party.
        purpose: the purpose that the Hello names.
        talk: called once with this party and the Host, after the Hello.
        wait: the seconds for which the Host may be away.
        start: what to start at the Host so that it answers, for the error.

    Raises:
        JoinTimeoutError: nobody answered.
        HandshakeError: one side does not know the other's key.
    """
    task = place.task.task
    incarnation = secrets.token_bytes(16)
    hello = Hello((PROTOCOL_VERSION,), purpose, task_digest(task), name, incarnation,
                  trainable=False, terms=place.terms)  # fmt: skip
    deadline, failed = time.monotonic() + wait, 0
    while True:
        party = Party(name, Role.COLLABORATOR, place.connect(), timeouts=Timeouts())
        try:
            host = knock(party, hello, LINK_SECONDS)
            if host is not None:
                return talk(party, host)
        except HandshakeError as error:
            failed += 1
            if failed == HANDSHAKES:
                raise explained(error, place.diagnose) from None
        except PeerLostError:
            failed = 0
        finally:
            party.close()
        if time.monotonic() > deadline:
            raise JoinTimeoutError(
                f"nobody answers at {place.task.address} (phase join): start {start} there; if it"
                " runs, compare address and firewall",
                party=name,
            )
        time.sleep(RETRY_SECONDS)
