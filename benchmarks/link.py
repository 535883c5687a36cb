"""What the reliable link costs: the MNIST example over TCP with CURVE, with the link and without.

    python -m benchmarks.link --data data --rounds 3 --repeats 5 --json

Both kinds of run take turns, so that what else the machine does meets both; each is two processes.
Gives the median seconds of the phase train, `cost` (what the link adds, as a part of 1) and the
spread of the runs without it, below which no difference means anything.
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
KINDS = ("link", "bare")


def run_party(args: argparse.Namespace) -> None:
    """One party, with the link or without."""
    from examples.mnist_split.collaborator import MnistCollaborator
    from examples.mnist_split.host import MnistHost
    from heterofed import place

    if args.kind == "bare":
        for name, bare in (
            ("ReliableListener", lambda below, **_: below),
            ("ReliableConnector", lambda dial: dial()),
        ):
            if not hasattr(place, name):
                raise SystemExit(f"heterofed.place has no {name}: this bench measures nothing")
            setattr(place, name, bare)
    limit = (args.images, args.images // 6)
    settings = {"results_dir": args.results, "seed": 1}
    if args.party == HOST:
        MnistHost(args.data, limit, max_rounds=args.rounds, **settings).launch_task(args.task)
    else:
        MnistCollaborator(args.data, limit, **settings).launch_task(args.task)


def open_task(task: str, rounds: int) -> None:
    """Keys, a task file, and consent."""
    from heterofed.keys import key_path, load_key, new_key
    from heterofed.task_command import accept_task, new_task
    from heterofed.transport.local import heterofed_home

    home = heterofed_home()
    for name in (HOST, COLLABORATOR):
        if not key_path(name, home).exists():
            new_key(name, home)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    listed = [f"{COLLABORATOR}={load_key(COLLABORATOR, home).public}"]
    plan = [f"max_rounds={rounds}", "batch_size=128"]
    new_task(task, host=HOST, address=address, collaborators=listed, plan=plan)
    accept_task(task, COLLABORATOR, lambda _terms, _party: True)


def seconds(args: argparse.Namespace, kind: str, number: int, folder: Path) -> float:
    """Seconds of the phase train of one run."""
    task = f"{kind}-{number}"
    open_task(task, args.rounds)
    command = [sys.executable, "-m", "benchmarks.link", "--kind", kind, "--task", task]
    command += ["--data", str(args.data), "--results", str(folder), "--rounds", str(args.rounds)]
    command += ["--images", str(args.images)]
    phases = run_both(command, task, folder, args.limit)
    return float(phases["train"]["seconds"])


def run_both(command: list[str], task: str, folder: Path, limit: float) -> dict[str, Any]:
    """Run both parties of a task, within `limit` seconds; gives the Host's phases.

    Where one of them fails, the other one is not waited for.
    """
    deadline = time.monotonic() + limit
    log = folder / f"{task}.log"
    with log.open("w") as output:
        children = [
            subprocess.Popen([*command, "--party", name], stdout=output, stderr=output)
            for name in (COLLABORATOR, HOST)
        ]
        try:
            while None in (codes := [child.poll() for child in children]) and not any(codes):
                if time.monotonic() > deadline:
                    raise SystemExit(f"{task} was not done after {limit} s")
                time.sleep(0.05)
        finally:
            for child in children:
                child.kill()
                child.wait()
    if any(codes):
        raise SystemExit(f"{task} failed:\n{log.read_text()[-3000:]}")
    phases: dict[str, Any] = json.loads((folder / task / HOST / "summary.json").read_text())
    return dict(phases["phases"])


def main() -> None:
    """The bench, or one of its parties."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.link",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="where MNIST lies or goes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each kind")
    parser.add_argument("--images", type=int, default=12_000, help="images to train on")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for one run")
    parser.add_argument("--json", action="store_true", help="print JSON")
    for name in ("--party", "--task", "--results", "--kind"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.party:
        run_party(args)
        return
    from examples.mnist_split.data import ensure_mnist

    args.data = args.data.absolute()
    ensure_mnist(args.data)
    folder = Path(tempfile.mkdtemp(prefix="link"))
    os.environ["HETEROFED_HOME"] = str(folder / "home")
    try:
        runs: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for number in range(args.repeats):
            for kind in KINDS if number % 2 == 0 else KINDS[::-1]:
                runs[kind].append(seconds(args, kind, number, folder))
    finally:
        shutil.rmtree(folder)
    median = {kind: statistics.median(each) for kind, each in runs.items()}
    shown = {
        "link_s": round(median["link"], 3),
        "bare_s": round(median["bare"], 3),
        "cost": round(median["link"] / median["bare"] - 1, 4),
        "spread": round((max(runs["bare"]) - min(runs["bare"])) / median["bare"], 4),
        "rounds": args.rounds,
        "images": args.images,
        "repeats": args.repeats,
    }
    if args.json:
        print(json.dumps(shown))
    else:
        print("\n".join(f"{name}: {value}" for name, value in shown.items()))


if __name__ == "__main__":
    main()
