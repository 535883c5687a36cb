"""Reads lines of tags, as LIBSVM and FATE write them: `17,1,x3:0.5,x9:2`, as a table of few
columns.

The fields before the first tag are columns of their own. The tags of a line, of any number, become
one column. There is no header.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from heterofed.errors import ConfigError
from heterofed.files import new_file
from heterofed.tabular.sources.header import TAGS

_BETWEEN = re.compile(r"[\s,;|]+")
_LOOKED_AT = 100


def columns_before_tags(sample: str) -> int | None:
    """Return the number of columns before the tags of each line.

    It is None if the lines have another form, or if one character separates all of their fields.

    Args:
        sample: the first lines of a file.
    """
    lines = [line.strip() for line in sample.splitlines() if line.strip()][:_LOOKED_AT]
    if not all(":" in line for line in lines[:1]):
        return None
    counts = {_before(_parts(line)) for line in lines}
    first = counts.pop() if len(counts) == 1 else None
    if first is None or '"' in sample:
        return None
    most = max(len(_parts(line)) for line in lines)
    return first if first >= 1 and most - first > 1 else None


def write_table(path: Path, columns: int, name: str, place: Path) -> None:
    """Write the lines as CSV without a header: the columns before the tags, and the tags.

    Args:
        path: the path of UTF-8 text.
        columns: the number of columns before the tags.
        name: the name of the file, for messages.
        place: the path of the CSV file, which is new.

    Raises:
        ConfigError: a line has another form.
    """
    with path.open(encoding="utf-8-sig") as lines, new_file(place) as file:
        for text in _rows(lines, columns, name):
            file.write(text.encode())


def _rows(lines: Iterator[str], columns: int, name: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        parts = _parts(line)
        if not parts:
            continue
        if '"' in line or len(parts) < columns or _before(parts) not in (columns, len(parts)):
            raise ConfigError(
                f"{name}, line {number}: no list of tag:value behind {columns} fields, as the other"
                " lines are; correct it"
            )
        yield ",".join(parts[:columns]) + "," + " ".join(parts[columns:]) + "\n"


def _parts(line: str) -> list[str]:
    return [each for each in _BETWEEN.split(line.strip()) if each]


def _before(parts: list[str]) -> int | None:
    """Return the number of parts before the tags; None if there is one after a tag."""
    are_tags = [TAGS.fullmatch(each) is not None for each in parts]
    first = are_tags.index(True) if True in are_tags else len(parts)
    return first if all(are_tags[first:]) else None
