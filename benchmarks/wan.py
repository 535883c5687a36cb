"""Split training over a slow link: exact, ahead, and with rounded tensors; accuracy beside time.

    python -m benchmarks.wan --rtt-ms 50 --mbit 100 --json

The MNIST halves train `--rounds` rounds with a test after each, once directly and then through a
relay (`benchmarks.relay`) that delays and rate-limits. `loopback_s` is the direct run with
`max_staleness="auto"`, `sync_s` the exact run over the link, `auto_s` the one with "auto" over it;
`auto_ratio` is auto_s / loopback_s. Seconds are those of training, medians over `--repeats` turns;
sync runs take minutes, so they are measured once. Accuracies are of the last test.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from typing import Any

from benchmarks import halves
from benchmarks.relay import Relay

AUTO: dict[str, Any] = {"max_staleness": "auto"}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    def relay(target: str, listen: str) -> Relay:
        return Relay(target, listen=listen, rtt=args.rtt_ms / 1e3, mbit=args.mbit)

    cases: dict[str, tuple[dict[str, Any], bool]] = {
        "loopback": (AUTO, False),
        "auto": (AUTO, True),
        "auto_int8": (AUTO | {"compress_features": "int8", "compress_gradients": "int8"}, True),
        "auto_fp16": (AUTO | {"compress_features": "fp16", "compress_gradients": "fp16"}, True),
        "sync": ({"max_staleness": 0}, True),
    }
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in cases}
    roles = ("host", "collaborator", "away")
    with halves.parties("benchmarks.wan", args.data, args.limit, roles) as parties:
        for repeat in range(args.repeats):
            for name, (settings, slow) in cases.items():
                if name == "sync" and repeat:
                    continue
                asked = settings | {"max_rounds": args.rounds, "log_rounds": 1}
                found = parties.split(asked, relay=relay if slow else None)["host"]
                runs[name].append(found)
                if not args.json:
                    print(name, f"{sum(found['seconds']):.1f} s", found["accuracy"][-1:])
    result: dict[str, Any] = {"rtt_ms": args.rtt_ms, "mbit": args.mbit, "rounds": args.rounds}
    for name, each in runs.items():
        result[f"{name}_s"] = statistics.median(sum(run["seconds"]) for run in each)
        result[f"{name}_test_s"] = statistics.median(sum(run["test_seconds"]) for run in each)
        result[f"{name}_accuracy"] = statistics.median(run["accuracy"][-1] for run in each)
        result[f"{name}_staleness"] = [run["staleness"] for run in each]
        result[f"{name}_mb"] = (sum(each[-1]["bytes_sent"]) + sum(each[-1]["bytes_received"])) / 1e6
    result["auto_ratio"] = result["auto_s"] / result["loopback_s"]
    result["sync_ratio"] = result["sync_s"] / result["loopback_s"]
    result["load_before"] = os.getloadavg()[0]
    return result


def show(result: dict[str, Any]) -> None:
    for name in ("loopback", "sync", "auto", "auto_fp16", "auto_int8"):
        print(
            f"{name:<10}{result[f'{name}_s']:8.1f} s   accuracy {result[f'{name}_accuracy']:.4f}"
            f"   {result[f'{name}_mb']:6.1f} MB   staleness {result[f'{name}_staleness']}"
        )
    print(f"auto / loopback {result['auto_ratio']:.2f}, sync / loopback {result['sync_ratio']:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wan", description=__doc__)
    halves.add_options(parser)
    parser.add_argument("--rtt-ms", type=float, default=50.0)
    parser.add_argument("--mbit", type=float, default=100.0)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if args.serve:
        halves.serve(args.serve, args.data, args.limit)
        return
    result = measure(args)
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        show(result)


if __name__ == "__main__":
    main()
