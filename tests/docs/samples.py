"""The code and output blocks of a page."""

from __future__ import annotations

import re
from pathlib import Path


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of one language, in order."""
    fence = re.compile(rf"^```{language}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return fence.findall(page.read_text(encoding="utf-8"))


def written(page: Path, folder: Path) -> list[Path]:
    """Write every Python block that starts with a comment of its file name; gives the paths."""
    paths = []
    for code in blocks(page, "python"):
        named = re.match(r"# (\w+\.py)\n", code)
        if named:
            paths.append(folder / named[1])
            paths[-1].write_text(code, encoding="utf-8")
    return paths


def printed(page: Path) -> list[str]:
    """What the page says is printed, block by block."""
    return blocks(page, "text")
