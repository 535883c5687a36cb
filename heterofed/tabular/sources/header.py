"""Decides whether the first line of a text file names its columns, and makes names otherwise."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBER = r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?"
_TAG = rf"[^\s:,;|]+:{_NUMBER}"
_VALUE = re.compile(rf"{_NUMBER}([ ;|]+{_NUMBER})*|[-+]?\d+,\d+|\d{{4}}-\d\d?-\d\d?")
"""This matches a number (also with a decimal comma), several numbers or a date: none is a name."""

TAGS = re.compile(rf"{_TAG}([\s,;|]+{_TAG})*")
"""This matches one or more tags, each with a number: `x1:0.5;x7:2`."""


def is_header(first: Sequence[str], second: Sequence[str]) -> bool:
    """Return whether the fields of the first line can be names of columns.

    They cannot if all of them are values, or if one is a list of tags like the one below it.
    Numbers from 0 on are names, because pandas gives such names to columns that have none.

    Args:
        first: the fields of the first line.
        second: the fields of the second line; empty if there is none.
    """
    held = [each.strip() for each in first if each.strip()]
    if held == [str(at) for at in range(len(held))] and len(held) > 1:
        return True
    if held and all(map(_VALUE.fullmatch, held)):
        return False
    below = zip(first, second, strict=False)
    return not any(TAGS.fullmatch(a.strip()) and TAGS.fullmatch(b.strip()) for a, b in below)


def made_up(count: int) -> list[str]:
    """Return names for the columns of a file without a header."""
    return [f"c{at + 1}" for at in range(count)]
