"""What a party holds of each other party: its connection, its session, its mail."""

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
    """Seconds of silence that this party bears; see the schedulers' constructors.

    Attributes:
        calculation: of a peer that runs user code or heavy compute; 0: no limit.
        schedule: of a peer that runs no user code.
        moving: without a byte, while one message is moving.
        waiting: of a Host that only says whom it waits for; 0: no limit.
    """

    calculation: float = 300.0
    schedule: float = 30.0
    moving: float = 60.0
    waiting: float = 0.0


WAITING_SLACK = 30.0

PSI_WAITING = 24 * 3600.0
"""What an intersection may take: it depends on how many ids the others have, and on their machines.
"""


def waiting_limit(plan: Plan) -> float:
    """Seconds for which a Host may say that it waits and nothing else; 0: no limit.

    It bears each party's silence for `calculation_timeout`. Parties that take all of it may do so
    one after the other, so all of them together have as many times as much.
    """
    return _in_turn(1 + len(plan.collaborators), plan.calculation_timeout, WAITING_SLACK)


def holding_limit(parties: int, calculation: float) -> float:
    """Seconds after its last word to the others that a Host lets one party hold it up; 0: no limit.

    Less than what they bear by `waiting_limit`: so they hear who it was, and do not name the Host.
    """
    return _in_turn(parties, calculation, WAITING_SLACK / 2)


def _in_turn(parties: int, calculation: float, slack: float) -> float:
    return parties * calculation + slack if calculation else 0.0


@dataclass(frozen=True, slots=True)
class Mail:
    """A message of a peer that its session has accepted, with its payload.

    Attributes:
        moving: seconds between its first frame and its last.
    """

    message: Message
    payload: bytearray
    moving: float = 0.0

    @property
    def held_bytes(self) -> int:
        """What it holds until it is taken."""
        return len(self.payload) + MESSAGE_BYTES

    def of(self, kind: type[M]) -> M:
        """The message as the one kind that it was asked for as."""
        if not isinstance(self.message, kind):
            raise LocalProtocolError(f"a {type(self.message).__name__} is not a {kind.__name__}")
        return self.message


class Peer:
    """One other party as seen from here.

    Attributes:
        name: its feature key; a provisional name before its Hello was accepted.
        inbox: what it sent and nobody has taken; `put` and `pop` bound it.
        held: what it said that it holds of an earlier run.
        mask_key: its key for masks that Collaborators share.
        incarnation: 16 random bytes that name its process.
    """

    def __init__(self, name: str, channel: Channel, role: Role, now: float) -> None:
        self.name = name
        self.channel = channel
        self.session = Session(role)
        self.decoder = Decoder(self._admit, lambda: self.session.limits.header)
        self.inbox: deque[Mail] = deque()
        self._held_bytes = 0
        self.turn_began = now  # its last message, or ours to it: since then it may be at work
        self.byte_came = self.message_began = now
        self.moved_on = now  # its last message but Waiting, or ours to it
        self.told = now  # our last message to it but Waiting
        self.host_waits_for: str | None = None
        self.held: Held | None = None
        self.mask_key: bytes | None = None
        self.incarnation: bytes | None = None
        self.lost: str | None = None  # why, once its connection is gone

    def put(self, mail: Mail) -> None:
        """Keep mail until it is taken."""
        self.inbox.append(mail)
        self._held_bytes += mail.held_bytes

    def pop(self) -> Mail:
        """Take the oldest mail."""
        mail = self.inbox.popleft()
        self._held_bytes -= mail.held_bytes
        return mail

    def pick(self, kind: type[Message]) -> Mail | None:
        """Take the oldest mail of a kind, past what came before it; None where there is none."""
        for mail in self.inbox:
            if isinstance(mail.message, kind):
                self.inbox.remove(mail)
                self._held_bytes -= mail.held_bytes
                return mail
        return None

    def _admit(self, message: Message, size: int) -> None:
        """Whether a message may come whose payload has yet to be given room."""
        self.session.admit(message, size)
        if self.session.ended:
            return  # late mail: nothing of it is kept
        if self._held_bytes + size + MESSAGE_BYTES > self.session.most_waiting:
            raise RemoteProtocolError("more mail than may wait here")
