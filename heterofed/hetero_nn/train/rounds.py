"""The course of the rounds, the same in a joint run and in its baselines."""

from __future__ import annotations

import time
from collections.abc import Callable

from heterofed.compute.plain import as_truth
from heterofed.hetero_nn.hook_streams import SeededHooks
from heterofed.hetero_nn.settings import HostSettings
from heterofed.runs.run import Run

EndRound = Callable[[float | None, float, bool], None]


def go_through_rounds(
    run: Run,
    hooks: SeededHooks,
    settings: HostSettings,
    *,
    train: Callable[[], float | None],
    test: Callable[[], None],
    end: EndRound,
) -> None:
    """Train, and test where that is due, until the Host's user says that the task is finished.

    Args:
        run: its round is counted on, unless it is in the middle of one.
        hooks: the hooks of the Host.
        settings: the settings of the Host.
        train: trains one round, or what is left of it; gives the mean loss.
        test: tests the models.
        end: ends the round: with the loss, the seconds that it took, and whether it was the last.
    """
    finished = False
    while not finished:
        if not run.batch:
            run.round += 1
        began = time.monotonic()
        loss = train()
        tested = _is_test_due(settings, run.round)
        if tested:
            test()
        finished = as_truth(hooks.call("is_task_finished"), "is_task_finished")
        if finished and not tested:
            test()
        end(loss, time.monotonic() - began, finished)


def _is_test_due(settings: HostSettings, round_number: int) -> bool:
    every = settings.log_rounds
    return round_number == 1 or (every > 0 and round_number % every == 0)
