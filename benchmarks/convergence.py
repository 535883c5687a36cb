"""What staleness costs in accuracy: the MNIST halves over k = 0, 1, 2, 4, 8, 16.

    python -m benchmarks.convergence --json
    python -m benchmarks.convergence --plot docs/explanation/staleness.svg   # needs matplotlib
    python -m benchmarks.convergence --table ../shared/data/default_credit --rounds 10 --json

Test accuracy after each of `--rounds` rounds, for `--seeds` seeds each. With `--table` the tabular
schedulers train on two tables, `guest.csv` with the label `y` and `host.csv`, in batches of 256;
accuracy and AUC are those of the best round. Runs are deterministic, so the load of the machine
does not matter.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import halves

STALENESS = (0, 1, 2, 4, 8, 16)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    accuracy: dict[int, list[list[float]]] = {steps: [] for steps in args.staleness}
    roles = ("host", "collaborator")
    with halves.parties("benchmarks.convergence", args.data, args.limit, roles) as parties:
        for seed in range(1, args.seeds + 1):
            for steps in args.staleness:
                settings = {"max_staleness": steps, "max_rounds": args.rounds, "log_rounds": 1}
                run = parties.split(settings, seed=seed)["host"]
                accuracy[steps].append(run["accuracy"])
                if not args.json:
                    print(f"seed {seed}, staleness {steps}:", run["accuracy"], flush=True)
    mean = {
        str(steps): [statistics.mean(each) for each in zip(*runs, strict=True)]
        for steps, runs in accuracy.items()
    }
    return {"rounds": args.rounds, "seeds": args.seeds, "accuracy": accuracy, "mean": mean}


def measure_table(args: argparse.Namespace) -> dict[str, Any]:
    """Accuracy and AUC on the test rows of two tables, for each staleness and seed."""
    from heterofed import simulate
    from heterofed.tabular import TabularCollaborator, TabularHost

    logging.getLogger("heterofed").setLevel(logging.ERROR)
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="hfb") as folder:
        os.environ["HETEROFED_HOME"] = folder
        for seed in range(1, args.seeds + 1):
            for steps in args.staleness:
                common: dict[str, Any] = {"ids": "id", "seed": seed, "results_dir": folder}
                host = TabularHost(
                    "bank",
                    args.table / "guest.csv",
                    label="y",
                    max_rounds=args.rounds,
                    patience=args.rounds,
                    batch_size=256,
                    max_staleness=steps,
                    psi_protocol="ecdh",
                    leak_report="off",
                    **common,
                )
                shop = TabularCollaborator("shop", args.table / "host.csv", **common)
                simulate(host, [shop], task_id=f"seed-{seed}-{steps}")
                of = found.setdefault(str(steps), {"accuracy": [], "auc": []})
                for name, values in of.items():
                    values.append(host.evaluation[name] if host.evaluation else float("nan"))
    mean = {
        steps: {name: statistics.mean(values) for name, values in each.items()}
        for steps, each in found.items()
    }
    return {"rounds": args.rounds, "seeds": args.seeds, "found": found, "mean": mean}


def plot(result: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "staleness"  # the same picture is the same file
    from matplotlib import pyplot

    colors = mpl.colormaps["viridis"]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 3.4))
    rounds = range(1, result["rounds"] + 1)
    exact = result["mean"].get("0", next(iter(result["mean"].values())))
    for number, (steps, means) in enumerate(result["mean"].items()):
        color = colors(0.9 * number / max(1, len(result["mean"]) - 1))
        look: dict[str, Any] = {"marker": "o", "markersize": 3, "color": color}
        left.plot(rounds, means, label=f"k = {steps}", **look)
        points = [100 * (mean - base) for mean, base in zip(means, exact, strict=True)]
        right.plot(rounds, points, **look)
    left.set_ylabel("test accuracy")
    right.set_ylabel("points of accuracy beside exact")
    for axes in (left, right):
        axes.set_xlabel("round")
        axes.set_xticks(rounds)
        axes.grid(alpha=0.3)
    left.legend(title="max_staleness")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convergence", description=__doc__)
    halves.add_options(parser)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--staleness", type=int, nargs="+", default=list(STALENESS))
    parser.add_argument("--table", type=Path, help="a folder with guest.csv and host.csv")
    parser.add_argument("--plot", type=Path, help="where to draw the means")
    parser.add_argument("--from-json", type=Path, help="draw what an earlier run printed")
    args = parser.parse_args()
    if args.serve:
        halves.serve(args.serve, args.data, args.limit)
        return
    if args.table:
        print(json.dumps(measure_table(args), indent=1))
        return
    result = json.loads(args.from_json.read_text()) if args.from_json else measure(args)
    if args.plot:
        plot(result, args.plot)
    if args.json:
        print(json.dumps(result, indent=1))
    elif not args.plot:
        for steps, means in result["mean"].items():
            print(f"k = {steps:<3}", " ".join(f"{each:.4f}" for each in means))


if __name__ == "__main__":
    main()
