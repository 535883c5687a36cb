"""A rule for one kind of message, and what the rules of all phases share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from heterofed.protocol.conversation import Conversation


class Refused(Exception):  # noqa: N818 - the session makes an error of it
    """The reason why a message is not allowed now."""


def require(holds: bool, why: str) -> None:
    """Refuse a message unless something holds.

    Raises:
        Refused: it does not; the reason is `why`.
    """
    if not holds:
        raise Refused(why)


def no_payload(_said: Conversation, _message: object, size: int) -> None:
    """Refuse a message with a payload, as of nearly all kinds that are no arrays."""
    require(size == 0, "it carries no payload")


def changes_nothing(_said: Conversation, _message: object, _size: int) -> None:
    """Note nothing of a message, since no rule asks for it."""


class Rule(NamedTuple):
    """Says what is asked of a message in its turn, and what it changes once it was said.

    Attributes:
        guard: raises `Refused` with the reason, if the message with a payload of this many bytes is
            not allowed after what was said. It changes nothing.
        note: notes a message that was said. The state is that after it.
    """

    guard: Callable[[Conversation, Any, int], None] = no_payload
    note: Callable[[Conversation, Any, int], None] = changes_nothing
