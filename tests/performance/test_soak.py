"""What a Host that predicts, and a party that serves it, grow by with each request: nothing."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import pytest

from heterofed.simulation.simulate import simulate
from tests.e2e.tiny import IDS
from tests.hetero_nn.test_prediction import ALL, Collaborator, Host, predicted

REQUESTS = 20


def taken(folder: Path) -> tuple[int, int, int, int]:
    """Bytes of memory, and threads, open files and files on disk."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files = sum(1 for _ in folder.rglob("*"))
    memory = pages * os.sysconf("SC_PAGE_SIZE")
    return memory, threading.active_count(), sum(1 for _ in Path("/proc/self/fd").iterdir()), files


@pytest.mark.long
@pytest.mark.usefixtures("home")
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux tells what is taken")
def test_requests_leave_nothing_behind(tmp_path: Path) -> None:
    host = Host(tmp_path, collaborators=ALL)
    parties = [Collaborator(tmp_path, name) for name in ALL]
    simulate(host, parties, task_id="tiny")
    for _ in range(8):
        predicted((host, parties), IDS[12:20])
    before = taken(tmp_path)
    for _ in range(REQUESTS):
        predicted((host, parties), IDS[12:20])
    memory, *counts = (now - then for now, then in zip(taken(tmp_path), before, strict=True))
    assert memory / REQUESTS < 120_000
    assert counts == [0, 0, 0]
