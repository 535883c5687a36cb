"""A party whose feature model several processes compute, as a command.

It is run by `python -m tests.compute.workers.ranks`.

The variables of the environment are those that `torchrun` sets.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from heterofed.compute.workers.children import children
from heterofed.compute.workers.exchange import Exchange
from heterofed.compute.workers.sharding import sharding
from heterofed.compute.workers.worker import Stop
from heterofed.errors import HeteroFedError
from tests.e2e.on_device import PlacedCollaborator, PlacedHost, placed
from tests.e2e.processes import ROOT


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def start(ranks: int, role: str, folder: Path, *what: str) -> list[subprocess.Popen[str]]:
    """Start all ranks of a party, as `torchrun` does."""
    common = {
        **os.environ,
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "TORCHELASTIC_RUN_ID": "test",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "tests.compute.workers.ranks", role, str(folder), *what]
    return [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]


def ended(processes: list[subprocess.Popen[str]], timeout: float = 150) -> list[str]:
    """Wait until all ranks have ended, and return what they printed."""
    try:
        return [each.communicate(timeout=timeout)[0] for each in processes]
    finally:
        for each in processes:
            each.kill()
            each.wait()


@contextmanager
def party(ranks: int) -> Iterator[Exchange]:
    """Be rank 0 of some processes that may divide the weights of models."""
    with children(ranks) as secret:
        exchange = Exchange(lambda: 60.0, secret, by_value=True)
        with sharding(exchange, wanted=True):
            yield exchange
        for rank in range(1, ranks):
            exchange.send(rank, Stop("done"))
        exchange.close()


def losing(scheduler: Any, number: int) -> None:
    """Lose the last rank at a batch: it is killed, or stopped for ever."""
    original, count = scheduler.iterate_train_feature, iter(range(1, 10_000))

    def iterate(feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for each in original(feature_model, train_ids):
            if next(count) == 6 and int(os.environ["RANK"]) == 0:
                print("lose", flush=True)
                os.kill(int(Path(os.environ["HF_LAST_RANK"]).read_text()), number)
            yield each

    scheduler.iterate_train_feature = iterate


def main() -> None:
    role, folder, *what = sys.argv[1:]
    place = "cuda" if "cuda" in what else "cpu"
    steps = 2 if "stale" in what else 0
    if (
        os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1)
        and "HF_LAST_RANK" in os.environ
    ):
        Path(os.environ["HF_LAST_RANK"]).write_text(str(os.getpid()))
    shards = "shard" in what
    scheduler: Any = (
        PlacedHost(Path(folder), max_rounds=4, max_staleness=steps, shard_feature_model=shards)
        if role == "host"
        else PlacedCollaborator(Path(folder), shard_feature_model=shards)
    )
    placed(scheduler, place)
    if "kill" in what or "stop" in what:
        losing(scheduler, signal.SIGKILL if "kill" in what else signal.SIGSTOP)
    try:
        result = scheduler.launch_task("tiny")
        print("rounds", result.rounds, threading.active_count(), torch.get_num_threads())
    except HeteroFedError as error:
        print("error", type(error).__name__, error)


if __name__ == "__main__":
    main()
