"""Runs a job on one system: both parties through a relay, which counts bytes and can be cut."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.curve import free_port
from benchmarks.relay import Relay

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ROOT / "scoreboard" / ".envs"
MARK = "SCOREBOARD_PARTY"


def python_of(system: str) -> str:
    """Return the interpreter of a system's environment."""
    return str(ENVIRONMENTS / system / "bin" / "python")


def _environment(system: str, mark: str = "") -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    path = f"{ENVIRONMENTS / system / 'bin'}:{os.environ['PATH']}"  # as when it is activated
    return {**kept, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", MARK: mark}


def run_joined(system: str, job: Path) -> None:
    """Train the joined model in a system's environment."""
    command = [python_of(system), "-m", "scoreboard.shared.joined", str(job)]
    subprocess.run(command, env=_environment(system), check=True, cwd=ROOT)


def marked(mark: str) -> Iterator[int]:
    """Yield every process that was started with a mark, and those that these have started."""
    wanted = f"{MARK}={mark}\0".encode()
    for each in Path("/proc").iterdir():
        if each.name.isdecimal():
            with contextlib.suppress(OSError):
                if wanted in (each / "environ").read_bytes() + b"\0":
                    yield int(each.name)


@dataclass
class Run:
    """A run that is under way."""

    system: str
    job: Path
    port: int
    relay: Relay
    commands: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def steps(self) -> int:
        """Return how many steps have ended."""
        path = self.job / "steps.csv"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def mark(self, party: str) -> str:
        """Return what the processes of a party are known by."""
        return f"{party}@{self.job.absolute()}"

    def start(self, party: str) -> None:
        """Start a party; one that was started before is gone."""
        if party in self.commands:
            self.commands[party].wait()
        with (self.job / f"{party}.log").open("ab") as log:
            self.commands[party] = subprocess.Popen(
                [*self._command(party), str(self.job)],
                env=_environment(self.system, self.mark(party)),
                cwd=ROOT,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def kill(self, party: str) -> None:
        """`kill -9` for all processes of a party, until there is none."""
        while left := list(marked(self.mark(party))):
            for each in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
            time.sleep(0.05)
        if party in self.commands:
            self.commands[party].wait()

    def prepare(self) -> None:
        """Write what both parties need before they start."""
        link = self.relay.address.rpartition(":")[2]
        command = [*self._command("prepare"), str(self.job), str(self.port), link]
        with (self.job / "prepare.log").open("wb") as log:
            subprocess.run(
                command,
                env=_environment(self.system),
                check=True,
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

    def wait_for_step(self, step: int, seconds: float) -> None:
        """Wait until so many steps have ended.

        Raises:
            RuntimeError: the Host's command ended before, or it took too long.
        """
        deadline = time.monotonic() + seconds
        while self.steps() < step:
            status = self.commands["host"].poll()
            if status is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.system}: no step {step} (status {status})")
            time.sleep(0.02)

    def wait(self, seconds: float) -> int | None:
        """Return the status of the Host's command; None: it did not end in that time."""
        try:
            return self.commands["host"].wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def _command(self, script: str) -> list[str]:
        return [python_of(self.system), "-m", f"scoreboard.systems.{self.system}.{script}"]


@contextlib.contextmanager
def running(system: str, job: Path) -> Iterator[Run]:
    """Prepare a job and start both parties; all their processes are gone at the end."""
    port = free_port()
    with Relay(f"tcp://127.0.0.1:{port}") as relay:
        run = Run(system, job, port, relay)
        run.prepare()
        try:
            run.start("host")
            run.start("collaborator")
            yield run
        finally:
            run.kill("host")
            run.kill("collaborator")
