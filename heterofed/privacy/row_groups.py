"""Counts what was sent of each row, with one record for all rows that have the same history.

Rows that are always sent together, like all train rows in each round, form one group. A release of
all of them changes one record, however many they are. A release of a part of a group moves this
part to another group. The costs of a group are the costs of each of its rows, added up in the order
of its releases, so they equal those of a record for each row. Rows that are not in the file count
as group 0, whose costs are zero. The caller runs each method in a transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass

from heterofed.privacy.passes import Kind
from heterofed.privacy.release_costs import Cost

NAME_BYTES = 16
"""The length of the name of a row, in bytes."""

TEMPORARY = (
    "CREATE TEMP TABLE chosen (name BLOB PRIMARY KEY) WITHOUT ROWID",
    "CREATE TEMP TABLE moves (source INTEGER PRIMARY KEY, target INTEGER NOT NULL)",
)
"""The tables of one call: the names of its rows, and the group to which each group's rows move."""

CHOOSE = """
WITH RECURSIVE
    every(place) AS (
        SELECT 1 UNION ALL
        SELECT place + :size FROM every WHERE place + :size < length(:names)
    )
INSERT INTO chosen SELECT substr(:names, place, :size) FROM every
"""
"""The statement takes all names in one value, which is three times as fast as a value for each."""

CHOSEN_BY_GROUP = """
SELECT coalesce(id, 0), count(*) FROM chosen LEFT JOIN members USING (name) GROUP BY id
"""
MOVE = """
INSERT OR REPLACE INTO members
SELECT name, target FROM chosen LEFT JOIN members USING (name)
JOIN moves ON source = coalesce(id, 0)
"""
READ = "SELECT size, changes, sent, embeddings, weights FROM groups WHERE id = ?"
FIND = "SELECT id FROM groups WHERE kind = ? AND sent = ? AND embeddings = ? AND weights = ?"
MAKE = "INSERT INTO groups (kind, size, sent, embeddings, weights) VALUES (?, 0, ?, ?, ?)"
RESIZE = "UPDATE groups SET size = size + ?, changes = changes + 1 WHERE id = ?"
ADD = """
UPDATE groups SET sent = sent + ?, embeddings = embeddings + ?, weights = weights + ? WHERE id = ?
"""
MOST = "SELECT max(sent), max(embeddings), max(weights) FROM groups"


@dataclass(frozen=True, slots=True)
class Group:
    """The rows with one history.

    Attributes:
        size: the number of rows.
        changes: the number of times that rows were added or removed.
        cost: the cost of each of the rows so far.
    """

    size: int
    changes: int
    cost: Cost


class RowGroups:
    """The groups of rows in one file.

    Args:
        base: the open database.
    """

    def __init__(self, base: sqlite3.Connection) -> None:
        self._base = base
        for statement in TEMPORARY:
            base.execute(statement)

    def changes(self, groups: Iterable[int]) -> dict[int, int]:
        """Return how often rows were added to or removed from each of some groups."""
        return {each: self._read(each).changes for each in groups}

    def size(self, groups: Iterable[int]) -> int:
        """Return the total number of rows in some groups."""
        return sum(self._read(each).size for each in groups)

    def most(self, groups: Iterable[int] | None = None) -> Cost:
        """Return the largest cost of any row for each measure, in some groups or in all."""
        if groups is None:
            sent, embeddings, weights = self._base.execute(MOST).fetchone()
            return Cost(sent or 0, embeddings or 0.0, weights or 0.0)
        costs = (astuple(self._read(each).cost) for each in groups)
        return Cost(*map(max, zip(*costs, strict=True)))

    def add(self, groups: Iterable[int], cost: Cost) -> None:
        """Add a cost to all rows of some groups."""
        self._base.executemany(ADD, [(*astuple(cost), each) for each in groups])

    def charge(self, kind: Kind, names: Sequence[bytes], cost: Cost) -> dict[int, int]:
        """Add a cost to some rows, and separate them from rows of their group that do not get it.

        Args:
            kind: the kind of the pass; rows are only moved to groups of the same kind, so that
                train and test rows with equal costs stay apart.
            names: the names of the rows, of `NAME_BYTES` each, sorted and each once.
            cost: the cost of each row.

        Returns:
            The groups that these rows are in now, perhaps with other rows; see `changes`.
        """
        self._base.execute(CHOOSE, {"names": b"".join(names), "size": NAME_BYTES})
        chosen: dict[int, int] = dict(self._base.execute(CHOSEN_BY_GROUP).fetchall())
        found = {each: self._read(each) for each in chosen}
        whole = {each for each, group in found.items() if group.size == chosen[each]}
        self.add(whole, cost)
        moves = {
            each: self._group_with(kind, group.cost + cost)
            for each, group in found.items()
            if each not in whole
        }
        self._move(moves, chosen)
        self._base.execute("DELETE FROM chosen")
        return self.changes(whole | set(moves.values()))

    # -- internal --------------------------------------------------------------------------

    def _read(self, group: int) -> Group:
        """Return a group; one that does not exist has no rows and no cost."""
        found = self._base.execute(READ, (group,)).fetchone()
        size, changes, *cost = found or (0, 0, 0, 0.0, 0.0)
        return Group(size, changes, Cost(*cost))

    def _group_with(self, kind: Kind, cost: Cost) -> int:
        """Return a group of this kind and cost, which is created if there is none."""
        values = (kind, *astuple(cost))
        found = self._base.execute(FIND, values).fetchone()
        return int(found[0] if found else self._base.execute(MAKE, values).lastrowid or 0)

    def _move(self, moves: Mapping[int, int], chosen: Mapping[int, int]) -> None:
        """Move the chosen rows of each source group to its target; no group loses all its rows."""
        if not moves:
            return
        self._base.executemany("INSERT INTO moves VALUES (?, ?)", moves.items())
        self._base.execute(MOVE)
        self._base.execute("DELETE FROM moves")
        for source, target in moves.items():
            self._base.execute(RESIZE, (-chosen[source], source))
            self._base.execute(RESIZE, (chosen[source], target))
