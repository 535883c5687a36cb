"""Meeting on one machine without configuration: where the socket of a task lies, and who owns it.

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

MAX_PATH_BYTES = 100
"""macOS takes 104 bytes with the final NUL, Linux 108."""


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """Where the parties of one task meet on this machine."""

    task_id: str
    socket: Path
    lock: Path

    @property
    def address(self) -> str:
        """What `listen` and `connect` take."""
        return f"ipc://{self.socket}"


def local_address(task_id: str, home: Path) -> LocalAddress:
    """The meeting point of a task; creates `home/run` (mode 0700) if it is not there.

    Raises:
        ConfigError: no Unix sockets here, the path is too long, or the directory is not private.
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
    """The lock of a task's one Host on this machine; creates `home/run` (mode 0700) for it.

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
        task_id: the task.
        lock: see `lock_path`.
        socket: where it listens, if that is a Unix socket.

    Raises:
        ConfigError: (on `acquire`) another Host has it.
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
                f"another Host runs task {self._task_id!r} on this machine:"
                " stop it, or use another task id"
            ) from None
        except OSError as error:
            raise ConfigError(f"cannot lock {self._path}: {error.strerror}") from None
        self._remove_socket()  # whoever made it did not live to do so

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
