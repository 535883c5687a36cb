"""The standard streams of the process."""

from __future__ import annotations

import contextlib
import os


def fill_standard_streams() -> None:
    """Open the null device in place of a stdin, stdout or stderr that is closed.

    Otherwise the next file that is opened would get its number, and output would end up in it.
    """
    with contextlib.suppress(OSError):
        while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(handle, True)
        os.close(handle)
