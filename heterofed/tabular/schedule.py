"""Computes the learning rate of each batch from its number alone, so no checkpoint has to keep
it.
"""

from __future__ import annotations

import math

from torch.optim import Optimizer

from heterofed.tabular.settings import Schedule

WARM_UP = 0.1
"""The share of the steps in which "one_cycle" rises."""


def factor(schedule: Schedule, step: int, steps: int) -> float:
    """Return the factor of the learning rate for a step.

    Args:
        schedule: "constant"; "cosine", which falls to 0 along half a cosine wave (Loshchilov and
            Hutter, 2017); or "one_cycle", which rises before that, over a tenth of the steps.
        step: the number of the step, from 0.
        steps: the number of steps of all rounds.
    """
    done = min(step / max(steps, 1), 1.0)
    if schedule == "constant":
        return 1.0
    if schedule == "one_cycle":
        if done < WARM_UP:
            return max(done, 0.5 / max(steps, 1)) / WARM_UP
        done = (done - WARM_UP) / (1 - WARM_UP)
    return 0.5 * (1 + math.cos(math.pi * done))


def set_rate(optimizer: Optimizer | None, rate: float) -> None:
    """Make an optimizer use this learning rate in its next step."""
    for group in optimizer.param_groups if optimizer is not None else ():
        group["lr"] = rate
