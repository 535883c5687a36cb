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
from pathlib import Path
from typing import IO, TYPE_CHECKING

from psi.errors import naming

if TYPE_CHECKING:
    from filelock import FileLock

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


def read(path: Path) -> bytes:
    """Return the content of a file of this user; raise `OSError` for a link or a special file."""
    file = os.open(path, os.O_RDONLY | _FLAGS | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(file, "rb") as opened, naming(path):
        if os.name == "posix":
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                raise OSError(errno.EINVAL, "it is not a plain file", os.fspath(path))
            _refuse_foreign(found, path)
        return opened.read()


def put_in_place(path: Path, content: bytes) -> None:
    """Write a file atomically, and sync it so that it survives a crash of the machine."""
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
