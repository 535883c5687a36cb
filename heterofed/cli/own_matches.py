"""Writes what the owner of a stored set learns from a request: which of its ids are common.

That is rows of the source from which the set was created, or only their numbers. Whether the source
still has the ids of the set is checked before any request.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
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


MOST_BYTES = 120
"""The most bytes of the name of a party in the name of a file."""


@dataclass(frozen=True)
class Places:
    """The places of what requests find.

    Args:
        out: the file or folder for the matches of one request. With several of them it is the name
            from which that of each is made, so that none replaces another.
        is_for_all: whether there may be several.
    """

    out: Path
    is_for_all: bool = False

    def of(self, asker: str, now: datetime) -> Path:
        """Return the place for a request of a party, which is new if there may be several."""
        if not self.is_for_all:
            return self.out
        who = asker.encode()[:MOST_BYTES].decode(errors="ignore").strip()
        name = f"{self.out.stem}-{who}-{now:%Y%m%dT%H%M%SZ}"
        for number in itertools.count(1):
            end = f"-{number}" if number > 1 else ""
            place = self.out.with_name(f"{name}{end}{self.out.suffix}")
            if not place.exists():
                break
        return place


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

    def write(self, matched: array[int], asker: str) -> Path | None:  # noqa: ARG002
        """Write the matches of a party's request, given by their positions among the ids.

        Returns:
            Where they are; None if nowhere.
        """
        return None


@dataclass
class Numbers(OwnMatches):
    """The numbers of the rows, in a CSV file."""

    places: Places

    def write(self, matched: array[int], asker: str) -> Path:
        """See `OwnMatches.write`."""
        out = self.places.of(asker, datetime.now(UTC))

        def write(file: BinaryIO) -> None:
            file.write(b"row\n")
            file.writelines(b"%d\n" % row for row in matched)

        write_whole(out, write, anywhere=True)
        return out


class Rows(OwnMatches):
    """The rows of the source, in its format.

    Raises:
        ConfigError: the source cannot be read.
        ChangedIdsError: it has not the ids of the set.
    """

    ids: psi.OwnIds

    def __init__(self, stored: psi.StoredSet, source: IdSource, places: Places) -> None:
        self._source, self._places = source, places
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

    def write(self, matched: array[int], asker: str) -> Path:
        """See `OwnMatches.write`."""
        out = self._places.of(asker, datetime.now(UTC))
        MatchingRows(self._source.path, self._source.column, out).copy(self.ids, matched)
        return out

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
    is_for_all: bool = False,
) -> Iterator[OwnMatches]:
    """Open the source of the rows for the block, and check that it is that of the set.

    Args:
        stored: the set.
        out: the file or folder for the matches, or None; see `Places`.
        ids: the source, as `opened_ids` takes it; None if only the numbers of rows are written.
        column: see `opened_ids`.
        table: see `opened_ids`.
        query: see `opened_ids`.
        is_for_all: whether several requests may come.

    Raises:
        ConfigError: the source cannot be read, or the matches cannot be written.
        ChangedIdsError: the source has not the ids of the set.
    """
    if out is None:
        yield OwnMatches()
        return
    places = Places(out.absolute(), is_for_all)
    first = places.of("", datetime.now(UTC))
    check_out(None if ids is None else file_of_ids(ids), first)
    if ids is None:
        yield Numbers(places)
        return
    with (
        opened_ids(ids, column, table=table, query=query) as source,
        closing(Rows(stored, source, places)) as rows,
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
