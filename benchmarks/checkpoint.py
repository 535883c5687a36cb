"""What checkpoints cost: the MNIST example, with a checkpoint after each round and without any.

    python -m benchmarks.checkpoint --data data --rounds 10 --repeats 5 --json

Each run is two processes over TCP with CURVE. `share` is the part of a round that the phase
`checkpoint` takes at the Host: both parties make theirs, sync it to disk, and the Host waits until
both have; the median of the runs with checkpoints. `kept_s` and `bare_s` are the median seconds of
all rounds with and without; the two kinds of run take turns, so that what else the machine does
meets both, and `spread` is how far the runs without are apart: below it `cost`, the difference as a
part of 1, means nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.link import HOST, open_task, run_both

KINDS = ("kept", "bare")
ROUND = ("train", "test", "checkpoint")


def run_party(args: argparse.Namespace) -> None:
    """One party, with checkpoints or without."""
    from examples.mnist_split.collaborator import MnistCollaborator
    from examples.mnist_split.host import MnistHost
    from heterofed.resumable import ResumableScheduler

    if args.kind == "bare":
        if not hasattr(ResumableScheduler, "_keep_checkpoint"):
            raise SystemExit("there is no _keep_checkpoint: this bench measures nothing")
        ResumableScheduler._keep_checkpoint = lambda *_, **__: None  # type: ignore[method-assign]
    limit = (args.images, args.images // 6)
    settings = {"results_dir": args.results, "seed": 1}
    if args.party == HOST:
        MnistHost(args.data, limit, max_rounds=args.rounds, **settings).launch_task(args.task)
    else:
        MnistCollaborator(args.data, limit, **settings).launch_task(args.task)


def measure(args: argparse.Namespace, kind: str, number: int, folder: Path) -> tuple[float, float]:
    """Seconds of all rounds of one run, and of these what the phase `checkpoint` took."""
    task = f"{kind}-{number}"
    open_task(task, args.rounds)
    command = [sys.executable, "-m", "benchmarks.checkpoint", "--kind", kind, "--task", task]
    command += ["--data", str(args.data), "--results", str(folder), "--rounds", str(args.rounds)]
    command += ["--images", str(args.images)]
    phases = run_both(command, task, folder, args.limit)
    return sum(phases[each]["seconds"] for each in ROUND), phases["checkpoint"]["seconds"]


def main() -> None:
    """The bench, or one of its parties."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="where MNIST lies or goes")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5, help="runs of each kind")
    parser.add_argument("--images", type=int, default=12_000, help="images to train on")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for one run")
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
    folder = Path(tempfile.mkdtemp(prefix="kept"))
    os.environ["HETEROFED_HOME"] = str(folder / "home")
    try:
        runs: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
        for number in range(args.repeats):
            for kind in KINDS if number % 2 == 0 else KINDS[::-1]:
                runs[kind].append(measure(args, kind, number, folder))
    finally:
        shutil.rmtree(folder)
    kept, bare = ([whole for whole, _ in runs[kind]] for kind in KINDS)
    shown = {
        "share": round(statistics.median(part / whole for whole, part in runs["kept"]), 4),
        "kept_s": round(statistics.median(kept), 3),
        "bare_s": round(statistics.median(bare), 3),
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


if __name__ == "__main__":
    main()
