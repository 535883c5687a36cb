"""The one place of `psi` that makes folders and files: they are this user's alone.

A folder gets mode 0700 and a file 0600, whatever the umask. A link is never followed, and what
belongs to another user is refused with a `PermissionError`. Knows nothing of what is written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

from psi.errors import naming

if TYPE_CHECKING:
    from filelock import FileLock

_OTHERS, _OTHERS_WRITE = 0o077, 0o022
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def private_folder(folder: Path) -> Path:
    """Make a folder and those above it that are missing, or check that one is this user's alone."""
    missing, above = [], folder
    while not os.path.lexists(above):
        missing.append(above)
        above = above.parent
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process was faster
            each.mkdir(mode=0o700)
            if each.lstat().st_mode & 0o777 != 0o700:  # the umask took more
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
        return  # as /tmp: nobody can exchange what is ours there
    _refuse_foreign(found, folder)
    if found.st_mode & _OTHERS_WRITE:
        os.fchmod(handle, 0o700)


def open_private(path: Path, *, new: bool = False) -> int:
    """Open a file to read and write, which is made where it is not there; gives its descriptor.

    A file that others than its owner may read or write is replaced by an empty one: whoever has it
    open shall not read what comes now.
    """
    # A named pipe that somebody planted must not stop us.
    flags = os.O_RDWR | os.O_CREAT | _FLAGS | getattr(os, "O_NONBLOCK", 0)
    file = os.open(path, flags | os.O_EXCL if new else flags, 0o600)
    if os.name != "posix":
        return file
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is not a plain file", os.fspath(path))
        _refuse_foreign(found, path)
        os.fchmod(file, 0o600)  # the umask may have taken more, or a default of the folder less
    except OSError:
        os.close(file)
        raise
    if new or not found.st_mode & _OTHERS:
        return file
    os.close(file)
    path.unlink()
    return open_private(path, new=True)


def read(path: Path) -> bytes:
    """The content of a file of ours; an `OSError` where it is a link or no plain file."""
    file = os.open(path, os.O_RDONLY | _FLAGS | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(file, "rb") as opened, naming(path):
        if os.name == "posix":
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "it is not a plain file", os.fspath(path))
            _refuse_foreign(found, path)
        return opened.read()


def put_in_place(path: Path, content: bytes) -> None:
    """Write a file so that it appears whole or not at all, and outlives the machine."""
    draft = path.with_name(f".{secrets.token_hex(8)}.new")
    try:
        with naming(path), os.fdopen(open_private(draft, new=True), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # Windows cannot sync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def file_lock(path: Path, timeout: float) -> FileLock:
    """A lock between processes, not yet acquired; `timeout` in seconds."""
    from filelock import FileLock

    return FileLock(path, timeout=timeout, mode=0o600)


def nameless_file(folder: str) -> IO[bytes]:
    """An empty file that nobody else can open, and that is gone once it is closed."""
    # Closed by its caller, after more than one block.
    return tempfile.TemporaryFile(buffering=1 << 16, dir=folder)


def _refuse_foreign(found: os.stat_result, path: Path) -> None:
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "it belongs to another user", os.fspath(path))
