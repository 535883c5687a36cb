"""Metrics sets: what `test` (and training) appends, written at once to `<name>.csv`.

Knows nothing of models or parties.
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
    check_set_name(name)
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


def check_set_name(name: object) -> None:
    """Check that a metrics set may be called so: its name becomes a file of the results folder.

    Raises:
        ConfigError: it may not.
    """
    if not isinstance(name, str) or not SET_NAME.fullmatch(name):
        raise ConfigError(
            f"metrics set name {name!r}: use 1 to 128 letters, digits, '_', '-' and '.', not '.'"
            " first (it names a file)"
        )
    if name in OUR_FILES:
        raise ConfigError(
            f"metrics set {name!r}: {name}.csv is a file of heterofed's own; rename it"
        )


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
        check_set_name(name)  # it may come from a checkpoint
        self.name = name
        self.keys = tuple(keys)
        self.path = folder / f"{name}.csv"
        self._current_round = current_round
        self._last: dict[str, Scalar] = {}
        self._last_round = -1

    def last_of(self, round_number: int) -> dict[str, Scalar]:
        """The row appended last, where it was in that round; else empty."""
        return dict(self._last) if self._last_round == round_number else {}

    @property
    def size(self) -> int:
        """Bytes of the CSV so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def widen(self, keys: Iterable[str]) -> None:
        """Add the columns that are not there yet; rows so far get nothing in them.

        Raises:
            ResultsError: the CSV cannot be written.
        """
        if new := [key for key in keys if key not in self.keys]:
            self._set_keys((*self.keys, *new))

    def _set_keys(self, keys: tuple[str, ...]) -> None:
        """Have exactly these columns, in the CSV too, whose other ones are dropped."""
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
        """Whether the CSV has more columns, after these."""
        columns = _columns(self.keys)
        if not self.size:
            return False
        with self.path.open(newline="", encoding="utf-8") as file:
            header = tuple(next(csv.reader(file), ()))
        return len(header) > len(columns) and header[: len(columns)] == columns

    def cut(self, size: int, keys: Sequence[str] | None = None) -> None:
        """Drop the rows that were appended after the CSV had `size` bytes.

        A CSV that is shorter, or gone, lacks rows that nothing can bring back: that is told of.

        Args:
            size: bytes.
            keys: that it had then, where it may have been widened since.
        """
        self._last, self._last_round = {}, -1
        self.keys = tuple(keys or self.keys)
        if self._is_widened():
            self._set_keys(self.keys)
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
                truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)
        else:
            truncate(self.path, size)

    def append_metrics_item(self, item: Mapping[str, object]) -> None:
        """Append one row and write it.

        Args:
            item: exactly the registered keys; values are numbers, strings, tensors or arrays of one
                number.

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
        with writing(self.path):
            append(self.path, self._as_csv([row], header=not self.size))
        self._last, self._last_round = row, self._current_round()


def _columns(keys: tuple[str, ...]) -> tuple[str, ...]:
    return keys if "round" in keys else ("round", *keys)


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
    """A plain number (or string) from a number, or from an array (of any library) of one.

    Raises:
        ConfigError: the value is something else; the message names `what`.
    """
    if isinstance(value, bool | int | float | str):
        return value
    item = getattr(value, "item", None)
    if callable(item):
        with suppress(Exception):  # it holds several numbers, or none
            value = item()
    if isinstance(value, bool | int | float | str):
        return value
    if (number := as_float(value)) is not None:
        return number
    shape = getattr(value, "shape", None)
    form = type(value).__name__ + ("" if shape is None else f" of shape {list(shape)}")
    raise ConfigError(f"{what}: a {form} is not a number, nor an array of one number")


def as_float(value: object) -> float | None:
    """A float from a number, or from an array (of any library) of one; None: it is neither."""
    if isinstance(value, str | bytes):
        return None
    try:
        item = getattr(value, "item", None)
        return float(item() if callable(item) else value)  # type: ignore[arg-type]
    except Exception:  # it is no number, or several
        return None
