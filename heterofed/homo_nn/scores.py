"""Reads the numbers that hooks return, and combines those of several parties."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from heterofed.errors import ConfigError
from heterofed.protocol.messages import ScoreValues
from heterofed.runs.recorded import numbers_of

ROWS = "rows"
"""The name under which a hook returns its number of rows."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The numbers that a hook returned.

    Attributes:
        rows: the number of rows that they are about; 0 if the hook did not say.
        values: the other numbers, by name.
    """

    rows: int
    values: dict[str, float]

    @property
    def sent(self) -> ScoreValues:
        """The numbers in the form of a message."""
        return tuple(self.values.items())


def read(outcome: object, hook: str, *, needs_rows: bool) -> Scored:
    """Read what a hook returned.

    Args:
        outcome: a number of rows, or a dict of numbers, one of which may be "rows"; or None.
        hook: the name of the hook, for errors.
        needs_rows: whether the number of rows must be there.

    Raises:
        ConfigError: it is something else. The message names the hook.
    """
    named: Mapping[Any, Any] = {}
    if isinstance(outcome, Mapping):
        named = outcome
    elif outcome is not None:
        named = {ROWS: outcome}
    numbers = numbers_of(named)
    wrong = [name for name, value in numbers.items() if value is None]
    if wrong:
        raise ConfigError(
            f"{hook} returned something that is no number, as {wrong[0]!r}; return numbers"
        )
    values = {name: value for name, value in numbers.items() if value is not None}
    rows = values.pop(ROWS, 0.0)
    if not math.isfinite(rows) or rows != int(rows) or rows < needs_rows or rows > 2**40:
        least = "1" if needs_rows else "0"
        raise ConfigError(
            f"{hook} gave no number of rows, a whole number from {least} on: return it alone, or as"
            ' "rows" in a dict with more numbers, such as {"rows": 600, "loss": 0.3}'
        )
    try:
        msgspec.convert(list(values.items()), ScoreValues)
    except msgspec.ValidationError:
        raise ConfigError(
            f"{hook} returned numbers that cannot be sent: give 32 at most, with names of up to 64"
            " letters, digits, '_', '-' and '.'"
        ) from None
    return Scored(int(rows), values)


def mean_of(scored: Sequence[Scored]) -> dict[str, float]:
    """Return the mean of each number over the parties that gave it, weighted by rows.

    If a party did not say how many rows it has, all of them count alike.
    """
    names = list(dict.fromkeys(name for each in scored for name in each.values))
    alike = any(not each.rows for each in scored)
    means = {}
    for name in names:
        having = [
            (1 if alike else each.rows, each.values[name]) for each in scored if name in each.values
        ]
        means[name] = _sum(rows * value for rows, value in having) / sum(r for r, _ in having)
    return means


def _sum(numbers: Iterable[float]) -> float:
    """Return an exact sum; infinity or NaN if there is none, since a party may send any numbers."""
    parts = list(numbers)
    try:
        return math.fsum(parts)
    except (OverflowError, ValueError):
        return sum(parts)
