"""Real processes for end-to-end tests: started, waited for with a deadline, never left behind."""

from __future__ import annotations

import atexit
import functools
import os
import re
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e import warmed

ROOT = Path(__file__).resolve().parents[2]

TRITON_AT_EXIT = re.compile(r"nanobind: leaked .*?refleaks\.html\n?", re.DOTALL)
"""What a library of torch's CUDA build prints where its objects outlive the interpreter, as those
that `warmed` keeps from the search for garbage do."""


class PartyProcess:
    """One party; its output is kept."""

    def __init__(self, child: Child, log: Path) -> None:
        self.log = log
        self._child = child

    def wait(self, timeout: float = 100.0) -> int:
        """Exit code; fails the test with the party's output where it does not end."""
        code = self._child.wait(timeout)
        if code is None:
            raise AssertionError(f"still running after {timeout} s:\n{self.output}")
        return code

    @property
    def running(self) -> bool:
        return self._child.wait(0) is None

    @property
    def output(self) -> str:
        return TRITON_AT_EXIT.sub("", self.log.read_text())

    def wait_for(self, text: str, timeout: float = 100.0) -> None:
        """Wait until the party has printed `text`."""
        deadline = time.monotonic() + timeout
        while text not in self.output:
            if not self.running or time.monotonic() > deadline:
                raise AssertionError(f"never said {text!r}:\n{self.output}")
            time.sleep(0.05)

    def signal(self, number: signal.Signals) -> None:
        if self.running:
            os.kill(self._child.pid, number)

    def interrupt(self) -> None:
        self.signal(signal.SIGINT)

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def end(self) -> None:
        if self.running:
            self.kill()
            self._child.wait(30)


class Child(ABC):
    """A process that was started, in one way or the other."""

    pid: int

    @abstractmethod
    def wait(self, timeout: float) -> int | None:
        """Exit code, negative for a signal; None where it still runs."""


class Cold(Child):
    """A new interpreter."""

    def __init__(self, arguments: list[str], log: Path, env: dict[str, str]) -> None:
        with log.open("w") as output:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.pid = self._process.pid

    def wait(self, timeout: float) -> int | None:
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None


class Warm(Child):
    """A fork of an interpreter that has torch."""

    def __init__(
        self, server: warmed.Server, arguments: list[str], log: Path, env: dict[str, str]
    ) -> None:
        log.touch()
        self._server = server
        self.pid = server.start(arguments, env, log, ROOT)

    def wait(self, timeout: float) -> int | None:
        return self._server.wait(self.pid, timeout)


@functools.cache
def server() -> warmed.Server:
    """The server of warmed interpreters of this test process."""
    started = warmed.Server(ROOT)
    atexit.register(started.close)
    return started


class Parties:
    """Starts parties that share one HETEROFED_HOME."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.folder = folder
        self.home = home
        self._all: list[PartyProcess] = []

    def start(self, *arguments: str, cold: bool = False, **env: str) -> PartyProcess:
        """Start `python ARGUMENTS`; cold: in an interpreter of its own from the start."""
        log = self.folder / f"party-{len(self._all)}.log"
        cold = cold or any(name.startswith(warmed.COLD) for name in env)
        whole = {
            **os.environ,
            "HETEROFED_HOME": str(self.home),
            "PYTHONUNBUFFERED": "1",
            **env,
        }
        child = (
            Cold(list(arguments), log, whole)
            if cold
            else Warm(server(), list(arguments), log, whole)
        )
        party = PartyProcess(child, log)
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
