"""Defines what a Host may ask a Collaborator for."""

from __future__ import annotations

from dataclasses import dataclass

from heterofed.errors import ConfigError
from heterofed.runs.settings import is_count


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeLimits:
    """The limits on what a Host may ask a Collaborator for.

    Attributes:
        max_rows_per_day: the most rows that are computed per day (UTC).
        max_rows_per_minute: the same per minute; None sets no limit.
        max_ids_per_day: the most ids that are intersected per day; None takes `max_peer_ids`.
        allow_ids: the rows that may be served; None allows all of `load_local_ids`.
        max_age: the time in seconds for which the features of a row are kept and sent again; 0
            computes them anew for each request.
        load_timeout: the longest time in seconds that `load_features` may take; 0 sets no limit.
    """

    max_rows_per_day: int
    max_rows_per_minute: int | None = None
    max_ids_per_day: int | None = None
    allow_ids: frozenset[str] | None = None
    max_age: float = 3600.0
    load_timeout: float = 0.0

    def check(self) -> None:
        """Check the values.

        Raises:
            ConfigError: one of them is wrong; the message names it.
        """
        for name in ("max_rows_per_day", "max_rows_per_minute", "max_ids_per_day"):
            value = getattr(self, name)
            if value is not None and not is_count(value):
                raise ConfigError(f"{name}={value!r}: give a whole number from 0 on")
        for name in ("max_age", "load_timeout"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}={getattr(self, name)!r}: give seconds, 0 or more")
