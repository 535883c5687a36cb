"""How fast split training on a GPU is, against the joined model on the same GPU.

    python -m benchmarks.gpu --json

Seconds per round of two tasks of made images whose left half one party has and whose right half the
other: `small`, the nets of the MNIST example at batch 128, where a step is little but launches of
kernels; and `large`, residual convolutions of 7 million weights at batch 512, where it is
arithmetic. Both parties and the joined model are processes of their own and share the GPU; images
lie on it. All ways are measured in turn, `--repeats` times over; figures are medians, and ratios
are medians of the ratios within a turn. The first round of each run is not counted.

With `--device cpu` it runs anywhere, to see whether it works.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import halves

WAYS: dict[str, dict[str, Any]] = {
    "exact": {"early_gradients": True},
    "exact_late": {},
    "stale4": {"max_staleness": 4},
}
ROWS = {"small": 60_000, "large": 16_384}
BATCH = {"small": 128, "large": 512}


def make_nets(name: str, seed: int) -> tuple[Any, Any]:
    """A half and the model on top, on the CPU."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    if name == "small":
        from examples.mnist_split.nets import HalfNet, TopNet

        return HalfNet(), TopNet()

    class Residual(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                nn.GroupNorm(8, width),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1),
                nn.GroupNorm(8, width),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.layers(x)  # type: ignore[no-any-return]

    def down(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, stride=2, padding=1), Residual(after), Residual(after)]

    half = nn.Sequential(
        *down(3, 64), *down(64, 128), *down(128, 256),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 256),
    )  # fmt: skip
    top = nn.Sequential(nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10))
    return half, nn.Sequential(top, nn.LogSoftmax(dim=1))


class Images:
    """Made images on a device: the half of each that one party has, and the labels."""

    def __init__(self, name: str, side: int, device: str, rows: int) -> None:
        import torch

        generator = torch.Generator("cpu").manual_seed(7)
        shape = (1, 28, 14) if name == "small" else (3, 64, 32)
        labels = torch.randint(10, (rows,), generator=generator)
        means = torch.randn(10, *shape, generator=generator)
        noise = torch.Generator("cpu").manual_seed(side)
        images = means[labels] + torch.randn(rows, *shape, generator=noise)
        self.images, self.labels = images.to(device), labels.to(device)
        self.ids = [f"{number:06}" for number in range(rows)]

    def rows(self, ids: list[str]) -> tuple[Any, Any]:
        import torch

        places = torch.tensor([int(each) for each in ids]).to(self.images.device)
        return self.images[places], self.labels[places]


def optimizer_of(model: Any) -> Any:
    from torch import optim

    return optim.SGD(model.parameters(), lr=0.01, momentum=0.5)


def wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def train_jointly(name: str, sides: list[Images], device: str, rounds: int) -> dict[str, Any]:
    """The joined model in one process, by plain PyTorch: the yardstick."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    left, top = (each.to(device) for each in make_nets(name, 1))
    right = make_nets(name, 2)[0].to(device)
    optimizers = [optimizer_of(each) for each in (left, right, top)]
    seconds, ids = [], sides[0].ids
    for _ in range(rounds):
        wait(device)
        began, losses = time.perf_counter(), []
        for start in range(0, len(ids), BATCH[name]):
            (ours, labels), (theirs, _) = (
                each.rows(ids[start : start + BATCH[name]]) for each in sides
            )
            for each in optimizers:
                each.zero_grad()
            loss = F.nll_loss(top(torch.cat([left(ours), right(theirs)], dim=1)), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            for each in optimizers:
                each.step()
            losses.append(loss.detach())
        torch.stack(losses).tolist()
        seconds.append(time.perf_counter() - began)
    return {"seconds": seconds}


def party_of(role: str, name: str, images: Images, device: str, **settings: Any) -> Any:
    """The scheduler of one party."""
    import torch
    import torch.nn.functional as F  # noqa: N812

    from heterofed import HeteroNNCollaboratorScheduler, HeteroNNHostScheduler

    class Hooks:
        def load_local_ids(self) -> list[str]:
            return halves.NAMES

        def split_dataset(self, names: set[str]) -> tuple[set[str], set[str]]:
            return set(images.ids), set(images.ids[:256])

        def make_feature_model(self) -> Any:
            return make_nets(name, 1 if role == "host" else 2)[0].to(device)

        def make_feature_optimizer(self, feature_model: Any) -> Any:
            return optimizer_of(feature_model)

        def cuts(self, ids: list[str]) -> Iterator[tuple[Any, Any]]:
            for start in range(0, len(ids), BATCH[name]):
                yield images.rows(ids[start : start + BATCH[name]])

    class Host(Hooks, HeteroNNHostScheduler):
        def make_infer_model(self) -> Any:
            return make_nets(name, 1)[1].to(device)

        def make_infer_optimizer(self, infer_model: Any) -> Any:
            return optimizer_of(infer_model)

        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            return ((feature_model(rows), labels) for rows, labels in self.cuts(train_ids))

        def iterate_test_feature(self, feature_model: Any, test_ids: list[str]) -> Iterator[Any]:
            return self.iterate_train_feature(feature_model, test_ids)

        def train_a_batch(self, feature_projection: Any, labels: Any) -> Any:
            self.optimizer.zero_grad()
            fused = torch.cat(list(feature_projection.values()), dim=1)
            loss = F.nll_loss(self.infer_model(fused), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            return loss

        def test(self, batched_feature_projections: Any, batched_labels: Any) -> None:
            pass

    class Collaborator(Hooks, HeteroNNCollaboratorScheduler):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            return (feature_model(rows) for rows, _ in self.cuts(train_ids))

        def iterate_test_feature(self, feature_model: Any, test_ids: list[str]) -> Iterator[Any]:
            return self.iterate_train_feature(feature_model, test_ids)

    return (Host if role == "host" else Collaborator)(f"gpu_{role}", **settings)


def train_split(
    role: str, name: str, images: Images, device: str, order: dict[str, Any], results: Path
) -> dict[str, Any]:
    """One party's part in one run."""
    from heterofed.events import PhaseEnded

    ended: list[PhaseEnded] = []
    settings = {"results_dir": results, "seed": 1, "join_timeout": 60}
    settings["callbacks"] = [lambda e: ended.append(e) if isinstance(e, PhaseEnded) else None]
    if role == "host":
        settings |= order["settings"]
    party_of(role, name, images, device, **settings).launch_task(order["task"])
    training = [each for each in ended if each.phase == "train"]
    return {
        "seconds": [each.seconds for each in training],
        "compute_s": [each.compute for each in training],
        "encode_s": [each.encode for each in training],
        "wait_s": [sum(each.waits.values()) for each in training],
    }


def serve(role: str, name: str, device: str, rows: int) -> None:
    """A party's process: does what the lines on stdin say, one answer each on stdout."""
    logging.getLogger("heterofed").setLevel(logging.ERROR)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is no answer
    wanted = {"host": [1], "collaborator": [2], "joined": [1, 2]}[role]
    sides = [Images(name, side, device, rows) for side in wanted]
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            order = json.loads(line)
            if role == "joined":
                answer = train_jointly(name, sides, device, order["rounds"])
            else:
                answer = train_split(role, name, sides[0], device, order, Path(folder))
            print(json.dumps(answer), file=answers, flush=True)


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """All ways of one task, in turn."""
    rows, rounds = args.rows or ROWS[name], args.rounds
    seconds: dict[str, list[float]] = {}
    last: dict[str, dict[str, Any]] = {}
    options = ["--device", args.device, "--net", name, "--rows", str(rows)]
    roles = ("joined", "host", "collaborator")
    with halves.parties("benchmarks.gpu", halves.ROOT, None, roles, options) as parties:
        for _ in range(args.repeats):
            found = parties.joined(rounds=rounds)["seconds"][1:]
            seconds.setdefault("joined", []).append(statistics.median(found))
            for way, settings in WAYS.items():
                last[way] = parties.split({"max_rounds": rounds, **settings})
                found = last[way]["host"]["seconds"][1:]
                seconds.setdefault(way, []).append(statistics.median(found))
    result: dict[str, Any] = {f"{way}_s": statistics.median(each) for way, each in seconds.items()}
    for way in WAYS:
        pairs = zip(seconds[way], seconds["joined"], strict=True)
        result[f"{way}_ratio"] = statistics.median(ours / theirs for ours, theirs in pairs)
    result["batches"] = -(-rows // BATCH[name])
    result["parties"] = {
        way: {
            role: {key: each[key][-1] for key in ("compute_s", "encode_s", "wait_s")}
            for role, each in run.items()
        }
        for way, run in last.items()
    }
    result["all_seconds"] = seconds
    return result


def card(device: str) -> str:
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else "CPU"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3, help="of each run; the first warms up")
    parser.add_argument("--rows", type=int, default=0, help="instead of those of each task")
    parser.add_argument("--net", choices=tuple(ROWS), action="append")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--data", help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.net[0], args.device, args.rows)
        return
    result: dict[str, Any] = {"load_before": os.getloadavg()[0], "card": card(args.device)}
    result |= {name: measure(name, args) for name in args.net or ROWS}
    if args.json:
        print(json.dumps(result, indent=1))
        return
    for name in args.net or ROWS:
        for key, value in result[name].items():
            if isinstance(value, float):
                print(f"{name + ' ' + key:<28}{value:10.3f}")


if __name__ == "__main__":
    main()
