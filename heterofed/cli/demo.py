"""`heterofed demo`: runs the MNIST example as two processes.

This module starts the example's scripts and reads the files in their results folders.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import json
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from heterofed.errors import ConfigError, TaskFailed, needing
from heterofed.files import new_file, own_folder
from heterofed.reporting.results import check_writable
from heterofed.reporting.trackers.names import trackers
from heterofed.runs.lifecycle import signals_as_exceptions
from heterofed.watch.beside import watched
from heterofed.watch.extra import needed

HOST, COLLABORATOR = "demo_host", "demo_collaborator"
BASELINES = ("local", "pooled")
BYE_SECONDS = 10.0
STDERR = 2


def run_demo(
    *,
    rounds: int,
    data: Path,
    results: Path,
    limit: tuple[int, int] | None,
    baselines: Sequence[str] = (),
    psi_protocol: str = "ecdh",
    track: Sequence[str] = (),
    watch: bool = False,
) -> dict[str, Any]:
    """Run the example to its end.

    Args:
        rounds: the number of rounds to train.
        data: the folder of MNIST, to which it is downloaded if it is missing.
        results: the parent of the task's results folder.
        limit: the numbers of train and test images to use, or None for all 70,000.
        baselines: the baselines to train afterwards: `local`, `pooled`.
        psi_protocol: the protocol of the intersection: "ecdh", or "rsa", which takes three times
            as long.
        track: the names of trackers for the Host's run.
        watch: whether to serve a live page of both parties while they train.

    Returns:
        A dict with the keys accuracy (of the last round), rounds, ids, psi_seconds, train_seconds,
        test_seconds, total_seconds, bytes_sent, bytes_received, metrics_csv and models. With
        baselines it also has `baselines` (the accuracy of each), modes_csv and plot.

    Raises:
        ConfigError: a baseline does not exist, or an extra (for a tracker, the plot or the page) is
            not installed.
        TaskFailed: one of the processes failed.
    """
    if unknown := set(baselines) - set(BASELINES):
        raise ConfigError(f"baseline {min(unknown)!r}: give some of {', '.join(BASELINES)}")
    if watch:
        needed()
    if baselines:
        with needing("plot", "the plot of baselines"):
            import matplotlib  # noqa: F401
    trackers(track)  # wrong settings show before anything is started
    example = _example()
    began = time.monotonic()
    results, task = results.absolute(), f"demo-{secrets.token_hex(3)}"
    folder = results / task
    check_writable(folder)
    own_folder(folder)
    common = ["--task", task, "--data", str(data), "--results", str(results)]
    if limit:
        common += ["--limit", *map(str, limit)]
    asked = ["--rounds", str(rounds), "--psi-protocol", psi_protocol]
    asked += [word for name in track for word in ("--track", name)]
    with watched(results, task) if watch else contextlib.nullcontext():
        _train(example, folder, common, asked)
    outcome = _outcome(folder / HOST, time.monotonic() - began)
    if baselines:
        _train_baselines(example, [*common, "--rounds", str(rounds), "--modes", *baselines])
        outcome |= _compared(folder / HOST / "baselines", baselines)
    return outcome


def _train(example: str, folder: Path, common: list[str], asked: list[str]) -> None:
    """Run both parties to their end.

    Raises:
        TaskFailed: one of the processes failed.
    """
    log = folder / f"{COLLABORATOR}.log"
    with new_file(log) as output, signals_as_exceptions(), _ended_with_us() as children:
        children.append(_start(example, "collaborator", common, output))
        children.append(_start(example, "host", [*common, *asked], None))
        codes = {party: child.wait() for party, child in zip(("c", "h"), children, strict=True)}
    if codes["c"]:
        with contextlib.suppress(AttributeError, ValueError):  # stderr is closed or missing
            sys.stderr.write(log.read_text()[-4000:])
    if any(codes.values()):
        raise TaskFailed(
            f"the demo failed: {HOST} exited with {codes['h']}, {COLLABORATOR} with {codes['c']};"
            f" see above and {log}"
        )


def _train_baselines(example: str, arguments: list[str]) -> None:
    """Train the baselines to their end.

    Raises:
        TaskFailed: their process failed.
    """
    with signals_as_exceptions(), _ended_with_us() as children:
        children.append(_start(example, "baselines", arguments, None))
        if code := children[0].wait():
            raise TaskFailed(f"the demo's baselines failed (exit code {code}); see above")


def _example() -> str:
    """Return the example's package, which a wheel has in heterofed and a clone beside it."""
    within = "heterofed._examples"
    parent = within if importlib.util.find_spec(within) is not None else "examples"
    return f"{parent}.mnist_split"


def _start(example: str, script: str, arguments: list[str], output: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"{example}.{script}", *arguments]
    return subprocess.Popen(  # noqa: S603 - our own scripts, no shell
        command, stdin=subprocess.DEVNULL, stdout=output or STDERR, stderr=output
    )


@contextlib.contextmanager
def _ended_with_us() -> Iterator[list[subprocess.Popen[bytes]]]:
    """End all child processes after the block; a child that does not end in time is killed."""
    children: list[subprocess.Popen[bytes]] = []
    try:
        yield children
    finally:
        for child in children:
            if child.poll() is None:
                child.send_signal(signal.SIGINT)
        for child in children:
            try:
                child.wait(BYE_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _compared(folder: Path, baselines: Sequence[str]) -> dict[str, Any]:
    table = folder / "test.csv"
    with table.open(newline="") as file:
        accuracy = {row["mode"]: float(row["accuracy"]) for row in csv.DictReader(file)}
    return {
        "baselines": {mode: accuracy[mode] for mode in baselines},
        "modes_csv": str(table),
        "plot": str(folder / "modes.png"),
    }


def _outcome(folder: Path, seconds: float) -> dict[str, Any]:
    summary = json.loads((folder / "summary.json").read_text())
    metrics_csv = Path(summary["metrics"]["test"])
    with metrics_csv.open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    phases = summary["phases"]
    return {
        "accuracy": float(last["accuracy"]),
        "rounds": summary["rounds"],
        "ids": summary["ids"],
        "psi_seconds": phases["psi"]["seconds"],
        "train_seconds": phases["train"]["seconds"],
        "test_seconds": phases["test"]["seconds"],
        "total_seconds": round(seconds, 3),
        "bytes_sent": summary["bytes_sent"],
        "bytes_received": summary["bytes_received"],
        "metrics_csv": str(metrics_csv),
        "models": summary["models"],
    }
