"""Reads files of a results folder that may be missing, damaged, huge, forged, or of another run.

Nothing here raises an error for what it finds: the report is made from the files that can be read,
and names those that cannot. Text is limited in length and contains no invisible characters.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from heterofed.files import read
from heterofed.reporting.visible import visible

T = TypeVar("T", bound=msgspec.Struct)

MAX_BYTES = 32 << 20
"""The most bytes of a file that is read; a table of a thousand rounds has a hundredth of them."""
MAX_DIGESTED = 256 << 20
"""The most bytes of a model file whose digest is computed, which takes a second per gigabyte."""
MAX_TEXT = 300
MAX_MESSAGE = 4000


@dataclass(slots=True)
class Sources:
    """A results folder.

    Attributes:
        folder: the path of the folder.
        unread: the files that exist and could not be read, and why.
    """

    folder: Path
    unread: list[str] = field(default_factory=list)

    def struct(self, name: str, kind: type[T]) -> T | None:
        """Return a JSON file as this type; None if it does not exist or has another form."""
        raw = self._bytes(name)
        if raw is None:
            return None
        try:
            return msgspec.json.decode(raw, type=kind)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            self._tell(name, "it is not in the form that heterofed writes")
            return None

    def table(self, name: str) -> list[dict[str, str]]:
        """Return the rows of a CSV file; empty if it does not exist."""
        raw = self._bytes(name)
        if raw is None:
            return []
        try:
            rows = csv.DictReader(io.StringIO(raw.decode("utf-8"), newline=""), strict=True)
            return [{key: row[key] or "" for key in rows.fieldnames or ()} for row in rows]
        except (csv.Error, UnicodeDecodeError, KeyError):
            self._tell(name, "it is no table")
            return []

    def tables(self) -> list[str]:
        """Return the names of the CSV files, in order."""
        try:
            return sorted(each.name for each in self.folder.glob("*.csv"))
        except OSError:
            return []

    def size(self, name: str) -> int | None:
        """Return the bytes of a regular file; None if it does not exist."""
        try:
            found = (self.folder / name).lstat()
        except (OSError, ValueError):
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def digest(self, name: str) -> str:
        """Return the SHA-256 of a file, hexadecimal; empty if it is large or cannot be read."""
        size = self.size(name)
        if size is None or size > MAX_DIGESTED:
            return ""
        try:
            return hashlib.sha256(read(self.folder / name)).hexdigest()
        except OSError:
            return ""

    def _bytes(self, name: str) -> bytes | None:
        size = self.size(name)
        if size is None:
            return None
        if size > MAX_BYTES:
            self._tell(name, f"it has more than {MAX_BYTES >> 20} MiB")
            return None
        try:
            return read(self.folder / name)
        except OSError as error:
            self._tell(name, error.strerror or "it cannot be read")
            return None

    def _tell(self, name: str, why: str) -> None:
        self.unread.append(f"{shown(name)}: {why}")


def shown(text: object, most: int = MAX_TEXT) -> str:
    """Return a string that may be shown: one line, limited, without characters that hide or
    reorder.
    """
    kept = visible(" ".join(str(text)[: 4 * most].split()))
    return kept if len(kept) <= most else kept[: most - 1] + "\u2026"


def number(text: object) -> float | None:
    """Return a finite number; None for anything else."""
    try:
        value = float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def whole(text: object) -> int | None:
    """Return a count, which is not negative; None for anything else."""
    value = number(text)
    return int(value) if value is not None and 0 <= value < 2**63 else None
