"""Two kinds of run that take turns: the MNIST example over TCP with CURVE, as it is and without
something. For benchmarks that say what that something costs.

Each run is two processes. What else the machine does meets both kinds, since they take turns.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HOST, COLLABORATOR = "demo_host", "demo_collaborator"

Phases = dict[str, dict[str, Any]]
"""What the Host's `summary.json` says of each phase."""


def run(
    module: str,
    description: str | None,
    *,
    kinds: tuple[str, str],
    without: Callable[[], None],
    figures: Callable[[dict[str, list[Phases]]], tuple[dict[str, float], list[float], list[float]]],
    rounds: int,
    limit: float,
) -> None:
    """The command line of such a bench, or one of its parties.

    Args:
        module: the bench, which starts its parties as itself.
        description: shown by `--help`.
        kinds: names of a run as it is, and of one without.
        without: takes that something away in this process; raises SystemExit where it is gone.
        figures: from the phases of all runs of each kind: further figures, and the seconds that are
            compared, of the runs with it and without.
        rounds, limit: defaults: of one run, and seconds until it counts as hung.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="where MNIST lies or goes")
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each kind")
    parser.add_argument("--images", type=int, default=12_000, help="images to train on")
    parser.add_argument("--limit", type=float, default=limit, help="seconds for one run")
    parser.add_argument("--json", action="store_true", help="print JSON")
    for name in ("--party", "--task", "--results", "--kind"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.party:
        if args.kind == kinds[1]:
            without()
        run_party(args)
        return
    more, kept, bare = figures(_run_all(module, args, kinds))
    shown = {
        **more,
        f"{kinds[0]}_s": round(statistics.median(kept), 3),
        f"{kinds[1]}_s": round(statistics.median(bare), 3),
        "cost": round(statistics.median(kept) / statistics.median(bare) - 1, 4),
        "spread": round((max(bare) - min(bare)) / statistics.median(bare), 4),
        "rounds": args.rounds,
        "images": args.images,
        "repeats": args.repeats,
    }
    if args.json:
        print(json.dumps(shown))
    else:
        print("\n".join(f"{name}: {value}" for name, value in shown.items()))


def _run_all(
    module: str, args: argparse.Namespace, kinds: Sequence[str]
) -> dict[str, list[Phases]]:
    from examples.mnist_split.data import ensure_mnist

    args.data = args.data.absolute()
    ensure_mnist(args.data)
    folder = Path(tempfile.mkdtemp(prefix=kinds[0]))
    os.environ["HETEROFED_HOME"] = str(folder / "home")
    runs: dict[str, list[Phases]] = {kind: [] for kind in kinds}
    try:
        for number in range(args.repeats):
            for kind in kinds if number % 2 == 0 else kinds[::-1]:
                task = f"{kind}-{number}"
                open_task(task, args.rounds)
                command = [sys.executable, "-m", module, "--kind", kind, "--task", task]
                command += ["--data", str(args.data), "--results", str(folder)]
                command += ["--rounds", str(args.rounds), "--images", str(args.images)]
                runs[kind].append(run_both(command, task, folder, args.limit))
    finally:
        shutil.rmtree(folder)
    return runs


def run_party(args: argparse.Namespace) -> None:
    from examples.mnist_split.collaborator import MnistCollaborator
    from examples.mnist_split.host import MnistHost

    limit = (args.images, args.images // 6)
    settings = {"results_dir": args.results, "seed": 1}
    if args.party == HOST:
        MnistHost(args.data, limit, max_rounds=args.rounds, **settings).launch_task(args.task)
    else:
        MnistCollaborator(args.data, limit, **settings).launch_task(args.task)


def open_task(task: str, rounds: int) -> None:
    """Keys, a task file, and consent."""
    from heterofed.cli.task import accept_task, new_task
    from heterofed.files import heterofed_home
    from heterofed.identity.keys import key_path, load_key, new_key

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


def run_both(command: list[str], task: str, folder: Path, limit: float) -> Phases:
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
    summary = json.loads((folder / task / HOST / "summary.json").read_text())
    phases: Phases = summary["phases"]
    return phases
