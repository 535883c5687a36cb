"""Records the numbers that `train_a_batch` returns, and their means. Errors here end no run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from heterofed.metrics import as_float
from heterofed.runs.recorded import record_row
from heterofed.runs.run import Run

logger = logging.getLogger("heterofed")


def scalars_of(outcome: object, warned: set[str]) -> dict[str, float]:
    """Return the numbers of one batch by name, without values that are not numbers.

    Args:
        outcome: the result of the hook: None, a scalar (the loss) or a dict of scalars.
        warned: the names for which a warning was logged; each is logged once.
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
    """Append the means of a round to `train.csv`, and return the mean of `loss`.

    Args:
        run: the run of the Host.
        owner: the class of the Host's scheduler.
        recorded: the scalars of each batch.
    """
    means = means_of(recorded)
    record_row(run, owner, "train", means)
    return means.get("loss")


def means_of(recorded: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each scalar over the batches that returned it."""
    values: dict[str, list[float]] = {}
    for each in recorded:
        for key, value in each.items():
            values.setdefault(key, []).append(value)
    return {key: sum(some) / len(some) for key, some in values.items()}
