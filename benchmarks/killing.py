"""Parties as processes, and what kills them at random moments and starts them again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

TOGETHER = 0.25  # of the kills that take another party with them
AGAIN = 0.25  # of those that are killed once more while they start
LOOK_SECONDS = 0.1  # between two looks at the round of the Host


class Party:
    """A party's process, started again with the same command whenever it was killed."""

    def __init__(self, name: str, command: list[str], folder: Path, log: Path) -> None:
        self.name, self.log = name, log
        self._summary = folder / "summary.json"  # the last thing that a task writes
        self._status = folder / "status.json"
        self._command = command
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as output:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def code(self) -> int | None:
        """Its exit code; None while it runs; 0 also where it was killed when all was done."""
        code = self._child.poll() if self._child else None
        return 0 if code == -signal.SIGKILL and self._summary.exists() else code

    def where(self) -> tuple[str, int]:
        """The phase in which it is, and the round that it has begun, as far as it has written."""
        try:
            found = json.loads(self._status.read_bytes())
        except (OSError, ValueError):
            return "start", 0
        return found["phase"] or "start", found["round"]

    def kill(self) -> bool:
        """Kill it; False where it had ended."""
        if self._child is None or self._child.poll() is not None:
            return False
        self._child.kill()
        self._child.wait(10)
        return True


@dataclass(frozen=True)
class Pace:
    """The seconds of an undisturbed run up to its first round, and of each round."""

    start_s: float = 1.0
    round_s: float = 1.0


class Killer:
    """Kills parties of one run, and starts them again.

    A moment below 1 is a part of the time up to the first round. From 1 on it is the number of the
    round that the Host has begun, with the part of it; the finish counts as one more round.
    """

    def __init__(
        self,
        rng: random.Random,
        parties: list[Party],
        moments: list[float],
        pace: Pace,
    ) -> None:
        self._random, self._parties, self._moments = rng, parties, moments
        self._pace = pace
        self._began = self._looked = time.monotonic()
        self._rounds = 0
        self.killed_in: Counter[str] = Counter()
        self._reached: list[float] = []  # when the Host had begun each round
        self.due: list[tuple[float, Party]] = []  # to be started again, and when
        self._again: list[tuple[float, Party]] = []  # to be killed once more, and when

    def starts(self, party: Party) -> bool:
        """Whether a party waits to be started again."""
        return any(party is each for _, each in self.due)

    def pace(self) -> Pace:
        """The pace of this run."""
        if not self._reached:
            return Pace()
        first, last = self._reached[0], self._reached[-1]
        return Pace(first - self._began, (last - first) / max(1, len(self._reached) - 1))

    def step(self, now: float) -> None:
        """Do what is due."""
        for entry in [each for each in self.due if each[0] <= now]:
            self.due.remove(entry)
            entry[1].start()
        for entry in [each for each in self._again if each[0] <= now]:
            self._again.remove(entry)
            self._kill(entry[1], now)
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            phase, begun = self._parties[0].where()
            self._rounds = max(self._rounds, begun + (phase == "finish"))
            self._reached += [now] * (self._rounds - len(self._reached))
        if self._moments and self._is_reached(self._moments[0], now):
            self._moments.pop(0)
            together = bool(self._moments) and self._random.random() < TOGETHER
            for victim in self._random.sample(self._parties, 2 if together else 1):
                self._kill(victim, now)
            if together:
                self._moments.pop(0)

    def _is_reached(self, moment: float, now: float) -> bool:
        if moment < 1:
            # The undisturbed run may have started more slowly, with other work on the machine.
            return self._rounds > 0 or now >= self._began + moment * self._pace.start_s
        if self._rounds < int(moment):
            return False
        return now >= self._reached[int(moment) - 1] + moment % 1 * self._pace.round_s

    def _kill(self, victim: Party, now: float) -> None:
        phase = victim.where()[0]
        if not victim.kill():
            return
        self.killed_in[phase] += 1
        if victim.code() == 0:
            return
        starts = now + self._random.uniform(0, 1)
        self.due.append((starts, victim))
        if self._random.random() < AGAIN:
            again = starts + self._random.uniform(0, self._pace.start_s)
            self._again.append((again, victim))
