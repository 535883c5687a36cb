"""Provides the meeting place of a task on one machine: the path of its socket, and its lock.

Parties that know the same task id and `home` find the same Unix socket, in a directory that only
this user can enter. A lock keeps a second Host away, because a second bind to the path would
silently take it over; the kernel drops the lock with the process that held it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import msgspec

from heterofed.errors import ConfigError
from heterofed.files import file_lock, private_folder, put_in_place, read
from heterofed.rendezvous.ways import both_hosts

DOING = {
    "train": "trains",
    "psi": "intersects ids",
    "predict": "predicts",
    "serve": "serves or scores rows",
    "rehearse": "makes a dry run",
    "overlap": "counts common ids",
    "stored": "asks a stored set",
    "probe": "runs `heterofed doctor`",
    "check": "checks the task",
}
"""The words for a Host's work, by the purpose for which it waits for the others."""

ACQUIRE_SECONDS = 0.1
"""The longest time in seconds to wait for another process, which may only look whether it can."""

MAX_PATH_BYTES = 100
"""The most bytes of a socket path: macOS allows 104 with the final NUL, and Linux 108."""


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """The meeting place of the parties of one task on this machine."""

    task_id: str
    socket: Path
    lock: Path

    @property
    def address(self) -> str:
        """The address for `listen` and `connect`."""
        return f"ipc://{self.socket}"


def local_address(task_id: str, home: Path) -> LocalAddress:
    """Return the meeting place of a task; create `home/run` (mode 0700) if it is missing.

    Raises:
        ConfigError: the platform has no Unix sockets, the path is too long, or the directory is not
            private.
    """
    if not _has_unix_sockets():
        raise ConfigError(
            "this platform has no Unix sockets, by which parties on one machine meet; run them on"
            " Linux or macOS"
        )
    run = home.absolute() / "run"
    socket = run / f"{_short(task_id)}.sock"
    length = len(os.fsencode(socket))
    if length > MAX_PATH_BYTES:
        raise ConfigError(
            f"the socket path {socket} has {length} bytes and may have {MAX_PATH_BYTES}:"
            " set HETEROFED_HOME to a shorter path"
        )
    return LocalAddress(task_id, socket, lock_path(task_id, home))


def lock_path(task_id: str, home: Path) -> Path:
    """Return the path of the lock of a task's only Host on this machine; create `home/run`.

    Raises:
        ConfigError: the directory is not private.
    """
    return private_folder(home, "run") / f"{_short(task_id)}.lock"


def _short(task_id: str) -> str:
    return hashlib.sha256(task_id.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class _Holder(msgspec.Struct):
    """The process that holds a lock, and the purpose of its Host."""

    pid: int
    doing: str = ""


class HostLock:
    """Held by the one Host of a task on this machine, as long as it listens.

    Use it as a context manager around the listening endpoint.

    Args:
        task_id: the id of the task.
        lock: the path of the lock; see `lock_path`.
        socket: the path of the Unix socket on which the Host listens, if it uses one.
        doing: the purpose of this Host, which others are told.

    Raises:
        ConfigError: `acquire` raises it if another Host holds the lock.
    """

    def __init__(
        self, task_id: str, lock: Path, socket: Path | None = None, *, doing: str = ""
    ) -> None:
        self._task_id, self._path, self._socket = task_id, lock, socket
        self._lock = file_lock(lock, timeout=ACQUIRE_SECONDS)
        self._holder, self._doing = lock.with_suffix(".json"), doing

    def acquire(self) -> None:
        from filelock import Timeout

        try:
            self._lock.acquire()
        except Timeout:
            raise ConfigError(self._taken()) from None
        except OSError as error:
            raise ConfigError(
                f"cannot lock {self._path}: {error.strerror}; set HETEROFED_HOME to a folder on a"
                " local disk"
            ) from None
        self._remove_socket()  # left behind by a process that was killed
        holder = msgspec.json.encode(_Holder(os.getpid(), self._doing))
        with contextlib.suppress(OSError):  # it only makes a message clearer
            put_in_place(self._holder, lambda file: file.write(holder))

    def release(self) -> None:
        if self._lock.is_locked:
            self._remove_socket()
            with contextlib.suppress(OSError):
                self._holder.unlink()
            self._lock.release()

    @property
    def held_for(self) -> str:
        """The purpose of the Host that holds the lock; empty if it is not known."""
        return self._held_by().doing

    def _held_by(self) -> _Holder:
        try:
            return msgspec.json.decode(read(self._holder), type=_Holder)
        except (OSError, msgspec.MsgspecError):
            return _Holder(0)

    def _taken(self) -> str:
        """Return what another process does that holds the lock, and what the user can do."""
        found = self._held_by()
        does = DOING.get(found.doing, "runs the Host")
        who = f"process {found.pid}" if found.pid else "another process"
        return (
            f"{who} on this machine {does} of task {self._task_id!r}, and only one at a time can"
            " listen for a task: wait for its end, or stop it; to train or score while a task is"
            " served, train under another task id (heterofed models add hands the run over), and"
            f" ask the server for scores; if it is the other party, {both_hosts()}"
        )

    def _remove_socket(self) -> None:
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)

    def __enter__(self) -> HostLock:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def _has_unix_sockets() -> bool:
    return os.name == "posix"
