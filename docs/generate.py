"""Writes the parts of the documentation that are made from the code, so that they cannot drift.

python -m docs.generate             # write them, and draw the diagrams that changed
python -m docs.generate --check     # write nothing; name what is stale, and exit with 1
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from docs.generator import drawings, pages
from docs.generator.markdown import COMMAND


def main(arguments: Sequence[str]) -> int:
    """Write the pages and drawings, or with `--check` only name the stale ones."""
    if list(arguments) not in ([], ["--check"]):
        print(f"usage: {COMMAND} [--check]", file=sys.stderr)
        return 2
    if arguments:
        return check()
    for path, text in pages.stale().items():
        write(path, text)
    drawings.redraw(pages.folder(), pages.pages(), write)
    return 0


def check() -> int:
    """Name what is stale; 1 if something is."""
    old_pages = list(pages.stale())
    old_drawings = drawings.stale_drawings(pages.folder(), pages.pages())
    for path in old_pages:
        print(f"stale: {pages.name_of(path)} (run `{COMMAND}`)", file=sys.stderr)
    for path in old_drawings:
        print(f"stale: {pages.name_of(path)} (run `make diagrams`)", file=sys.stderr)
    return 1 if old_pages or old_drawings else 0


def write(path: Path, text: str) -> None:
    """Write a file, and say so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"wrote {pages.name_of(path)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
