"""An open folder whose owner was checked, through which files in it are reached."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from heterofed.errors import ConfigError

OTHERS_WRITE, OTHERS = 0o022, 0o077

OWN_RESULTS = "give another results_dir"


@dataclass(frozen=True, slots=True)
class Folder:
    """An open folder. `handle` is None if the platform cannot open folders (Windows).

    Operations by the handle act in the folder that was checked, even if its path was replaced.
    """

    path: Path
    handle: int | None

    def place(self, name: str) -> str:
        """Return the path of a file in the folder, relative to the handle if there is one."""
        return os.fspath(self.path / name) if self.handle is None else name

    def sync(self) -> None:
        """Make renames in the folder survive a power cut."""
        if self.handle is not None:
            with contextlib.suppress(OSError):  # some network file systems do not support it
                os.fsync(self.handle)


@contextmanager
def opened(path: Path, remedy: str, *, tighten: int, anywhere: bool = False) -> Iterator[Folder]:
    """Open a folder and check its owner.

    Args:
        path: the path of the folder.
        remedy: the advice in the error if the folder cannot be used.
        tighten: permission bits that other users must not have. If they have one, all of their
            permissions are removed.
        anywhere: whether to skip the check.
    """
    if os.name != "posix":
        yield Folder(path, None)
        return
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        handle = os.open(path, flags if anywhere else flags | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK):
            raise ConfigError(f"{path} must be a directory and not a link: {remedy}") from None
        raise
    try:
        if not anywhere:
            _close_folder(path, handle, remedy, tighten)
        yield Folder(path, handle)
    finally:
        os.close(handle)


def _close_folder(path: Path, handle: int, remedy: str, tighten: int) -> None:
    found = os.fstat(handle)
    if found.st_uid != os.geteuid():
        raise ConfigError(f"{path} belongs to another user: {remedy}")
    if not found.st_mode & tighten:
        return
    if found.st_mode & stat.S_ISVTX:
        raise ConfigError(f"{path} is a folder for all users: {remedy}")
    os.fchmod(handle, 0o700)
    if os.fstat(handle).st_mode & tighten:
        raise ConfigError(f"{path} is open to other users, and this cannot be changed: {remedy}")


def folder_of(path: Path, *, anywhere: bool = False) -> contextlib.AbstractContextManager[Folder]:
    return opened(path.parent, OWN_RESULTS, tighten=OTHERS_WRITE, anywhere=anywhere)


def check_plain(handle: int, path: Path) -> None:
    """Raise an OSError if an open file is not a plain file of this user."""
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is not a plain file", os.fspath(path))
    if os.name == "posix" and found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "it belongs to another user", os.fspath(path))
