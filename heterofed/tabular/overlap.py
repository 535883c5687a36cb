"""Counts how many ids two tables share, after both parties agreed on the form of ids.

The id recipe is agreed in the plan, before any value of an id is computed. This module uses tables
and the tasks that count; the cryptography is in `psi.cardinality`.
"""

from __future__ import annotations

import logging
from typing import Any

from heterofed.errors import ConfigError
from heterofed.hetero_nn.psi import RSAPSICollaboratorScheduler, RSAPSIInitiatorScheduler
from heterofed.reporting.console import attached
from heterofed.tabular.ids import IdRecipe, TableIds, joining_note, overlap_advice, read_ids
from heterofed.tabular.sources import Source

logger = logging.getLogger("heterofed")

RECIPE = "id_recipe"
"""The name of the agreed setting for the id recipe."""


class OwnTable:
    """The ids of one party's table in a count; rows that repeat an id count once.

    Args:
        source: the table.
        columns: the columns that hold the ids.
        own_recipe: how this party reads its ids; None for the recipe that the Host announces.

    Attributes:
        ids: the ids as they were read last.

    Raises:
        ConfigError: the recipe has several keys.
        ColumnError, IdError: the table cannot be used.
    """

    def __init__(self, source: Source, columns: list[str], own_recipe: IdRecipe | None) -> None:
        self._source, self._columns, self._own = source, columns, own_recipe
        self.recipe = own_recipe or IdRecipe.of_columns(len(columns))
        self.ids: TableIds = self._read()

    def read_as(self, agreed: dict[str, str]) -> list[str]:
        """Return the ids in the form that the Host announces.

        Raises:
            ConfigError: the Host announces no recipe, or one that does not fit this party's.
        """
        if RECIPE not in agreed:
            raise ConfigError(
                "the Host of this count does not say how ids are written: it has to run `heterofed"
                " table overlap` of a version that goes with this one"
            )
        recipe = IdRecipe.parse(agreed[RECIPE]).read_as(self._own)
        if recipe != self.recipe:
            self.recipe = recipe
            self.ids = self._read()
        if self._own is None:  # otherwise this was logged before the parties connected
            self.tell_doubts()
        return self.ids.ids

    @property
    def _joins(self) -> bool:
        """Whether several columns become one id only because no recipe says otherwise."""
        return self._own is None and len(self._columns) > 1

    @property
    def knows_recipe(self) -> bool:
        """Return whether this party's own recipe determines how its ids are written."""
        return self._own is not None

    @property
    def better_recipe(self) -> IdRecipe | None:
        """A recipe that suits the ids that were read last better; None if there is none."""
        return self.recipe.improved([self.ids.better])

    def tell_doubts(self) -> None:
        """Log doubts about the ids, one line each."""
        joined = [joining_note(len(self._columns))] if self._joins else []
        for note in (*joined, *self.ids.notes):
            logger.warning("ids: %s", note)

    def _read(self) -> TableIds:
        if len(self.recipe.keys) > 1:
            raise ConfigError(
                f"the id recipe {str(self.recipe)!r} has several keys, and a count is by one: who"
                " is matched by which key stays unknown; count by each key by itself"
            )
        return read_ids(self._source, self._columns, self.recipe, duplicates="first")


class OverlapHost(RSAPSIInitiatorScheduler):
    """The party that counts with each of the others, and announces how ids are written.

    Args:
        feature_key: the feature key of this party.
        table: its ids.
        settings: further arguments of `RSAPSIInitiatorScheduler`.
    """

    def __init__(self, feature_key: str, table: OwnTable, **settings: Any) -> None:
        super().__init__(feature_key, agreed={RECIPE: str(table.recipe)}, **settings)
        self._table = table

    def load_local_ids(self) -> list[str]:
        return self._table.ids.ids


class OverlapCollaborator(RSAPSICollaboratorScheduler):
    """A party that answers a count, with ids in the form that the Host announces.

    Args:
        feature_key: the feature key of this party.
        table: its ids.
        settings: further arguments of `RSAPSICollaboratorScheduler`.
    """

    def __init__(self, feature_key: str, table: OwnTable, **settings: Any) -> None:
        super().__init__(feature_key, **settings)
        self._table = table

    def load_local_ids(self) -> list[str]:
        return self._table.read_as(self.agreed)


def count_overlap(
    task_id: str,
    party: OverlapHost | OverlapCollaborator,
    table: OwnTable,
) -> dict[str, Any]:
    """Run one party of a count.

    Returns:
        A dict with the keys ids (how many this party has), common (by the other party's key), notes
        (on the ids), and advice if ids of the smaller set are not common.

    Raises:
        TaskFailed: the task failed.
    """
    if isinstance(party, OverlapHost) or table.knows_recipe:
        with attached():
            table.tell_doubts()
    common = party.count_common(task_id)
    own, fewest = len(table.ids), party.result.smallest_ids
    advice = (
        overlap_advice(size, own, fewest, table.recipe, table.better_recipe)
        for size in common.values()
    )
    found = {"ids": own, "common": common, "notes": list(table.ids.notes)}
    return found | {"advice": list(filter(None, advice))}
