"""Defines what may look at each message of a party: before and after it is sent, and when it has
come.
"""

from __future__ import annotations

from collections.abc import Sequence

from heterofed.protocol.codec import Buffer
from heterofed.protocol.messages import Message


class Tap:
    """Looks at the messages of a party. The base looks at nothing."""

    def leaves(self, peer: str, message: Message, payload: Sequence[Buffer]) -> None:
        """Look at a message before it is sent; an error keeps it from being sent."""

    def left(self, peer: str, message: Message, payload: Sequence[Buffer]) -> None:
        """Look at a message that was just handed over, while it is on its way."""

    def came(self, peer: str, message: Message, payload: Buffer) -> None:
        """Look at a message that a peer sent and that its session has accepted."""
