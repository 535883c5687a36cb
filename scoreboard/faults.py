"""What happens to a run when something goes wrong: one run for each fault."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoreboard.conductor import Run, run_joined, running
from scoreboard.jobs import Source, aligned, make_job
from scoreboard.judge import difference

NOTICED_WITHIN = 150.0
"""Seconds after which a loss counts as unnoticed."""

AWAY = 10.0
"""Seconds for which a link is cut."""


@dataclass(frozen=True)
class Trial:
    """The place and the size of the runs of one system.

    Attributes:
        system: whose runs they are.
        folder: for their jobs.
        data: the data of each job.
        name: of the data.
        at: the step after which the fault comes.
        limit: seconds for a run.
    """

    system: str
    folder: Path
    data: Source
    name: str
    at: int
    limit: float

    def job(self, name: str, data: Source | None = None, change: str = "") -> Path:
        """Make the folder of a new job."""
        return make_job(self.folder / name, data or self.data, self.name, 1, change)

    def joined(self, name: str, data: Source | None = None) -> Path:
        """Return the folder of the joined model of the same data, which is trained once."""
        folder = self.folder / f"joined-{name}"
        if not folder.exists():
            run_joined(self.system, self.job(folder.name, data))
        return folder


def killed(trial: Trial) -> dict[str, Any]:
    """Kill all processes of the Collaborator; afterwards start again what has ended."""
    job = trial.job("kill")
    with running(trial.system, job) as run:
        run.wait_for_step(trial.at, trial.limit)
        run.kill("collaborator")
        began = time.monotonic()
        status = run.wait(NOTICED_WITHIN)
        seconds = round(time.monotonic() - began, 1)
        before = run.steps()
        run.start("collaborator")
        if status is not None:
            run.start("host")
        again = run.wait(trial.limit)
        after = run.steps() - before
    return {
        "noticed_s": None if status is None else seconds,
        "status": status,
        "status_again": again,
        "steps_before": before,
        "steps_again": after,
        **difference(job, trial.joined("plain")),
    }


def cut(trial: Trial) -> dict[str, Any]:
    """Stall the link for some seconds and cut it; it can be made anew at once."""

    def fault(run: Run) -> None:
        run.relay.stalled = True
        time.sleep(AWAY)
        run.relay.cut()
        run.relay.stalled = False

    return _during(trial, "cut", fault)


def stranger(trial: Trial) -> dict[str, Any]:
    """Connect to the port as somebody without a key, and talk."""

    def fault(run: Run) -> None:
        for said in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", os.urandom(1 << 16)) * 10:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", run.port), 5) as link,
            ):
                link.settimeout(0.2)
                link.sendall(said)
                link.recv(1)

    return _during(trial, "stranger", fault)


def changed(trial: Trial, change: str) -> dict[str, Any]:
    """Change the Collaborator's file; right is the joined model of the common rows."""
    job = trial.job(change, change=change)
    right = trial.joined(change, aligned(trial.data, change))
    with running(trial.system, job) as run:
        status = run.wait(trial.limit)
    return {"status": status, "steps": run.steps(), **difference(job, right)}


def _during(trial: Trial, name: str, fault: Callable[[Run], None]) -> dict[str, Any]:
    job = trial.job(name)
    with running(trial.system, job) as run:
        run.wait_for_step(trial.at, trial.limit)
        fault(run)
        status = run.wait(trial.limit)
    return {"status": status, "steps": run.steps(), **difference(job, trial.joined("plain"))}


FAULTS: dict[str, Callable[[Trial], dict[str, Any]]] = {
    "kill": killed,
    "cut": cut,
    "stranger": stranger,
    "other_order": lambda trial: changed(trial, "other_order"),
    "row_missing": lambda trial: changed(trial, "row_missing"),
}


def tried(trial: Trial, fault: str) -> dict[str, Any]:
    """Return what came of a run with a fault, or why it did not come so far."""
    try:
        found = FAULTS[fault](trial)
    except RuntimeError as error:
        found = {"error": str(error)}
    print(trial.system, fault, found, flush=True)
    return found
