"""Whether the libraries of the page are there; both are loaded only where it is served."""

from __future__ import annotations

import importlib.util

from heterofed.errors import ConfigError

LIBRARIES = ("starlette", "uvicorn")


def needed() -> None:
    """Check that the extra is installed, without loading it.

    Raises:
        ConfigError: it is not; the message names the extra.
    """
    if any(importlib.util.find_spec(name) is None for name in LIBRARIES):
        raise ConfigError("the live page needs an extra: pip install 'heterofed[watch]'")
