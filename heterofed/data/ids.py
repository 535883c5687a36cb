"""Finds the positions of rows by their ids, which are strings. Error messages never hold an id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from heterofed.compute.alignment import check_ids
from heterofed.errors import ConfigError, MissingIdsError


class Positions:
    """The position of the row of each id.

    Args:
        ids: the ids of all rows in order, which must be unique strings, and at least one.
        what: the name of the table or data set in error messages.

    Raises:
        IdError: the ids are not as required; the message has counts and positions.
    """

    def __init__(self, ids: Iterable[object], what: str) -> None:
        self.ids = check_ids(ids, f"the ids of {what}")
        self._what = what
        self._rows = {each: row for row, each in enumerate(self.ids)}

    def of(self, ids: Sequence[str]) -> list[int]:
        """Return the positions of the rows of `ids`, in the order of `ids`.

        Raises:
            MissingIdsError: some ids have no row; the message has their number and the first
                positions in `ids`.
            ConfigError: `ids` is a single string and not a list of strings.
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
            f"{self._what} has no row for {len(absent)} of {len(ids)} requested ids (at positions"
            f" {shown}); let load_local_ids return exactly the ids of this data, as in `.ids`",
            numbers=(len(absent), len(ids)),
        )

    def known(self, ids: Sequence[str]) -> list[int]:
        """Return the positions of rows as `of` does, but skip ids that have no row."""
        return [self._rows[each] for each in ids if each in self._rows]

    def chunks(self, ids: Sequence[str], batch_size: int) -> Iterator[list[str]]:
        """Check that all ids have a row, and then cut them into batches.

        Raises:
            ConfigError: `batch_size` is not a whole number from 1 on.
            MissingIdsError: some ids have no row; it is raised before the first batch.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError(f"batch_size={batch_size!r}: give a whole number of rows from 1 on")
        self.of(ids)
        return (list(ids[start : start + batch_size]) for start in range(0, len(ids), batch_size))
