"""Holds the state of each other party: its connection, its session and its messages."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TypeVar

from heterofed.errors import LocalProtocolError, RemoteProtocolError
from heterofed.protocol.codec import Decoder
from heterofed.protocol.limits import MESSAGE_BYTES
from heterofed.protocol.messages import Held, Message
from heterofed.protocol.plan import Plan
from heterofed.protocol.session import Session
from heterofed.protocol.states import Role
from heterofed.transport.base import Channel

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """The timeouts of a party in seconds; see the constructors of the schedulers.

    Attributes:
        calculation: the limit for a peer that runs user code or heavy computation; 0 means no
            limit.
        schedule: the limit for a peer that runs no user code.
        moving: the limit without a single byte while a message is being transferred.
        waiting: the limit for a Host that only reports whom it waits for; 0 means no limit.
    """

    calculation: float = 300.0
    schedule: float = 30.0
    moving: float = 60.0
    waiting: float = 0.0


WAITING_SLACK = 30.0

PSI_WAITING = 24 * 3600.0
"""The limit in seconds for an intersection, whose time depends on the peers' ids and machines."""


def waiting_limit(plan: Plan) -> float:
    """Return the seconds for which a Host may report only that it waits; 0 means no limit.

    The Host waits for each party for `calculation_timeout`. The parties may use this time one after
    the other, so the limit is multiplied by their number.
    """
    return _in_turn(1 + len(plan.collaborators), plan.calculation_timeout, WAITING_SLACK)


def holding_limit(parties: int, calculation: float) -> float:
    """Return the seconds for which one party may delay the Host's messages to the others.

    0 means no limit. The limit is below `waiting_limit`, so that the others learn which party it
    was and do not blame the Host.
    """
    return _in_turn(parties, calculation, WAITING_SLACK / 2)


def _in_turn(parties: int, calculation: float, slack: float) -> float:
    return parties * calculation + slack if calculation else 0.0


@dataclass(frozen=True, slots=True)
class Mail:
    """A message of a peer that its session has accepted, with its payload.

    Attributes:
        moving: the seconds between the first frame of the message and the last.
    """

    message: Message
    payload: bytearray
    moving: float = 0.0

    @property
    def held_bytes(self) -> int:
        """The bytes that the message occupies until it is taken."""
        return len(self.payload) + MESSAGE_BYTES

    def of(self, kind: type[M]) -> M:
        """Return the message as the type that the caller asked for.

        Raises:
            LocalProtocolError: the message has another type.
        """
        if not isinstance(self.message, kind):
            raise LocalProtocolError(f"a {type(self.message).__name__} is not a {kind.__name__}")
        return self.message


class Peer:
    """The state of one other party.

    Attributes:
        name: the feature key of the party, or a provisional name before its Hello was accepted.
        inbox: the messages that were not taken yet; `put` and `pop` limit their size.
        held: the state of an earlier run that the party said it holds.
        mask_key: the party's public key for masked sums.
        incarnation: 16 random bytes that identify the party's process.
        round_trip: the shortest time in seconds to the party and back, as it was noted last.
    """

    def __init__(self, name: str, channel: Channel, role: Role, now: float) -> None:
        self.name = name
        self.channel = channel
        self.session = Session(role)
        self.decoder = Decoder(self._admit, lambda: self.session.limits.header)
        self.inbox: deque[Mail] = deque()
        self._held_bytes = 0
        # The time of the last message in either direction; the peer may compute since then.
        self.turn_began = now
        self.byte_came = self.message_began = now
        self.moved_on = now  # the same without the peer's Waiting messages
        self.told = now  # the time of the last message to it, without Waiting
        self.host_waits_for: str | None = None
        self.held: Held | None = None
        self.mask_key: bytes | None = None
        self.incarnation: bytes | None = None
        self.round_trip: float | None = None
        self.lost: str | None = None  # the reason, after its connection broke

    def put(self, mail: Mail) -> None:
        """Store a message until it is taken."""
        self.inbox.append(mail)
        self._held_bytes += mail.held_bytes

    def pop(self) -> Mail:
        """Take the oldest message."""
        mail = self.inbox.popleft()
        self._held_bytes -= mail.held_bytes
        return mail

    def pick(self, kind: type[Message]) -> Mail | None:
        """Take the oldest message of a type, even if others came before it; return None if there is
        none.
        """
        for mail in self.inbox:
            if isinstance(mail.message, kind):
                self.inbox.remove(mail)
                self._held_bytes -= mail.held_bytes
                return mail
        return None

    def _admit(self, message: Message, size: int) -> None:
        """Check a message before memory is allocated for its payload, or raise an error."""
        self.session.admit(message, size)
        if self.session.ended:
            return  # a late message, which is not stored
        if self._held_bytes + size + MESSAGE_BYTES > self.session.most_waiting:
            raise RemoteProtocolError("more messages than may wait here")
