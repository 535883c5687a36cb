"""What each defence costs and what it hides: label and input leaks beside the task's score.

    python -m benchmarks.privacy --data DEFAULT_CREDIT_FOLDER --json
    python -m benchmarks.privacy --task seven --mnist FOLDER --plot trade-off.png

Two parties in one process, stepped as the split run steps them: the Collaborator's embedding is
sent, the Host's gradient at the cut layer is sent back, and defences change either on its way.
The attacks see what is sent. Two tasks: `credit` (default of credit card clients, 22 % positives:
`guest.csv` is the Host's and has the labels, `host.csv` the Collaborator's) and `seven` (is this
MNIST digit a 7? 10 % positives; the left half is the Host's).

One row per defence and strength. Leak AUCs of gradients are means over the batches of a round, read
either way round (never below 0.5), of the worst round: norm, direction (the attacker knows one
positive's clean gradient), spectrum. `averaged_leak_auc` is an attacker who recognises samples
and averages their scores over all rounds. Completion: labels of test rows from the trained bottom
model and 40 known ones; `completion_auc_untrained` the same without any training, which no
defence can go below. `ridge_r2` and `decoder_r2`: share of the inputs' variance that is rebuilt
from embeddings of test rows; `distance_correlation`: of both.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from heterofed.privacy.embedding_defences import ClippedGaussian, Decorrelation
from heterofed.privacy.gradient_defences import GradientDefence, IsotropicGaussian, MaxNorm
from heterofed.privacy.input_attacks import (
    decoder_reconstruction,
    distance_correlation,
    ridge_reconstruction,
)
from heterofed.privacy.label_attacks import cosine_leak, model_completion, norm_leak, spectral_leak
from heterofed.privacy.label_dp import RandomisedResponse
from heterofed.privacy.marvell import Marvell
from heterofed.privacy.scores import auc, folded

TASKS = ("credit", "seven")


@dataclass(frozen=True)
class Task:
    """Rows of both parties, aligned: inputs [rows, columns] float32, labels [rows] int64."""

    name: str
    host: Tensor
    collaborator: Tensor
    labels: Tensor
    train: int  # the first rows train, the others test
    width: int
    rate: float


@dataclass(frozen=True)
class Setting:
    """One defence at one strength."""

    defence: str
    strength: float | None = None
    gradients: Callable[[], GradientDefence] | None = None
    labels: float | None = None
    embeddings: ClippedGaussian | None = None
    decorrelation: Decorrelation | None = None


SETTINGS = [
    Setting("none"),
    Setting("max_norm", gradients=MaxNorm),
    *(
        Setting("isotropic", power, gradients=functools.partial(IsotropicGaussian, power))
        for power in (0.25, 1.0, 4.0, 16.0)
    ),
    *(
        Setting("marvell", power, gradients=functools.partial(Marvell, power))
        for power in (0.25, 1.0, 4.0, 8.0, 16.0)
    ),
    *(
        Setting("marvell_bound", bound, gradients=functools.partial(Marvell, bound=bound))
        for bound in (0.7, 0.65, 0.6, 0.55)
    ),
    *(Setting("label_dp", epsilon, labels=epsilon) for epsilon in (4.0, 2.0, 1.0, 0.5)),
    *(
        Setting("clip_noise", noise, embeddings=ClippedGaussian(4.0, noise))
        for noise in (0.1, 0.5, 2.0)
    ),
    *(
        Setting("decorrelation", weight, decorrelation=Decorrelation(weight))
        for weight in (0.1, 0.5, 2.0)
    ),
]


# -- data ----------------------------------------------------------------------------------------


def credit(folder: Path, rows: int | None) -> Task:
    """The two tables, joined by id; each file is shuffled by itself first, as if it came so."""
    tables = {}
    for name in ("guest", "host"):
        with (folder / f"{name}.csv").open(newline="") as file:
            lines = list(csv.DictReader(file))
        random.Random(name).shuffle(lines)
        tables[name] = {line.pop("id"): line for line in lines}
    ids = sorted(tables["guest"].keys() & tables["host"].keys())
    random.Random(0).shuffle(ids)
    ids = ids[:rows]

    def columns(name: str, keys: list[str]) -> Tensor:
        return torch.tensor([[float(tables[name][each][key]) for key in keys] for each in ids])

    def inputs(name: str) -> list[str]:
        return [key for key in next(iter(tables[name].values())) if key.startswith("x")]

    return Task(
        "credit",
        host=columns("guest", inputs("guest")),
        collaborator=columns("host", inputs("host")),
        labels=columns("guest", ["y"])[:, 0].long(),
        train=len(ids) * 4 // 5,
        width=16,
        rate=1e-3,
    )


def seven(folder: Path, rows: int | None) -> Task:
    """MNIST halves; the official test images, or as large a share of fewer rows."""
    from examples.mnist_split.data import load_halves

    limit = None if rows is None else (rows, rows // 6)
    left = load_halves(folder, "left", labels=True, limit=limit)
    right = load_halves(folder, "right", limit=limit)
    assert left.labels is not None
    return Task(
        "seven",
        host=left.images.flatten(1),
        collaborator=right.images.flatten(1),
        labels=(left.labels == 7).long(),
        train=len(left.ids) * 6 // 7,
        width=16,
        rate=1e-3,
    )


# -- training ------------------------------------------------------------------------------------


def bottom(columns: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(columns, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))


@dataclass
class Seen:
    """What the attacks saw in one round."""

    norm: list[float] = field(default_factory=list)
    cosine: list[float] = field(default_factory=list)
    spectral: list[float] = field(default_factory=list)

    def note(self, sent: Tensor, clean: Tensor, labels: Tensor) -> None:
        self.norm.append(norm_leak(sent, labels).item())
        self.cosine.append(cosine_leak(sent, labels, clean=clean).item())
        self.spectral.append(spectral_leak(sent, labels).item())


def worst(rounds: list[Seen], attack: str) -> float:
    means = [torch.tensor(getattr(each, attack)).nanmean().item() for each in rounds]
    return max(folded(each) for each in means)


class Split:
    """Both halves of the model, and the step of `train_a_batch` with defences on the wire."""

    def __init__(self, task: Task, setting: Setting) -> None:
        self.task, self.setting = task, setting
        self.theirs = bottom(task.collaborator.shape[1], task.width)
        self.mine = bottom(task.host.shape[1], task.width)
        self.top = nn.Sequential(
            nn.ReLU(), nn.Linear(2 * task.width, task.width), nn.ReLU(), nn.Linear(task.width, 1)
        )
        self.defence = setting.gradients() if setting.gradients else None
        self.at_host = torch.optim.Adam(
            [*self.mine.parameters(), *self.top.parameters()], task.rate
        )
        self.at_collaborator = torch.optim.Adam(self.theirs.parameters(), task.rate)
        self.averaged = torch.zeros(task.train)

    def step(self, rows: Tensor, targets: Tensor, seen: Seen) -> None:
        inputs, truth = self.task.collaborator[rows], self.task.labels[rows]
        embedding = self.theirs(inputs)
        sent = self.setting.embeddings(embedding) if self.setting.embeddings else embedding
        leaf = sent.detach().requires_grad_()
        self.at_host.zero_grad()
        logits = self.top(torch.cat([self.mine(self.task.host[rows]), leaf], 1))[:, 0]
        loss = F.binary_cross_entropy_with_logits(logits, targets[rows].float())
        loss.backward()  # type: ignore[no-untyped-call]
        self.at_host.step()
        assert leaf.grad is not None
        clean = leaf.grad
        answer = self.defence(clean, targets[rows]) if self.defence else clean
        seen.note(answer, clean, truth)
        direction = F.normalize(clean[truth == 1], dim=1).mean(0)
        self.averaged[rows] += F.normalize(answer, dim=1) @ direction
        if self.setting.decorrelation:
            answer = answer + self.setting.decorrelation.gradient(inputs, sent)
        self.at_collaborator.zero_grad()
        sent.backward(answer)
        self.at_collaborator.step()

    @torch.no_grad()
    def embeddings(self, rows: slice) -> Tensor:
        sent: Tensor = self.theirs(self.task.collaborator[rows])
        return self.setting.embeddings(sent) if self.setting.embeddings else sent

    @torch.no_grad()
    def score(self) -> float:
        rows = slice(self.task.train, None)
        joint = torch.cat([self.mine(self.task.host[rows]), self.embeddings(rows)], 1)
        return auc(self.top(joint)[:, 0], self.task.labels[rows] == 1)


def batches(rows: int, size: int) -> Iterator[Tensor]:
    order = torch.randperm(rows)
    yield from torch.split(order[: rows - rows % size], size)


def measured(task: Task, setting: Setting, rounds: int, batch: int, seed: int) -> dict[str, Any]:
    """Train once and attack; gives a row of the result."""
    torch.manual_seed(seed)
    began = time.perf_counter()
    split = Split(task, setting)
    untrained = [each.clone() for each in split.theirs.state_dict().values()]
    targets = task.labels
    if setting.labels:
        respond = RandomisedResponse(setting.labels, secret=seed.to_bytes(32, "big"))
        targets = respond(task.labels, [str(row) for row in range(len(task.labels))])
    history = []
    for _ in range(rounds):
        history.append(Seen())
        for rows in batches(task.train, batch):
            split.step(rows, targets, history[-1])
    trained = time.perf_counter() - began
    some = slice(task.train, task.train + 2000)
    inputs, embeddings, labels = task.collaborator[some], split.embeddings(some), task.labels[some]
    completion = model_completion(inputs, labels, bottom=split.theirs, seed=seed)
    fresh = bottom(inputs.shape[1], task.width)
    fresh.load_state_dict(dict(zip(fresh.state_dict(), untrained, strict=True)))
    baseline = model_completion(inputs, labels, bottom=fresh, seed=seed)
    correlation = distance_correlation(inputs[:1000], embeddings[:1000], unbiased=True)
    epsilon = setting.embeddings.epsilon(rounds) if setting.embeddings else setting.labels
    return {
        "task_auc": split.score(),
        "norm_leak_auc": worst(history, "norm"),
        "cosine_leak_auc": worst(history, "cosine"),
        "spectral_leak_auc": worst(history, "spectral"),
        "averaged_leak_auc": folded(auc(split.averaged, task.labels[: task.train] == 1)),
        "completion_auc": completion.auc,
        "completion_accuracy": completion.accuracy,
        "completion_auc_untrained": baseline.auc,
        "ridge_r2": ridge_reconstruction(inputs, embeddings).r2,
        "decoder_r2": decoder_reconstruction(inputs, embeddings).r2,
        "distance_correlation": correlation.item(),
        "epsilon": epsilon,
        "seconds": trained,
    }


def sweep(
    task: Task, settings: list[Setting], args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Rows of one task: means over seeds."""
    for setting in settings:
        runs = [
            measured(task, setting, args.rounds, args.batch, seed) for seed in range(args.seeds)
        ]
        means = {
            key: None if value is None else round(sum(each[key] for each in runs) / len(runs), 4)
            for key, value in runs[0].items()
        }
        yield {"task": task.name, "defence": setting.defence, "strength": setting.strength} | means


# -- showing -------------------------------------------------------------------------------------

SHOWN = ("task_auc", "norm_leak_auc", "cosine_leak_auc", "spectral_leak_auc", "averaged_leak_auc",
         "completion_auc", "ridge_r2", "decoder_r2")  # fmt: skip


def show(row: dict[str, Any], file: Any = sys.stdout) -> None:
    strength = "" if row["strength"] is None else f"{row['strength']:g}"
    numbers = "  ".join(f"{row[key]:.3f}" for key in SHOWN)
    print(f"{row['task']:<7}{row['defence']:<15}{strength:<6}{numbers}", file=file, flush=True)


def head(file: Any = sys.stdout) -> None:
    names = "  ".join(key.replace("_auc", "").replace("_leak", "")[:5].ljust(5) for key in SHOWN)
    print(f"{'task':<7}{'defence':<15}{'by':<6}{names}", file=file)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """What is hidden against what it costs: one panel per task."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure, panels = plt.subplots(1, len(tasks), figsize=(6 * len(tasks), 4.5), squeeze=False)
    for task, panel in zip(tasks, panels[0], strict=True):
        mine = [row for row in rows if row["task"] == task]
        base = next((row["task_auc"] for row in mine if row["defence"] == "none"), None)
        for defence in dict.fromkeys(row["defence"] for row in mine):
            points = [row for row in mine if row["defence"] == defence]
            leaks = [max(each["norm_leak_auc"], each["cosine_leak_auc"]) for each in points]
            panel.plot(leaks, [each["task_auc"] for each in points], "o-", label=defence)
        if base is not None:
            panel.axhline(base - 0.015, color="grey", linewidth=0.8, linestyle=":")
        panel.axvline(0.6, color="grey", linewidth=0.8, linestyle=":")
        panel.set(title=task, xlabel="worse of norm and direction leak AUC", ylabel="test AUC")
    panels[0][-1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of guest.csv and host.csv")
    parser.add_argument("--mnist", type=Path, default=Path("data"), help="folder of MNIST/raw")
    parser.add_argument("--task", choices=TASKS, action="append", help="both, where data are given")
    parser.add_argument("--defence", action="append", help="only these, by name")
    parser.add_argument("--rows", type=int, help="only so many rows (seven: training images)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1, help="of torch; small nets gain nothing")
    parser.add_argument("--seeds", type=int, default=1, help="runs to average")
    parser.add_argument("--plot", type=Path, help="write the trade-off as a PNG")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    tasks = args.task or [each for each in TASKS if each == "seven" or args.data]
    if "credit" in tasks and args.data is None:
        parser.error("--data: the folder of guest.csv and host.csv")
    settings = [each for each in SETTINGS if not args.defence or each.defence in args.defence]
    if not settings:
        names = ", ".join(dict.fromkeys(each.defence for each in SETTINGS))
        parser.error(f"--defence: one of {names}")
    torch.set_num_threads(args.threads)
    progress = sys.stderr if args.json else sys.stdout
    head(progress)
    rows = []
    for name in tasks:
        task = credit(args.data, args.rows) if name == "credit" else seven(args.mnist, args.rows)
        for row in sweep(task, settings, args):
            rows.append(row)
            show(row, progress)
    if args.json:
        print(json.dumps(rows, indent=1))
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
