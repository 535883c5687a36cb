"""What watching takes from training: the MNIST example over TCP with CURVE, watched and not.

    python -m benchmarks.watch --data data --rounds 5 --repeats 5 --json

A watched round notes its journal and traces a batch, while the page's server and a viewer who looks
all the time run beside it. In a bare round the journal gets no event, and the server and the viewer
are stopped (SIGSTOP). Both kinds take turns within one run, so that a pair of neighbouring rounds
meets the same processes, the same memory and much the same load of the machine. Each run has
`--rounds` such pairs after a round that warms it up.

| figure | what it is |
| --- | --- |
| `overhead` | what a watched round adds to the CPU time of the Host's process in the phase train, |
| | as a part of 1: the centre of all pairs (Hodges and Lehmann 1963) |
| `overhead_low`, `overhead_high` | its 95 % interval, from pairs drawn again |
| `overhead_wall` | the same in seconds of the clock, which the load of the machine moves |
| `noise` | the median difference of two neighbouring bare rounds, in CPU time |
| `journal` | the CPU time of the journal's calls, as a part of that of watched rounds |
| `server` | the CPU time of the page's server and its viewer from their start to their end, as a |
| | part of the seconds of watched rounds |
| `report_s`, `report_bytes` | the report of a run of 1,000 rounds |
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from benchmarks import in_turns
from heterofed.events import Callback, Event, PhaseBegan, PhaseEnded

NOTED = "rounds.json"
WARM_UP = 1


@dataclass
class Round:
    """The phase train of one round at the Host: seconds of the clock and of CPU."""

    watched: bool
    wall: float = 0.0
    cpu: float = 0.0
    journal: float = 0.0


class InTurns:
    """A journal that notes every second round only, and what each round cost.

    The order is watched, bare, bare, watched, so that a machine that gets slower favours neither.

    Args:
        note: the journal.
        beside: called with whether the next round is watched.
    """

    def __init__(self, note: Callback, beside: Callable[[bool], None]) -> None:
        self._note, self._beside = note, beside
        self._began = (0.0, 0.0)
        self.rounds: list[Round] = []
        self._watched = True

    def __call__(self, event: Event) -> None:
        match event:
            case PhaseBegan(phase="train"):
                self._watched = len(self.rounds) % 4 in (1, 0)
                self._beside(self._watched)
                self.rounds.append(Round(self._watched))
                self._began = time.perf_counter(), time.process_time()
        if self._watched:
            before = time.thread_time()
            self._note(event)
            if self.rounds:
                self.rounds[-1].journal += time.thread_time() - before
        match event:
            case PhaseEnded(phase="train"):
                wall, cpu = self._began
                self.rounds[-1].wall = time.perf_counter() - wall
                self.rounds[-1].cpu = time.process_time() - cpu


def pairs(rounds: Sequence[Round]) -> Iterator[tuple[Round, Round]]:
    """Each watched round with a bare one beside it."""
    measured = rounds[WARM_UP:]
    for first, second in zip(measured[::2], measured[1::2], strict=False):
        yield (first, second) if first.watched else (second, first)


def figures(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What the rounds of all runs say."""
    of_runs = [[Round(**each) for each in run["rounds"]] for run in runs]
    both = [pair for rounds in of_runs for pair in pairs(rounds)]
    added = np.array([watched.cpu / bare.cpu - 1 for watched, bare in both])
    watched = [one for one, _ in both]
    drawn = np.random.default_rng(0).choice(added, (1000, len(added)))
    low, high = np.quantile([centre(each) for each in drawn], [0.025, 0.975])
    return {
        "overhead": centre(added),
        "overhead_low": float(low),
        "overhead_high": float(high),
        "overhead_wall": centre(np.array([one.wall / other.wall - 1 for one, other in both])),
        "noise": statistics.median(
            abs(second.cpu / first.cpu - 1)
            for rounds in of_runs
            for first, second in zip(rounds[WARM_UP:], rounds[WARM_UP + 1 :], strict=False)
            if not (first.watched or second.watched)
        ),
        "journal": sum(each.journal for each in watched) / sum(each.cpu for each in watched),
        "server": sum(run["server"] for run in runs)
        / sum(each.wall for rounds in of_runs for each in rounds if each.watched),
        "cpu_s": statistics.median(each.cpu for _, each in both),
        "wall_s": statistics.median(each.wall for _, each in both),
    }


def centre(values: NDArray[np.float64]) -> float:
    """The median of the means of all pairs of values; a few wild ones do not move it.

    It needs fewer values than the median for the same precision.
    """
    first, second = np.triu_indices(len(values))
    return float(np.median((values[first] + values[second]) / 2))


def of_a_report(rounds: int = 1000) -> tuple[float, int]:
    """The seconds that the report of a long run takes, and its bytes."""
    from heterofed.report.render import write_report
    from tests.report.folders import finished

    with tempfile.TemporaryDirectory() as name:
        folder = finished(Path(name) / "loans" / "bank", rounds=rounds)
        began = time.perf_counter()
        path = write_report(folder)
        return round(time.perf_counter() - began, 3), path.stat().st_size


def look(address: str) -> None:
    """Look at a run's page, from when there is one until its server ends."""
    while True:
        try:
            with urllib.request.urlopen(address, timeout=600) as stream:
                while stream.read1(1 << 16):
                    pass
            return
        except urllib.error.HTTPError:  # the run has not begun
            time.sleep(0.5)


@contextmanager
def watched_in_turns(results: str, task: str) -> Iterator[None]:
    """The page's server and a viewer beside a run of this process; both stop in bare rounds."""
    from heterofed.runs import lifecycle

    command = [sys.executable, "-m", "heterofed", "watch", task, "--results", results]
    server = subprocess.Popen(
        [*command, "--until-stdin-ends"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdin is not None
    assert server.stdout is not None
    found = re.search(r"http\S+", server.stdout.readline())
    assert found is not None
    address = f"{found[0]}events/run/{quote(task)}/{in_turns.HOST}"
    viewer = subprocess.Popen([sys.executable, "-m", "benchmarks.watch", "--look", address])

    def beside(is_watched: bool) -> None:
        for each in (server, viewer):
            each.send_signal(signal.SIGCONT if is_watched else signal.SIGSTOP)

    made = vars(lifecycle)["journal_kept"]
    noted: list[InTurns] = []

    def journal_kept(run: Any) -> Callback:
        noted.append(InTurns(made(run), beside))
        return noted[-1]

    vars(lifecycle)["journal_kept"] = journal_kept
    try:
        yield
    finally:
        beside(True)
        server.stdin.close()
        server.wait()
        viewer.kill()
        viewer.wait()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = {
        "rounds": [asdict(each) for each in noted[-1].rounds],
        "server": children.ru_utime + children.ru_stime,
    }
    (Path(results) / task / NOTED).write_text(json.dumps(told))


def measured(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What each run noted."""
    folder = Path(tempfile.mkdtemp(prefix="watched"))
    os.environ["HETEROFED_HOME"] = str(folder / "home")
    # Threads of torch that wait for each other spin, which is CPU time of nobody's.
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    rounds = WARM_UP + 2 * args.rounds
    try:
        for number in range(args.repeats):
            task = f"watched-{number}"
            in_turns.open_task(task, rounds)
            command = [sys.executable, "-m", "benchmarks.watch", "--task", task]
            command += ["--data", str(args.data), "--results", str(folder)]
            command += ["--rounds", str(rounds), "--images", str(args.images)]
            in_turns.run_both(command, task, folder, args.limit)
            yield json.loads((folder / task / NOTED).read_text())
    finally:
        shutil.rmtree(folder)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.watch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="where MNIST lies or goes")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of rounds in a run")
    parser.add_argument("--repeats", type=int, default=5, help="runs")
    parser.add_argument("--images", type=int, default=12_000, help="images to train on")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds for one run")
    parser.add_argument("--json", action="store_true", help="print JSON")
    for name in ("--look", "--party", "--task", "--results"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parsed()
    if args.look:
        look(args.look)
    elif args.party == in_turns.HOST:
        with watched_in_turns(args.results, args.task):
            in_turns.run_party(args)
    elif args.party:
        in_turns.run_party(args)
    else:
        from examples.mnist_split.data import ensure_mnist

        args.data = args.data.absolute()
        ensure_mnist(args.data)
        found = {name: round(value, 4) for name, value in figures([*measured(args)]).items()}
        seconds, size = of_a_report()
        found |= {"report_s": seconds, "report_bytes": size, "pairs": args.rounds * args.repeats}
        load = os.getloadavg()[0]
        shown = found | {"images": args.images, "load": round(load, 1), "cores": os.cpu_count()}
        if args.json:
            print(json.dumps(shown))
        else:
            print("\n".join(f"{name}: {value}" for name, value in shown.items()))


if __name__ == "__main__":
    main()
