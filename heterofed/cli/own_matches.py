"""Writes what the owner of a stored set learns from a request: which of its ids are common.

That is rows of the source from which the set was created, or only their numbers. Whether the source
still has the ids of the set is checked before any request.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import psi
from heterofed.cli.own_ids import IdSource, file_of_ids, opened_ids, read_ids
from heterofed.errors import ConfigError
from heterofed.intersection.matching_rows import MatchingRows, check_out
from heterofed.reporting.results import write_whole
from psi.sources import partitions

Stamp = list[tuple[Path, int, int, int]]
"""Each file of a source with its size, time of change and number."""


class OwnMatches:
    """Decides where the matches of a request go; by itself, nowhere.

    Attributes:
        ids: the ids of the set, if the source is known.
    """

    ids: psi.OwnIds | None = None

    def check(self) -> None:
        """Check before a request that its matches can be written.

        Raises:
            ConfigError: they cannot.
        """

    def write(self, matched: array[int]) -> None:
        """Write the matches, given by their positions among the ids."""


@dataclass
class Numbers(OwnMatches):
    """The numbers of the rows, in a CSV file."""

    out: Path

    def write(self, matched: array[int]) -> None:
        """See `OwnMatches.write`."""

        def write(file: BinaryIO) -> None:
            file.write(b"row\n")
            file.writelines(b"%d\n" % row for row in matched)

        write_whole(self.out, write, anywhere=True)


class Rows(OwnMatches):
    """The rows of the source, in its format.

    Raises:
        ConfigError: the source cannot be read.
        ChangedIdsError: it has not the ids of the set.
    """

    ids: psi.OwnIds

    def __init__(self, stored: psi.StoredSet, source: IdSource, out: Path) -> None:
        self._source, self._out = source, out
        self._stamp = _stamp(source.path)
        self.ids = read_ids(source)
        try:
            stored.require(self.ids)
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """See `OwnMatches.check`."""
        if _stamp(self._source.path) != self._stamp:
            raise ConfigError(
                f"{self._source.name} was changed since its ids were read; start the command again,"
                " with the rows from which the set was created"
            )

    def write(self, matched: array[int]) -> None:
        """See `OwnMatches.write`."""
        MatchingRows(self._source.path, self._source.column, self._out).copy(self.ids, matched)

    def close(self) -> None:
        """Forget the ids."""
        self.ids.close()


@contextmanager
def own_matches(
    stored: psi.StoredSet,
    out: Path | None,
    ids: Path | str | None,
    column: str | None,
    *,
    table: str | None,
    query: str | None,
) -> Iterator[OwnMatches]:
    """Open the source of the rows for the block, and check that it is that of the set.

    Args:
        stored: the set.
        out: the file or folder for the matches, or None.
        ids: the source, as `opened_ids` takes it; None if only the numbers of rows are written.
        column: see `opened_ids`.
        table: see `opened_ids`.
        query: see `opened_ids`.

    Raises:
        ConfigError: the source cannot be read, or the matches cannot be written.
        ChangedIdsError: the source has not the ids of the set.
    """
    if out is None:
        yield OwnMatches()
        return
    out = out.absolute()
    check_out(None if ids is None else file_of_ids(ids), out)
    if ids is None:
        yield Numbers(out)
        return
    with (
        opened_ids(ids, column, table=table, query=query) as source,
        closing(Rows(stored, source, out)) as rows,
    ):
        yield rows


def _stamp(path: Path) -> Stamp:
    """Return what differs after a file was changed; nothing if it is gone."""
    try:
        files = partitions(path) if path.is_dir() else [path]
        found = [(each, each.stat()) for each in files]
    except (OSError, psi.IdsError):
        return []
    return [(each, seen.st_size, seen.st_mtime_ns, seen.st_ino) for each, seen in found]
