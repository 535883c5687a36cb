"""Counts on disk how many rows are served per minute and per day, over all restarts.

Writing to the disk for each request would take longer than the request. So rows are reserved on
disk in blocks before any of them is served: a killed party has counted up to a block too many, and
never too few. Processes of one party share the counts, and take blocks of them in turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from heterofed.compute.alignment import keyed_digest
from heterofed.errors import LedgerError
from heterofed.files import file_lock, heterofed_home, private_folder, put_in_place, read
from heterofed.hetero_nn.predict.quota import LOCK_SECONDS

BLOCKS = 100
"""The number of blocks into which a limit is divided, so that a kill costs 1 % of it at most."""

PERIODS = {"minute": 60, "day": 86_400}
"""The periods and their seconds. They begin at whole multiples of these, so a day is one of UTC."""


class Count(msgspec.Struct):
    """The rows of one period.

    Attributes:
        period: the number of the period since 1970.
        rows: in the file, the rows that processes of this party have reserved; in a process, those
            that it has reserved and not served.
    """

    period: int = -1
    rows: Annotated[int, Meta(ge=0)] = msgspec.field(default=0, name="reserved")


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
    """The limits on the rows that are served per minute and per day, in one process of a party.

    Args:
        path: the file of the counts, in an existing folder. All processes of the party share it.
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
        self._left = {name: Count() for name in self._limits}
        self._read()  # shows an error before anything is served

    def grant(self, rows: int) -> int:
        """Count rows that are to be served.

        Returns:
            0 if they may be served. Otherwise nothing was counted, and the result is the time in
            seconds until a new period begins, or -1 if there are more rows than any period allows.

        Raises:
            LedgerError: the counts cannot be read or written.
        """
        now = self._now()
        if any(rows > limit for limit in self._limits.values()):
            return -1
        if any(self._held(name, _period(name, now)) < rows for name in self._limits):
            with self._locked():
                if wait := self._reserve(rows, now):
                    return wait
        for each in self._left.values():
            each.rows -= rows
        return 0

    def close(self) -> None:
        """Give back what was reserved and not used."""
        if not any(each.rows for each in self._left.values()):
            return
        with self._locked():
            counts = self._read()
            for name, left in self._left.items():
                if counts[name].period == left.period:
                    counts[name].rows -= left.rows
                left.rows = 0
            self._write(counts)

    def _held(self, name: str, period: int) -> int:
        """Return the rows that are reserved for a period, or a later one, and are not served."""
        left = self._left[name]
        return left.rows if left.period >= period else 0

    def _reserve(self, rows: int, now: float) -> int:
        """Reserve what is missing of some rows, and a block more; see `grant`."""
        counts, left = self._read(), dict[str, Count]()
        for name, limit in self._limits.items():
            # A clock that was set back begins no period.
            period = max(counts[name].period, _period(name, now))
            if counts[name].period < period:
                counts[name] = Count(period)
            count, held = counts[name], self._held(name, period)
            if count.rows + rows - held > limit:
                return math.ceil((period + 1) * PERIODS[name] - now)
            if rows > held:
                before, most = count.rows, count.rows + rows - held + limit // BLOCKS
                count.rows = min(limit, most)
                held += count.rows - before
            left[name] = Count(period, held)
        self._write(counts)
        self._left = left
        return 0

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes of this party from changing the counts.

        Raises:
            LedgerError: another process has held them for too long.
        """
        lock = file_lock(self._path.with_suffix(".json.lock"))
        try:
            lock.acquire(timeout=LOCK_SECONDS)
        except OSError as error:  # also a timeout
            raise LedgerError(
                f"another process of this party has held {self._path} for {LOCK_SECONDS:.0f} s, or"
                f" it cannot be locked ({error.strerror or 'a timeout'}); end that process"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _write(self, counts: Mapping[str, Count]) -> None:
        try:
            kept = msgspec.json.encode(counts)
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
        return {name: kept.get(name, Count()) for name in PERIODS}


def _period(name: str, now: float) -> int:
    return int(now // PERIODS[name])
