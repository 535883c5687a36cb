"""Keeps a run's record and its checkpoints on disk, so that a run that was killed can resume.

Every file is written atomically with its checksum. A damaged file is logged and then treated as
missing. This module uses no torch: the content of a checkpoint is bytes here.
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
from typing import Any, TypeVar

import msgspec

from heterofed.compute.packed_ids import PackedIds
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
"""The number of kept checkpoints: all parties hold the one before the newest, if not the newest."""


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """The result of the intersection and the split, bound to the ids from which it was computed.

    Attributes:
        own_count, own_digest: the number of this party's ids, and the digest of the sorted ids,
            keyed with the record's `key`.
        common: the size of the intersection.
        train, test: the sorted train ids and test ids.
        is_packed: whether the run holds them packed.
    """

    own_count: int
    own_digest: bytes
    common: int
    train: PackedIds
    test: PackedIds
    is_packed: bool = False


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one run at this party, which is never sent.

    Attributes:
        run: the 16 bytes that identify the run.
        secret: the 32-byte key of the digests that the parties compare.
        seed: the seed of this party's random streams.
        key: 32 secret bytes of this party, for digests of its own ids.
        plan: the plan that the parties agreed on.
        split: the split; None before the parties have split their ids.
        noise: the 32 bytes from which this party's noise is drawn; empty in records without them.
        purpose: what the run does, so that no other kind of task resumes it.
        lasting: this party's own settings that hold for the whole run (`Settings.lasting`); empty
            in records without them.
    """

    run: bytes
    secret: bytes
    seed: int | bytes
    key: bytes
    plan: Plan
    split: Split | None = None
    noise: bytes = b""
    purpose: str = "train"
    lasting: dict[str, str] = {}


class CheckpointStore:
    """The folder in which one run at one party is kept until it has ended.

    Args:
        folder: the folder, which is created with the first file and which only this user can read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def record(self) -> RunRecord | None:
        """Return the stored run; None if there is none or its file is damaged."""
        return self._read_struct("run", RunRecord)

    def begin(self, record: RunRecord) -> None:
        """Write (or replace) the record of the run.

        Raises:
            CheckpointError: the file cannot be written.
        """
        with contextlib.suppress(OSError):  # the next write reports it
            own_folder(self.folder)
        self._write("run", encoded(record))

    def marks(self) -> tuple[Mark, ...]:
        """Return the marks of the undamaged checkpoints in ascending order."""
        return tuple(mark for mark in self._found() if self._read(_name(mark)) is not None)

    @property
    def has_checkpoints(self) -> bool:
        """Return whether there is any checkpoint, damaged or not."""
        return bool(self._found())

    def keep(self, mark: Mark, content: bytes) -> None:
        """Write a checkpoint, and remove all others except the previous one.

        Raises:
            CheckpointError: the file cannot be written. Earlier checkpoints are unchanged then.
        """
        self._write(_name(mark), content)
        self.drop_after(mark)
        for old in self._found()[:-KEPT]:
            (self.folder / _name(old)).unlink(missing_ok=True)

    def drop_after(self, mark: Mark) -> None:
        """Remove the checkpoints after `mark`, because their rounds will be trained again."""
        for later in self._found():
            if later > mark:
                (self.folder / _name(later)).unlink(missing_ok=True)

    def load(self, mark: Mark) -> bytes:
        """Return the content of the checkpoint at `mark`.

        Raises:
            CheckpointError: the checkpoint is missing or damaged.
        """
        content = self._read(_name(mark))
        if content is None:
            raise CheckpointError(
                f"the checkpoint {_name(mark)} in {self.folder} is gone or damaged; start"
                ' all parties again: they go on from the one before, or with resume="never"'
            )
        return content

    def note_finished(self, gone: Collection[str] = ()) -> None:
        """Record that the task is complete, because every party holds the newest checkpoint.

        Args:
            gone: the parties whose Bye reached the Host, as far as this party knows.
        """
        self._write("finished", msgspec.msgpack.encode(sorted(gone)))

    def finished(self) -> set[str] | None:
        """Return the parties that said goodbye after the task was complete; None before that."""
        content = self._read("finished")
        return None if content is None else set(msgspec.msgpack.decode(content, type=list[str]))

    def clear(self) -> None:
        """Remove the stored run, because it has ended successfully."""
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
            if content is None:
                return None
            return decoded(content, kind)
        except msgspec.MsgspecError:
            logger.warning("%s is of another version and counts as not there", self.folder / name)
            return None


def encoded(kept: msgspec.Struct) -> bytes:
    """Return what is kept as bytes; it may have packed ids in it."""
    return msgspec.msgpack.encode(kept, enc_hook=_plain)


def decoded(content: bytes, kind: type[S]) -> S:
    """Return what `encoded` gave as bytes.

    Raises:
        msgspec.MsgspecError: it is none of this version.
    """
    return msgspec.msgpack.decode(content, type=kind, dec_hook=_packed)


def _plain(ids: Any) -> list[bytes]:
    if isinstance(ids, PackedIds):
        return ids.dump()
    raise NotImplementedError


def _packed(_kind: type, dumped: list[Any]) -> PackedIds:
    if any(isinstance(each, str) for each in dumped) or not dumped:
        return PackedIds(dumped)  # written by an earlier version
    return PackedIds.load(dumped)


def _name(mark: Mark) -> str:
    return f"round-{mark.round}" + (f"-batch-{mark.batch}" if mark.batch else "")
