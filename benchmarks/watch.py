"""What watching takes from training: the MNIST example over TCP with CURVE, watched and not.

    python -m benchmarks.watch --data data --rounds 3 --repeats 5 --json

A watched run keeps its journal, has the page's server beside it, and a viewer who looks all the
time. Both kinds of run take turns (`benchmarks.in_turns`). Gives `overhead` (what watching adds to
the median seconds of the phase train, as a part of 1) and the `spread` of the runs without it,
below which no difference means anything. Beside them, `report_s` and `report_bytes`: the report of
a run of 1,000 rounds.
"""

from __future__ import annotations

import argparse
import functools
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from benchmarks import in_turns
from heterofed.events import Callback, Event

SPENT = "journal-seconds.txt"


def without() -> None:
    """Let runs keep no journal."""
    from heterofed.runs import lifecycle

    if not hasattr(lifecycle, "journal_kept"):
        raise SystemExit("runs.lifecycle keeps no journal: this bench measures nothing")
    vars(lifecycle)["journal_kept"] = lambda _run: lambda _event: None


def timed(spent: list[float]) -> None:
    """Note the seconds of each call of the journal."""
    from heterofed.runs import lifecycle
    from heterofed.runs.run import Run

    made = vars(lifecycle)["journal_kept"]

    def journal_kept(run: Run) -> Callback:
        note = made(run)

        def noted(event: Event) -> None:
            began = time.perf_counter()
            note(event)
            spent.append(time.perf_counter() - began)

        return noted

    vars(lifecycle)["journal_kept"] = journal_kept


def figures(
    runs: dict[str, list[in_turns.Phases]],
) -> tuple[dict[str, float], list[float], list[float]]:
    """Seconds of the phase train, watched and not."""
    watched, bare = ([each["train"]["seconds"] for each in runs[kind]] for kind in KINDS)
    overhead = statistics.median(watched) / statistics.median(bare) - 1
    seconds, size = of_a_report()
    return (
        {"overhead": round(overhead, 4), "report_s": seconds, "report_bytes": size},
        watched,
        bare,
    )


KINDS = ("watched", "bare")


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
def watching(results: str, task: str) -> Iterator[None]:
    """The page's server and a viewer beside a run of this process."""
    spent: list[float] = []
    timed(spent)
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
    try:
        yield
    finally:
        server.stdin.close()
        server.wait()
        viewer.kill()
        viewer.wait()
        print(f"the journal took {sum(spent):.4f} s in {len(spent)} calls", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    for name in ("--look", "--party", "--kind", "--task", "--results"):
        parser.add_argument(name)
    asked, _ = parser.parse_known_args()
    if asked.look:
        look(asked.look)
        return
    run = functools.partial(
        in_turns.run,
        "benchmarks.watch",
        __doc__,
        kinds=KINDS,
        without=without,
        figures=figures,
        rounds=3,
        limit=600.0,
    )
    if asked.party == in_turns.HOST and asked.kind == KINDS[0]:
        with watching(asked.results, asked.task):
            run()
    else:
        run()


if __name__ == "__main__":
    main()
