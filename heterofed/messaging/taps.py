"""Defines what may look at each message of a party: before and after it is sent, and when it has
come.
"""

from __future__ import annotations

from collections.abc import Sequence

from heterofed.protocol.codec import Buffer
from heterofed.protocol.messages import Message


class Tap:
    """Looks at the messages of a party. The base looks at nothing."""

    def leaves(self, peer: str, message: Message, size: int) -> None:
        """Look at a message of `size` bytes before it is sent; an error keeps it from that."""

    def left(self, peer: str, message: Message, header: Buffer, payload: Sequence[Buffer]) -> None:
        """Look at a message that was just handed over, while it is on its way.

        Args:
            peer: the name of its receiver.
            message: the message.
            header: the message as it is sent.
            payload: the buffers that follow the header.
        """

    def came(self, peer: str, message: Message, header: Buffer, payload: Buffer) -> None:
        """Look at a message that a peer sent and that its session has accepted; see `left`."""
