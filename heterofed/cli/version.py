"""Implements `heterofed version`, which says what is installed here, for a report of a problem."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import ssl
from collections.abc import Iterator

from heterofed._version import __version__


def versions() -> dict[str, str]:
    """Return what matters for a run on this machine, by name; no package is imported for it."""
    return {
        "heterofed": __version__,
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "cores": str(os.cpu_count()),
        "OpenSSL": ssl.OPENSSL_VERSION,
        **dict(_packages()),
    }


def _packages() -> Iterator[tuple[str, str]]:
    """Return each package that heterofed or one of its extras requires and that is installed."""
    try:
        asked = importlib.metadata.requires("heterofed") or []
    except importlib.metadata.PackageNotFoundError:  # run from a folder that is not installed
        return
    for name in sorted({re.split(r"[^\w.-]", each, maxsplit=1)[0] for each in asked}):
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
