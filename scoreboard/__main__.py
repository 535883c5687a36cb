"""Runs the scoreboard, or makes its table and picture from what was measured.

python -m scoreboard install            # an environment for each system, in scoreboard/.envs
python -m scoreboard speed flower       # adds to scoreboard/results.json
python -m scoreboard faults flower
python -m scoreboard render             # docs/images/scoreboard.svg
python -m scoreboard render --check     # whether it is up to date
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock

from scoreboard import faults, results
from scoreboard.conductor import ENVIRONMENTS, ROOT, python_of, run_joined, running
from scoreboard.jobs import SOURCES, Source, make_job
from scoreboard.judge import accuracy, difference, milliseconds
from scoreboard.render import render

STEPS = {"heterofed": 100, "nvflare": 100, "flower": 10}
"""Steps of a run; Flower starts a process for each message, which takes seconds."""

JOINED_STEPS = 100
"""Steps by which the joined model is timed."""

FAULT_STEPS = {"heterofed": (60, 20), "nvflare": (60, 20), "flower": (4, 2)}
"""Steps of a run with a fault, and the step after which the fault comes."""


def install(systems: list[str]) -> None:
    """Make an environment for each system, from its own pinned list."""
    uv = [sys.executable, "-m", "uv"]
    for system in systems:
        if system != "heterofed":
            listed = ROOT / "scoreboard" / "requirements" / f"{system}.txt"
            version = listed.read_text().split("\n", 1)[0].removeprefix("# Python ")
            where = str(ENVIRONMENTS / system)
            subprocess.run([*uv, "venv", "--python", version, where], check=True)
            command = ["pip", "install", "--python", where, "--requirement", str(listed)]
            subprocess.run([*uv, *command], check=True)
    ours = ENVIRONMENTS / "heterofed"
    ours.parent.mkdir(exist_ok=True)
    if not ours.exists():
        ours.symlink_to(sys.prefix)


def source(name: str, folder: Path, steps: int) -> Source:
    """Return data for so many steps, or for as many as there are rows."""
    most = {"mnist": 60_000, "default_credit": 24_000}[name]
    return SOURCES[name](folder, min(steps, most // 128) * 128)


def speed(system: str, name: str, folder: Path) -> dict[str, Any]:
    """Run a system once, right after the joined model is timed and right before it is again."""
    data, timed = source(name, folder, STEPS[system]), source(name, folder, JOINED_STEPS)
    with tempfile.TemporaryDirectory(prefix=f"{system}-") as kept:
        jobs = {
            "before": make_job(Path(kept) / "before", timed, name, 1),
            "split": make_job(Path(kept) / "split", data, name, 1),
            "after": make_job(Path(kept) / "after", timed, name, 1),
            "joined": make_job(Path(kept) / "joined", data, name, 1),
        }
        load = [os.getloadavg()[0]]
        run_joined(system, jobs["before"])
        found = measured(system, jobs["split"], STEPS[system])
        run_joined(system, jobs["after"])
        load.append(os.getloadavg()[0])
        run_joined(system, jobs["joined"])
        found |= {
            "joined_ms": [milliseconds(jobs[each]) for each in ("before", "after")],
            "joined_accuracy": accuracy(jobs["joined"]),
            "load": load,
            **difference(jobs["split"], jobs["joined"]),
        }
    print(system, name, found, flush=True)
    return found


def measured(system: str, job: Path, steps: int) -> dict[str, Any]:
    """Run a job; bytes are counted from the first step to the last."""
    with running(system, job) as run:
        run.wait_for_step(1, 900)
        before = (run.steps(), run.relay.forwarded)
        run.wait_for_step(steps, 1200)
        after = (run.steps(), run.relay.forwarded)
        status = run.wait(900)
    return {
        "ms": milliseconds(job),
        "bytes_per_row": (after[1] - before[1]) / (after[0] - before[0]) / 128,
        "accuracy": accuracy(job),
        "steps": after[0],
        "status": status,
    }


def versions(system: str) -> dict[str, str]:
    """Return the versions of Python, the system and PyTorch in its environment."""
    package = {"flower": "flwr"}.get(system, system)
    code = (
        "import importlib.metadata as m, json, platform;"
        f"print(json.dumps({{'python': platform.python_version(), '{package}':"
        f" m.version('{package}'), 'torch': m.version('torch')}}))"
    )
    found = subprocess.run([python_of(system), "-c", code], check=True, capture_output=True)
    told: dict[str, str] = json.loads(found.stdout)
    return told


def add(system: str, part: str, found: dict[str, Any]) -> None:
    """Write what was found to the results: a run to those of its data, faults anew."""
    known = versions(system)
    with FileLock(results.PATH.with_suffix(".lock")):
        measured = results.read()
        entry = measured[system]
        entry["versions"] = known
        entry["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
        if part in faults.FAULTS:
            entry.setdefault("faults", {})[part] = found
        else:
            entry.setdefault("speed", {}).setdefault(part, []).append(found)
        results.write(measured)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scoreboard",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=["install", "speed", "faults", "render"])
    parser.add_argument("systems", nargs="*", default=list(STEPS))
    parser.add_argument("--mnist", type=Path, default=ROOT / "data", help="folder of MNIST")
    parser.add_argument(
        "--data", type=Path, help="folder of default_credit, guest.csv and host.csv"
    )
    parser.add_argument("--fault", action="append", choices=list(faults.FAULTS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=900, help="seconds for one run")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.what == "install":
        install(args.systems)
    elif args.what == "render":
        render(results.read(), check=args.check)
    elif args.what == "speed":
        folders = {"mnist": args.mnist} | ({"default_credit": args.data} if args.data else {})
        # In turns, so that what else the machine does meets all of them.
        for _ in range(args.repeats):
            for name, folder in folders.items():
                for system in args.systems:
                    add(system, name, speed(system, name, folder))
    else:
        for system in args.systems:
            steps, at = FAULT_STEPS[system]
            data = source("mnist", args.mnist, steps)
            with tempfile.TemporaryDirectory() as folder:
                trial = faults.Trial(system, Path(folder), data, "mnist", at, args.limit)
                for fault in args.fault or faults.FAULTS:
                    add(system, fault, faults.tried(trial, fault))


if __name__ == "__main__":
    main()
