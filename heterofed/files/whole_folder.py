"""Writes a folder so that it appears whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from heterofed.files.folders import make_folder


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path`, which takes that place after the block.

    Only this user can enter it. After an exception in the block it is removed.

    Args:
        path: the place of the folder; it must be free, or an empty folder.

    Raises:
        OSError: the folder cannot be made, or its place is taken.
    """
    make_folder(path.parent)
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield draft
        draft.rename(path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
