"""Metrics sets: the rows that `test` and training append, each written at once to `<name>.csv`.

This module knows nothing of models or parties.
"""

from __future__ import annotations

import csv
import io
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from heterofed.errors import ConfigError
from heterofed.files import append, put_in_place, truncate, writing

logger = logging.getLogger("heterofed")

_F = TypeVar("_F", bound=Callable[..., Any])
_MARK = "__heterofed_metrics__"

Scalar = int | float | str | bool

SET_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}", re.ASCII)

OUR_FILES = frozenset({"comm", "outbound"})
"""CSVs that every run writes at its end; no metrics set may have one of these names."""

NEVER_CUT = "privacy"
"""A metrics set that no rollback cuts, because what was sent cannot be taken back."""

NO_METRICS = OUR_FILES | {"leakage", "privacy"}
"""CSVs of a results folder that describe the run and not the models."""


def register_metrics(name: str, keys: Sequence[str]) -> Callable[[_F], _F]:
    """Declare a metrics set to which the decorated method appends rows.

    The method is usually `test`. A method may have several of these decorators.

    Args:
        name: the name of the set; its rows are written to `<name>.csv` in the results folder.
        keys: the columns of the set, in order. A column `round` is added as the first one, unless
            it is among them.

    Raises:
        ConfigError: the name cannot be a file name, or the keys are not unique non-empty strings.
    """
    check_set_name(name)
    columns = () if isinstance(keys, str) else tuple(keys)
    if not columns or not all(isinstance(key, str) and key for key in columns):
        raise ConfigError(f"metrics set {name!r}: give its keys as a non-empty list of strings")
    if len(set(columns)) != len(columns):
        raise ConfigError(
            f"metrics set {name!r}: a key occurs twice in {list(columns)}; rename one"
        )

    def mark(method: _F) -> _F:
        registered: dict[str, tuple[str, ...]] = dict(getattr(method, _MARK, {}))
        registered[name] = columns
        setattr(method, _MARK, registered)
        return method

    return mark


def check_set_name(name: object) -> None:
    """Check that a metrics set may have a name, which becomes a file name in the results folder.

    Raises:
        ConfigError: the name is not allowed.
    """
    if not isinstance(name, str) or not SET_NAME.fullmatch(name):
        raise ConfigError(
            f"metrics set name {name!r}: use 1 to 128 letters, digits, '_', '-' and '.', not '.'"
            " first (it names a file)"
        )
    if name in OUR_FILES:
        raise ConfigError(
            f"metrics set {name!r}: heterofed itself writes a file {name}.csv; rename the set"
        )


def registered_metrics(cls: type) -> dict[str, tuple[str, ...]]:
    """Return the keys of all metrics sets that a class and its bases declare, by name."""
    found: dict[str, tuple[str, ...]] = {}
    for base in reversed(cls.__mro__):
        for member in vars(base).values():
            found.update(getattr(member, _MARK, {}))
    return found


class Metrics:
    """One metrics set and its CSV file.

    Args:
        name: the name of the set.
        keys: the columns of the set.
        folder: the folder of `<name>.csv`, which is made when the first row is appended.
        current_round: returns the round for the column `round` of a new row.
    """

    def __init__(
        self, name: str, keys: Sequence[str], folder: Path, current_round: Callable[[], int]
    ) -> None:
        check_set_name(name)  # it may come from a checkpoint
        self.name = name
        self.keys = tuple(keys)
        self.path = folder / f"{name}.csv"
        self._current_round = current_round
        self._last: dict[str, Scalar] = {}
        self._last_round = -1

    def last_of(self, round_number: int) -> dict[str, Scalar]:
        """Return the last row if it was appended in that round, else an empty dict."""
        return dict(self._last) if self._last_round == round_number else {}

    @property
    def size(self) -> int:
        """The size of the CSV in bytes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def widen(self, keys: Iterable[str]) -> None:
        """Add columns; existing rows are empty in them, and existing columns are skipped.

        Raises:
            ResultsError: the CSV cannot be written.
        """
        if new := [key for key in keys if key not in self.keys]:
            self._set_keys((*self.keys, *new))

    def _set_keys(self, keys: tuple[str, ...]) -> None:
        """Set the columns, and drop all other columns from the CSV."""
        self.keys = keys
        if not self.size:
            return
        with writing(self.path):
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            table = self._as_csv(rows, header=True)
            put_in_place(self.path, lambda file: file.write(table))

    def _as_csv(self, rows: Iterable[Mapping[str, object]], *, header: bool) -> bytes:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, _columns(self.keys), extrasaction="ignore")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()

    def _is_widened(self) -> bool:
        """Return whether the CSV has further columns after the ones of this object."""
        columns = _columns(self.keys)
        if not self.size:
            return False
        with self.path.open(newline="", encoding="utf-8") as file:
            header = tuple(next(csv.reader(file), ()))
        return len(header) > len(columns) and header[: len(columns)] == columns

    def cut(self, size: int, keys: Sequence[str] | None = None) -> None:
        """Drop the rows that were appended after the CSV had `size` bytes.

        If the CSV is shorter or missing, a warning is logged, because its rows cannot be restored.

        Args:
            size: the size of the CSV in bytes at the checkpoint.
            keys: the columns at the checkpoint, or None if no column was added since.
        """
        self._last, self._last_round = {}, -1
        self.keys = tuple(keys or self.keys)
        if self._is_widened():
            self._set_keys(self.keys)
        if not size:
            self.path.unlink(missing_ok=True)
        elif self.size < size:
            logger.warning(
                "%s is not complete: of the %d bytes that it had at the checkpoint %s left; the"
                " rows of later rounds are appended to it",
                self.path,
                size,
                f"{self.size} are" if self.size else "none is",
            )
            if self.size:  # remove a row that was cut in the middle
                truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)
        else:
            truncate(self.path, size)

    def append_metrics_item(self, item: Mapping[str, object]) -> None:
        """Append one row and write it to the CSV.

        Args:
            item: a value for each of the registered keys, and for no other one. Values are numbers,
                strings, or tensors or arrays with one number.

        Raises:
            ConfigError: the keys are not the registered ones, or a value has another type.
            ResultsError: the CSV cannot be written.
        """
        missing = [key for key in self.keys if key not in item]
        unknown = [key for key in item if key not in self.keys]
        if missing or unknown:
            raise ConfigError(
                f"metrics set {self.name!r} takes exactly the keys {list(self.keys)}:"
                f" missing {missing}, unknown {unknown}; give each of them once"
            )
        row: dict[str, Scalar] = {} if "round" in self.keys else {"round": self._current_round()}
        row |= {key: as_scalar(item[key], f"metrics {self.name!r}, {key!r}") for key in self.keys}
        with writing(self.path):
            append(self.path, self._as_csv([row], header=not self.size))
        self._last, self._last_round = row, self._current_round()


def _columns(keys: tuple[str, ...]) -> tuple[str, ...]:
    return keys if "round" in keys else ("round", *keys)


def last_rows(folder: Path, round_number: int) -> dict[str, dict[str, str]]:
    """Return the last row of every metrics set in a results folder.

    Args:
        folder: the results folder of a run.
        round_number: rows of rounds after this one are ignored.

    Returns:
        The rows by name of the set, with the values as text.
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
    """Return the round of a row, or 0 if the user's own column `round` holds no number."""
    try:
        return float(row["round"])
    except (KeyError, TypeError, ValueError):
        return 0


def as_scalar(value: object, what: str) -> Scalar:
    """Convert a value to a plain number or string.

    Args:
        value: a number, a string, or an array of any library with one number.
        what: the name of the value in the error.

    Raises:
        ConfigError: the value is something else.
    """
    item = getattr(value, "item", None)
    if callable(item):  # also NumPy's own kind of float, which JSON does not know
        with suppress(Exception):  # it holds several numbers, or none
            value = item()
    if isinstance(value, bool | int | float | str):
        return value
    if (number := as_float(value)) is not None:
        return number
    shape = getattr(value, "shape", None)
    form = type(value).__name__ + ("" if shape is None else f" of shape {list(shape)}")
    raise ConfigError(f"{what}: give a number or an array of one number, not a {form}")


def as_float(value: object) -> float | None:
    """Convert a number, or an array of any library with one number, to a float.

    Returns:
        The float, or None if the value is neither.
    """
    if isinstance(value, str | bytes):
        return None
    try:
        item = getattr(value, "item", None)
        return float(item() if callable(item) else value)  # type: ignore[arg-type]
    except Exception:  # it holds no number, or several ones
        return None
