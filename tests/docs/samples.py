"""The code blocks of a page, as files."""

from __future__ import annotations

import re
from pathlib import Path

BLOCK = re.compile(r"^```python\n# (\w+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def written(page: Path, folder: Path) -> list[Path]:
    """Write every code block that starts with a comment of its file name; gives the paths."""
    paths = []
    for name, code in BLOCK.findall(page.read_text(encoding="utf-8")):
        paths.append(folder / name)
        paths[-1].write_text(code, encoding="utf-8")
    return paths
