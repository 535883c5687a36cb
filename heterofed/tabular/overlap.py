"""How many ids two tables share, counted by ids that both parties write alike.

The id recipe is agreed in the plan, before any value of an id is computed. Knows tables and the
tasks that count; the cryptography is in `psi.cardinality`.
"""

from __future__ import annotations

import logging
from typing import Any

from heterofed.errors import ConfigError
from heterofed.hetero_nn.psi import RSAPSICollaboratorScheduler, RSAPSIInitiatorScheduler
from heterofed.reporting.console import attached
from heterofed.tabular.ids import IdRecipe, TableIds, overlap_advice, read_ids
from heterofed.tabular.sources import Source

logger = logging.getLogger("heterofed")

RECIPE = "id_recipe"
"""The setting that says how ids are written."""


class OwnTable:
    """The ids of one party's table in a count; rows that repeat an id count once.

    Args:
        source: the table.
        columns: that hold the ids.
        own_recipe: how this party reads its ids; None: as the Host announces.

    Attributes:
        ids: as they were read last.

    Raises:
        ConfigError: the recipe has several keys.
        ColumnError, IdError: the table cannot be used.
    """

    def __init__(self, source: Source, columns: list[str], own_recipe: IdRecipe | None) -> None:
        self._source, self._columns, self._own = source, columns, own_recipe
        self.recipe = own_recipe or IdRecipe.of_columns(len(columns))
        self.ids: TableIds = self._read()

    def read_as(self, agreed: dict[str, str]) -> list[str]:
        """The ids as the Host announces that they are written.

        Raises:
            ConfigError: it announces no recipe, or one that does not go with this party's.
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
        if self._own is None:  # else it was said before anybody was met
            self.tell_doubts()
        return self.ids.ids

    @property
    def knows_recipe(self) -> bool:
        """Whether this party says by itself how its ids are written."""
        return self._own is not None

    def tell_doubts(self) -> None:
        """Log what looks wrong with the ids, one line each."""
        for note in self.ids.notes:
            logger.warning("ids: %s", note)

    def _read(self) -> TableIds:
        if len(self.recipe.keys) > 1:
            raise ConfigError(
                f"the id recipe {str(self.recipe)!r} has several keys, and a count is by one: who"
                " is matched by which key stays unknown; count by each key by itself"
            )
        return read_ids(self._source, self._columns, self.recipe, duplicates="first")


class OverlapHost(RSAPSIInitiatorScheduler):
    """The party that counts with each of the others, and says how ids are written.

    Args:
        feature_key: this party's key.
        table: its ids.
        settings: of `RSAPSIInitiatorScheduler`.
    """

    def __init__(self, feature_key: str, table: OwnTable, **settings: Any) -> None:
        super().__init__(feature_key, agreed={RECIPE: str(table.recipe)}, **settings)
        self._table = table

    def load_local_ids(self) -> list[str]:
        return self._table.ids.ids


class OverlapCollaborator(RSAPSICollaboratorScheduler):
    """A party that answers a count, by ids that are written as the Host says.

    Args:
        feature_key: this party's key.
        table: its ids.
        settings: of `RSAPSICollaboratorScheduler`.
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
    """Count at one party.

    Returns:
        ids (how many this party has), common (by the other party's key), notes on the ids, and
        advice where next to none is common.

    Raises:
        TaskFailed: the task could not go on.
    """
    if isinstance(party, OverlapHost) or table.knows_recipe:
        with attached():
            table.tell_doubts()
    common = party.count_common(task_id)
    own, fewest = len(table.ids), party.result.smallest_ids
    advice = (overlap_advice(size, fewest, fewest, table.recipe) for size in common.values())
    found = {"ids": own, "common": common, "notes": list(table.ids.notes)}
    return found | {"advice": list(filter(None, advice))}
