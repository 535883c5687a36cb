"""Ensures that only one process at a time writes to a results folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from heterofed.errors import ConfigError
from heterofed.files import file_lock, heterofed_home
from heterofed.rendezvous.local import lock_path

if TYPE_CHECKING:
    from filelock import FileLock

logger = logging.getLogger("heterofed")


@contextmanager
def folder_lock(folder: Path, wait: float) -> Iterator[None]:
    """Keep two processes from writing to one results folder.

    Args:
        folder: the results folder.
        wait: the seconds to wait for another process; -1 waits for ever.

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
                " party another name or results_dir"
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
