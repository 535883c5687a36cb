"""Digests all messages between this party and each other one, for the receipt of a run.

Both ends compute the same digest without a word about it. The Host's `SplitPlan`, `RoundEnd` and
`Checkpoint` end a segment, and so does the moment before its `Finish`: everything before it has
then arrived at both ends, since only the Host may send at these points. What was on its way when a
connection broke is in a segment that never ends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from heterofed.messaging.taps import Tap
from heterofed.protocol.codec import Buffer
from heterofed.protocol.messages import (
    Abort,
    Bye,
    Checkpoint,
    Finish,
    Hello,
    InitialWeights,
    Message,
    RoundEnd,
    SplitPlan,
    Terms,
    Waiting,
    Welcome,
    WelcomeBack,
)

BEGINNING = bytes(32)
"""The digest before the first segment."""

ENDS = (SplitPlan, InitialWeights, RoundEnd, Checkpoint)
"""The messages of the Host that end a segment, and belong to it."""

SMALL, PART = 1 << 16, 2047
"""Payloads of up to so many bytes are hashed in parts of so many. From 2,048 bytes on, hashlib lets
other threads run, and to get the interpreter back takes longer than hashing a small payload.
"""

LEFT_OUT = (Abort, Bye, Finish, Hello, Terms, Waiting, Welcome, WelcomeBack)
"""They come before the parties are connected, after the last statement, or at any time."""


class Transcript(Tap):
    """The digests of the messages with each other party.

    The digest after a segment is SHA-256(digest before || sent by the Host || sent by the
    Collaborator). The last two are the SHA-256 of the headers and payloads of these messages.

    Args:
        is_host: whether this party is the Host.
    """

    def __init__(self, *, is_host: bool) -> None:
        self._is_host = is_host
        self._before: dict[str, bytes] = {}
        self._links: dict[str, _Link] = {}

    def go_on_from(self, digests: Mapping[str, str]) -> None:
        """Go on from the digests at a checkpoint, before which no message of this connection was
        sent; some may have come already.
        """
        self._before = {peer: bytes.fromhex(digest) for peer, digest in digests.items()}

    def digests(self) -> dict[str, str]:
        """Return the digests up to the last segment that ended, in hexadecimal, by party."""
        for peer, link in self._links.items():
            digest = self._before.get(peer, BEGINNING)
            for both in link.segments:
                digest = hashlib.sha256(digest + both).digest()
            self._before[peer] = digest
            link.segments.clear()
        return {peer: digest.hex() for peer, digest in sorted(self._before.items())}

    def end(self, peer: str) -> None:
        """End the segment of the messages with a peer, because the Host's `Finish` is next."""
        link = self._link(peer)
        both = (link.sent, link.came) if self._is_host else (link.came, link.sent)
        link.segments.append(b"".join(each.digest() for each in both))
        link.sent, link.came = hashlib.sha256(), hashlib.sha256()

    def left(self, peer: str, message: Message, header: Buffer, payload: Sequence[Buffer]) -> None:
        """See `Tap`."""
        if not isinstance(message, LEFT_OUT):
            sent = self._link(peer).sent
            sent.update(header)
            for part in payload:
                _hash(sent, part)
            if isinstance(message, ENDS):
                self.end(peer)

    def came(self, peer: str, message: Message, header: Buffer, payload: Buffer) -> None:
        """See `Tap`."""
        if not isinstance(message, LEFT_OUT):
            came = self._link(peer).came
            came.update(header)
            _hash(came, payload)
        if isinstance(message, (*ENDS, Finish)):
            self.end(peer)

    def _link(self, peer: str) -> _Link:
        if peer not in self._links:
            self._links[peer] = _Link()
        return self._links[peer]


class _Link:
    """The messages with one peer: the segments that ended, and the one that goes on."""

    def __init__(self) -> None:
        self.segments: list[bytes] = []
        self.sent, self.came = hashlib.sha256(), hashlib.sha256()


def _hash(digest: Any, payload: Buffer) -> None:
    """Add a payload to a digest; a small one in parts for which hashlib keeps the interpreter."""
    whole = memoryview(payload).cast("B")
    step = PART if len(whole) <= SMALL else max(1, len(whole))
    for start in range(0, len(whole), step):
        digest.update(whole[start : start + step])
