"""Split training over a slow link: exact, ahead, and with rounded tensors; accuracy beside time.

    python -m benchmarks.wan --rtt-ms 50 --mbit 100 --json
    python -m benchmarks.wan --grid --rounds 2 --cases loopback auto sync --json > wan.json
    python -m benchmarks.wan --from-json wan.json   # the grid as a table

The MNIST halves train `--rounds` rounds with a test after each, once directly and then through a
relay (`benchmarks.relay`) that delays, limits, jitters and loses. `loopback_s` is the direct run
with `max_staleness="auto"`, `sync_s` the exact run over the link, `auto_s` the one with "auto" over
it; `auto_ratio` is auto_s / loopback_s. Seconds are those of training, medians over `--repeats`
turns; sync runs take minutes, so they are measured once. Accuracies are of the last test.

`--grid` does so for 5, 50 and 200 ms by 10, 100 and 1,000 Mbit/s, and for 50 ms and 100 Mbit/s with
20 ms of jitter, with 0.1 % of packets lost, and with both.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks import halves
from benchmarks.relay import Relay

AUTO: dict[str, Any] = {"max_staleness": "auto"}

CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "loopback": (AUTO, False),
    "auto": (AUTO, True),
    "auto_int8": (AUTO | {"compress_features": "int8", "compress_gradients": "int8"}, True),
    "auto_fp16": (AUTO | {"compress_features": "fp16", "compress_gradients": "fp16"}, True),
    "sync": ({"max_staleness": 0}, True),
}
"""The settings of the Host, and whether the link is slow."""

GRID: list[dict[str, float]] = [
    {"rtt_ms": rtt, "mbit": mbit} for rtt, mbit in itertools.product((5, 50, 200), (10, 100, 1000))
]
GRID += [
    {"rtt_ms": 50, "mbit": 100, **more}
    for more in ({"jitter_ms": 20}, {"loss": 0.001}, {"jitter_ms": 20, "loss": 0.001})
]


def measure(
    parties: halves.Parties, args: argparse.Namespace, line: dict[str, float]
) -> dict[str, Any]:
    """What the runs over one line took."""

    def relay(target: str, listen: str) -> Relay:
        return Relay(
            target,
            listen=listen,
            rtt=line["rtt_ms"] / 1e3,
            mbit=line["mbit"],
            jitter=line.get("jitter_ms", 0.0) / 1e3,
            loss=line.get("loss", 0.0),
        )

    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in args.cases}
    load = os.getloadavg()[0]
    for repeat, name in itertools.product(range(args.repeats), args.cases):
        settings, slow = CASES[name]
        if name == "sync" and repeat:
            continue
        asked = settings | {"max_rounds": args.rounds, "log_rounds": 1}
        ran = parties.split(asked, relay=relay if slow else None)
        # The Collaborator knows the staleness with which the last round ended.
        runs[name].append(ran["host"] | {"staleness": ran["collaborator"]["staleness"][-1]})
        took, staleness = sum(ran["host"]["seconds"]), ran["collaborator"]["staleness"]
        print(line, name, f"{took:.1f} s", staleness, file=sys.stderr, flush=True)
    result: dict[str, Any] = {**line, "rounds": args.rounds}
    for name, each in runs.items():
        result[f"{name}_s"] = statistics.median(sum(run["seconds"]) for run in each)
        result[f"{name}_test_s"] = statistics.median(sum(run["test_seconds"]) for run in each)
        result[f"{name}_accuracy"] = statistics.median(run["accuracy"][-1] for run in each)
        result[f"{name}_staleness"] = [run["staleness"] for run in each]
        result[f"{name}_mb"] = (sum(each[-1]["bytes_sent"]) + sum(each[-1]["bytes_received"])) / 1e6
    if "loopback" in runs:
        for name in runs:
            result[f"{name}_ratio"] = result[f"{name}_s"] / result["loopback_s"]
    result["load_before"], result["load_after"] = load, os.getloadavg()[0]
    return result


def show(result: dict[str, Any]) -> None:
    for name in CASES:
        if f"{name}_s" in result:
            print(
                f"{name:<10}{result[f'{name}_s']:8.1f} s"
                f"   accuracy {result[f'{name}_accuracy']:.4f}   {result[f'{name}_mb']:6.1f} MB"
                f"   staleness {result[f'{name}_staleness']}"
                f"   {result.get(f'{name}_ratio', 0):.2f} of loopback"
            )


def table(lines: list[dict[str, Any]]) -> str:
    """The grid in Markdown; the staleness is that at the end, the load that of each line's runs."""
    heads = ["link", "no link", "`auto`", "exact", "k", "exact / `auto`", "load"]
    rows = [heads, ["---"] * len(heads)]
    for each in lines:
        link = f"{each['rtt_ms']} ms, {each['mbit']:,} Mbit/s"
        link += f", jitter {each['jitter_ms']} ms" if each.get("jitter_ms") else ""
        link += f", {each['loss']:.1%} lost" if each.get("loss") else ""
        seconds = [f"{each[f'{name}_s']:.1f} s" for name in ("loopback", "auto", "sync")]
        faster = f"{each['sync_s'] / each['auto_s']:.1f}"
        loads = f"{each['load_before']:.0f} to {each['load_after']:.0f}"
        rows.append([link, *seconds, str(each["auto_staleness"][0]), faster, loads])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wan", description=__doc__)
    halves.add_options(parser)
    parser.add_argument("--rtt-ms", type=float, default=50.0)
    parser.add_argument("--mbit", type=float, default=100.0)
    parser.add_argument("--jitter-ms", type=float, default=0.0)
    parser.add_argument("--loss", type=float, default=0.0, help="part of packets, such as 0.001")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", nargs="+", choices=[*CASES], default=[*CASES])
    parser.add_argument("--grid", action="store_true", help="measure a grid of links")
    parser.add_argument("--from-json", type=Path, help="print the table of an earlier --grid")
    args = parser.parse_args()
    if args.serve:
        halves.serve(args.serve, args.data, args.limit)
        return
    if args.from_json:
        print(table(json.loads(args.from_json.read_text())["lines"]))
        return
    line = {name: getattr(args, name) for name in ("rtt_ms", "mbit", "jitter_ms", "loss")}
    roles = ("host", "collaborator", "away")
    with halves.parties("benchmarks.wan", args.data, args.limit, roles) as parties:
        found = [measure(parties, args, each) for each in (GRID if args.grid else [line])]
    if args.json:
        print(json.dumps({"lines": found} if args.grid else found[0], indent=1))
    elif args.grid:
        print(table(found))
    else:
        show(found[0])


if __name__ == "__main__":
    main()
