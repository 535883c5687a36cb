"""Real processes for end-to-end tests: started, waited for with a deadline, never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class PartyProcess:
    """One party; its output is kept."""

    def __init__(self, arguments: list[str], log: Path, env: dict[str, str]) -> None:
        self.log = log
        with log.open("w") as output:
            self._child = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def wait(self, timeout: float = 100.0) -> int:
        """Exit code; fails the test with the party's output where it does not end."""
        try:
            return self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s:\n{self.output}") from None

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    @property
    def output(self) -> str:
        return self.log.read_text()

    def wait_for(self, text: str, timeout: float = 100.0) -> None:
        """Wait until the party has printed `text`."""
        deadline = time.monotonic() + timeout
        while text not in self.output:
            if self._child.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"never said {text!r}:\n{self.output}")
            time.sleep(0.05)

    def signal(self, number: signal.Signals) -> None:
        self._child.send_signal(number)

    def interrupt(self) -> None:
        self._child.send_signal(signal.SIGINT)

    def terminate(self) -> None:
        self._child.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._child.kill()

    def end(self) -> None:
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait()


class Parties:
    """Starts parties that share one HETEROFED_HOME."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.folder = folder
        self.home = home
        self._all: list[PartyProcess] = []

    def start(self, *arguments: str, **env: str) -> PartyProcess:
        log = self.folder / f"party-{len(self._all)}.log"
        party = PartyProcess(
            list(arguments),
            log,
            {"HETEROFED_HOME": str(self.home), "PYTHONUNBUFFERED": "1", **env},
        )
        self._all.append(party)
        return party

    def end(self) -> None:
        for party in self._all:
            party.end()


@contextmanager
def parties(home: Path, folder: Path) -> Iterator[Parties]:
    started = Parties(home, folder)
    try:
        yield started
    finally:
        started.end()
