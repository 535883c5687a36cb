"""Records the numbers that `train_a_batch` returns, and their means. Errors here end no run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from heterofed.metrics import as_float
from heterofed.runs.recorded import record_row
from heterofed.runs.run import Run

logger = logging.getLogger("heterofed")


def scalars_of(outcome: object, warned: set[str]) -> dict[str, float | Tensor]:
    """Return the numbers of one batch by name, without values that are not numbers.

    Numbers on a GPU are returned as copies on it, because reading one waits for all of its work;
    see `as_numbers`.

    Args:
        outcome: the result of the hook: None, a scalar (the loss) or a dict of scalars.
        warned: the names for which a warning was logged; each is logged once.
    """
    if outcome is None:
        return {}
    named = outcome if isinstance(outcome, Mapping) else {"loss": outcome}
    found = {str(key): _number(value) for key, value in named.items()}
    for key, value in found.items():
        if value is None and key not in warned:
            warned.add(key)
            logger.warning(
                "train_a_batch returned something that is no number (as %s), which is not recorded:"
                " return a 0-d loss, a dict of scalars, or None",
                key,
            )
    return {key: value for key, value in found.items() if value is not None}


def _number(value: object) -> float | Tensor | None:
    if (
        isinstance(value, Tensor)
        and value.is_cuda
        and value.numel() == 1
        and not value.is_complex()
    ):
        return value.detach().double().reshape(()).clone()
    return as_float(value)


def as_numbers(recorded: Sequence[Mapping[str, float | Tensor]]) -> list[dict[str, float]]:
    """Return the scalars of batches as numbers, after one wait for all that are on a GPU."""
    waiting = [each for batch in recorded for each in batch.values() if isinstance(each, Tensor)]
    came = iter(_read(waiting))
    return [
        {key: next(came) if isinstance(each, Tensor) else each for key, each in batch.items()}
        for batch in recorded
    ]


def _read(numbers: Sequence[Tensor]) -> list[float]:
    if not numbers:
        return []
    read: list[float] = torch.stack([each.to(numbers[0].device) for each in numbers]).tolist()
    return read


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
