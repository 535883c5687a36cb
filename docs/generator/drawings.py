"""Draws the Mermaid diagrams of the pages as SVG files, for the site; GitHub draws its own.

The name of a drawing ends with a digest of its source. So a diagram that changed has no drawing
yet, and whether all are up to date can be told without drawing any.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

FENCE = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FOLDER = "images/diagrams"
FONT = "system-ui, sans-serif"
STYLE = {
    "fontFamily": FONT,
    "htmlLabels": False,  # HTML within an SVG is not shown by every reader
    "flowchart": {"htmlLabels": False},
    "theme": "base",
    "themeVariables": {
        "clusterBkg": "#fafbff",
        "clusterBorder": "#c3cae8",
        "edgeLabelBackground": "#ffffff",
        "fontFamily": FONT,
        "lineColor": "#555b75",
        "noteBkgColor": "#fff8e1",
        "noteBorderColor": "#e0b040",
        "primaryBorderColor": "#4051b5",
        "primaryColor": "#eef1fb",
        "primaryTextColor": "#1b1f33",
    },
}


def drawing_name(page: str, source: str) -> str:
    """The name of the drawing of a diagram; `page` is a path, of which only the stem is used."""
    digest = hashlib.sha256(f"{STYLE}{source}".encode()).hexdigest()[:12]
    return f"{Path(page).stem}-{digest}.svg"


def wanted(docs: Path, pages: Mapping[Path, str]) -> dict[Path, str]:
    """The source of every drawing that the pages below `docs` show, by its path."""
    return {
        docs / FOLDER / drawing_name(page.name, source): source
        for page, text in pages.items()
        if page.is_relative_to(docs)
        for source in FENCE.findall(text)
    }


def leftover(docs: Path, drawings: Mapping[Path, str]) -> Iterator[Path]:
    """Drawings that no page shows any more."""
    yield from sorted(set((docs / FOLDER).glob("*.svg")) - drawings.keys())


def draw(source: str) -> str:
    """Draw a diagram with Mermaid itself, in this process and without a network.

    Raises:
        SystemExit: mermaidx is not installed.
    """
    try:
        import mermaidx
    except ModuleNotFoundError:
        raise SystemExit("a diagram has changed: `make diagrams` draws it") from None
    return sized(mermaidx.render(source, config=STYLE).svg().strip() + "\n")


def sized(svg: str) -> str:
    """A drawing that says how large it is; Mermaid's own fit the width that they are given."""
    box = re.search(r'viewBox="\S+ \S+ (\S+) (\S+)"', svg)
    if box is None:
        raise ValueError("this drawing has no viewBox")
    width, height = (round(float(each)) for each in box.groups())
    return svg.replace('width="100%"', f'width="{width}" height="{height}"', 1)


def with_drawings(text: str, page: str, title: str) -> str:
    """A page, by its path within `docs/`, with drawings in place of the diagrams' sources."""
    up = "../" * page.count("/")

    def image(found: re.Match[str]) -> str:
        path = f"{up}{FOLDER}/{drawing_name(page, found[1])}"
        return f"![Diagram: {title}]({path}){{ .diagram }}"

    return FENCE.sub(image, text)


def redraw(docs: Path, pages: Mapping[Path, str], write: Callable[[Path, str], None]) -> None:
    """Draw what is missing, and remove what no page shows."""
    drawings = wanted(docs, pages)
    for path, source in drawings.items():
        if not path.is_file():
            write(path, draw(source))
    for path in leftover(docs, drawings):
        path.unlink()


def stale_drawings(docs: Path, pages: Mapping[Path, str]) -> list[Path]:
    """Drawings that are missing or left over."""
    drawings = wanted(docs, pages)
    return [*(path for path in drawings if not path.is_file()), *leftover(docs, drawings)]
