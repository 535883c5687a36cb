"""The same over the link of a task: two organisations with keys, by the commands, over CURVE.

`benchmarks.psi_unequal --link` starts this. The owner computes its set (`psi-set create`), allows
the asker and serves; the asker asks twice (`psi --stored`) and fetches the filter once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.curve import heterofed, organisations
from benchmarks.psi import end, ids_of

NAME = "benchmark"
UNIT_MB = 1 << 20 if sys.platform == "darwin" else 1 << 10
REQUESTS = 2
JOIN_TIMEOUT = 300.0


def measure_link(args: argparse.Namespace) -> dict[str, Any]:
    """Two requests for `args.small` ids to a set of `args.large`, and its creation if need be."""
    load = os.getloadavg()[0]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hf")))
        homes = organisations(folder, "clinic", "registry", "ask", "--purpose", "psi")
        clinic, registry = homes["clinic"], homes["registry"]
        few, many = folder / "few.txt", folder / "many.txt"
        write_ids(few, ids_of(args.small, args.large - args.small // 2))
        stored = (Path(args.folder) if args.folder else folder) / "linked"
        setup, created = None, {"peak_mb": None}
        if not holds(registry, stored, args.large):
            write_ids(many, ids_of(args.large, 0))
            create = ("psi-set", "create", str(stored), "--name", NAME, "--ids", str(many))
            begun = time.perf_counter()
            created = ended(started(stack, registry, *create, "--json"))
            setup = time.perf_counter() - begun
        allow(registry, stored, REQUESTS * args.small)
        waits = ("--task", "ask", "--join-timeout", str(JOIN_TIMEOUT), "--json")
        serve = ("psi-set", "serve", str(stored), *waits, "--requests", str(REQUESTS))
        serving = started(stack, registry, *serve)
        ask = ("psi", *waits, "--role", "initiator", "--ids", str(few), "--stored", NAME)
        asked = [
            ended(started(stack, clinic, *ask, "--out", str(folder / "common.txt")))
            for _ in range(REQUESTS)
        ]
        served = ended(serving)
    first, again = asked
    if not first["matched"] == again["matched"] == served["matched"]:
        raise SystemExit("the parties found different intersections")
    return {
        "small": args.small,
        "large": args.large,
        "link_setup_s": setup,
        "link_online_s": first["psi_seconds"],
        "link_again_s": again["psi_seconds"],
        "link_command_s": [each["wall_s"] for each in asked],
        "link_bytes": {
            name: {"sent": each["bytes_sent"], "received": each["bytes_received"]}
            for name, each in (("first", first), ("again", again))
        },
        "intersection": first["matched"],
        "peak_mb": {
            "create": created["peak_mb"],
            "asker": max(each["peak_mb"] for each in asked),
            "owner": served["peak_mb"],
        },
        "load_before": load,
    }


def write_ids(path: Path, ids: Iterable[str]) -> None:
    with path.open("w") as file:
        file.writelines(f"{each}\n" for each in ids)


def holds(home: Path, stored: Path, ids: int) -> bool:
    """Whether the folder has a complete set of so many ids."""
    return (stored / "set.json").exists() and shown(home, stored)["ids"] == ids


def allow(home: Path, stored: Path, more: int) -> None:
    """Let the asker ask for so many ids more than it has asked for before."""
    before = shown(home, stored)["allowed"].get("clinic", {"asked": 0})["asked"]
    heterofed(home, "psi-set", "allow", str(stored), "clinic", str(before + more))


def shown(home: Path, stored: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(heterofed(home, "psi-set", "show", str(stored), "--json"))
    return found


def started(
    stack: contextlib.ExitStack, home: Path, *words: str
) -> tuple[subprocess.Popen[str], float]:
    """Start a command of the party of this home; give it and the time."""
    child = subprocess.Popen(
        [sys.executable, "-m", "heterofed", *words],
        env={**os.environ, "HETEROFED_HOME": str(home)},
        stdout=subprocess.PIPE,
        text=True,
    )
    stack.callback(end, child)
    return child, time.perf_counter()


def ended(running: tuple[subprocess.Popen[str], float]) -> dict[str, Any]:
    """Wait for a command; give its last line of JSON, its seconds and its peak of memory."""
    child, begun = running
    assert child.stdout is not None
    lines = list(child.stdout)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit("a party failed; its error is above")
    spent = {"wall_s": time.perf_counter() - begun, "peak_mb": used.ru_maxrss / UNIT_MB}
    return {**json.loads(lines[-1]), **spent}


def rows_of(result: dict[str, Any]) -> Iterator[str]:
    """What a person reads of a result."""
    yield f"{result['small']} ids against {result['large']} stored ones, over the link of a task"
    for name in ("link_setup_s", "link_online_s", "link_again_s"):
        seconds = result[name]
        yield f"  {name:<14} {'done before' if seconds is None else f'{seconds:.2f} s'}"
    for name, moved in result["link_bytes"].items():
        yield f"  {name:<14} {moved['sent']} bytes, answered by {moved['received']}"
    yield f"  intersection   {result['intersection']}"
