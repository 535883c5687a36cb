"""Provides the meeting place of a task on one machine: the path of its socket, and its lock.

Parties that know the same task id and `home` find the same Unix socket, in a directory that only
this user can enter. A lock keeps a second Host away, because a second bind to the path would
silently take it over; the kernel drops the lock with the process that held it.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from heterofed.errors import ConfigError
from heterofed.files import file_lock, private_folder
from heterofed.rendezvous.ways import both_hosts

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


class HostLock:
    """Held by the one Host of a task on this machine, as long as it listens.

    Use it as a context manager around the listening endpoint.

    Args:
        task_id: the id of the task.
        lock: the path of the lock; see `lock_path`.
        socket: the path of the Unix socket on which the Host listens, if it uses one.

    Raises:
        ConfigError: `acquire` raises it if another Host holds the lock.
    """

    def __init__(self, task_id: str, lock: Path, socket: Path | None = None) -> None:
        self._task_id, self._path, self._socket = task_id, lock, socket
        self._lock = file_lock(lock)

    def acquire(self) -> None:
        from filelock import Timeout

        try:
            self._lock.acquire()
        except Timeout:
            raise ConfigError(
                f"another Host runs task {self._task_id!r} on this machine: stop it, or use"
                f" another task id; if it is the other party, {both_hosts()}"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"cannot lock {self._path}: {error.strerror}; set HETEROFED_HOME to a folder on a"
                " local disk"
            ) from None
        self._remove_socket()  # left behind by a process that was killed

    def release(self) -> None:
        if self._lock.is_locked:
            self._remove_socket()
            self._lock.release()

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
