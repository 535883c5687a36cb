"""Counts on disk how many rows a party predicts per day, so that a restart resets nothing."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

from heterofed.compute.alignment import keyed_digest
from heterofed.errors import LedgerError, LimitReachedError
from heterofed.files import file_lock, heterofed_home, private_folder, put_in_place, read
from heterofed.reporting.results import write_whole

_DAY = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}")

LOCK_SECONDS = 30.0
"""The longest time in seconds to wait for another process of this party that counts rows."""


class Quota:
    """The number of rows that may be predicted per day (UTC) for one task.

    Args:
        task_id: the id of the task.
        party: the party that owns the rows.
        limit: the most rows per day.
        ledger: the folder of the count; None means this user's folder.
    """

    def __init__(self, task_id: str, party: str, limit: int, ledger: Path | None = None) -> None:
        digest = keyed_digest(b"", "predictions", [task_id, party]).hex()[:16]
        self._ledger = ledger or heterofed_home()
        self._place = self._ledger.absolute() / "predictions" / f"{digest}.json"
        self._party, self._limit = party, limit
        self._taken: tuple[str, int] | None = None

    def take(self, rows: int) -> None:
        """Count rows against today's limit.

        Raises:
            LimitReachedError: the limit would be exceeded. Nothing is counted then.
        """
        self._taken = self._change(today(), rows), rows

    def give_back(self) -> None:
        """Undo the last count if its day has not ended, because none of its rows was used."""
        if self._taken is not None:
            (day, rows), self._taken = self._taken, None
            self._change(day, -rows)

    def _change(self, day: str, rows: int) -> str:
        """Add rows to a day, and return the day that they count for: a clock that was set back
        begins no day.
        """
        private_folder(self._ledger, "predictions")
        with file_lock(self._place.with_suffix(".json.lock"), timeout=LOCK_SECONDS):
            last, used = self._counted()
            if rows < 0 and last != day:
                return day  # the count of that day is gone
            if last is not None and last < day:
                used = 0
            day = max(last or day, day)
            if rows >= 0 and used + rows > self._limit:
                raise LimitReachedError(
                    f"{rows} rows are asked of {self._party}, {used} were predicted today (UTC) and"
                    f" max_rows_per_day is {self._limit}; ask for fewer rows, wait until tomorrow,"
                    " or raise the quota there",
                    party=self._party,
                )
            text = json.dumps({"day": day, "rows": max(0, used + rows)}).encode()
            write_whole(self._place, lambda file: file.write(text))
            return day

    def _counted(self) -> tuple[str | None, int]:
        """Return the last day and its rows. A file that cannot be read counts as the whole
        limit.
        """
        try:
            kept = json.loads(read(self._place))
            return str(kept["day"]), int(kept["rows"])
        except FileNotFoundError:
            return "", 0
        except (OSError, ValueError, KeyError, TypeError):
            return None, self._limit


def counted_day(ledger: Path | None = None) -> str:
    """Return the day (UTC) that ids count for: a clock that was set back begins no day.

    Args:
        ledger: the folder of the counts; None means this user's folder.

    Raises:
        LedgerError: the last day cannot be read or written.
    """
    place = private_folder(ledger or heterofed_home(), "predictions") / "last-day"
    try:
        with file_lock(place.with_suffix(".lock"), timeout=LOCK_SECONDS):
            last = read(place).decode("ascii") if place.exists() else ""
            if last and not _DAY.fullmatch(last):
                raise ValueError("no day")
            if (day := max(last, today())) > last:
                put_in_place(place, lambda file: file.write(day.encode()))
            return day
    except (OSError, ValueError) as error:
        raise LedgerError(
            f"{place}, the last day for which ids were counted, cannot be read or written"
            f" ({type(error).__name__}); make it accessible, or remove it if this machine's clock"
            " is right"
        ) from error


def today() -> str:
    """Return the current day (UTC)."""
    return time.strftime("%Y-%m-%d", time.gmtime())
