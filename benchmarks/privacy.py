"""What each defence costs and what it hides: label and input leaks beside the task's score.

    python -m benchmarks.privacy --data DEFAULT_CREDIT_FOLDER --json
    python -m benchmarks.privacy --task seven --task ten --mnist FOLDER --plot trade-off.png

Two parties in one process, stepped as the split run steps them: the Collaborator's embedding is
sent, the Host's gradient at the cut layer is sent back, and defences change either on its way.
The attacks see what is sent. `benchmarks.privacy_tasks` tells of the tasks.

One row per defence, strength and number of rounds; each run is measured on its way, after each of
`--rounds`. Leak AUCs of gradients are of the worst class against the rest, and never below 0.5:
means over the batches of the worst round for norm, direction (`cosine`: the attacker knows one
positive's clean gradient) and spectrum. `benchmarks.privacy_attacks` tells of the attackers over
all rounds. Completion: labels of test rows from the trained bottom model and 40 known ones;
`completion_auc_untrained` the same without any training, which no defence can go below. `ridge_r2`
and `decoder_r2`: share of the inputs' variance that is rebuilt from embeddings of test rows;
`distance_correlation`: of both.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmarks.privacy_attacks import History
from benchmarks.privacy_tasks import TASKS, Task, bottom, credit, digits
from heterofed.privacy.embedding_defences import ClippedGaussian, Decorrelation
from heterofed.privacy.gradient_defences import (
    EmbeddingAwareDefence,
    GradientDefence,
    IsotropicGaussian,
    MaxNorm,
    defended,
)
from heterofed.privacy.input_attacks import (
    decoder_reconstruction,
    distance_correlation,
    ridge_reconstruction,
)
from heterofed.privacy.label_attacks import model_completion, one_hot
from heterofed.privacy.label_dp import RandomisedResponse
from heterofed.privacy.marvell import Marvell
from heterofed.privacy.scores import aucs
from heterofed.privacy.synthetic_gradients import SyntheticGradients


@dataclass(frozen=True)
class Setting:
    """One defence at one strength."""

    defence: str
    strength: float | None = None
    gradients: Callable[[], GradientDefence | EmbeddingAwareDefence] | None = None
    binary: bool = False  # for labels of two classes only
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
        Setting("marvell", power, gradients=functools.partial(Marvell, power), binary=True)
        for power in (0.25, 1.0, 4.0, 8.0, 16.0)
    ),
    *(
        Setting(
            "marvell_bound", bound, gradients=functools.partial(Marvell, bound=bound), binary=True
        )
        for bound in (0.7, 0.65, 0.6, 0.55)
    ),
    *(
        Setting("synthetic", bound, gradients=functools.partial(SyntheticGradients, bound))
        for bound in (0.65, 0.6, 0.57, 0.54)
    ),
    Setting("synthetic_wide", 0.58, functools.partial(SyntheticGradients, 0.58, features=256)),
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


# -- training ------------------------------------------------------------------------------------


class Split:
    """Both halves of the model, and the step of `train_a_batch` with defences on the wire."""

    def __init__(self, task: Task, setting: Setting) -> None:
        self.task, self.setting = task, setting
        self.theirs = bottom(task.collaborator.shape[1], task.width)
        self.mine = bottom(task.host.shape[1], task.width)
        outputs = 1 if task.classes == 2 else task.classes
        self.top = nn.Sequential(
            nn.ReLU(),
            nn.Linear(2 * task.width, task.width),
            nn.ReLU(),
            nn.Linear(task.width, outputs),
        )
        self.defence = setting.gradients() if setting.gradients else None
        self.at_host = torch.optim.Adam(
            [*self.mine.parameters(), *self.top.parameters()], task.rate
        )
        self.at_collaborator = torch.optim.Adam(self.theirs.parameters(), task.rate)
        self.history = History(task.labels[: task.train], task.width)

    def step(self, rows: Tensor, targets: Tensor) -> None:
        inputs, truth = self.task.collaborator[rows], self.task.labels[rows]
        embedding = self.theirs(inputs)
        sent = self.setting.embeddings(embedding) if self.setting.embeddings else embedding
        leaf = sent.detach().requires_grad_()
        self.at_host.zero_grad()
        self.loss(self.top(torch.cat([self.mine(self.task.host[rows]), leaf], 1)), targets[rows])
        self.at_host.step()
        assert leaf.grad is not None
        clean = answer = leaf.grad
        if self.defence:
            answer = defended(self.defence, clean, targets[rows], leaf.detach())
        self.history.note(rows, answer, clean, truth)
        if self.setting.decorrelation:
            answer = answer + self.setting.decorrelation.gradient(inputs, sent)
        self.at_collaborator.zero_grad()
        sent.backward(answer)
        self.at_collaborator.step()

    def loss(self, logits: Tensor, targets: Tensor) -> None:
        if logits.shape[1] == 1:
            loss = F.binary_cross_entropy_with_logits(logits[:, 0], targets.float())
        else:
            loss = F.cross_entropy(logits, targets)
        loss.backward()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def embeddings(self, rows: slice) -> Tensor:
        sent: Tensor = self.theirs(self.task.collaborator[rows])
        return self.setting.embeddings(sent) if self.setting.embeddings else sent

    @torch.no_grad()
    def scores(self) -> dict[str, float]:
        """Of the task's test rows: the mean AUC over classes, and the accuracy."""
        rows = slice(self.task.train, None)
        labels = self.task.labels[rows]
        joint = torch.cat([self.mine(self.task.host[rows]), self.embeddings(rows)], 1)
        logits = self.top(joint)
        guesses = logits.argmax(1) if logits.shape[1] > 1 else (logits[:, 0] > 0).long()
        return {
            "task_auc": aucs(logits, one_hot(labels)).mean().item(),
            "task_accuracy": (guesses == labels).double().mean().item(),
        }


def batches(rows: int, size: int) -> Iterator[Tensor]:
    order = torch.randperm(rows)
    yield from torch.split(order[: rows - rows % size], size)


def measured(
    task: Task, setting: Setting, rounds: list[int], batch: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Train once, and attack after each of these numbers of rounds; gives rows of the result."""
    torch.manual_seed(seed)
    split = Split(task, setting)
    untrained = [each.clone() for each in split.theirs.state_dict().values()]
    targets, seconds = task.labels, 0.0
    if setting.labels:
        secret = seed.to_bytes(32, "big")
        respond = RandomisedResponse(setting.labels, task.classes, secret=secret)
        targets = respond(task.labels, [str(row) for row in range(len(task.labels))])
    for done in range(1, max(rounds) + 1):
        began = time.perf_counter()
        split.history.begin_round()
        for rows in batches(task.train, batch):
            split.step(rows, targets)
        seconds += time.perf_counter() - began
        if done in rounds:
            with torch.random.fork_rng(devices=[]):  # later rounds are as without the attacks
                epsilon = setting.embeddings.epsilon(done) if setting.embeddings else setting.labels
                found = {"rounds": done, **attacked(split, untrained, seed)}
                yield found | {"epsilon": epsilon, "seconds": seconds}


def attacked(split: Split, untrained: list[Tensor], seed: int) -> dict[str, float]:
    """The task's scores, and what the attacks reach by now."""
    task, history = split.task, split.history
    some = slice(task.train, task.train + 2000)
    inputs, embeddings, labels = task.collaborator[some], split.embeddings(some), task.labels[some]
    completion = model_completion(inputs, labels, bottom=split.theirs, seed=seed)
    fresh = bottom(inputs.shape[1], task.width)
    fresh.load_state_dict(dict(zip(fresh.state_dict(), untrained, strict=True)))
    baseline = model_completion(inputs, labels, bottom=fresh, seed=seed)
    correlation = distance_correlation(inputs[:1000], embeddings[:1000], unbiased=True)
    return {
        **split.scores(),
        **{f"{each}_leak_auc": history.worst(each) for each in ("norm", "cosine", "spectral")},
        **history.over_rounds(task.collaborator[: task.train]),
        "completion_auc": completion.auc,
        "completion_accuracy": completion.accuracy,
        "completion_auc_untrained": baseline.auc,
        "ridge_r2": ridge_reconstruction(inputs, embeddings).r2,
        "decoder_r2": decoder_reconstruction(inputs, embeddings).r2,
        "distance_correlation": correlation.item(),
    }


def sweep(
    task: Task, settings: list[Setting], args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Rows of one task: means over seeds."""
    for setting in settings:
        if setting.binary and task.classes > 2:
            continue
        runs = [
            list(measured(task, setting, args.rounds, args.batch, seed))
            for seed in range(args.seeds)
        ]
        for same in zip(*runs, strict=True):
            means = {
                key: None
                if value is None
                else round(sum(each[key] for each in same) / len(same), 4)
                for key, value in same[0].items()
            }
            means["rounds"] = same[0]["rounds"]
            what = {"task": task.name, "defence": setting.defence, "strength": setting.strength}
            yield what | means


# -- showing -------------------------------------------------------------------------------------

SHOWN = ("task_auc", "task_accuracy", "norm_leak_auc", "cosine_leak_auc", "spectral_leak_auc",
         "averaged_leak_auc", "known_leak_auc", "columns_leak_auc",
         "columns_and_gradients_leak_auc", "smoothed_leak_auc", "completion_auc",
         "ridge_r2", "decoder_r2")  # fmt: skip
NAMES = ("auc", "accur", "norm", "direc", "spect", "avera", "known", "own", "+own", "smoothed",
         "compl", "ridge", "decod")  # fmt: skip


def show(row: dict[str, Any], file: Any = sys.stdout) -> None:
    strength = "" if row["strength"] is None else f"{row['strength']:g}"
    numbers = "  ".join(f"{row[key]:.3f}" for key in SHOWN)
    name = f"{row['task']:<7}{row['defence']:<15}{strength:<6}{row['rounds']:<4}"
    print(f"{name}{numbers}", file=file, flush=True)


def head(file: Any = sys.stdout) -> None:
    names = "  ".join(each.ljust(5) for each in NAMES)
    print(f"{'task':<7}{'defence':<15}{'by':<6}{'in':<4}{names}", file=file)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """What is hidden against what it costs: one panel per task."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure, panels = plt.subplots(1, len(tasks), figsize=(6 * len(tasks), 4.5), squeeze=False)
    for task, panel in zip(tasks, panels[0], strict=True):
        most = max(row["rounds"] for row in rows)
        mine = [row for row in rows if row["task"] == task and row["rounds"] == most]
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
    parser.add_argument("--task", choices=TASKS, action="append", help="all, where data are given")
    parser.add_argument("--defence", action="append", help="only these, by name")
    parser.add_argument("--rows", type=int, help="only so many rows (digits: training images)")
    parser.add_argument("--rounds", type=int, nargs="+", default=[10, 15], help="measured after")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1, help="of torch; small nets gain nothing")
    parser.add_argument("--seeds", type=int, default=1, help="runs to average")
    parser.add_argument("--plot", type=Path, help="write the trade-off as a PNG")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    tasks = args.task or [each for each in TASKS if each != "credit" or args.data]
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
        if name == "credit":
            task = credit(args.data, args.rows)
        else:
            task = digits(name, args.mnist, args.rows)
        for row in sweep(task, settings, args):
            rows.append(row)
            show(row, progress)
    if args.json:
        print(json.dumps(rows, indent=1))
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
