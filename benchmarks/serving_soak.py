"""A served model under cuts, kills and new versions: is every answer right, or a clear error?

    python -m benchmarks.serving_soak --requests 100000 [--rows 2000] [--callers 8]
        [--cuts 20] [--kills 4] [--versions 2] [--switches 6] [--rotations 1] [--json]

Two parties are trained as often as there are to be versions, by command, and serve one of them
through a relay. Callers ask for single rows all the time. Meanwhile the relay cuts the link, either
party is killed by SIGKILL and started again, `heterofed models use` changes the version, and the
shop's key of the link is replaced by a new one, which the task file then lists.
Every answer is compared with the prediction of the version that it names, which is computed without
any server; an error must have one of the codes that the guide lists, and come within the deadline.
Callers whose server was killed see a closed connection, and connect again.

`wrong` counts answers that differ, `mixed` those of an unknown version, `late` those that came
after the deadline and a second, and `unclear` errors without a known code. `memory_mib` and
`descriptors` are of the bank's and the shop's process over time; one that was started anew begins
anew.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.curve import ROOT, free_port, heterofed
from benchmarks.relay import Relay
from benchmarks.serving import HOST, SHOP, TASK, Caller, Parties, wait_until_ready
from heterofed import simulate_prediction
from heterofed.hetero_nn.serve.held_runs import HeldRuns
from heterofed.serving.bodies import STATUSES
from heterofed.tabular import TabularCollaborator, TabularHost

DEADLINE, SLACK, TOLERANCE = 5.0, 1.0, 1e-5


def right_answers(folder: Path, ids: list[str]) -> dict[str, dict[str, float]]:
    """The prediction of each id by each run, computed without a server."""
    found = {}
    for each in HeldRuns(folder / "r" / TASK / HOST).all():
        copy = folder / f"one-{each.run.hex()[:8]}"
        for party in (HOST, SHOP):
            held = HeldRuns(folder / "r" / TASK / party).find(each.run)
            if held is not None:
                shutil.copytree(held.folder, copy / TASK / party)
        given: dict[str, Any] = {"ids": "id", "results_dir": copy}
        bank = TabularHost(HOST, folder / "bank.csv", label=None, **given)
        shop = TabularCollaborator(SHOP, folder / "shop.csv", **given)
        done = simulate_prediction(bank, [shop], task_id=TASK, ids=ids, models="best")
        frame = done.results[HOST]
        found[each.run.hex()] = dict(zip(frame["id"], frame["probability"], strict=True))
    return found


class Soak:
    """The parties, their callers, and what the callers have found.

    Args:
        folder: the folder of the parties.
        rows: the number of rows in common.
        versions: how often they are trained.
    """

    def __init__(self, folder: Path, rows: int, versions: int) -> None:
        bind = f"tcp://127.0.0.1:{free_port()}"
        self.relay = Relay(bind)
        self.parties = Parties(folder, rows, bind, self.relay.address)
        for _ in range(versions):
            self.parties.train()
        self._folder = folder
        by_run = right_answers(folder, self.parties.ids)
        self._runs = list(by_run)
        self._by_run, self._right = by_run, dict[str, dict[str, float]]()
        self.found, self.codes = Counter[str](), Counter[str]()
        self.events = Counter[str]()
        self.samples: dict[str, list[list[float]]] = {HOST: [], SHOP: []}
        self._lock, self._over = threading.Lock(), threading.Event()
        self._held: dict[str, subprocess.Popen[bytes]] = {}
        for party in (SHOP, HOST):
            self.start(party)
        wait_until_ready(self.parties.port, 300)
        for run in reversed(self._runs):
            self.use(run)

    def start(self, party: str) -> None:
        more = ["--max-rows-per-day", "1000000000", "--max-age", "0"] if party == SHOP else []
        self._held[party] = self.parties.serve(party, *more)

    def use(self, run: str) -> None:
        """Choose a version, and learn what it is called in answers."""
        line = ["models", "use", TASK, run, "--party", HOST, "--results", str(self._folder / "r")]
        env = {**os.environ, "HETEROFED_HOME": str(self._folder)}
        command = [sys.executable, "-m", "heterofed", *line, "--wait", "120"]
        done = subprocess.run(
            command, check=False, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300
        )
        if found := re.fullmatch(r"run (\w+), version (\w+)\s*", done.stdout):
            served, version = found.groups()
            self._right[version] = self._by_run[served]
            self.events["switch" if served == run else "switch to another"] += 1
        else:
            self.events["switch refused"] += 1

    def kill(self, party: str) -> None:
        self._held[party].kill()
        self._held[party].wait(30)
        self.start(party)
        self.events[f"kill of {party}"] += 1

    def cut(self) -> None:
        self.relay.cut(mid_message=random.random() < 0.5)
        self.events["cut"] += 1

    def rotate(self) -> None:
        """Replace the shop's key, and list the new one; the parties notice when they meet again."""
        old = self._command("keys", "show", SHOP).split()[0]
        new = self._command("keys", "rotate", SHOP).split()[0]
        (path,) = self._folder.glob(f"**/{TASK}.toml")
        text = path.read_text()
        if text.count(old) != 1:
            raise SystemExit("the task file does not list the shop's key once")
        path.write_text(text.replace(old, new))
        self._command("task", "accept", TASK, "--party", SHOP, "--yes")
        self.relay.cut()
        self.events["rotation"] += 1

    def _command(self, *words: str) -> str:
        return heterofed(self._folder, *words)

    def end(self) -> None:
        for each in self._held.values():
            each.terminate()
        for each in self._held.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                each.wait(30)
            each.kill()
        self.relay.close()

    # -- callers -----------------------------------------------------------------------------

    def call(self, most: int, seed: int) -> None:
        """Ask until enough was asked by all."""
        chance, caller = random.Random(seed), None
        while sum(self.found.values()) < most and not self._over.is_set():
            id_ = chance.choice(self.parties.ids)
            began = time.monotonic()
            try:
                caller = caller or Caller(self.parties.port)
                status, body = caller.ask(self.parties.request([id_]))
            except OSError:
                caller = None
                self.note("no server", time.monotonic() - began)
                time.sleep(0.05)
                continue
            self.note(self.verdict(id_, status, body), time.monotonic() - began)
            if status != 200:
                time.sleep(0.02)

    def verdict(self, id_: str, status: int, body: bytes) -> str:
        told = json.loads(body)
        if status != 200:
            code = told.get("error", {}).get("code")
            self.codes[str(code)] += 1
            return "error" if STATUSES.get(code) == status else "unclear"
        right = self._right.get(told["version"])
        if right is None:
            return "mixed"
        (value,) = told["predictions"]["probability"]
        is_right = told["ids"] == [id_] and abs(value - right[id_]) < TOLERANCE
        return "right" if is_right else "wrong"

    def note(self, what: str, seconds: float) -> None:
        with self._lock:
            self.found[what] += 1
            if seconds > DEADLINE + SLACK:
                self.found["late"] += 1
                self.found[what] -= 1

    def sample(self) -> None:
        """Note the memory and the descriptors of both processes."""
        for party, each in self._held.items():
            with contextlib.suppress(OSError):
                pages = int(Path(f"/proc/{each.pid}/statm").read_text().split()[1])
                open_now = len(list(Path(f"/proc/{each.pid}/fd").iterdir()))
                mib = round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
                self.samples[party].append([mib, open_now])

    def run(self, found: argparse.Namespace) -> None:
        callers = [
            threading.Thread(target=self.call, args=(found.requests, seed), daemon=True)
            for seed in range(found.callers)
        ]
        plan = ["cut"] * found.cuts + ["kill"] * found.kills + ["switch"] * found.switches
        plan += ["rotation"] * found.rotations
        random.Random(0).shuffle(plan)
        for each in callers:
            each.start()
        runs, killed = self._runs * found.switches, [SHOP, HOST] * found.kills
        for number, what in enumerate([*plan, ""]):
            due = found.requests * (number + 1) / (len(plan) + 1)
            while sum(self.found.values()) < due:
                time.sleep(0.05)
            self.sample()
            if what == "cut":
                self.cut()
            elif what == "kill":
                self.kill(killed.pop(0))
            elif what == "switch":
                self.use(runs.pop(0))
            elif what == "rotation":
                self.rotate()
        for each in callers:
            each.join(30)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (
        ("requests", 100_000), ("rows", 2000), ("callers", 8),
        ("cuts", 20), ("kills", 4), ("versions", 2), ("switches", 6), ("rotations", 1),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    load, began = os.getloadavg()[0], time.monotonic()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o700)
        soak = Soak(Path(folder), given.rows, given.versions)
        try:
            soak.run(given)
        finally:
            soak.end()
    figures: dict[str, Any] = {
        "requests": sum(soak.found.values()),
        **{each: soak.found[each] for each in ("right", "wrong", "mixed", "late", "unclear")},
        "errors": dict(soak.codes),
        "no_server": soak.found["no server"],
        "events": dict(soak.events),
        "seconds": round(time.monotonic() - began),
        "load": round(load, 1),
        "memory_mib": {name: [each[0] for each in rows] for name, rows in soak.samples.items()},
        "descriptors": {name: [each[1] for each in rows] for name, rows in soak.samples.items()},
    }
    if given.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:14} {value}")


if __name__ == "__main__":
    main()
