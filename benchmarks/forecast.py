"""How far the forecast of `heterofed doctor` is from a run: two processes over loopback with CURVE.

    python -m benchmarks.forecast --ids 20000 --rounds 2 --json

Both commands run first, as two parties would run them. Then the same two parties intersect and
train on made-up rows, with the task file that the commands read.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.curve import organisations
from heterofed.cli.made_up import MadeUpCollaborator, MadeUpHost
from heterofed.protocol.messages import Work

HEREBY = [sys.executable, "-m", "heterofed"]


def surroundings(home: Path) -> dict[str, str]:
    return {**os.environ, "HETEROFED_HOME": str(home)}


def both(homes: dict[str, Path], words: dict[str, list[str]]) -> dict[str, str]:
    """Run a command at each party at once; gives what each printed."""
    running = {
        name: subprocess.Popen(
            each, env=surroundings(homes[name]), stdout=subprocess.PIPE, text=True
        )
        for name, each in words.items()
    }
    printed = {name: each.communicate()[0] for name, each in running.items()}
    if failed := [name for name, each in running.items() if each.returncode]:
        raise SystemExit(f"failed: {', '.join(failed)}")
    return printed


def run_party(name: str, folder: Path, found: argparse.Namespace) -> None:
    """One party of the run itself; prints its phases."""
    work = Work(found.ids, found.ids, found.rounds, found.batch_size, found.width, found.columns)
    ids = [f"{number:09}" for number in range(found.ids)]
    party: Any
    if name == "bank":
        given: dict[str, Any] = {"max_rounds": found.rounds, "psi_protocol": found.protocol}
        given |= {"feature_key": "bank", "results_dir": folder, "join_timeout": 300}
        party = MadeUpHost(ids, work, **given)
    else:
        party = MadeUpCollaborator(ids, work, feature_key="shop", results_dir=folder)
    phases = party.launch_task("forecast").phases
    shown = {
        key: [each.seconds, each.bytes_sent, each.bytes_received] for key, each in phases.items()
    }
    print(json.dumps(shown))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ids", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--columns", type=int, default=50)
    parser.add_argument("--protocol", choices=["ecdh", "rsa"], default="ecdh")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--party", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    found = parser.parse_args()
    if found.party:
        run_party(found.party, found.folder, found)
        return
    with tempfile.TemporaryDirectory() as folder:
        print_errors(compared(Path(folder), found), as_json=found.json)


def compared(folder: Path, found: argparse.Namespace) -> dict[str, float]:
    """The forecast and the truth, for each phase."""
    plan = {"psi_protocol": found.protocol, "max_rounds": found.rounds}
    plan |= {"batch_size": found.batch_size}
    more = (word for key, value in plan.items() for word in ("--plan", f"{key}={value}"))
    homes = organisations(folder, "bank", "shop", "forecast", *more)
    given = ["--ids", str(found.ids)]
    doctor = [*HEREBY, "doctor", "forecast", "--json", "--wait", "300", *given]
    sizes = ["--width", str(found.width), "--columns", str(found.columns)]
    told = both(homes, {"bank": [*doctor, *sizes], "shop": doctor})
    forecast = json.loads(told["bank"].splitlines()[-1])["probes"][0]["forecast"]
    again = [sys.executable, "-m", "benchmarks.forecast", *given, *sizes]
    again += ["--rounds", str(found.rounds), "--batch-size", str(found.batch_size)]
    again += ["--protocol", found.protocol]
    run = {
        name: [*again, "--party", name, "--folder", str(folder / f"{name}-runs")] for name in homes
    }
    phases = json.loads(both(homes, run)["bank"].splitlines()[-1])
    training = [sum(values) for values in zip(phases["train"], phases["test"], strict=True)]
    truth = {"psi": phases["psi"], "train": training}
    return {
        f"{phase}_{name}_{kind}": value
        for phase, (seconds, sent, received) in truth.items()
        for name, kind, value in (
            ("seconds", "forecast", forecast[phase]["seconds"]),
            ("seconds", "truth", seconds),
            ("bytes", "forecast", forecast[phase]["from_host"] + forecast[phase]["to_host"]),
            ("bytes", "truth", sent + received),
        )
    }


def print_errors(found: dict[str, float], *, as_json: bool) -> None:
    errors = {
        f"{name}_error": round(found[f"{name}_forecast"] / found[f"{name}_truth"] - 1, 3)
        for name in ("psi_seconds", "psi_bytes", "train_seconds", "train_bytes")
    }
    found |= errors
    if as_json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:24} {value:.3f}")


if __name__ == "__main__":
    main()
