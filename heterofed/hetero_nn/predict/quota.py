"""How many rows a party may predict in a day: counted on disk, so a restart forgets nothing."""

from __future__ import annotations

import json
import time
from pathlib import Path

from heterofed.compute.alignment import keyed_digest
from heterofed.errors import LimitReachedError
from heterofed.files import file_lock, heterofed_home, private_folder, read
from heterofed.reporting.results import write_whole

LOCK_SECONDS = 30.0
"""For another process of this party that counts rows, which takes a moment."""


class Quota:
    """Rows that may be predicted in a day (UTC) for one task.

    Args:
        task_id: the id of the task.
        party: whose rows they are.
        limit: of the day.
        ledger: folder to count in; None: this user's.
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
            LimitReachedError: there would be more; none is counted.
        """
        day = today()
        self._change(day, rows)
        self._taken = day, rows

    def give_back(self) -> None:
        """Count what was taken last no longer, as long as its day lasts: none of it was used."""
        if self._taken is not None:
            (day, rows), self._taken = self._taken, None
            self._change(day, -rows)

    def _change(self, day: str, rows: int) -> None:
        private_folder(self._ledger, "predictions")
        with file_lock(self._place.with_suffix(".json.lock"), timeout=LOCK_SECONDS):
            last, used = self._counted()
            if rows < 0 and last != day:
                return  # nothing is known of that day any more
            if last not in (day, None):
                used = 0
            if rows >= 0 and used + rows > self._limit:
                raise LimitReachedError(
                    f"{rows} rows are asked of {self._party}, {used} were predicted today (UTC) and"
                    f" max_rows_per_day is {self._limit}",
                    party=self._party,
                )
            text = json.dumps({"day": day, "rows": max(0, used + rows)}).encode()
            write_whole(self._place, lambda file: file.write(text))

    def _counted(self) -> tuple[str | None, int]:
        """The last day and its rows. What cannot be read may have been all, on any day."""
        try:
            kept = json.loads(read(self._place))
            return str(kept["day"]), int(kept["rows"])
        except FileNotFoundError:
            return "", 0
        except (OSError, ValueError, KeyError, TypeError):
            return None, self._limit


def today() -> str:
    """The day (UTC)."""
    return time.strftime("%Y-%m-%d", time.gmtime())
