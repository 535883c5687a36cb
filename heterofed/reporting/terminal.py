"""Log lines in a terminal: the time at the left, text broken between words, what matters in colour.

Apart from `console`, so that `rich` is loaded only where there is a terminal to draw on.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator

from rich.console import Console
from rich.highlighter import RegexHighlighter
from rich.text import Text
from rich.theme import Theme

from heterofed.reporting.visible import visible_lines
from heterofed.reporting.wrapping import broken

GUTTER = 2
"""Columns between the time and the text."""
HANGING = 2
"""Columns by which the rest of a broken line is moved to the right."""
LEAST_ROOM = 20

STYLES = {logging.WARNING: "yellow", logging.ERROR: "bold red", logging.CRITICAL: "bold red"}

THEME = Theme(
    {
        "heterofed.round": "bold cyan",
        "heterofed.done": "bold",
        "heterofed.all": "bold red",
        "heterofed.much": "red",
        "heterofed.some": "yellow",
        "heterofed.low": "green",
        "heterofed.report": "bold cyan",
    }
)


class Highlights(RegexHighlighter):
    """What a reader looks for in a run's lines: rounds, the end, how much leaks, the report."""

    base_style = "heterofed."
    highlights = [  # noqa: RUF012 - so rich declares it
        r"(?P<round>\[ROUND +\d+(?:/\d+)?\])",
        r"(?P<done>task \S+ done in .*)",
        r"leak: .*: (?P<all>.* can read .*)",
        r"leak: .*: (?P<much>.* can guess much of .*)",
        r"leak: .*: (?P<some>.* can guess some of .*)",
        r"leak: .*: (?P<low>.* learns little of .*)",
        r"report: (?P<report>.*)",
    ]


class Lines(logging.Handler):
    """Writes log records above the bars.

    Args:
        console: where to; shared with the bars.
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Write one; what it raises is the handler's `handleError`'s."""
        try:
            moment = time.strftime("%H:%M:%S", time.localtime(record.created))
            text = laid_out(
                moment, visible_lines(self.format(record)), record.levelno, self._console.width
            )
            self._console.print(text, overflow="ignore", no_wrap=True, crop=False)
        except Exception:
            self.handleError(record)


def laid_out(moment: str, message: str, level: int, width: int) -> Text:
    """A record as lines for a terminal of this width; words, and so paths, are never broken."""
    margin = " " * (len(moment) + GUTTER)
    text = Text.assemble((moment, "dim"), " " * GUTTER)
    for number, line in enumerate(_lines(message, STYLES.get(level, ""), width - len(margin))):
        text = Text.assemble(text, f"\n{margin}" if number else "", line)
    return text


def _lines(message: str, style: str, room: int) -> Iterator[Text]:
    """The lines of a message, each broken where it is longer than `room`."""
    highlight = Highlights()
    for line in message.splitlines():
        indent = len(line) - len(line.lstrip())
        body = Text(line.strip(), style=style)
        highlight.highlight(body)
        for number, part in enumerate(_broken(body, room - indent)):
            yield Text.assemble(" " * (indent + (HANGING if number else 0)), part)


def _broken(body: Text, room: int) -> list[Text]:
    """A line in parts that fit; a word that does not fit has a part of its own."""
    if body.cell_len <= room:
        return [body]
    plain, found, at = _GLUED.sub("\u00a0", body.plain), [], 0
    room = max(LEAST_ROOM, room)
    for part in broken(plain, room, room - HANGING):
        at = plain.index(part, at)
        found.append(body[at : at + len(part)])
        at += len(part)
    return found


_GLUED = re.compile(r"(?<=\S) (?=-?\d)|(?<=\d) (?=%|[kMGT]?B\b|s\b|min\b|h\b)")
"""Spaces before a number and before its unit: what belongs together stays so."""
