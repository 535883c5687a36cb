"""Ensures that only one process at a time writes to a results folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from heterofed.errors import ConfigError
from heterofed.files import file_lock, heterofed_home
from heterofed.protocol.states import Role
from heterofed.rendezvous.local import lock_path
from heterofed.rendezvous.ways import both_hosts, naming

if TYPE_CHECKING:
    from filelock import FileLock

logger = logging.getLogger("heterofed")


@contextmanager
def folder_lock(folder: Path, wait: float, role: Role | None = None) -> Iterator[None]:
    """Keep two processes from writing to one results folder.

    Args:
        folder: the results folder.
        wait: the seconds to wait for another process; -1 waits for ever.
        role: the role of this party, for the message; None if it is not known.

    Raises:
        ConfigError: another process still writes to the folder.
    """
    from filelock import Timeout  # here: it takes a tenth of all that loads with us

    lock = file_lock(lock_path(f"results {folder}", heterofed_home()))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise ConfigError(
                f"another process writes to the results folder {folder}; stop it, or give this"
                f" party another name ({naming()}) or results_dir{_of_the_other_party(role)}"
            ) from None
        logger.info("another prediction is made in %s: this one waits for its end", folder)
        _wait_for(lock, folder, wait)
    try:
        yield
    finally:
        lock.release()


def _wait_for(lock: FileLock, folder: Path, seconds: float) -> None:
    from filelock import Timeout

    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise ConfigError(
            f"another process has made predictions in {folder} for {seconds:.0f} s; wait for its"
            " end, stop it, or raise join_timeout"
        ) from None


def _of_the_other_party(role: Role | None) -> str:
    """Return what to do if that process is the other party of the task."""
    return f"; if it is the other party, {both_hosts()}" if role is Role.HOST else ""
