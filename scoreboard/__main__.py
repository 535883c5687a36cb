"""Runs the scoreboard, or makes its table and picture from what was measured.

python -m scoreboard install            # an environment for each system, in scoreboard/.envs
python -m scoreboard speed flower       # adds to scoreboard/results.json
python -m scoreboard faults flower
python -m scoreboard render             # scoreboard/README.md and docs/images/scoreboard.svg
python -m scoreboard render --check     # whether they are up to date
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock

from scoreboard import faults
from scoreboard.conductor import ENVIRONMENTS, ROOT, python_of, run_joined, running
from scoreboard.jobs import SOURCES, Source, make_job
from scoreboard.judge import accuracy, difference, milliseconds

RESULTS = ROOT / "scoreboard" / "results.json"
SIZES = {"heterofed": 100 * 128, "nvflare": 100 * 128, "flower": 5 * 128}
"""Rows to train on; Flower starts a process for each message, which takes seconds."""

FAULT_STEPS = {"heterofed": (60, 20), "nvflare": (60, 20), "flower": (4, 2)}
"""Steps of a run with a fault, and the step after which the fault comes."""


def install(systems: list[str]) -> None:
    """Make an environment for each system, from its own pinned list."""
    for system in systems:
        if system != "heterofed":
            listed = ROOT / "scoreboard" / "requirements" / f"{system}.txt"
            version = listed.read_text().split("\n", 1)[0].removeprefix("# Python ")
            where = str(ENVIRONMENTS / system)
            subprocess.run(["uv", "venv", "--python", version, where], check=True)
            command = ["uv", "pip", "install", "--python", where, "--requirement", str(listed)]
            subprocess.run(command, check=True)
    link = ENVIRONMENTS / "heterofed"
    link.parent.mkdir(exist_ok=True)
    if not link.exists():
        link.symlink_to(ROOT / ".venv")


def source(name: str, folder: Path, system: str, rows: int = 0) -> Source:
    """The data of a job."""
    most = {"mnist": 60_000, "default_credit": 24_000}[name]
    return SOURCES[name](folder, min(rows or SIZES[system], most) // 128 * 128)


def speed(system: str, name: str, data: Source) -> dict[str, Any]:
    """One run of a system, right after one of the joined model."""
    with tempfile.TemporaryDirectory(prefix=f"{system}-") as kept:
        folder = Path(kept)
        joined, split = (make_job(folder / kind, data, name, 1) for kind in ("joined", "split"))
        run_joined(system, joined)
        with running(system, split) as run:
            run.wait_for_step(1, 900)
            first = (run.steps(), run.relay.forwarded)
            run.wait_for_step(data.train // 128, 1200)
            last = (run.steps(), run.relay.forwarded)
            status = run.wait(900)
        rows = (last[0] - first[0]) * 128
        found = {
            "ms": milliseconds(split),
            "joined_ms": milliseconds(joined),
            "bytes_per_row": (last[1] - first[1]) / rows,
            "accuracy": accuracy(split),
            "joined_accuracy": accuracy(joined),
            "steps": last[0],
            "status": status,
            "load": os.getloadavg()[0],
            **difference(split, joined),
        }
    print(system, name, found, flush=True)
    return found


def versions(system: str) -> dict[str, str]:
    """Of Python, the system and PyTorch, in its environment."""
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
    with FileLock(RESULTS.with_suffix(".lock")):
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"systems": {}}
        entry = results["systems"].setdefault(system, {})
        entry["versions"] = known
        entry["date"] = datetime.datetime.now(datetime.UTC).date().isoformat()
        if part in faults.FAULTS:
            entry.setdefault("faults", {})[part] = found
        else:
            entry.setdefault("speed", {}).setdefault(part, []).append(found)
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scoreboard",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=["install", "speed", "faults", "render"])
    parser.add_argument("systems", nargs="*", default=list(SIZES))
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
        from scoreboard.render import render

        render(json.loads(RESULTS.read_text()), check=args.check)
    elif args.what == "speed":
        folders = {"mnist": args.mnist} | ({"default_credit": args.data} if args.data else {})
        # In turns, so that what else the machine does meets all of them.
        for _ in range(args.repeats):
            for name, folder in folders.items():
                for system in args.systems:
                    add(system, name, speed(system, name, source(name, folder, system)))
    else:
        for system in args.systems:
            steps, at = FAULT_STEPS[system]
            data = source("mnist", args.mnist, system, steps * 128)
            with tempfile.TemporaryDirectory() as folder:
                trial = faults.Trial(system, Path(folder), data, "mnist", at, args.limit)
                for fault in args.fault or faults.FAULTS:
                    add(system, fault, faults.tried(trial, fault))


if __name__ == "__main__":
    main()
