"""One party's view of a session with a peer: which message is allowed now, and what it changes.

The session knows no socket and no clock. Its caller passes in each message with the size of its
payload, and the session decides whether the message is allowed now: by the table of states, and by
the rule for its kind. The same object checks both directions, so a party cannot send a message that
the other one would refuse.
"""

from __future__ import annotations

from heterofed.errors import HeteroFedError, LocalProtocolError, RemoteProtocolError
from heterofed.protocol.conversation import Conversation
from heterofed.protocol.messages import Message
from heterofed.protocol.rules import (
    averaging,
    batches,
    counting,
    intersecting,
    meeting,
    planning,
    rounds,
    serving,
    sites,
)
from heterofed.protocol.rules.rule import Refused, Rule
from heterofed.protocol.states import TABLE, Role, State

_PHASES = (
    *(meeting, intersecting, counting, planning, rounds),
    *(batches, sites, averaging, serving),
)
_RULES: dict[type[Message], Rule] = {
    kind: rule for phase in _PHASES for kind, rule in phase.RULES.items()
}
_NO_MORE = Rule()
"""The rule for messages of which only the turn is checked, and that they have no payload."""


class Session(Conversation):
    """The conversation of one connection, from Hello to Bye or Abort.

    Only `send`, `receive` and `lost` change it.

    Args:
        role: the role of the party that owns this object.
    """

    def __init__(self, role: Role) -> None:
        super().__init__()
        self.role = role
        # The message that was checked last, until anything is said.
        self._admitted: tuple[Message, int] | None = None

    def send(self, message: Message, size: int = 0) -> None:
        """Record that this party sends `message` with `size` bytes of payload.

        Raises:
            LocalProtocolError: the message is not allowed now; nothing changed.
        """
        self._check(self.role, message, size, LocalProtocolError)
        self._advance(message, size)

    def admit(self, message: Message, size: int = 0) -> None:
        """Check a message of the peer before its payload of `size` bytes arrives.

        Raises:
            RemoteProtocolError: the message is not allowed now or too large; nothing changed.
        """
        if not self.ended:
            self._check(self.role.other, message, size, RemoteProtocolError)
            self._admitted = message, size
        elif size > self.limits.payload:
            # Late messages are ignored, but they take memory until then.
            raise RemoteProtocolError("late mail with a larger payload than any message may have")

    def receive(self, message: Message, size: int = 0) -> bool:
        """Record that the peer sent `message` with `size` bytes of payload.

        Returns:
            Whether to act on it: False for a late message after the end.

        Raises:
            RemoteProtocolError: the message is not allowed now; nothing changed.
        """
        if self.ended:
            return False
        admitted = self._admitted
        if admitted is None or admitted[0] is not message or admitted[1] != size:
            self._check(self.role.other, message, size, RemoteProtocolError)
        self._advance(message, size)
        return True

    def lost(self) -> None:
        """Record that the peer is gone; a session that has not ended fails."""
        if not self.ended:
            self.state = State.FAILED

    def _check(
        self, speaker: Role, message: Message, size: int, error: type[HeteroFedError]
    ) -> None:
        kind = type(message)
        if (speaker, kind) not in TABLE[self.state]:
            raise error(f"{kind.__name__} from the {speaker} is out of turn in state {self.state}")
        try:
            _RULES.get(kind, _NO_MORE).guard(self, message, size)
        except Refused as why:
            raise error(f"{kind.__name__} from the {speaker} is refused: {why}") from None

    def _advance(self, message: Message, size: int) -> None:
        self._admitted = None
        turns, kind = TABLE[self.state], type(message)
        speaker = Role.HOST if (Role.HOST, kind) in turns else Role.COLLABORATOR
        self.state = turns[speaker, kind]
        _RULES.get(kind, _NO_MORE).note(self, message, size)
