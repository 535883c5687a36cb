"""How cost grows: with the width of features, rows of a batch, Collaborators, and rounds.

    python -m benchmarks.growth --json > growth.json
    python -m benchmarks.growth --from-json growth.json --plot growth.svg

The first three are CPU milliseconds per batch of the Host's thread, whose model only adds features
up. The parties are those of `benchmarks.parties`, as threads of one process over local sockets.
One size varies, the others are 128 rows, a width of 16, and one Collaborator. The fourth is one
process in which two parties train a tiny task over a local socket, for `--rounds` rounds of two
batches: its memory, Python objects, CPU seconds, and bytes of the results folders, by round. CPU
time hangs less on what else the machine does than time on the clock; the load is in the result.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import parties
from heterofed.events import PhaseBegan, PhaseEnded

SIZES: dict[str, list[int]] = {
    "width": [16, 64, 256, 1024, 4096, 16_384, 65_536],
    "rows": [32, 128, 512, 2048, 16_384],
    "collaborators": [1, 2, 4, 8, 16],
}
USUAL = {"width": 16, "rows": 128, "collaborators": 1}
MOST_BYTES = 1 << 28
"""As many bytes of features a run moves at most; large batches are fewer."""


def sweep(what: str, repeats: int, folder: Path) -> dict[str, float]:
    """The Host's CPU milliseconds per batch for each size."""
    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        for size in SIZES[what]:
            given = USUAL | {what: size}
            batch = 4 * given["width"] * given["rows"] * given["collaborators"]
            spent = host_ms(given, max(10, min(100, MOST_BYTES // batch)), folder)
            found.setdefault(str(size), []).append(spent)
    return {size: round(statistics.median(each), 4) for size, each in found.items()}


def host_ms(given: dict[str, int], batches: int, folder: Path) -> float:
    """CPU milliseconds per batch of the Host's thread, in the second of two rounds."""
    task, count = f"crowd-{secrets.token_hex(4)}", given["collaborators"]
    at: dict[str, float] = {}

    def note(event: object) -> None:
        if isinstance(event, PhaseBegan) and (event.phase, event.round) == ("train", 2):
            at["began"] = time.thread_time()
        elif isinstance(event, PhaseEnded) and (event.phase, event.round) == ("train", 2):
            at["spent"] = time.thread_time() - at["began"]

    size: dict[str, Any] = {"batches": batches, "rows": given["rows"]}
    shared: dict[str, Any] = {"results_dir": folder, "join_timeout": 300}
    others = [
        threading.Thread(
            target=parties.Crowd(
                f"party-{number:02}", width=given["width"], **size, **shared
            ).launch_task,
            args=(task,),
        )
        for number in range(count)
    ]
    for each in others:
        each.start()
    host = parties.Host(
        "host",
        max_rounds=2,
        collaborators=count,
        psi_protocol="ecdh",
        leak_report="off",
        callbacks=[note],
        **size,
        **shared,
    )
    host.launch_task(task)
    for each in others:
        each.join()
    return at["spent"] / batches * 1e3


def train_rounds(rounds: int, every: int) -> list[dict[str, float]]:
    """What a process has after every so many rounds of a tiny task."""
    import torch
    from torch import Tensor, nn, optim

    from heterofed import HeteroNNCollaboratorScheduler, HeteroNNHostScheduler
    from heterofed.events import Event, RoundEnded

    torch.set_num_threads(1)
    ids = [f"name-{number}" for number in range(64)]
    values = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    seen: list[dict[str, float]] = []

    class Half:
        def load_local_ids(self) -> list[str]:
            return ids

        def make_feature_model(self) -> nn.Module:
            return nn.Linear(4, 4)

        def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
            return optim.SGD(feature_model.parameters(), lr=0.01)

    class Host(Half, HeteroNNHostScheduler):
        def make_infer_model(self) -> nn.Module:
            return nn.Linear(8, 1)

        def make_infer_optimizer(self, infer_model: nn.Module) -> optim.Optimizer:
            return optim.SGD(infer_model.parameters(), lr=0.01)

        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            for at in range(0, len(train_ids), 32):
                rows = [int(each[5:]) for each in train_ids[at : at + 32]]
                yield feature_model(values[rows]), values[rows].sum(dim=1)

        def iterate_test_feature(self, feature_model: Any, test_ids: list[str]) -> Iterator[Any]:
            return self.iterate_train_feature(feature_model, test_ids)

        def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Any) -> Any:
            self.optimizer.zero_grad()
            scores = self.infer_model(torch.cat([*feature_projection.values()], dim=1))
            loss = (scores.squeeze(1) - labels).square().mean()
            loss.backward()
            self.optimizer.step()
            return loss

        def test(self, batched_feature_projections: Any, batched_labels: Any) -> None:
            pass

    class Collaborator(Half, HeteroNNCollaboratorScheduler):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            for at in range(0, len(train_ids), 32):
                yield feature_model(values[[int(each[5:]) for each in train_ids[at : at + 32]]])

        def iterate_test_feature(self, feature_model: Any, test_ids: list[str]) -> Iterator[Any]:
            return self.iterate_train_feature(feature_model, test_ids)

    with tempfile.TemporaryDirectory(prefix="hfb") as name:
        folder = Path(name)

        def note(event: Event) -> None:
            if isinstance(event, RoundEnded) and event.round % every == 0:
                files = [each.stat().st_size for each in folder.rglob("*") if each.is_file()]
                gc.collect()
                seen.append(
                    {
                        "round": event.round,
                        "cpu_s": time.process_time(),
                        "mb": resident_mb(),
                        "objects": len(gc.get_objects()),
                        "files_kb": sum(files) / 1e3,
                    }
                )

        settings: dict[str, Any] = {"results_dir": folder, "join_timeout": 60}
        host = Host("host", max_rounds=rounds, callbacks=[note], psi_protocol="ecdh", **settings)
        shop = Collaborator("shop", **settings)
        other = threading.Thread(target=shop.launch_task, args=["growth"])
        other.start()
        host.launch_task("growth")
        other.join()
    return seen


def resident_mb() -> float:
    """The resident memory of this process in megabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def over_rounds(rounds: int, every: int) -> dict[str, Any]:
    """The course of a process over the rounds, and its growth after a tenth of them."""
    command = [sys.executable, "-m", "benchmarks.growth", "--rounds", str(rounds), "--course"]
    printed = subprocess.run(
        [*command, "--every", str(every)], stdout=subprocess.PIPE, check=True
    ).stdout
    course: list[dict[str, float]] = json.loads(printed)
    settled = [each for each in course if each["round"] >= rounds / 10]
    first, last = settled[0], settled[-1]
    thousands = max(1, last["round"] - first["round"]) / 1000
    return {
        "rounds": rounds,
        "mb_per_1000_rounds": round((last["mb"] - first["mb"]) / thousands, 3),
        "objects_per_1000_rounds": round((last["objects"] - first["objects"]) / thousands, 1),
        "files_kb_per_1000_rounds": round((last["files_kb"] - first["files_kb"]) / thousands, 1),
        "course": course,
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    logging.getLogger("heterofed").setLevel(logging.ERROR)
    before = os.getloadavg()[0]
    result: dict[str, Any] = {"repeats": args.repeats, "usual": USUAL}
    with tempfile.TemporaryDirectory(prefix="hfb") as folder:
        os.environ["HETEROFED_HOME"] = folder
        for what in args.only:
            if what == "rounds":
                result["rounds"] = over_rounds(args.rounds, args.every)
            else:
                result[what] = sweep(what, args.repeats, Path(folder) / "runs")
    return result | {"load_before": before, "load_after": os.getloadavg()[0]}


def plot(result: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "growth"  # the same picture is the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 4, figsize=(12, 3))
    for where, what in zip(axes[:3], SIZES, strict=True):
        sizes, spent = [int(each) for each in result[what]], list(result[what].values())
        where.loglog(sizes, spent, marker="o", markersize=3)
        where.set_xlabel(what)
        where.set_ylabel("CPU ms of the Host per batch")
        where.set_ylim(1, max(10, 1.2 * max(spent)))
    course = result["rounds"]["course"]
    axes[3].plot([each["round"] for each in course], [each["mb"] for each in course])
    axes[3].set_ylim(0, 1.2 * max(each["mb"] for each in course))
    axes[3].set_xlabel("rounds")
    axes[3].set_ylabel("memory of the process, MB")
    for where in axes:
        where.grid(alpha=0.3, which="both")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--only", nargs="+", choices=[*SIZES, "rounds"], default=[*SIZES, "rounds"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=100, help="rounds between two looks")
    parser.add_argument("--from-json", type=Path, help="draw what an earlier run printed")
    parser.add_argument("--plot", type=Path, help="where to draw it")
    parser.add_argument("--course", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.course:
        logging.getLogger("heterofed").setLevel(logging.ERROR)
        print(json.dumps(train_rounds(args.rounds, args.every)))
        return
    result = json.loads(args.from_json.read_text()) if args.from_json else measure(args)
    if args.plot:
        plot(result, args.plot)
    if args.json:
        print(json.dumps(result, indent=1))
    elif not args.plot:
        for what, each in result.items():
            print(
                what,
                {k: v for k, v in each.items() if k != "course"}
                if isinstance(each, dict)
                else each,
            )


if __name__ == "__main__":
    main()
