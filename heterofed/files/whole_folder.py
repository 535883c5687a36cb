"""Writes a folder so that it appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from heterofed.files.folders import make_folder

_DRAFT = ".draft"


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`, which takes that place after the block.

    Only this user can enter it. After an exception in the block it is removed. What a process that
    was killed has left of the same folder is removed first.

    Args:
        path: the place of the folder; it must be free, or an empty folder.

    Raises:
        OSError: the folder cannot be made, or its place is taken.
    """
    make_folder(path.parent)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{_DRAFT}"):
        with contextlib.suppress(OSError), _held(left):
            shutil.rmtree(left)
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=_DRAFT, dir=path.parent))
    try:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # some network file systems have no locks
                stack.enter_context(_held(draft))
            yield draft
            draft.rename(path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a folder for the block, which only one process can; it ends with the process, too.

    Raises:
        OSError: another process holds it, it is no folder, or there are no locks here.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP)) from None

    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)
