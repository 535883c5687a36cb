"""Writes the parts of the documentation that are made from the code, so that they cannot drift.

python -m docs.generate                     # write what is stale, mark outdated translations
python -m docs.generate --check             # write nothing; name what is stale, and exit with 1
python -m docs.generate --translated PAGE   # say that PAGE translates its source as it is now

Outdated translations are named as well; they change no exit code.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from docs.generator import catalogues, drawings, pages
from docs.generator.markdown import COMMAND


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or with `--check` only name the stale ones."""
    match list(arguments):
        case []:
            return _write()
        case ["--check"]:
            return _check()
        case ["--translated", *names] if names:
            return _renew({Path(each).resolve() for each in names})
    print(f"usage: {COMMAND} [--check | --translated PAGE ...]", file=sys.stderr)
    return 2


def _write() -> int:
    _fill()
    marked = {each.page: each.marked() for each in pages.translated()}
    for page, text in marked.items():
        if page.read_text(encoding="utf-8") != text:
            _put(page, text)
    _fill()  # again: a generated page shows a translation
    drawings.redraw(pages.folder(), pages.pages(), _put)
    _name_outdated()
    return 0


def _fill() -> None:
    for path, content in _stale().items():
        _put(path, content)


def _stale() -> dict[Path, str | bytes]:
    return {**pages.stale(), **catalogues.stale(pages.folder().parent)}


def _check() -> int:
    found = _stale()
    for path in found:
        print(f"stale: {pages.name_of(path)} (run `{COMMAND}`)", file=sys.stderr)
    undrawn = drawings.stale_drawings(pages.folder(), pages.pages())
    for path in undrawn:
        print(f"stale: {pages.name_of(path)} (run `make diagrams`)", file=sys.stderr)
    _name_outdated()
    return 1 if found or undrawn else 0


def _renew(wanted: set[Path]) -> int:
    known = {each.page.resolve(): each for each in pages.translated()}
    for path in sorted(wanted):
        if path not in known:
            print(f"{path} does not say what it translates", file=sys.stderr)
            return 2
        if not known[path].source.is_file():
            print(f"{pages.name_of(known[path].source)} is gone", file=sys.stderr)
            return 2
        _put(path, known[path].renewed())
    return _write()


def _name_outdated() -> None:
    for each in pages.translated():
        if each.outdated:
            page, source = pages.name_of(each.page), pages.name_of(each.source)
            print(f"outdated translation: {page} ({source} is not as it was)", file=sys.stderr)


def _put(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    print(f"wrote {pages.name_of(path)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
