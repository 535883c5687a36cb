"""Shares a task among the processes of one party, which `torchrun` or this party started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import TypeVar

from torch import distributed as dist

from heterofed.compute.workers.children import children
from heterofed.compute.workers.exchange import Exchange
from heterofed.compute.workers.seal import secret_of_user
from heterofed.compute.workers.worker import Stop, work
from heterofed.errors import ConfigError, RankLostError

R = TypeVar("R")

MOST_WORKERS = 256

LINGER = 5.0
"""The longest time in seconds in which the other ranks are told that the task has ended."""


def started_by_torchrun() -> bool:
    """Return whether `torchrun` started this process beside others."""
    return (
        dist.is_available()
        and dist.is_torchelastic_launched()
        and int(os.environ.get("WORLD_SIZE", "1")) > 1
    )


def shared(
    run: Callable[[Exchange | None], R], deadline: Callable[[], float], workers: int = 1
) -> R:
    """Run a task at rank 0, with the help of the other ranks, if there are any.

    Args:
        run: runs the task; it gets the connections to the other ranks, or None without any.
        deadline: returns the longest time in seconds to wait for another rank; 0 sets no limit.
        workers: the number of processes to run, of which this one is the first.

    Returns:
        The result of the task, at every rank.

    Raises:
        ConfigError: the number of processes is wrong, or `torchrun` has started some already.
        RankLostError: another rank ended.
    """
    _check(workers)
    if not started_by_torchrun():
        if workers == 1:
            return run(None)
        with children(workers) as secret:
            return _led(run, Exchange(deadline, secret, by_value=True))
    if workers != 1:
        raise ConfigError(
            f"feature_workers={workers}, and torchrun has started {os.environ['WORLD_SIZE']}"
            " processes: give feature_workers=1, or start the script without torchrun"
        )
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    exchange = Exchange(deadline, secret_of_user())
    if exchange.rank:
        result: R = work(exchange)
        return result
    return _led(run, exchange)


def _check(workers: object) -> None:
    is_number = isinstance(workers, int) and not isinstance(workers, bool)
    if not is_number or workers not in range(1, MOST_WORKERS + 1):
        raise ConfigError(f"feature_workers={workers!r}: give 1 to {MOST_WORKERS} processes")


def _led(run: Callable[[Exchange | None], R], exchange: Exchange) -> R:
    """Run a task at rank 0, and tell the others when it has ended."""
    result_or_none: R | None = None
    try:
        result_or_none = run(exchange)
        return result_or_none
    finally:
        exchange.deadline = lambda: LINGER
        for rank in range(1, exchange.ranks):
            with contextlib.suppress(RankLostError):
                exchange.send(rank, Stop(result_or_none))
        with contextlib.suppress(RankLostError):
            exchange.close()
