"""Starts further processes of this party on this machine, for the length of a launch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed as dist

from heterofed.compute.workers.exchange import STARTS_WITHIN
from heterofed.compute.workers.seal import new_secret
from heterofed.errors import ConfigError, RankLostError, needing
from heterofed.files import temporary_folder

ENDS_WITHIN = 5.0
"""The longest time in seconds that a process takes to end once it was told to."""


def connect(rank: int, ranks: int, store: str) -> None:
    """Connect this process with the others, over the loopback interface alone.

    Args:
        rank: the number of this process.
        ranks: the number of processes.
        store: the path of a file in a private folder, by which they find each other.
    """
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    address = f"file://{store}"
    dist.init_process_group(
        "gloo", init_method=address, rank=rank, world_size=ranks, timeout=STARTS_WITHIN
    )


@contextmanager
def children(ranks: int) -> Iterator[bytes]:
    """Run further processes, each with its share of the cores, until the end of the block.

    Yields:
        The secret that all of the processes have.

    Raises:
        ConfigError: processes of this party are connected already, or cloudpickle is missing.
        RankLostError: a process did not start.
    """
    if dist.is_initialized():
        raise ConfigError(
            "feature_workers: torch.distributed is in use in this process; give feature_workers=1,"
            " or start the script by torchrun"
        )
    with needing("workers", "feature_workers"):
        import cloudpickle  # noqa: F401
    threads = torch.get_num_threads()
    share = max(1, threads // ranks)
    with temporary_folder() as folder:
        store, secret = str(folder / "store"), new_secret(folder)
        started = [_start(rank, ranks, store, share) for rank in range(1, ranks)]
        try:
            torch.set_num_threads(share)
            _connect_first(ranks, store)
            yield secret
        finally:
            torch.set_num_threads(threads)
            if dist.is_initialized():
                dist.destroy_process_group()
            for each in started:
                _end(each)


def _connect_first(ranks: int, store: str) -> None:
    try:
        connect(0, ranks, store)
    except RuntimeError as error:
        raise RankLostError(
            f"not all of the {ranks} processes of this party have started; {RankLostError.remedy}"
        ) from error


def _start(rank: int, ranks: int, store: str, threads: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "heterofed.compute.workers", str(rank), str(ranks), store]
    given = {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": str(threads),
        "LOCAL_RANK": str(rank),
    }
    # In a session of its own, so that Ctrl-C reaches rank 0 alone, which tells the others.
    environment = {**os.environ, **given}
    return subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(ENDS_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
