"""What a party holds of each other party: its connection, its session, its mail."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TypeVar

from heterofed.errors import LocalProtocolError
from heterofed.protocol.messages import Held, Message
from heterofed.protocol.session import Session
from heterofed.protocol.states import Role
from heterofed.transport.base import Channel
from heterofed.wire import Decoder

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds of silence that this party bears; see the schedulers' constructors.

    Attributes:
        calculation: of a peer that runs user code or heavy compute; 0: no limit.
        schedule: of a peer that runs no user code.
        moving: without a byte, while one message is moving.
    """

    calculation: float = 300.0
    schedule: float = 30.0
    moving: float = 60.0


@dataclass(frozen=True, slots=True)
class Mail:
    """A message of a peer that its session has accepted, with its payload.

    Attributes:
        moving: seconds between its first frame and its last.
    """

    message: Message
    payload: bytearray
    moving: float = 0.0

    def of(self, kind: type[M]) -> M:
        """The message as the one kind that it was asked for as."""
        if not isinstance(self.message, kind):
            raise LocalProtocolError(f"a {type(self.message).__name__} is not a {kind.__name__}")
        return self.message


class Peer:
    """One other party as seen from here.

    Attributes:
        name: its feature key; a provisional name before its Hello was accepted.
        inbox: what it sent and nobody has taken.
        held: what it said that it holds of an earlier run.
        mask_key: its key for masks that Collaborators share.
    """

    def __init__(self, name: str, channel: Channel, role: Role, now: float) -> None:
        self.name = name
        self.channel = channel
        self.session = Session(role)
        self.decoder = Decoder(self.session.admit, lambda: self.session.limits.header)
        self.inbox: deque[Mail] = deque()
        self.turn_began = now  # its last message, or ours to it: since then it may be at work
        self.byte_came = self.message_began = now
        self.host_waits_for: str | None = None
        self.held: Held | None = None
        self.mask_key: bytes | None = None
        self.lost: str | None = None  # why, once its connection is gone
