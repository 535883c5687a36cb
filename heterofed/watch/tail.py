"""A growing journal, read from where the last look ended; lines that do not decode are skipped."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec

from heterofed.reporting import journal_records as records
from heterofed.watch.state import RunState

MAX_LINE = 256 << 10
MAX_READ = 64 << 20
"""Bytes of a journal that are read; its writer stops at a quarter of that."""
CHUNK = 1 << 20

_DECODER = msgspec.json.Decoder(records.AnyRecord)


class Tail:
    """Reads what was appended to a journal since the last call.

    Args:
        path: of the journal, which may not exist yet.

    Attributes:
        state: what its records add up to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: tuple[int, int] | None = None
        self._offset = 0
        self._rest = b""
        self.state = RunState()

    def advance(self) -> bool:
        """Take in what is new; return whether anything was.

        A file that is another one than before, or shorter, is read from its beginning.
        """
        try:
            handle = os.open(self._path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | _NO_WAIT)
        except OSError:
            return self._start_over(None)
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                return self._start_over(None)
            which = (found.st_dev, found.st_ino)
            anew = which != self._file or found.st_size < self._offset
            changed = anew and self._start_over(which)
            file.seek(self._offset)
            while self._offset < MAX_READ and (chunk := file.read(CHUNK)):
                self._offset += len(chunk)
                self._take(chunk)
                changed = True
        return changed

    def _start_over(self, which: tuple[int, int] | None) -> bool:
        changed = self._file is not None or which is not None
        self._file, self._offset, self._rest, self.state = which, 0, b"", RunState()
        return changed

    def _take(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self._rest = self._rest if len(self._rest) <= MAX_LINE else b"!"  # it decodes as nothing
        for line in lines:
            if len(line) > MAX_LINE:
                continue
            try:
                record = _DECODER.decode(line)
            except (msgspec.MsgspecError, ValueError, RecursionError):
                continue
            self.state.take(record)


_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
