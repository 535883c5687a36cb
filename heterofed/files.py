"""The one place that creates folders and files. They belong to this user alone, whatever the umask.

A folder gets mode 0700 and a file 0600. A file appears whole or not at all, and is on disk once the
call returns. A link that lies where a file of ours should be is never followed, and no write goes
to a folder that is a link or belongs to another user. Knows nothing of what is written.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import stat
import tempfile
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
"""How a file is called until it is whole."""

OTHERS_WRITE, OTHERS = 0o022, 0o077

UNMAPPED = 65534
"""In a container, the owner of what belongs to a user that does not exist there."""

OWN_HOME = "set HETEROFED_HOME to a folder of your own"
OWN_RESULTS = "give another results_dir"

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_CREATE = os.O_CREAT | os.O_WRONLY | _NO_FOLLOW | getattr(os, "O_BINARY", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # a named pipe that was planted must not stop us


# -- folders ---------------------------------------------------------------------------------------


def heterofed_home() -> Path:
    """`$HETEROFED_HOME`, else the platform's user config folder; nothing is created.

    Raises:
        ConfigError: the variable is not set and this user has no home.
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
    """Give a folder in `home` that only this user can enter; it is checked again at each call.

    Args:
        home: `$HETEROFED_HOME`, or another folder of this user.
        within: names of the folder and of those above it in `home`; empty for `home` itself.
        make: whether to make what is missing; else the path is given without more ado.

    Raises:
        ConfigError: it cannot be made, is a link, belongs to another user, or another user could
            exchange it.
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
    """Make a folder of results, or check that one is this user's and no link.

    Raises:
        ConfigError: it is a link or belongs to another user.
        OSError: it cannot be made.
    """
    make_folder(path)
    with _opened(path, OWN_RESULTS, tighten=OTHERS_WRITE):
        return path


def make_folder(path: Path) -> None:
    """Make a folder and all above it that are missing; what is there stays as it is.

    Raises:
        OSError: one cannot be made.
    """
    missing = []
    while not os.path.lexists(path):
        missing.append(path)
        path = path.parent
    for each in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process was faster
            each.mkdir(mode=0o700)
            if stat.S_IMODE(each.lstat().st_mode) & 0o777 != 0o700:  # the umask took more
                each.chmod(0o700)


def move_aside(folder: Path) -> None:
    """Rename a folder to `<folder>.1`, `.2`, ...; an empty one, or none, is removed instead.

    Raises:
        OSError: it cannot be renamed.
    """
    with contextlib.suppress(OSError):
        folder.rmdir()
    if os.path.lexists(folder):
        number = 1
        while os.path.lexists(aside := folder.with_name(f"{folder.name}.{number}")):
            number += 1
        folder.rename(aside)


def try_folder(folder: Path) -> None:
    """Try whether something can be made in a folder; leaves it as it was.

    Raises:
        OSError: nothing can.
    """
    Path(tempfile.mkdtemp(dir=folder, prefix=".heterofed-")).rmdir()


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is gone after the block."""
    with tempfile.TemporaryDirectory(prefix="heterofed-") as name:
        yield Path(name)


# -- files -----------------------------------------------------------------------------------------


def put_in_place(
    path: Path,
    write: Callable[[BinaryIO], object],
    *,
    anywhere: bool = False,
    new: bool = False,
    sync: bool = True,
) -> Path:
    """Write a file so that it appears whole or not at all; gives its path.

    Args:
        path: what lies there, be it a link, is replaced; its folder must be there.
        write: gets the open file.
        anywhere: the user chose the folder, so that it may be a link or another user's.
        new: nothing may lie there yet.
        sync: whether it must be on disk then; else only a power cut can take it.

    Raises:
        ConfigError: the folder is a link or belongs to another user.
        OSError: the file cannot be written; with `new`, a FileExistsError.
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


def append(path: Path, data: bytes) -> None:
    """Append to a file of ours, which is made where it is not there.

    Raises:
        ConfigError: its folder is a link or belongs to another user.
        OSError: it cannot be written, or is a link or another user's.
    """
    with _folder_of(path) as folder, _existing(path, folder, os.O_APPEND | os.O_CREAT) as file:
        file.write(data)
        _sync(file)
        if file.tell() == len(data):
            folder.sync()


def truncate(path: Path, size: int) -> None:
    """Cut a file of ours to `size` bytes.

    Raises:
        ConfigError: its folder is a link or belongs to another user.
        OSError: it is not there, cannot be written, or is a link or another user's.
    """
    with _folder_of(path) as folder, _existing(path, folder, 0) as file:
        file.truncate(size)
        _sync(file)


def read(path: Path) -> bytes:
    """The content of a file of ours.

    Raises:
        OSError: it is not there, cannot be read, or is a link, no plain file, or another user's.
    """
    handle = os.open(path, os.O_RDONLY | _NO_FOLLOW | _NO_WAIT | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb") as file:
        _check_plain(handle, path)
        return file.read()


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file to be written bit by bit, such as another process's output; it must not be there yet.

    Raises:
        ConfigError: its folder is a link or belongs to another user.
        OSError: it cannot be made.
    """
    with _folder_of(path) as folder, _created(folder.place(path.name), folder) as file:
        yield file


def file_lock(path: Path, *, timeout: float = 0.0) -> FileLock:
    """A lock between processes, not yet acquired.

    Args:
        path: of the lock's file, in a private folder.
        timeout: seconds to wait for another process.
    """
    from filelock import FileLock  # here: it takes a tenth of all that loads with us

    return FileLock(path, timeout=timeout, mode=0o600, thread_local=False)


def close_to_others(path: Path) -> None:
    """Take all access from other users, where a library made the file.

    Raises:
        OSError: that cannot be done.
    """
    path.chmod(0o600)


def drop_drafts(folder: Path) -> None:
    """Remove what a process that was killed had begun to write; nobody else may be writing here."""
    if folder.is_dir():
        for path in folder.iterdir():
            if DRAFT.fullmatch(path.name):
                path.unlink(missing_ok=True)


def fill_standard_streams() -> None:
    """Open the null device where stdin, stdout or stderr was closed before the program began.

    Else a file of ours gets that number, and what a library prints ends up in it.
    """
    with contextlib.suppress(OSError):
        while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(handle, True)
        os.close(handle)


# -- within ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Folder:
    """An open folder; `handle` is None where the platform opens none (Windows).

    What is done by the handle is done in the folder that was checked, whatever lies at its path.
    """

    path: Path
    handle: int | None

    def place(self, name: str) -> str:
        """What to call a file in it together with the handle."""
        return os.fspath(self.path / name) if self.handle is None else name

    def sync(self) -> None:
        """Make renames in it last through a power cut."""
        if self.handle is not None:
            with contextlib.suppress(OSError):  # some network file systems cannot
                os.fsync(self.handle)


@contextmanager
def _opened(path: Path, remedy: str, *, tighten: int, anywhere: bool = False) -> Iterator[_Folder]:
    """Open a folder, after a look at whose it is.

    Args:
        path: of the folder.
        remedy: what to do where it will not do.
        tighten: permissions that others must not have; where they do, they lose all.
        anywhere: do without that look.
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
        raise ConfigError(f"{path} is open to other users and stays so: {remedy}")


def _check_above(path: Path) -> None:
    """Refuse a path of which another user could exchange a part.

    Raises:
        ConfigError: naming the folder that lets others do so.
    """
    if os.name != "posix":
        return
    for chain in {path, path.resolve()}:
        for folder in reversed(chain.parents):
            found = folder.stat()
            if found.st_uid not in (0, os.geteuid(), UNMAPPED) or _others_may_rename(found):
                raise ConfigError(
                    f"other users of this machine could exchange {path}, since they may change"
                    f" {folder}: take that from them (chmod go-w), or {OWN_HOME}"
                )
            if not found.st_mode & 0o011:
                break  # nobody else gets any deeper


def _others_may_rename(folder: os.stat_result) -> bool:
    """Whether others may exchange what lies in a folder; not in one like `/tmp`."""
    if folder.st_mode & stat.S_ISVTX:
        return False
    by_group = folder.st_mode & 0o020 and not _is_of_one(folder.st_gid)
    return bool(folder.st_mode & 0o002 or by_group)


def _is_of_one(group: int) -> bool:
    """Whether a group is this user's alone, as many systems give each user one."""
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
    """Open a file of ours to write to."""
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
    """OSError where an open file is none of ours."""
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
    """Turn what the disk says, where `path` is written in this block, into an error of ours.

    Raises:
        ResultsError: naming the path.
    """
    try:
        yield
    except OSError as error:
        raise ResultsError(
            f"{path} cannot be written ({error.strerror or error}); make room there and start"
            " again: a task goes on from the last checkpoint that all parties hold"
        ) from error
