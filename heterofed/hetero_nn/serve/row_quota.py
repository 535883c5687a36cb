"""Counts on disk how many rows are served per minute and per day, over all restarts.

Writing to the disk for each request would take longer than the request. So rows are reserved on
disk in blocks before any of them is served: a killed party has counted up to a block too many, and
never too few.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from heterofed.compute.alignment import keyed_digest
from heterofed.errors import LedgerError
from heterofed.files import heterofed_home, private_folder, put_in_place, read

BLOCKS = 100
"""The number of blocks into which a limit is divided, so that a kill costs 1 % of it at most."""

PERIODS = {"minute": 60, "day": 86_400}
"""The periods and their seconds. They begin at whole multiples of these, so a day is one of UTC."""


class Count(msgspec.Struct):
    """The rows of one period.

    Attributes:
        period: the number of the period since 1970.
        reserved: the rows that are counted on disk.
        used: the rows that were served.
    """

    period: int = -1
    reserved: int = 0
    used: int = 0


def place_of_counts(task_id: str, party: str, ledger: Path | None = None) -> Path:
    """Return the file of the counts of a party's rows, apart from results, which may be deleted.

    Args:
        task_id: the id of the task.
        party: the party that owns the rows.
        ledger: the folder of the counts; None means this user's folder.
    """
    digest = keyed_digest(b"", "served", [task_id, party]).hex()[:16]
    return private_folder((ledger or heterofed_home()).absolute(), "served") / f"{digest}.json"


class RowQuota:
    """The limits on the rows that are served per minute and per day.

    Args:
        path: the file of the counts, in an existing folder.
        limits: the most rows by the name of the period; None for no limit.
        now: returns the time in seconds since 1970.

    Raises:
        LedgerError: the counts cannot be read.
    """

    def __init__(
        self, path: Path, limits: Mapping[str, int | None], now: Callable[[], float]
    ) -> None:
        self._path, self._now = path, now
        self._limits = {name: each for name, each in limits.items() if each is not None}
        self._counts = self._read()

    def grant(self, rows: int) -> int:
        """Count rows that are to be served.

        Returns:
            0 if they may be served. Otherwise nothing was counted, and the result is the time in
            seconds until a new period begins, or -1 if there are more rows than any period allows.

        Raises:
            LedgerError: the counts cannot be written.
        """
        now, due = self._now(), False
        for name, limit in self._limits.items():
            count = self._counts[name]
            if count.period < now // PERIODS[name]:  # a clock that was set back begins no period
                self._counts[name] = count = Count(int(now // PERIODS[name]))
            if rows > limit:
                return -1
            if count.used + rows > limit:
                return math.ceil((count.period + 1) * PERIODS[name] - now)
            due = due or count.used + rows > count.reserved
        if due:
            self._reserve(rows)
        for name in self._limits:
            self._counts[name].used += rows
        return 0

    def close(self) -> None:
        """Give back what was reserved and not used."""
        for each in self._counts.values():
            each.reserved = each.used
        if self._limits:
            self._write()

    def _reserve(self, rows: int) -> None:
        for name, limit in self._limits.items():
            count = self._counts[name]
            count.reserved = min(limit, count.used + rows + limit // BLOCKS)
        self._write()

    def _write(self) -> None:
        try:
            kept = msgspec.json.encode(self._counts)
            put_in_place(self._path, lambda file: file.write(kept))
        except OSError as error:
            raise LedgerError(
                f"the rows that are served cannot be counted in {self._path}"
                f" ({error.strerror}); make room there"
            ) from error

    def _read(self) -> dict[str, Count]:
        try:
            kept = msgspec.json.decode(read(self._path), type=dict[str, Count])
        except FileNotFoundError:
            kept = {}
        except (OSError, msgspec.MsgspecError) as error:
            raise LedgerError(
                f"{self._path}, which counts the rows that were served, cannot be read"
                f" ({type(error).__name__}); restore it, or remove it to start again from 0"
            ) from error
        # What was reserved before a kill may have been served.
        counts = {name: kept.get(name, Count()) for name in PERIODS}
        return {
            name: Count(each.period, each.reserved, each.reserved) for name, each in counts.items()
        }
