"""Text for a terminal of any width: broken between words, never within a path; colour if wanted.

Where there is no terminal, text stays as it is: another program reads it, or an editor wraps it.
"""

from __future__ import annotations

import os
import textwrap
from typing import TextIO

from heterofed.reporting.visible import visible_lines

LEAST_COLUMNS = 40
"""Text is not broken for a terminal that is narrower."""
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
    line = wrapped(f"{name}: {message}", stream)
    if not is_terminal(stream) or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return line
    return f"{LOUD}{name}:{PLAIN}{line[len(name) + 1 :]}"


def _broken(line: str, columns: int, indent: str) -> str:
    own = line[: len(line) - len(line.lstrip())]
    parts = textwrap.wrap(
        line.strip(),
        columns,
        initial_indent=own,
        subsequent_indent=own + indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(parts) if parts else line
