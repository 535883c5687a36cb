"""Where each id stands: positions of rows by id. Strings only; messages never hold an id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from heterofed.compute.alignment import check_ids
from heterofed.errors import ConfigError, MissingIdsError


class Positions:
    """The row of each id.

    Args:
        ids: of the rows, in their order: unique strings, at least one.
        what: names the table or data set in messages.

    Raises:
        IdError: they are not; with counts and positions.
    """

    def __init__(self, ids: Iterable[object], what: str) -> None:
        self.ids = check_ids(ids, f"the ids of {what}")
        self._what = what
        self._rows = {each: row for row, each in enumerate(self.ids)}

    def of(self, ids: Sequence[str]) -> list[int]:
        """The rows of some ids, in their order.

        Raises:
            MissingIdsError: some have no row; with the count and the first places in `ids`.
            ConfigError: one string, where a list of them is meant.
        """
        if isinstance(ids, str | bytes):
            raise ConfigError(f"give ids as a list of str, not as one {type(ids).__name__}")
        rows = self._rows
        try:
            return [rows[each] for each in ids]
        except (KeyError, TypeError):
            absent = [
                place
                for place, each in enumerate(ids)
                if not isinstance(each, str) or each not in rows
            ]
        shown = ", ".join(map(str, absent[:6])) + (", ..." if len(absent) > 6 else "")
        raise MissingIdsError(
            f"{self._what} has no row for {len(absent)} of {len(ids)} ids (places {shown} of those"
            " asked for); give load_local_ids exactly the ids of this data, as `.ids` holds them",
            numbers=(len(absent), len(ids)),
        )

    def known(self, ids: Sequence[str]) -> list[int]:
        """The rows of those of some ids that have one, in their order."""
        return [self._rows[each] for each in ids if each in self._rows]

    def chunks(self, ids: Sequence[str], batch_size: int) -> Iterator[list[str]]:
        """Cut ids into batches, once it is known that all of them have a row.

        Raises:
            ConfigError: not a batch size.
            MissingIdsError: some have no row; before the first batch.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError(f"batch_size={batch_size!r}: give a whole number of rows from 1 on")
        self.of(ids)
        return (list(ids[start : start + batch_size]) for start in range(0, len(ids), batch_size))
