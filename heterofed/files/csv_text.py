"""Writes CSV whose lines end in line feeds, and whose cells come back as they were."""

from __future__ import annotations

import csv
from typing import Any, TextIO


class _Lines:
    """A text to which a CSV writer writes, with line feeds at the ends of its lines.

    The writer quotes a carriage return within a cell only if the ends of its lines have one, too.
    """

    def __init__(self, text: TextIO) -> None:
        self._text = text

    def write(self, line: str) -> None:
        self._text.write(line.removesuffix("\r\n") + "\n")


def csv_writer(text: TextIO, delimiter: str = ",") -> Any:
    """Return a writer of rows (`csv.writer`) to a text that translates no ends of lines."""
    return csv.writer(_Lines(text), delimiter=delimiter, lineterminator="\r\n")
