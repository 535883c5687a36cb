"""Temporary folders, which do not outlive their processes for long."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from heterofed.files.opened import OTHERS
from heterofed.files.private_files import file_lock

SCRATCH, SCRATCH_LOCK = "heterofed-", "in-use.lock"
"""The prefix of names of temporary folders, and the name of the lock of the process that uses
one.
"""

SCRATCH_SECONDS = 60.0
"""The age in seconds below which a lock is left alone, since its process may be about to take
it.
"""


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
    """Delete temporary folders of processes of this user that have ended."""
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
