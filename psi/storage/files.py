"""Creates all folders and files of `psi`, which only this user can access.

A folder gets mode 0700 and a file mode 0600, whatever the umask. Symbolic links are never followed,
and files and folders of another user are refused with a `PermissionError`. This module knows
nothing of the content of files.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from psi.errors import naming

if TYPE_CHECKING:
    from filelock import FileLock

DRAFT = ".new"
"""The end of the name of a file that is not complete yet."""

_OTHERS, _OTHERS_WRITE = 0o077, 0o022
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def private_folder(folder: Path) -> Path:
    """Make a folder and its missing parents, or check that an existing one is private."""
    missing, above = [], folder
    while not os.path.lexists(above):
        missing.append(above)
        above = above.parent
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process was faster
            each.mkdir(mode=0o700)
            if each.lstat().st_mode & 0o777 != 0o700:  # the umask removed more
                each.chmod(0o700)
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | _FLAGS)
        try:
            _close_folder(handle, folder)
        finally:
            os.close(handle)
    return folder


def _close_folder(handle: int, folder: Path) -> None:
    found = os.fstat(handle)
    if found.st_mode & stat.S_ISVTX:
        return  # as in /tmp, where nobody can replace files of another user
    _refuse_foreign(found, folder)
    if found.st_mode & _OTHERS_WRITE:
        os.fchmod(handle, 0o700)


def open_private(path: Path, *, new: bool = False) -> int:
    """Open a file to read and write, create it if it is missing, and return its descriptor.

    A file that other users may read or write is replaced by an empty one, so that a user who has
    the old one open cannot read the new content.
    """
    # Opening a named pipe that another user planted must not block.
    flags = os.O_RDWR | os.O_CREAT | _FLAGS | getattr(os, "O_NONBLOCK", 0)
    file = os.open(path, flags | os.O_EXCL if new else flags, 0o600)
    if os.name != "posix":
        return file
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is not a plain file", os.fspath(path))
        _refuse_foreign(found, path)
        # The umask or the folder's default permissions may have given another mode.
        os.fchmod(file, 0o600)
    except OSError:
        os.close(file)
        raise
    if new or not found.st_mode & _OTHERS:
        return file
    os.close(file)
    path.unlink()
    return open_private(path, new=True)


def open_to_read(path: Path) -> IO[bytes]:
    """Open a file of this user; raise `OSError` for a link or a special file."""
    file = os.open(path, os.O_RDONLY | _FLAGS | getattr(os, "O_NONBLOCK", 0))
    try:
        if os.name == "posix":
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "it is not a plain file", os.fspath(path))
            _refuse_foreign(found, path)
    except OSError:
        os.close(file)
        raise
    return os.fdopen(file, "rb")


def read(path: Path) -> bytes:
    """Return the content of a file of this user; raise `OSError` for a link or a special file."""
    with naming(path), open_to_read(path) as opened:
        return opened.read()


class Draft:
    """A file that is written piece by piece, and that appears at its path whole or not at all.

    Args:
        path: the path. Its folder exists.

    Attributes:
        path: where the bytes are until `commit`.
    """

    def __init__(self, path: Path) -> None:
        self._target = path
        self.path = path.with_name(f".{secrets.token_hex(8)}{DRAFT}")
        self._file = os.fdopen(open_private(self.path, new=True), "r+b")

    def write(self, content: bytes) -> None:
        """Append these bytes."""
        with naming(self._target):
            self._file.write(content)

    def overwrite(self, content: bytes) -> None:
        """Replace the bytes at the beginning, and append the next ones at the end again."""
        with naming(self._target):
            self._file.seek(0)
            self._file.write(content)
            self._file.seek(0, os.SEEK_END)

    def read(self) -> Iterator[bytes]:
        """Yield the bytes so far, in chunks of 1 MiB."""
        self.flush()
        with naming(self._target), open_to_read(self.path) as file:
            while chunk := file.read(1 << 20):
                yield chunk

    def flush(self) -> None:
        """Write all bytes to `path`, where they can be read."""
        with naming(self._target):
            self._file.flush()

    def commit(self) -> None:
        """Put the file in place, and sync it so that it survives a crash of the machine."""
        with naming(self._target):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        self.path.replace(self._target)
        with contextlib.suppress(OSError):  # Windows cannot sync a folder
            folder = os.open(self._target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def close(self) -> None:
        """Remove the bytes unless they were put in place."""
        with contextlib.suppress(OSError):  # the disk is full, and the rest may be dropped
            self._file.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def remove_drafts(folder: Path) -> None:
    """Remove the drafts that killed processes left in a folder, which no other process uses."""
    for left in folder.glob(f".*{DRAFT}"):
        left.unlink(missing_ok=True)


def put_in_place(path: Path, content: bytes) -> None:
    """Write a file atomically, and sync it so that it survives a crash of the machine."""
    with Draft(path) as draft:
        draft.write(content)
        draft.commit()


def file_lock(path: Path, timeout: float) -> FileLock:
    """Return a lock between processes, which is not acquired yet; `timeout` is in seconds."""
    from filelock import FileLock

    return FileLock(path, timeout=timeout, mode=0o600)


def nameless_file(folder: str) -> IO[bytes]:
    """Return an empty file that nobody else can open and that is removed when it is closed."""
    # The caller closes the file later, so there is no `with` block here.
    return tempfile.TemporaryFile(buffering=1 << 16, dir=folder)


def _refuse_foreign(found: os.stat_result, path: Path) -> None:
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "it belongs to another user", os.fspath(path))
