"""What CURVE costs: training time of the MNIST example over TCP with keys, against a Unix socket.

    python -m benchmarks.curve --data FOLDER_WITH_MNIST [--rounds 5] [--repeats 5]

Runs alternate, socket first and then TCP with keys, so that a busy moment of the machine hits both.
Each is two processes of `examples.mnist_split`. Prints one line of JSON: seconds of training of all
runs both ways, and the overhead of medians and bests in per cent.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HOST, COLLABORATOR = "demo_host", "demo_collaborator"
ROOT = Path(__file__).resolve().parents[1]


def heterofed(home: Path, *arguments: str) -> str:
    """Run the command with this HETEROFED_HOME; gives what it printed."""
    return subprocess.run(
        [sys.executable, "-m", "heterofed", *arguments],
        cwd=ROOT,
        env={**os.environ, "HETEROFED_HOME": str(home)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def organisations(folder: Path, host: str, other: str, task: str, *more: str) -> dict[str, Path]:
    """The homes of two organisations with keys, which have accepted a task, by their names."""
    homes = {name: folder / name for name in (host, other)}
    for home in homes.values():
        home.mkdir(mode=0o700)
    keys = {name: heterofed(home, "keys", "new", name).split()[0] for name, home in homes.items()}
    file = heterofed(
        homes[host],
        *("task", "new", task, "--host", host, "--address", f"tcp://127.0.0.1:{free_port()}"),
        *("--collaborator", f"{other}={keys[other]}", *more),
    ).strip()
    heterofed(homes[other], "task", "accept", file, "--yes")
    return homes


def with_keys(home: Path, task: str, rounds: int) -> None:
    """Make keys and a task file, and accept it."""
    heterofed(home, "keys", "new", HOST)
    public = heterofed(home, "keys", "new", COLLABORATOR).splitlines()[0]
    address = f"tcp://127.0.0.1:{free_port()}"
    heterofed(
        home,
        *("task", "new", task, "--host", HOST, "--address", address),
        *("--collaborator", f"{COLLABORATOR}={public}", "--plan", f"max_rounds={rounds}"),
        *("--plan", "batch_size=128"),
    )
    heterofed(home, "task", "accept", task, "--party", COLLABORATOR, "--yes")


def train_seconds(home: Path, task: str, options: argparse.Namespace) -> float:
    """Run both parties to their end; gives the Host's seconds of training."""
    with tempfile.TemporaryDirectory() as results:
        shared = ["--task", task, "--data", str(options.data), "--results", results]
        if options.limit:
            shared += ["--limit", *map(str, options.limit)]
        parties = [
            subprocess.Popen(
                [sys.executable, "-m", f"examples.mnist_split.{script}", *shared, *more],
                cwd=ROOT,
                env={**os.environ, "HETEROFED_HOME": str(home)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for script, more in (
                ("collaborator", []),
                ("host", ["--rounds", str(options.rounds)]),
            )
        ]
        try:
            while any(party.poll() is None for party in parties):
                if any(party.poll() for party in parties):
                    break  # the other one would wait for it
                time.sleep(0.1)
        finally:
            for party in parties:
                party.terminate()
                party.wait()
        if any(party.returncode for party in parties):
            raise SystemExit(f"a party failed: exit codes {[each.returncode for each in parties]}")
        summary = json.loads((Path(results) / task / HOST / "summary.json").read_text())
    return float(summary["phases"]["train"]["seconds"])


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All runs, one after another."""
    seconds: dict[str, list[float]] = {"socket": [], "curve": []}
    for repeat in range(options.repeats):
        for way, times in seconds.items():
            home = Path(tempfile.mkdtemp(prefix="hf", dir="/tmp"))  # sockets need a short path
            try:
                task = f"curve{repeat}"
                if way == "curve":
                    with_keys(home, task, options.rounds)
                times.append(train_seconds(home, task, options))
            finally:
                shutil.rmtree(home)
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    return {
        "rounds": options.rounds,
        "repeats": options.repeats,
        **{f"{way}_seconds": [round(each, 3) for each in times] for way, times in seconds.items()},
        "overhead_percent": round(100 * (medians["curve"] / medians["socket"] - 1), 2),
        "overhead_percent_of_best": round(
            100 * (min(seconds["curve"]) / min(seconds["socket"]) - 1), 2
        ),
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data"), help="where MNIST lies")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=int, nargs=2, metavar=("TRAIN", "TEST"), default=None)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    print(json.dumps(measure(parse())))
