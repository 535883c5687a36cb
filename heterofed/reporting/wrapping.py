"""Text for a terminal of any width: broken between words, never within a path; colour if wanted.

Where there is no terminal, text stays as it is: another program reads it, or an editor wraps it.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TextIO

from heterofed.reporting.visible import visible_lines

LEAST_COLUMNS = 40
"""Text is not broken for a terminal that is narrower."""
_WIDE = (
    r"\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff01-\uff60\uffe0-\uffe6"
)
_OPENING, _CLOSING = "（【《「『“", "，。、；：？！）】》」』”…"
_WORD = re.compile(
    rf"[ \t]+|[{_OPENING}]*(?:(?![{_OPENING}{_CLOSING}])[{_WIDE}]"
    rf"|[^ \t{_WIDE}{_OPENING}{_CLOSING}]+)?[{_CLOSING}]*"
)
"""Spaces, or what stays on one line: a word, or a Chinese character, with the signs beside it."""

LOUD, PLAIN = "\x1b[1;31m", "\x1b[0m"


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is one; it may be None or closed, as in services and some notebooks."""
    try:
        return stream is not None and stream.isatty()
    except (AttributeError, ValueError):
        return False


def columns_of(stream: TextIO | None) -> int | None:
    """The width of the terminal that a stream is; None where it is none, or does not say."""
    if stream is None or not is_terminal(stream):
        return None
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return None
    return columns if columns >= LEAST_COLUMNS else None


def wrapped(text: str, stream: TextIO | None, *, indent: str = "  ") -> str:
    """Text whose lines fit a terminal, as far as they can be broken between words.

    A terminal gets no character that it would obey: an error may quote what another party wrote.

    Args:
        text: of any number of lines.
        stream: where it goes.
        indent: what the rest of a broken line begins with, after its own indent.
    """
    text, columns = visible_lines(text), columns_of(stream)
    if columns is None:
        return text
    return "\n".join(_broken(line, columns, indent) for line in text.splitlines())


def error_line(name: str, message: str, stream: TextIO | None) -> str:
    """`name: message` for a stream, with the name in red where that is a terminal with colours."""
    label = f"{name}: " if name.isascii() else f"{name}："
    line = wrapped(label + message, stream)
    if not is_terminal(stream) or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return line
    shown = label.rstrip()
    return f"{LOUD}{shown}{PLAIN}{line[len(shown) :]}"


def in_rows(
    rows: Sequence[Sequence[str]], stream: TextIO | None, *, right: Sequence[int] = ()
) -> list[str]:
    """Return the lines of a table; cells of the last column are broken to fit a terminal.

    Where there is next to no room for the last column, its cells stand below their rows.

    Args:
        rows: the cells, row by row; those of the first row are names.
        stream: where the lines go.
        right: the columns that end at the right.
    """
    rows = [[visible_lines(cell) for cell in row] for row in rows]
    widths = [max(map(columns_in, column)) for column in zip(*rows, strict=True)][:-1]
    start = sum(widths) + len(_BETWEEN) * len(widths)
    columns = columns_of(stream)
    below = columns is not None and columns - start < _LEAST_LAST
    lines = list[str]()
    for *cells, last in rows:
        padded = []
        for at, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            gap = " " * (width - columns_in(cell))
            padded.append(gap + cell if at in right else cell + gap)
        first, indent = _BETWEEN.join(padded), start
        parts = broken(last, columns - start) if columns and not below else [last]
        if below:
            lines.append(first.rstrip())
            first, indent = "", 4
            parts = broken(last, (columns or 0) - indent)
        for number, part in enumerate(parts or [""]):
            front = first + _BETWEEN if first and not number else " " * indent
            lines.append((front + part).rstrip())
    return lines if not below else [each for each in lines if each]


_BETWEEN, _LEAST_LAST = "  ", 24


def _broken(line: str, columns: int, indent: str) -> str:
    own = line[: len(line) - len(line.lstrip())]
    parts = broken(line.strip(), columns - len(own), columns - len(own + indent))
    return own + f"\n{own}{indent}".join(parts) if parts else line


def broken(text: str, columns: int, further: int | None = None) -> list[str]:
    """Return one paragraph in lines that fit, as far as they can be broken.

    Lines are broken at spaces, and between characters of Chinese, which has none; no line begins
    with a sign that ends something. A word that does not fit has a line of its own.

    Args:
        text: the paragraph, without line ends.
        columns: the room for the first line.
        further: the room for each further line; None for the same.
    """
    lines, line, gap = list[str](), "", ""
    for word in _words(text):
        if word.isspace():
            gap = word
            continue
        room = columns if not lines or further is None else further
        if line and columns_in(line + gap + word) > room:
            lines.append(line)
            line = word
        else:
            line += (gap if line else "") + word
        gap = ""
    return [*lines, line] if line else lines


def _words(text: str) -> Iterator[str]:
    """Yield what stays on one line; a bracket stays with what is next to it inside."""
    held = ""
    for word in filter(None, (found[0] for found in _WORD.finditer(text))):
        if held and not word.isspace() and (held[-1] in "([{" or word[0] in ")]},.;:!?"):
            held += word
            continue
        if held:
            yield held
        held = word
    if held:
        yield held


def columns_in(text: str) -> int:
    """Return how many columns of a terminal a text takes: two for each Chinese character."""
    return sum(
        0 if unicodedata.combining(each) else 1 + (unicodedata.east_asian_width(each) in "WF")
        for each in text
    )
