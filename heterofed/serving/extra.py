"""Checks whether the libraries of the server are installed; they are loaded only to serve."""

from __future__ import annotations

import importlib.util

from heterofed.errors import needing

LIBRARIES = ("httptools", "starlette", "uvicorn")


def check_installed() -> None:
    """Check that the extra is installed, without loading it.

    Raises:
        ConfigError: it is not installed; the message names the extra.
    """
    with needing("serve", "serving over HTTP"):
        for name in LIBRARIES:
            if importlib.util.find_spec(name) is None:
                raise ImportError(name)
