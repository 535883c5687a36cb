"""Writes and reads files that appear whole or not at all, and that only this user can read."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from heterofed.errors import ResultsError
from heterofed.files.opened import Folder, check_plain, folder_of

if TYPE_CHECKING:
    from filelock import FileLock

DRAFT = re.compile(r"\.heterofed-[0-9a-f]{16}\.draft")
"""The name of a file until it is complete."""

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_CREATE = os.O_CREAT | os.O_WRONLY | _NO_FOLLOW | getattr(os, "O_BINARY", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # opening a planted named pipe must not block


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
    with folder_of(path, anywhere=anywhere) as folder:
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
    with folder_of(path) as folder, _existing(path, folder, os.O_APPEND | os.O_CREAT) as file:
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
    with folder_of(path) as folder, _existing(path, folder, 0) as file:
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
        check_plain(handle, path)
        return file.read()


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Make a new file to be written piece by piece, such as the output of another process.

    Raises:
        ConfigError: its folder is a link or belongs to another user.
        OSError: the file exists already or cannot be made.
    """
    with folder_of(path) as folder, _created(folder.place(path.name), folder) as file:
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


def _created(place: str, folder: Folder) -> BinaryIO:
    handle = os.open(place, _CREATE | os.O_EXCL, 0o600, dir_fd=folder.handle)
    if os.name == "posix":
        os.fchmod(handle, 0o600)
    return os.fdopen(handle, "wb")


def _existing(path: Path, folder: Folder, flags: int) -> BinaryIO:
    """Open an existing file of heterofed for writing."""
    flags |= _CREATE & ~os.O_CREAT | _NO_WAIT
    handle = os.open(folder.place(path.name), flags, 0o600, dir_fd=folder.handle)
    try:
        check_plain(handle, path)
        if os.name == "posix":
            os.fchmod(handle, 0o600)
        return os.fdopen(handle, "ab")
    except BaseException:
        os.close(handle)
        raise


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
