"""Determines the settings of the Host's scheduler from the arguments of `TabularHost`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from heterofed.errors import ConfigError
from heterofed.tabular.ids import IdRecipe
from heterofed.tabular.importance import ROWS
from heterofed.tabular.settings import Settings
from heterofed.tabular.splits import By
from heterofed.tabular.table import LocalTable

CHANGES_GRADIENTS = ("gradient_defence", "loss_reduction", "weights_defence")
"""Settings with which the Host does not send gradients during its backward pass."""


def scheduler_settings(
    given: Settings,
    table: LocalTable,
    recipe: IdRecipe,
    user: Mapping[str, Any],
    *,
    learns: bool,
    batch_size: int | None,
    importance: bool,
    plain_step: bool,
) -> dict[str, Any]:
    """Return the arguments of `HeteroNNHostScheduler`; those of the user replace others.

    Args:
        given: the settings that are announced.
        table: the Host's table.
        recipe: how ids are written.
        user: further arguments that the user has given.
        learns: whether the table has a label.
        batch_size: the number of rows in a batch; None for one that suits the table.
        importance: whether it is measured how important each column is.
        plain_step: whether `train_a_batch` is that of `TabularHost`.
    """
    ours: dict[str, Any] = {
        "max_rounds": given.rounds,
        "log_rounds": 1,
        "shuffle": True,
        "is_feature_trainable": learns and table.has_features,
        "batch_size": batch_size or fitting_batch(table.source.rows),
        "announce_split": given.split != "id",
        "id_keys": len(recipe.keys),
        "final_rows": ROWS if importance else 0,
        "early_gradients": early_gradients(user) if plain_step else False,
    }
    return ours | dict(user) | {"agreed": given.announced() | (user.get("agreed") or {})}


def early_gradients(user: Mapping[str, Any]) -> bool | Literal["once"]:
    """Return how early gradients may be sent: at once if nothing changes them after that."""
    changes = any(user.get(each) for each in CHANGES_GRADIENTS)
    return False if changes or user.get("fusion") == "masked_sum" else "once"


def fitting_batch(rows: int) -> int:
    """Return a batch size that suits a table of so many rows: a power of two from 16 to 256."""
    return min(256, max(16, 1 << ((rows // 32).bit_length() - 1 if rows >= 32 else 0)))


def split_by(*, stratify: bool, group: str | None, time: str | None) -> By:
    """Return what rows are split by.

    Raises:
        ConfigError: more than one way is asked for.
    """
    asked: dict[By, object] = {"label": stratify, "group": group, "time": time}
    chosen = [name for name, given in asked.items() if given]
    if len(chosen) > 1:
        raise ConfigError("split: give one of stratify, group and time")
    return chosen[0] if chosen else "id"
