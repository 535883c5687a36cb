"""How fast split training is, against the joined model on the same machine.

    python -m benchmarks.training --json

Seconds per round of the MNIST halves over loopback: the joined model with all threads and with one,
the split run exact and with staleness 1, 2, 4 and 8. All of them are measured in turn, `--repeats`
times over, so that a machine that gets slower does so for all; figures are medians. Each run trains
`--rounds` rounds, of which the first is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from typing import Any

from benchmarks import halves

STALENESS = (0, 1, 2, 4, 8)


def import_ms(repeats: int) -> dict[str, float]:
    """What importing heterofed's schedulers adds to importing torch, in turn, medians."""
    code = {
        "torch_import_ms": "import torch",
        "with_heterofed_ms": "import torch; import heterofed; heterofed.HeteroNNHostScheduler",
    }
    timed = "import time; t = time.perf_counter(); {}; print((time.perf_counter() - t) * 1e3)"
    taken: dict[str, list[float]] = {name: [] for name in code}
    for _ in range(repeats):
        for name, statement in code.items():
            command = [sys.executable, "-c", timed.format(statement)]
            done = subprocess.run(
                command, check=True, capture_output=True, text=True, cwd=halves.ROOT
            )
            taken[name].append(float(done.stdout))
    medians = {name: statistics.median(each) for name, each in taken.items()}
    return {**medians, "import_adds_ms": medians["with_heterofed_ms"] - medians["torch_import_ms"]}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    rounds = args.rounds
    seconds: dict[str, list[float]] = {}
    own: dict[str, list[dict[str, Any]]] = {}
    roles = ("joined", "host", "collaborator")
    with halves.parties("benchmarks.training", args.data, args.limit, roles) as parties:
        for repeat in range(args.repeats):
            for name, threads in (("joined", 0), ("joined_1thread", 1)):
                found = parties.joined(rounds=rounds, threads=threads)
                seconds.setdefault(name, []).extend(found["seconds"][1:])
            for steps in args.staleness:
                name = f"stale{steps}" if steps else "exact"
                settings = {"max_rounds": rounds, "max_staleness": steps}
                run = parties.split(settings)
                seconds.setdefault(name, []).extend(run["host"]["seconds"][1:])
                own.setdefault(name, []).append(run)
            if not args.json:
                print(f"{repeat + 1} of {args.repeats}", {k: v[-1] for k, v in seconds.items()})
    typical = {name: statistics.median(each) for name, each in seconds.items()}
    exact = own["exact"][-1]
    result: dict[str, Any] = {f"{name}_s": each for name, each in typical.items()}
    result |= {
        f"{name}_ratio": each / typical["joined"]
        for name, each in typical.items()
        if not name.startswith("joined")
    }
    result["parties"] = {
        name: {
            role: {
                key: statistics.median(each for run in runs for each in run[role][key][1:])
                for key in ("compute_s", "encode_s", "wait_s")
            }
            for role in ("host", "collaborator")
        }
        for name, runs in own.items()
    }
    train = args.limit[0] if args.limit else 60_000
    batches = -(-train // 128)
    payload = train * 10 * 4  # float32, cut layer of 10
    sent, received = exact["host"]["bytes_sent"][-1], exact["host"]["bytes_received"][-1]
    result["bytes_per_batch"] = {"features": received / batches, "gradients": sent / batches}
    # The larger of the two directions: Gradients and BatchDone are two messages a batch.
    result["overhead_bytes_per_message"] = max(
        (received - payload) / batches, (sent - payload) / (2 * batches)
    )
    result["all_seconds"] = seconds
    result |= import_ms(args.repeats)
    result["load_before"] = os.getloadavg()[0]
    return result


def show(result: dict[str, Any]) -> None:
    for key, value in result.items():
        if isinstance(value, float):
            print(f"{key:<28}{value:10.3f}")
    for name, roles in result["parties"].items():
        for role, costs in roles.items():
            print(f"{name} {role}:", ", ".join(f"{key} {each:.2f}" for key, each in costs.items()))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    halves.add_options(parser)
    parser.add_argument("--rounds", type=int, default=2, help="of each run; the first warms up")
    parser.add_argument("--staleness", type=int, nargs="+", default=list(STALENESS))
    args = parser.parse_args()
    if args.serve:
        halves.serve(args.serve, args.data, args.limit)
        return
    if 0 not in args.staleness:
        args.staleness.insert(0, 0)
    result = measure(args)
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        show(result)


if __name__ == "__main__":
    main()
