"""Writes and reads the file from which an interrupted run continues.

Each peer and task has one file, which only this user can read. It begins with a random salt and
with a digest, keyed with the salt, of the things that the frames belong to (key, domain, ids). If
this digest differs from the expected one, the file is emptied and started again. Each frame has a
length, its bytes, and a keyed digest of both and of the previous digest. Reading stops at an
incomplete or changed frame, and the rest of the file is dropped. Several threads may append. This
module knows no protocol.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterator, Sequence
from hashlib import blake2b, sha256
from pathlib import Path
from threading import Lock

from psi.errors import StateError, naming
from psi.hashing import prefixed
from psi.storage.files import open_private, private_folder

_SALT = 32
_DIGEST = 16
_LENGTH = 4


class Journal:
    """The frames of one peer and task.

    Args:
        folder: the folder of the file; it is created if it is missing.
        kind: the purpose of the frames, which becomes part of the file's name.
        peer: the peer's name.
        task: the task's name.
        suffix: the suffix of the file's name.

    Attributes:
        known: whether the file existed when it was opened, and was bound to the same things.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        kind: str,
        *,
        peer: str,
        task: str,
        suffix: str = ".psi",
    ) -> None:
        parts = [part.encode("utf-8", "surrogatepass") for part in (peer, task)]
        name = sha256(f"psi-{kind}".encode() + prefixed(*parts)).hexdigest()
        self.path = Path(folder) / f"{name}{suffix}"
        self._salt = self._last = b""
        self.known = False
        self._file: int | None = None
        self._appending = Lock()
        self._end: weakref.finalize[..., Journal] | None = None

    def open(self, bound: Sequence[bytes]) -> Iterator[bytes]:
        """Open the file and yield its frames if it is bound to `bound`.

        `append` may be called after all frames were read.
        """
        if self._file is not None:
            raise StateError("this file is in use; make one object per run")
        private_folder(self.path.parent)
        file, size = self._take_file()
        self._salt = os.pread(file, _SALT, 0)
        self._last = self._digest(prefixed(*bound))
        end = _SALT + _DIGEST
        self.known = size >= end and os.pread(file, _DIGEST, _SALT) == self._last
        if self.known and os.utime in os.supports_fd:
            os.utime(file)  # so that its age shows when it was last used
        if not self.known:
            self._salt = os.urandom(_SALT)
            self._last = self._digest(prefixed(*bound))
            os.ftruncate(file, 0)
            os.pwrite(file, self._salt + self._last, 0)
            os.fsync(file)
        while (frame := self._frame(end, size)) is not None:
            end += _LENGTH + len(frame) + _DIGEST
            yield frame
        os.ftruncate(file, end)
        os.lseek(file, end, os.SEEK_SET)

    @property
    def seed(self) -> bytes:
        """A secret seed of 32 bytes, which stays the same until the file is started again."""
        return blake2b(b"seed", digest_size=32, key=self._salt).digest()

    def append(self, frame: bytes, *, sync: bool = True) -> None:
        """Append a frame atomically; with `sync`, it also survives a crash of the machine."""
        head = len(frame).to_bytes(_LENGTH, "big")
        with self._appending, naming(self.path):
            if self._file is None:
                raise StateError("append was called before open")
            # Each digest covers the previous one, so frames must be written in this order.
            self._last = self._digest(self._last + head + frame)
            rest = memoryview(head + frame + self._last)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            if sync:
                os.fsync(self._file)

    def close(self) -> None:
        """Close the file and keep it on disk."""
        if self._end is not None:
            self._end()
        self._file = None

    def discard(self) -> None:
        """Remove the file, because the run is over or will not be continued."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _take_file(self) -> tuple[int, int]:
        """Open and lock the file for this object only; return its descriptor and its size."""
        file = self._file = open_private(self.path)
        self._end = weakref.finalize(self, os.close, file)
        with contextlib.suppress(ImportError):  # Windows has no fcntl
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.close()
                raise StateError("another run with this peer in this task is going on") from None
        return file, os.fstat(file).st_size

    def _frame(self, at: int, size: int) -> bytes | None:
        if self._file is None:
            return None
        head = os.pread(self._file, _LENGTH, at)
        length = int.from_bytes(head, "big")
        if at + _LENGTH + length + _DIGEST > size:
            return None
        rest = os.pread(self._file, length + _DIGEST, at + _LENGTH)
        frame, digest = rest[:length], rest[length:]
        if self._digest(self._last + head + frame) != digest:
            return None
        self._last = digest
        return frame

    def _digest(self, data: bytes) -> bytes:
        return blake2b(data, digest_size=_DIGEST, key=self._salt).digest()
