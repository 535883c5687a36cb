"""What `train_a_batch` returns, as numbers, and their means. Nothing here ends a run."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

from heterofed.metrics import as_float, registered_metrics
from heterofed.runs.run import Run

logger = logging.getLogger("heterofed")


def scalars_of(outcome: object, warned: set[str]) -> dict[str, float]:
    """The numbers that one batch returned, by name; what is no number is left out.

    Args:
        outcome: None, a scalar (the loss) or a dict of scalars.
        warned: what was warned of before; each is told of once.
    """
    if outcome is None:
        return {}
    named = outcome if isinstance(outcome, Mapping) else {"loss": outcome}
    found = {str(key): as_float(value) for key, value in named.items()}
    for key, value in found.items():
        if value is None and key not in warned:
            warned.add(key)
            logger.warning(
                "train_a_batch returned something that is no number (as %s), which is not recorded:"
                " return a 0-d loss, a dict of scalars, or None",
                key,
            )
    return {key: value for key, value in found.items() if value is not None}


def record_training(run: Run, owner: type, recorded: Sequence[Mapping[str, float]]) -> float | None:
    """Append a round's means to `train.csv`; gives the mean of `loss`.

    Args:
        run: of the Host.
        owner: the class of its scheduler.
        recorded: the scalars of each batch.
    """
    means = means_of(recorded)
    if means and "train" not in registered_metrics(owner):  # else the name is the user's
        if "train" not in run.metrics:
            run.open_metrics("train", list(means)).cut(0)
        table = run.metrics["train"]
        table.widen(means)
        table.append_metrics_item(dict.fromkeys(table.keys, math.nan) | means)
    return means.get("loss")


def means_of(recorded: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each scalar over the batches that returned it."""
    values: dict[str, list[float]] = {}
    for each in recorded:
        for key, value in each.items():
            values.setdefault(key, []).append(value)
    return {key: sum(some) / len(some) for key, some in values.items()}
