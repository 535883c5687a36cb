"""Finds the files of a record, and the one from which a batch can be replayed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from heterofed.errors import RecordError
from heterofed.files import read
from heterofed.protocol.codec import read_header
from heterofed.protocol.messages import (
    BatchDone,
    BeginTest,
    BeginTrain,
    Features,
    Gradients,
    Mark,
    Message,
)
from heterofed.protocol.states import Role
from heterofed.reporting.results import STATUS
from heterofed.runs.records.entries import Beginning, Entry, read_beginning, read_entry
from heterofed.runs.records.keys import key_for
from heterofed.runs.records.sealed import pieces

FOLDER = "record"
_NAME = re.compile(r"(\d{6})-round-(\d{1,10})-batch-(\d{1,13})\.record")


@dataclass(frozen=True, slots=True)
class Segment:
    """A file of a record: a checkpoint, and the messages up to the next one.

    Attributes:
        path: the path of the file.
        number: the number of the file, from 1.
        mark: the mark of the checkpoint.
    """

    path: Path
    number: int
    mark: Mark

    @classmethod
    def named(cls, folder: Path, number: int, mark: Mark) -> Segment:
        """Return the file of this number in the record of a results folder."""
        name = f"{number:06}-round-{mark.round}-batch-{mark.batch}.record"
        return cls(folder / FOLDER / name, number, mark)

    def may_have(self, round_number: int, batch: int) -> bool:
        """Return whether a batch may come after the checkpoint."""
        return self.mark <= Mark(round_number - 1, batch)

    def shown(self) -> str:
        """Return where the file begins, in words."""
        return f"round {self.mark.round + 1}, batch {self.mark.batch}"


@dataclass(frozen=True, slots=True)
class Opened:
    """An open file of a record.

    Attributes:
        beginning: its beginning.
        content: the content of its checkpoint.
        entries: its messages in order, which are read from the file.
    """

    beginning: Beginning
    content: bytes
    entries: Iterator[Entry]


def segments_in(folder: Path) -> list[Segment]:
    """Return the files of the record in a results folder, in order."""
    place = folder / FOLDER
    names = (_NAME.fullmatch(each.name) for each in place.iterdir()) if place.is_dir() else ()
    found = [
        Segment(place / each[0], int(each[1]), Mark(int(each[2]), int(each[3])))
        for each in names
        if each
    ]
    return sorted(found, key=lambda each: each.number)


def open_segment(home: Path, segment: Segment) -> Opened:
    """Open a file of a record.

    Raises:
        RecordError: it cannot be read: it has no key, was changed, or is cut before its messages.
    """
    whole = pieces(segment.path, key_for(home, segment.path).key)
    first, content = next(whole, None), next(whole, None)
    if first is None or content is None:
        raise RecordError(
            f"{segment.path} ends in its checkpoint, because the process was killed or the disk"
            " was full; give a batch of another checkpoint"
        )
    beginning = read_beginning(first)
    if (beginning.number, beginning.mark) != (segment.number, segment.mark):
        raise RecordError(f"{segment.path} was renamed; give it its name again")
    return Opened(beginning, content, _entries(whole))


def find_segment(home: Path, folder: Path, round_number: int, batch: int) -> Segment:
    """Return the newest file that has a train batch, which is the one that counts.

    Args:
        home: `$HETEROFED_HOME`.
        folder: the results folder.
        round_number: the number of the round, from 1.
        batch: the number of the batch, from 0.

    Raises:
        RecordError: no file has it, or a file that may have it cannot be read.
    """
    found = segments_in(folder)
    if not found:
        raise RecordError(
            f'{folder} has no record; launch the task with record="inbound", or give the folder of'
            " a run that was recorded"
        )
    for segment in reversed([each for each in found if each.may_have(round_number, batch)]):
        opened = open_segment(home, segment)
        _check_run(folder, segment, opened.beginning)
        # All of the file is read, so that a change is refused wherever it is.
        if (round_number, batch) in list(_trained(opened)):
            return segment
    raise RecordError(
        f"batch {batch} of round {round_number} is not in the record of {folder}: its"
        f" {len(found)} files begin from {found[0].shown()} to {found[-1].shown()}; give a batch"
        " that was trained, and not during a full disk"
    )


def _check_run(folder: Path, segment: Segment, beginning: Beginning) -> None:
    """Check that a file is of the run of a results folder, as far as that says which one it is.

    Raises:
        RecordError: it is of another one.
    """
    try:
        run = msgspec.json.decode(read(folder / STATUS), type=_Ran).run
    except (OSError, msgspec.MsgspecError):
        return
    if run and run != beginning.record.run.hex():
        raise RecordError(
            f"{segment.path} is of another run than {folder}; move it to the folder of its own run"
        )


class _Ran(msgspec.Struct):
    """The part of `status.json` that says which run it is of."""

    run: str = ""


def _entries(whole: Iterator[bytes]) -> Iterator[Entry]:
    for piece in whole:
        if (entry := read_entry(piece)) is None:
            return
        yield entry


def _trained(opened: Opened) -> Iterator[tuple[int, int]]:
    """Yield the round and number of each train batch for which this party has sent something."""
    kinds = (Gradients, BatchDone) if opened.beginning.role is Role.HOST else (Features,)
    trains = False
    for entry in opened.entries:
        message: Message = read_header(entry.header)
        if isinstance(message, BeginTrain | BeginTest):
            trains = isinstance(message, BeginTrain)
        elif trains and not entry.came and isinstance(message, kinds):
            yield message.round, message.batch
