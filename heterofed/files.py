"""Creates all folders and files of heterofed. Only this user can access them, whatever the umask.

A folder gets mode 0700 and a file mode 0600. A file appears whole or not at all, and is on disk
when the call returns. Symbolic links in place of heterofed's files are never followed, and nothing
is written to a folder that is a link or belongs to another user. This module knows nothing of the
content of files.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import platformdirs

from heterofed.errors import ConfigError, ResultsError

if TYPE_CHECKING:
    from filelock import FileLock

DRAFT = re.compile(r"\.heterofed-[0-9a-f]{16}\.draft")
"""The name of a file until it is complete."""

SCRATCH, SCRATCH_LOCK = "heterofed-", "in-use.lock"
"""How the names of temporary folders begin, and the lock that a living process holds in its own."""

SCRATCH_SECONDS = 60.0
"""A lock that is younger may be one that its process is about to take."""

OTHERS_WRITE, OTHERS = 0o022, 0o077

UNMAPPED = 65534
"""The user id that a container shows for files of a user that it does not have."""

OWN_HOME = "set HETEROFED_HOME to a folder of your own"
OWN_RESULTS = "give another results_dir"

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_CREATE = os.O_CREAT | os.O_WRONLY | _NO_FOLLOW | getattr(os, "O_BINARY", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # opening a planted named pipe must not block


# -- folders ---------------------------------------------------------------------------------------


def heterofed_home() -> Path:
    """Return `$HETEROFED_HOME` or, if it is not set, the platform's user configuration folder.

    Nothing is created.

    Raises:
        ConfigError: the variable is not set and this user has no home folder.
    """
    named = os.environ.get("HETEROFED_HOME")
    try:
        if named:
            return Path(named).expanduser()
        found = platformdirs.user_config_path("heterofed", appauthor=False)
    except (RuntimeError, KeyError):
        found = Path()
    if not found.is_absolute():
        raise ConfigError(f"this user has no home folder: {OWN_HOME}")
    return found


def private_folder(home: Path, *within: str, make: bool = True) -> Path:
    """Return a folder in `home` that only this user can enter. It is checked at each call.

    Args:
        home: `$HETEROFED_HOME`, or another folder of this user.
        within: the names of the folder and of its parents below `home`; empty for `home` itself.
        make: whether to make missing folders. If False, the path is returned without a check.

    Raises:
        ConfigError: the folder cannot be made, is a link, belongs to another user, or could be
            replaced by another user.
    """
    path = home.absolute()
    try:
        for name in ("", *within):
            path = path / name
            if make:
                make_folder(path)
            elif not os.path.lexists(path):
                return home.absolute().joinpath(*within)
            with _opened(path, OWN_HOME, tighten=OTHERS if name else OTHERS_WRITE):
                pass
            if not name:
                _check_above(path)
    except OSError as error:
        raise ConfigError(f"cannot use {path} ({error.strerror}): {OWN_HOME}") from None
    return path


def own_folder(path: Path) -> Path:
    """Make a folder of results, or check that an existing one is this user's and no link.

    Raises:
        ConfigError: the folder is a link or belongs to another user.
        OSError: the folder cannot be made.
    """
    make_folder(path)
    with _opened(path, OWN_RESULTS, tighten=OTHERS_WRITE):
        return path


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents; existing folders are not changed.

    Raises:
        OSError: a folder cannot be made.
    """
    missing = []
    while not os.path.lexists(path):
        missing.append(path)
        path = path.parent
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process made it
            each.mkdir(mode=0o700)
            if stat.S_IMODE(each.lstat().st_mode) & 0o777 != 0o700:  # the umask took some
                each.chmod(0o700)


def move_aside(folder: Path) -> None:
    """Rename a folder to `<folder>.1`, `.2` and so on; an empty folder is removed instead.

    Raises:
        OSError: the folder cannot be renamed.
    """
    with contextlib.suppress(OSError):
        folder.rmdir()
    if os.path.lexists(folder):
        number = 1
        while os.path.lexists(aside := folder.with_name(f"{folder.name}.{number}")):
            number += 1
        folder.rename(aside)


def try_folder(folder: Path) -> None:
    """Check that files can be made in a folder, and leave it unchanged.

    Raises:
        OSError: files cannot be made there.
    """
    Path(tempfile.mkdtemp(dir=folder, prefix=".heterofed-")).rmdir()


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a temporary folder that is deleted after the block.

    A process that is killed leaves its folder behind. Therefore a living one holds a lock in it,
    and folders whose lock nobody holds are deleted here.
    """
    with contextlib.suppress(OSError):
        _drop_abandoned(Path(tempfile.gettempdir()))
    with (
        tempfile.TemporaryDirectory(prefix=SCRATCH) as name,
        file_lock(Path(name, SCRATCH_LOCK)),
    ):
        yield Path(name)


def _drop_abandoned(parent: Path) -> None:
    """Delete temporary folders of processes of this user that are no more."""
    newest = time.time() - SCRATCH_SECONDS
    for folder in parent.glob(f"{SCRATCH}*"):
        lock = folder / SCRATCH_LOCK
        with contextlib.suppress(OSError, TimeoutError):  # a living one holds it, or deletes it
            if _is_mine(folder) and lock.lstat().st_mtime < newest:
                with file_lock(lock):
                    shutil.rmtree(folder, ignore_errors=True)


def _is_mine(folder: Path) -> bool:
    """Return whether a path is a folder of this user that nobody else can enter, and no link."""
    found = folder.lstat()
    mine = os.name != "posix" or (found.st_uid == os.geteuid() and not found.st_mode & OTHERS)
    return stat.S_ISDIR(found.st_mode) and mine


# -- files -----------------------------------------------------------------------------------------


def put_in_place(
    path: Path,
    write: Callable[[BinaryIO], object],
    *,
    anywhere: bool = False,
    new: bool = False,
    sync: bool = True,
) -> Path:
    """Write a file so that it appears whole or not at all, and return its path.

    Args:
        path: the path of the file, in an existing folder. An existing file or link is replaced.
        write: called with the open file to write the content.
        anywhere: whether the user chose the folder, so that it may be a link or another user's.
        new: whether to refuse to replace an existing file.
        sync: whether the file must be on disk on return, so that it survives a power cut.

    Raises:
        ConfigError: the folder is a link or belongs to another user.
        FileExistsError: `new` is set and the file exists.
        OSError: the file cannot be written.
    """
    with _folder_of(path, anywhere=anywhere) as folder:
        draft = folder.place(f".heterofed-{secrets.token_hex(8)}.draft")
        there = folder.place(path.name)
        try:
            with _created(draft, folder) as file:
                write(file)
                if sync:
                    _sync(file)
            if new:
                os.link(draft, there, src_dir_fd=folder.handle, dst_dir_fd=folder.handle)
            else:
                os.replace(draft, there, src_dir_fd=folder.handle, dst_dir_fd=folder.handle)
            if sync:
                folder.sync()
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft, dir_fd=folder.handle)
    return path


def append_json(path: Path, line: Mapping[str, object]) -> None:
    """Append one line of JSON to a log of ours; raises as `append` does."""
    append(path, json.dumps(line, ensure_ascii=False).encode() + b"\n")


def append(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Append to a file of heterofed, which is made if it does not exist.

    Args:
        path: the path of the file.
        data: written by one call, so that a reader sees all of it or a beginning of it.
        sync: whether the data must be on disk on return, so that they survive a power cut.

    Raises:
        ConfigError: its folder is a link or belongs to another user.
        OSError: the file cannot be written, is a link, or belongs to another user.
    """
    with _folder_of(path) as folder, _existing(path, folder, os.O_APPEND | os.O_CREAT) as file:
        file.write(data)
        if sync:
            _sync(file)
            if file.tell() == len(data):
                folder.sync()


def truncate(path: Path, size: int) -> None:
    """Cut a file of heterofed to `size` bytes.

    Raises:
        ConfigError: its folder is a link or belongs to another user.
        OSError: the file does not exist, cannot be written, is a link, or belongs to another user.
    """
    with _folder_of(path) as folder, _existing(path, folder, 0) as file:
        file.truncate(size)
        _sync(file)


def read(path: Path) -> bytes:
    """Return the content of a file of heterofed.

    Raises:
        OSError: the file does not exist, cannot be read, is no plain file, or belongs to another
            user.
    """
    handle = os.open(path, os.O_RDONLY | _NO_FOLLOW | _NO_WAIT | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        _check_plain(handle, path)
        return file.read()


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Make a new file to be written piece by piece, such as the output of another process.

    Raises:
        ConfigError: its folder is a link or belongs to another user.
        OSError: the file exists already or cannot be made.
    """
    with _folder_of(path) as folder, _created(folder.place(path.name), folder) as file:
        yield file


def file_lock(path: Path, *, timeout: float = 0.0) -> FileLock:
    """Return a lock between processes, which is not acquired yet.

    Args:
        path: the path of the lock file, in a private folder.
        timeout: the longest time in seconds to wait for another process.
    """
    from filelock import FileLock  # imported here, because it is slow to load

    return FileLock(path, timeout=timeout, mode=0o600, thread_local=False)


def close_to_others(path: Path) -> None:
    """Remove all permissions of other users from a file that a library made.

    Raises:
        OSError: the permissions cannot be changed.
    """
    path.chmod(0o600)


def drop_drafts(folder: Path) -> None:
    """Remove incomplete files of killed processes; no other process may write there."""
    if folder.is_dir():
        for path in folder.iterdir():
            if DRAFT.fullmatch(path.name):
                path.unlink(missing_ok=True)


def fill_standard_streams() -> None:
    """Open the null device in place of a stdin, stdout or stderr that is closed.

    Otherwise the next file that is opened would get its number, and output would end up in it.
    """
    with contextlib.suppress(OSError):
        while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(handle, True)
        os.close(handle)


# -- internal --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Folder:
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
def _opened(path: Path, remedy: str, *, tighten: int, anywhere: bool = False) -> Iterator[_Folder]:
    """Open a folder and check its owner.

    Args:
        path: the path of the folder.
        remedy: the advice in the error if the folder cannot be used.
        tighten: permission bits that other users must not have. If they have one, all of their
            permissions are removed.
        anywhere: whether to skip the check.
    """
    if os.name != "posix":
        yield _Folder(path, None)
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
        yield _Folder(path, handle)
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


def _check_above(path: Path) -> None:
    """Refuse a path if another user could replace a part of it.

    Raises:
        ConfigError: another user could; the message names the folder that allows it.
    """
    if os.name != "posix":
        return
    for chain in {path, path.resolve()}:
        for folder in reversed(chain.parents):
            found = folder.stat()
            if found.st_uid not in (0, os.geteuid(), UNMAPPED) or _others_may_rename(found):
                raise ConfigError(
                    f"other users of this machine could replace {path}, because they may change"
                    f" {folder}: remove that permission (chmod go-w), or {OWN_HOME}"
                )
            if not found.st_mode & 0o011:
                break  # other users cannot enter the folders below


def _others_may_rename(folder: os.stat_result) -> bool:
    """Return whether others may replace files in a folder; in a sticky one like `/tmp` they may
    not.
    """
    if folder.st_mode & stat.S_ISVTX:
        return False
    by_group = folder.st_mode & 0o020 and not _is_of_one(folder.st_gid)
    return bool(folder.st_mode & 0o002 or by_group)


def _is_of_one(group: int) -> bool:
    """Return whether this user is the only member of a group, as of a user's private group."""
    import grp
    import pwd

    try:
        name, members = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(group)
    except KeyError:
        return False
    return members.gr_name == name and set(members.gr_mem) <= {name}


def _folder_of(path: Path, *, anywhere: bool = False) -> contextlib.AbstractContextManager[_Folder]:
    return _opened(path.parent, OWN_RESULTS, tighten=OTHERS_WRITE, anywhere=anywhere)


def _created(place: str, folder: _Folder) -> BinaryIO:
    handle = os.open(place, _CREATE | os.O_EXCL, 0o600, dir_fd=folder.handle)
    if os.name == "posix":
        os.fchmod(handle, 0o600)
    return os.fdopen(handle, "wb")


def _existing(path: Path, folder: _Folder, flags: int) -> BinaryIO:
    """Open an existing file of heterofed for writing."""
    flags |= _CREATE & ~os.O_CREAT | _NO_WAIT
    handle = os.open(folder.place(path.name), flags, 0o600, dir_fd=folder.handle)
    try:
        _check_plain(handle, path)
        if os.name == "posix":
            os.fchmod(handle, 0o600)
        return os.fdopen(handle, "ab")
    except BaseException:
        os.close(handle)
        raise


def _check_plain(handle: int, path: Path) -> None:
    """Raise an OSError if an open file is not a plain file of this user."""
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is not a plain file", os.fspath(path))
    if os.name == "posix" and found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "it belongs to another user", os.fspath(path))


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of this block, which writes `path`, into a ResultsError.

    Raises:
        ResultsError: the file cannot be written; the message names it.
    """
    try:
        yield
    except OSError as error:
        raise ResultsError(
            f"{path} cannot be written ({error.strerror or error}); make room there and start"
            " again: a task resumes from the last checkpoint that all parties hold"
        ) from error
