"""What a party keeps on disk so that a killed run can go on: its record, and a checkpoint a round.

Every file appears whole or not at all and carries its checksum; a damaged one is told of and then
counts as not there. Knows no torch: the content of a checkpoint is bytes here.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

import msgspec

from heterofed.errors import CheckpointError
from heterofed.files import own_folder, put_in_place, read
from heterofed.protocol.messages import Mark
from heterofed.protocol.plan import Plan

logger = logging.getLogger("heterofed")

S = TypeVar("S", bound=msgspec.Struct)

MAGIC = b"HFKEPT1\n"
DIGEST_BYTES = 32
NAME = re.compile(r"round-(\d+)(?:-batch-(\d+))?")
KEPT = 2
"""Checkpoints kept: the newest may not be held by all, the one before it is."""


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """What the intersection and the split gave, bound to the ids it was made from.

    Attributes:
        own_count, own_digest: of this party's ids, in sorted order; keyed with the record's `key`.
        common: size of the intersection.
        train, test: sorted ids.
    """

    own_count: int
    own_digest: bytes
    common: int
    train: list[str]
    test: list[str]


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One run as this party knows it; none of it ever travels again.

    Attributes:
        run: 16 bytes that name the run.
        secret: 32 bytes that key the digests that the parties compare.
        seed: where this party's random streams start.
        key: 32 bytes of this party alone, for digests of its own ids.
        plan: what was agreed.
        split: None before the parties have split their ids.
        noise: 32 bytes that this party's noise is drawn from; empty in records that had none.
    """

    run: bytes
    secret: bytes
    seed: int | bytes
    key: bytes
    plan: Plan
    split: Split | None = None
    noise: bytes = b""


class CheckpointStore:
    """The folder in which one run at one party is kept until it has ended.

    Args:
        folder: made with the first file, readable by this user alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def record(self) -> RunRecord | None:
        """The run that is kept here; None where there is none, or its file is damaged."""
        return self._read_struct("run", RunRecord)

    def begin(self, record: RunRecord) -> None:
        """Keep (or renew) the record of the run.

        Raises:
            CheckpointError: it cannot be written.
        """
        with contextlib.suppress(OSError):  # told of where it is written
            own_folder(self.folder)
        self._write("run", msgspec.msgpack.encode(record))

    def marks(self) -> tuple[Mark, ...]:
        """Where there is an undamaged checkpoint, in ascending order."""
        return tuple(mark for mark in self._found() if self._read(_name(mark)) is not None)

    @property
    def has_checkpoints(self) -> bool:
        """Whether there is any, damaged or not."""
        return bool(self._found())

    def keep(self, mark: Mark, content: bytes) -> None:
        """Keep a checkpoint, and only the one before it beside it.

        Raises:
            CheckpointError: it cannot be written; those before are untouched.
        """
        self._write(_name(mark), content)
        self.drop_after(mark)
        for old in self._found()[:-KEPT]:
            (self.folder / _name(old)).unlink(missing_ok=True)

    def drop_after(self, mark: Mark) -> None:
        """Drop the checkpoints after `mark`: what they hold will be trained again."""
        for later in self._found():
            if later > mark:
                (self.folder / _name(later)).unlink(missing_ok=True)

    def load(self, mark: Mark) -> bytes:
        """The content of the checkpoint at `mark`.

        Raises:
            CheckpointError: it is gone or damaged.
        """
        content = self._read(_name(mark))
        if content is None:
            raise CheckpointError(
                f"the checkpoint {_name(mark)} in {self.folder} is gone or damaged; start"
                ' all parties again: they go on from the one before, or with resume="never"'
            )
        return content

    def note_finished(self, gone: Collection[str] = ()) -> None:
        """Note that the task is complete: every party holds the newest checkpoint.

        Args:
            gone: parties whose goodbye the Host has, as far as this party knows.
        """
        self._write("finished", msgspec.msgpack.encode(sorted(gone)))

    def finished(self) -> set[str] | None:
        """The parties that said goodbye, once the task is complete; None before."""
        content = self._read("finished")
        return None if content is None else set(msgspec.msgpack.decode(content, type=list[str]))

    def clear(self) -> None:
        """Forget the run: it has ended well."""
        shutil.rmtree(self.folder, ignore_errors=True)

    # -- within ----------------------------------------------------------------------------

    def _found(self) -> list[Mark]:
        if not self.folder.is_dir():
            return []
        names = (NAME.fullmatch(each.name) for each in self.folder.iterdir())
        return sorted(Mark(int(name[1]), int(name[2] or 0)) for name in names if name)

    def _write(self, name: str, content: bytes) -> None:
        def write(file: object) -> None:
            file.write(MAGIC + hashlib.sha256(content).digest())  # type: ignore[attr-defined]
            file.write(content)  # type: ignore[attr-defined]

        try:
            put_in_place(self.folder / name, write)
        except OSError as error:
            raise CheckpointError(
                f"{self.folder / name} cannot be written ({error.strerror}); make room there and"
                " start all parties again: they go on from the last checkpoint that all hold"
            ) from error

    def _read(self, name: str) -> bytes | None:
        try:
            raw = read(self.folder / name)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CheckpointError(
                f"{self.folder / name} cannot be read ({error.strerror}); fix that, or start with"
                ' resume="never"'
            ) from error
        digest, content = raw[len(MAGIC) : len(MAGIC) + DIGEST_BYTES], raw[len(MAGIC) + 32 :]
        intact = hmac.compare_digest(digest, hashlib.sha256(content).digest())
        if raw.startswith(MAGIC) and intact:
            return content
        logger.warning("%s is damaged and counts as not there", self.folder / name)
        return None

    def _read_struct(self, name: str, kind: type[S]) -> S | None:
        content = self._read(name)
        try:
            return None if content is None else msgspec.msgpack.decode(content, type=kind)
        except msgspec.MsgspecError:
            logger.warning("%s is of another version and counts as not there", self.folder / name)
            return None


def _name(mark: Mark) -> str:
    return f"round-{mark.round}" + (f"-batch-{mark.batch}" if mark.batch else "")
