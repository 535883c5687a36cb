"""Metrics sets: what `test` (and training) appends, written at once to `<name>.csv`.

Knows nothing of models or parties.
"""

from __future__ import annotations

import csv
import logging
import numbers
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from heterofed.endings import writing
from heterofed.errors import ConfigError

logger = logging.getLogger("heterofed")

_F = TypeVar("_F", bound=Callable[..., Any])
_MARK = "__heterofed_metrics__"

Scalar = int | float | str | bool

OUR_FILES = frozenset({"comm", "outbound"})
"""CSVs that every run writes at its end, under names that no metrics set may have."""

NEVER_CUT = "privacy"
"""A metrics set of ours that no rollback cuts: what has left does not come back."""

NO_METRICS = OUR_FILES | {"leakage", "privacy"}
"""CSVs of a results folder that measure the run, not the models."""


def register_metrics(name: str, keys: Sequence[str]) -> Callable[[_F], _F]:
    """Declare a metrics set that the decorated method (usually `test`) appends to; stackable.

    Args:
        name: of the set; its CSV is `<name>.csv` in the results folder.
        keys: its columns, in order. A column `round` comes first unless it is among them.

    Raises:
        ConfigError: a name or key that cannot be a file name or column.
    """
    if (
        not isinstance(name, str)
        or not name
        or not set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
    ):
        raise ConfigError(
            f"metrics set name {name!r}: use letters, digits, '_', '-' and '.' (it names a file)"
        )
    if name in OUR_FILES:
        raise ConfigError(
            f"metrics set {name!r}: {name}.csv is a file of heterofed's own; rename it"
        )
    columns = () if isinstance(keys, str) else tuple(keys)
    if not columns or not all(isinstance(key, str) and key for key in columns):
        raise ConfigError(f"metrics set {name!r}: keys must be a non-empty list of strings")
    if len(set(columns)) != len(columns):
        raise ConfigError(f"metrics set {name!r}: a key stands twice in {list(columns)}")

    def mark(method: _F) -> _F:
        registered: dict[str, tuple[str, ...]] = dict(getattr(method, _MARK, {}))
        registered[name] = columns
        setattr(method, _MARK, registered)
        return method

    return mark


def registered_metrics(cls: type) -> dict[str, tuple[str, ...]]:
    """All metrics sets that methods of a class (and of its bases) register: name -> keys."""
    found: dict[str, tuple[str, ...]] = {}
    for base in reversed(cls.__mro__):
        for member in vars(base).values():
            found.update(getattr(member, _MARK, {}))
    return found


class Metrics:
    """One metrics set and its CSV file.

    Args:
        name: of the set.
        keys: its columns.
        folder: where `<name>.csv` is written, with the first row that is appended.
        current_round: asked for the `round` column of each row.
    """

    def __init__(
        self, name: str, keys: Sequence[str], folder: Path, current_round: Callable[[], int]
    ) -> None:
        self.name = name
        self.keys = tuple(keys)
        self.path = folder / f"{name}.csv"
        self._current_round = current_round
        self._columns = self.keys if "round" in self.keys else ("round", *self.keys)
        self._last: dict[str, Scalar] = {}
        self._last_round = -1

    def last_of(self, round_number: int) -> dict[str, Scalar]:
        """The row appended last, where it was in that round; else empty."""
        return dict(self._last) if self._last_round == round_number else {}

    @property
    def size(self) -> int:
        """Bytes of the CSV so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def cut(self, size: int) -> None:
        """Drop the rows that were appended after the CSV had `size` bytes.

        A CSV that is shorter, or gone, lacks rows that nothing can bring back: that is told of.
        """
        self._last, self._last_round = {}, -1
        if not size:
            self.path.unlink(missing_ok=True)
        elif self.size < size:
            logger.warning(
                "%s is not whole: of the %d bytes that it had at the checkpoint %s left; the rows"
                " of later rounds are appended to those",
                self.path,
                size,
                f"{self.size} are" if self.size else "none is",
            )
            if self.size:  # a row that was cut through goes
                os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)
        else:
            os.truncate(self.path, size)

    def append_metrics_item(self, item: Mapping[str, object]) -> None:
        """Append one row and write it.

        Args:
            item: exactly the registered keys; values are numbers, strings, 0-d tensors or NumPy
                scalars.

        Raises:
            ConfigError: other keys, or a value that is none of these.
            ResultsError: the CSV cannot be written.
        """
        missing = [key for key in self.keys if key not in item]
        unknown = [key for key in item if key not in self.keys]
        if missing or unknown:
            raise ConfigError(
                f"metrics set {self.name!r} takes exactly the keys {list(self.keys)}:"
                f" missing {missing}, unknown {unknown}"
            )
        row: dict[str, Scalar] = {} if "round" in self.keys else {"round": self._current_round()}
        row |= {key: as_scalar(item[key], f"metrics {self.name!r}, {key!r}") for key in self.keys}
        is_new = not self.size
        with writing(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            if is_new:
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            os.fsync(file.fileno())
        self._last, self._last_round = row, self._current_round()


def last_rows(folder: Path, round_number: int) -> dict[str, dict[str, str]]:
    """The last row, up to a round, of every metrics set in a results folder.

    Args:
        folder: of the run.
        round_number: rows of later rounds are left out.

    Returns:
        By name of the set, as they stand in its file.
    """
    found = {}
    for path in sorted(folder.glob("*.csv")):
        if path.stem not in NO_METRICS:
            with path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if _round_of(row) <= round_number]
            if rows:
                found[path.stem] = rows[-1]
    return found


def _round_of(row: Mapping[str, str]) -> float:
    """Of a row; 0 where the column `round` is the user's, and no number."""
    try:
        return float(row["round"])
    except (KeyError, TypeError, ValueError):
        return 0


def as_scalar(value: object, what: str) -> Scalar:
    """A plain number (or string) from a number, 0-d tensor or NumPy scalar.

    Raises:
        ConfigError: the value is something else; the message names `what`.
    """
    if isinstance(value, bool | int | float | str):
        return value
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "ndim", None) == 0:
        value = item()
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, numbers.Real):
        return float(value)
    raise ConfigError(f"{what}: a {type(value).__name__} is not a number or 0-d tensor")


def as_number(value: object, what: str) -> float:
    """A float from a number, 0-d tensor or NumPy scalar.

    Raises:
        ConfigError: the value is something else; the message names `what`.
    """
    scalar = as_scalar(value, what)
    if isinstance(scalar, str):
        raise ConfigError(f"{what}: a str is not a number or 0-d tensor")
    return float(scalar)
