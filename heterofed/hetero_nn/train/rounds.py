"""Runs the rounds in the same way for a joint run and for its baselines."""

from __future__ import annotations

import time
from collections.abc import Callable

from heterofed.compute.plain import as_truth
from heterofed.hetero_nn.settings import HostSettings
from heterofed.runs.hook_streams import SeededHooks
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
    """Train, and test when a test is due, until the Host's hook says that the task is finished.

    Args:
        run: the run, whose round number is increased unless a round is unfinished.
        hooks: the hooks of the Host.
        settings: the settings of the Host.
        train: trains one round or the rest of it, and returns the mean loss.
        test: tests the models.
        end: completes the round; it gets the loss, the seconds, and whether it was the last round.
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
