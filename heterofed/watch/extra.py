"""Whether the libraries of the page are there; they are loaded only where it is served."""

from __future__ import annotations

import importlib.util

from heterofed.errors import needing

LIBRARIES = ("httptools", "starlette", "uvicorn")


def needed() -> None:
    """Check that the extra is installed, without loading it.

    Raises:
        ConfigError: it is not; the message names the extra.
    """
    with needing("watch", "the live page"):
        for name in LIBRARIES:
            if importlib.util.find_spec(name) is None:
                raise ImportError(name)
