"""Plays the other parties of a run from its record, and compares what this party sends.

A message is delivered when this party waits and has sent all that it had sent before the message
came. So a replay takes the same steps as the run, whatever their times were.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from heterofed.messaging.taps import Tap
from heterofed.protocol.codec import Buffer, framed, read_header
from heterofed.protocol.messages import (
    BatchDone,
    CheckpointHeld,
    Features,
    Gradients,
    Mark,
    Message,
    SplitAccepted,
)
from heterofed.protocol.plan import MAX_STALENESS, Plan
from heterofed.runs import checkpoint_format as snapshots
from heterofed.runs.records.difference import Difference, message_difference, state_difference
from heterofed.runs.records.entries import Entry
from heterofed.runs.records.no_record import NoRecord
from heterofed.runs.records.recorder import LEFT_OUT
from heterofed.transport.base import Channel, Endpoint, Event, Received

CONFIRM = (CheckpointHeld, SplitAccepted)
"""The messages that say that a checkpoint was written, after which a replay begins."""


class PlayedEndError(BaseException):
    """Ends a replay that has reached what it was to reach, or a difference.

    Args:
        by: what it has reached, in words.
        difference: the difference, if there is one.
    """

    def __init__(self, by: str, difference: Difference | None = None) -> None:
        super().__init__(by)
        self.by, self.difference = by, difference


class PlayedChannel(Channel):
    """The connection to a party that is played: what is sent is dropped."""

    def __init__(self, party: str) -> None:
        self.party = party

    def send(self, frames: Iterable[Buffer]) -> None:
        """See `Channel`."""

    @property
    def pending(self) -> int:
        """See `Channel`."""
        return 0

    def close(self) -> None:
        """See `Channel`."""


class Player(Endpoint, Tap, NoRecord):
    """The other parties of a run, and the judge of what this party sends them.

    Args:
        entries: the messages of a file of the record.
        plan: the plan of the run.
        after: the round and the batch after which the replay ends, once the step of that batch has
            shown in what this party sends.
        checkpoint: the mark and the content of the checkpoint in which the file ended, if the
            record has it.

    Attributes:
        channels: the connections to the other parties, by name.
        messages, tensors, checkpoints: how many messages, tensors and checkpoints were compared.
        reached: whether the batch was trained again.
    """

    def __init__(
        self,
        entries: Iterator[Entry],
        plan: Plan,
        after: tuple[int, int],
        checkpoint: tuple[Mark, bytes] | None,
    ) -> None:
        self.channels: dict[str, PlayedChannel] = {}
        self.messages = self.tensors = self.checkpoints = 0
        self.reached = False
        self._entries = _from_checkpoint(entries)
        self._plan, self._after, self._checkpoint = plan, after, checkpoint
        self._due: deque[Entry] = deque()
        self._expected: dict[str, deque[Entry]] = {}

    # -- as the endpoint ---------------------------------------------------------------------

    def poll(self, timeout: float) -> list[Event]:
        """See `Endpoint`. Each call delivers one message."""
        if timeout <= 0:  # this party only looks, and does not wait
            return []
        if not self._due:
            self._read_one()
        if not self._due:
            before = next(each for some in self._expected.values() for each in some)
            self._differ(before, "this party waits for a message, and it was sent then")
        entry = self._due.popleft()
        channel = self.channels[entry.peer]
        return [Received(channel, frame) for frame in framed(entry.header, [entry.payload])]

    def flush(self, timeout: float) -> bool:  # noqa: ARG002
        """See `Endpoint`."""
        return True

    def close(self, linger: float = 0.0) -> None:
        """See `Endpoint`."""

    # -- as the judge ------------------------------------------------------------------------

    def left(self, peer: str, message: Message, header: Buffer, payload: Sequence[Buffer]) -> None:
        """See `Tap`.

        Raises:
            PlayedEndError: the message differs from the recorded one, or the replay is at its end.
        """
        if isinstance(message, (*LEFT_OUT, *CONFIRM)):
            return
        expected = self._expected.setdefault(peer, deque())
        while not expected:
            self._read_one()
        whole = b"".join(payload)
        found = message_difference(expected.popleft(), bytes(header), whole, self._plan)
        if found is not None:
            raise PlayedEndError("a difference", found)
        self.messages += 1
        if isinstance(message, Features | Gradients):
            self.tensors += len(message.tensors)
        self._note(message)

    def kept(self, mark: Mark, content: bytes) -> None:
        """See `NoRecord`. Compare the checkpoint with the recorded one.

        Raises:
            PlayedEndError: always, because the file of the record ends here.
        """
        if self._checkpoint is not None and self._checkpoint[0] == mark:
            now, before = snapshots.decode(content), snapshots.decode(self._checkpoint[1])
            where = f"the checkpoint after round {mark.round}, batch {mark.batch}"
            self.checkpoints += 1
            if found := state_difference(where, before.states, now.states):
                raise PlayedEndError("a difference", found)
        raise PlayedEndError("the next checkpoint")

    # -- within ------------------------------------------------------------------------------

    def _note(self, message: Message) -> None:
        """End the replay once the step of the batch has shown."""
        if not isinstance(message, Features | Gradients | BatchDone):
            return
        place = message.round, message.batch
        if self.reached and place > self._shown_by:
            raise PlayedEndError(f"round {message.round}, batch {message.batch}")
        if place == self._after:
            self.reached = True

    @property
    def _shown_by(self) -> tuple[int, int]:
        """The last batch whose features may be computed before the step of the batch."""
        number, batch = self._after
        steps = self._plan.max_staleness
        return number, batch + (steps if isinstance(steps, int) else MAX_STALENESS)

    def _read_one(self) -> None:
        """Read the next message of the record.

        Raises:
            PlayedEndError: there is none.
        """
        entry = next(self._entries, None)
        if entry is None:
            raise PlayedEndError("the end of the record")
        if entry.came:
            self._due.append(entry)
        else:
            self._expected.setdefault(entry.peer, deque()).append(entry)

    def _differ(self, entry: Entry, what: str) -> None:
        said = type(read_header(entry.header)).__name__
        raise PlayedEndError("a difference", Difference(f"{said} to {entry.peer}", what))


def _from_checkpoint(entries: Iterator[Entry]) -> Iterator[Entry]:
    """Leave out the confirmations of checkpoints, which may be in the file before or after."""
    return (each for each in entries if not isinstance(read_header(each.header), CONFIRM))
