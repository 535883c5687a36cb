"""Runs a job on one system: both parties through a relay, which counts bytes and can be cut."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.relay import Relay

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ROOT / "scoreboard" / ".envs"
MARK = "SCOREBOARD_PARTY"


def python_of(system: str) -> str:
    """The interpreter of a system's environment."""
    return str(ENVIRONMENTS / system / "bin" / "python")


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _environment(system: str, mark: str = "") -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    path = f"{ENVIRONMENTS / system / 'bin'}:{os.environ['PATH']}"  # as when it is activated
    return {**kept, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", MARK: mark}


def run_joined(system: str, job: Path) -> None:
    """The joined model, in that system's environment."""
    command = [python_of(system), "-m", "scoreboard.shared.joined", str(job)]
    subprocess.run(command, env=_environment(system), check=True, cwd=ROOT)


def marked(mark: str) -> Iterator[int]:
    """Every process that was started with a mark, and those that these have started."""
    wanted = f"{MARK}={mark}\0".encode()
    for each in Path("/proc").iterdir():
        if each.name.isdecimal():
            with contextlib.suppress(OSError):
                if wanted in (each / "environ").read_bytes() + b"\0":
                    yield int(each.name)


def kill(mark: str) -> None:
    """`kill -9` for all processes of a party, until there is none."""
    while left := list(marked(mark)):
        for each in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        time.sleep(0.05)


@dataclass
class Run:
    """A run that is under way."""

    system: str
    job: Path
    port: int
    relay: Relay
    host: subprocess.Popen[bytes]

    def steps(self) -> int:
        """Steps that have ended."""
        path = self.job / "steps.csv"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def mark(self, party: str) -> str:
        """What the processes of a party are known by."""
        return f"{party}@{self.job.absolute()}"

    def start(self, party: str) -> subprocess.Popen[bytes]:
        """Start a party."""
        command = [python_of(self.system), "-m", f"scoreboard.systems.{self.system}.{party}"]
        log = (self.job / f"{party}.log").open("ab")
        return subprocess.Popen(
            [*command, str(self.job)],
            env=_environment(self.system, self.mark(party)),
            cwd=ROOT,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def wait_for_step(self, step: int, seconds: float) -> None:
        """Until so many steps have ended.

        Raises:
            RuntimeError: the Host's command ended before, or it took too long.
        """
        self._until(lambda: self.steps() >= step, seconds, f"step {step}")

    def wait(self, seconds: float) -> int | None:
        """The status of the Host's command; None: it did not end in that time."""
        try:
            return self.host.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def _until(self, done: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            if self.host.poll() is not None or time.monotonic() > deadline:
                status = self.host.poll()
                raise RuntimeError(f"{self.system}: no {what} (status {status}); see {self.job}")
            time.sleep(0.02)


@contextlib.contextmanager
def running(system: str, job: Path) -> Iterator[Run]:
    """Prepare a job and start both parties; all their processes are gone at the end."""
    port = free_port()
    with Relay(f"tcp://127.0.0.1:{port}") as relay:
        link = relay.address.rpartition(":")[2]
        module = f"scoreboard.systems.{system}.prepare"
        command = [python_of(system), "-m", module, str(job), str(port), link]
        with (job / "prepare.log").open("wb") as log:
            subprocess.run(
                command, env=_environment(system), check=True, cwd=ROOT, stdout=log, stderr=log
            )
        run = Run(system, job, port, relay, None)  # type: ignore[arg-type]
        try:
            run.host = run.start("host")
            run.start("collaborator")
            yield run
        finally:
            for party in ("host", "collaborator"):
                kill(run.mark(party))
