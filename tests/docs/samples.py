"""The code and output blocks of a page."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from tests.e2e.processes import ROOT

README = ROOT / "README.md"


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


def readme_classes() -> dict[str, Any]:
    """What the README's two scripts define, without their last line: it launches the task."""
    names: dict[str, Any] = {}
    for code in blocks(README, "python"):
        tree = ast.parse(code)
        tree.body.pop()
        exec(compile(tree, str(README), "exec"), names)
    return names


def executed(page: Path, names: dict[str, Any]) -> dict[str, Any]:
    """What all Python blocks of a page define, one after another, beside `names`."""
    for code in blocks(page, "python"):
        exec(compile(code, str(page), "exec"), names)
    return names
