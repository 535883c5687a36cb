"""What the Host would reach alone, and what one joined model would: the parties' own hooks in one
graph, without any message. For comparison with a joint run, where all data may lie in one place.

`pooled` trains every half at once, as one model would. `local` is the same with zeros for the
other parties' features: the Host's columns, in the same architecture.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from heterofed.compute.alignment import check_ids
from heterofed.compute.autograd import evaluating, sharing_cores
from heterofed.compute.batch import Batch, copied, rows_of
from heterofed.compute.leaves import Leaves
from heterofed.compute.tensors import named, restore
from heterofed.errors import ConfigError, EmptyIntersectionError, RowCountError
from heterofed.files import own_folder, writing
from heterofed.hetero_nn.collaborator import HeteroNNCollaboratorScheduler
from heterofed.hetero_nn.hooks import streams_tests
from heterofed.hetero_nn.host import HeteroNNHostScheduler
from heterofed.hetero_nn.train.joint_batch import MASKED_SUM, kept
from heterofed.hetero_nn.training_scheduler import TrainingScheduler
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Timeouts
from heterofed.metrics import NO_METRICS
from heterofed.privacy.rows import joined
from heterofed.protocol.states import Role
from heterofed.rendezvous.agreement import Agreement
from heterofed.report.render import write_report
from heterofed.reporting.costs import Account
from heterofed.reporting.diagnostics import Harmless
from heterofed.reporting.results import TaskResult, fresh_folder, write_whole
from heterofed.runs.checkpoint_store import CheckpointStore
from heterofed.runs.extra_modules import modules_beside
from heterofed.runs.run import Run, drawn_order, drawn_seed, plan_of
from heterofed.transport.memory import Hub

Mode = Literal["local", "pooled"]
MODES: tuple[Mode, ...] = ("local", "pooled")

FOLDER = "baselines"


@dataclass(slots=True)
class Comparison:
    """Metrics of a joint run beside those of its baselines.

    Attributes:
        tables: a CSV per metrics set, by name: column `mode` (`joint`, `local`, `pooled`), then
            those of the set.
        models: path of each baseline's models, by mode and name.
    """

    tables: dict[str, Path] = field(default_factory=dict)
    models: dict[str, dict[str, Path]] = field(default_factory=dict)


def compare(
    host: HeteroNNHostScheduler,
    collaborators: Sequence[HeteroNNCollaboratorScheduler],
    *,
    task_id: str,
    modes: Sequence[Mode] = MODES,
) -> Comparison:
    """Train the baselines of a finished joint run, on the same ids and with the same seeds.

    Gradients go through all halves by one backward: a Collaborator's own `update_feature_model` is
    not asked. Nothing travels, so nothing is compressed, and defences of what travels do nothing.
    Poisson batches are those of the joint run where it was the last one of these objects.

    Args:
        host: the Host's scheduler.
        collaborators: the other parties', in task order.
        task_id: of the finished run; its results folder at the Host gets a folder `baselines`.
        modes: which to train.

    Raises:
        ConfigError: no such mode, there is no finished run, or it was one with `label_dp`.
    """
    modes = check_modes(modes)
    check_comparable(host)
    folder = host._heterofed_results_folder(task_id)
    if not (folder / "summary.json").exists():
        raise ConfigError(f"{folder} holds no run that has ended well; run the task first")
    fresh_folder(folder / FOLDER)
    done = Comparison()
    found = {"joint": _metrics_in(folder)}
    joint = (
        host._heterofed_run
        if host._heterofed_run and host._heterofed_run.result.folder == folder
        else None
    )
    secret = joint.agreement.secret if joint and joint.agreement else bytes(32)
    for mode in modes:
        baseline = _Baseline(host, collaborators, task_id, folder / FOLDER / mode, mode, secret)
        result = baseline.train()
        found[mode] = _metrics_in(result.folder)
        done.models[mode] = result.models
    for name in found["joint"]:
        path = folder / FOLDER / f"{name}.csv"
        write_whole(path, lambda file, n=name: file.write(_joined(n, found).encode()))  # type: ignore[misc]
        done.tables[name] = path
    with Harmless()("the report"):
        write_report(folder)
    return done


def check_modes(modes: Sequence[str]) -> tuple[Mode, ...]:
    """Check which baselines are wanted.

    Raises:
        ConfigError: none, or one that there is not.
    """
    if isinstance(modes, str) or not modes or set(modes) - set(MODES):
        raise ConfigError(f"baselines={modes!r}: give some of {', '.join(MODES)}")
    return tuple(mode for mode in MODES if mode in modes)


def check_comparable(host: HeteroNNHostScheduler) -> None:
    """Check that baselines can be trained as the joint run is.

    Raises:
        ConfigError: the joint run trains on labels that nobody else can know.
    """
    if host._heterofed_label_dp is not None:
        raise ConfigError(
            "baselines: label_dp turns labels by coins of the joint run alone, so a baseline would"
            " train on other labels; compare runs without it"
        )


def _metrics_in(folder: Path) -> dict[str, list[dict[str, str]]]:
    found = {}
    for path in sorted(folder.glob("*.csv")):
        if path.stem not in NO_METRICS:
            with path.open(newline="", encoding="utf-8") as file:
                found[path.stem] = list(csv.DictReader(file))
    return found


def _joined(name: str, found: Mapping[str, Mapping[str, list[dict[str, str]]]]) -> str:
    rows = [{"mode": mode, **row} for mode, sets in found.items() for row in sets.get(name, [])]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def plot(table: Path, metric: str, path: Path) -> Path:
    """Draw a metric by round, a line per mode, as PNG.

    Args:
        table: of `Comparison.tables`.
        metric: the column to draw.
        path: where to; ends in `.png`.

    Raises:
        ConfigError: matplotlib is not installed, or there is no such column.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError:
        raise ConfigError("plots need an extra: pip install 'heterofed[plot]'") from None
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or metric not in rows[0] or "round" not in rows[0]:
        raise ConfigError(f"{table} has no column {metric!r} by round")
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for mode in dict.fromkeys(row["mode"] for row in rows):
        line = [row for row in rows if row["mode"] == mode]
        # The pooled line lies on the joint one where all is well: both must show.
        style = {"joint": "o-", "local": "s-", "pooled": "x--"}[mode]
        rounds = [int(row["round"]) for row in line]
        axes.plot(rounds, [float(row[metric]) for row in line], style, label=mode)
    axes.set(xlabel="round", ylabel=metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=120), anywhere=True)
    return path


def _zeros_like(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(each, requires_grad=False) for name, each in tensors.items()}


class _Baseline:
    """One baseline: every party's hooks, called in turn."""

    def __init__(
        self,
        host: HeteroNNHostScheduler,
        collaborators: Sequence[HeteroNNCollaboratorScheduler],
        task_id: str,
        folder: Path,
        mode: Mode,
        secret: bytes,
    ) -> None:
        self._secret = secret
        self._host, self._others = host, list(collaborators)
        self._task_id, self._folder, self._mode = task_id, folder, mode
        self._runs: dict[str, Run] = {}

    @property
    def _all(self) -> list[TrainingScheduler]:
        return [self._host, *self._others]

    def train(self) -> TaskResult:
        with self._begun() as run, sharing_cores(len(self._all)):
            self._split()
            finished = False
            while not finished:
                for one in self._runs.values():
                    one.round += 1
                recorded = [self._step(*each) for each in enumerate(self._batches("train"))]
                self._host._heterofed_record_training(run, recorded)
                tested = self._host._heterofed_is_test_due(run.round)
                if tested:
                    self._test()
                finished = self._host._heterofed_is_finished()
                if finished and not tested:
                    self._test()
                for each in self._all:
                    each._heterofed_call_hook("on_round_end", each.on_round_end)
            for each in self._all:
                each._heterofed_save_models(self._runs[each._heterofed_settings.feature_key])
            for other in self._others:
                run.result.models |= {
                    f"{other._heterofed_settings.feature_key} {name}": path
                    for name, path in self._runs[
                        other._heterofed_settings.feature_key
                    ].result.models.items()
                }
            return run.result

    @contextmanager
    def _begun(self) -> Iterator[Run]:
        """Give every scheduler a run of its own, and take it away after."""
        before = {each: each._heterofed_run for each in self._all}
        keys = [each._heterofed_settings.feature_key for each in self._others]
        with ExitStack() as stack:
            for each in self._all:
                key = each._heterofed_settings.feature_key
                folder = self._folder if each is self._host else self._folder / key
                with writing(folder):
                    own_folder(folder)
                role = Role.HOST if each is self._host else Role.COLLABORATOR
                account = Account(key)
                seed = each._heterofed_settings.seed
                run = Run(
                    self._task_id,
                    drawn_seed() if seed is None else seed,
                    TaskResult(self._task_id, key, folder),
                    CheckpointStore(folder / "resume"),
                    "never",
                    account,
                    order=drawn_order(self._task_id, seed),
                )
                # A party that meets nobody.
                run.party = Party(key, role, Hub().listen(), timeouts=Timeouts(), account=account)
                stack.callback(run.party.close, 0)
                each._heterofed_run = self._runs[key] = run
            plan = self._host._heterofed_make_plan(tuple(keys))
            for run in self._runs.values():
                run.agreement = Agreement(plan, bytes(16), self._secret)
            host = self._runs[self._host._heterofed_settings.feature_key]
            self._host._heterofed_open_registered_metrics(host)
            try:
                yield host
            finally:
                for each, run_before in before.items():
                    each._heterofed_run = run_before

    def _split(self) -> None:
        sets = []
        for each in self._all:
            sets.append(
                set(check_ids(each._heterofed_call_hook("load_local_ids", each.load_local_ids)))
            )
            for name in () if each.models_after_split else each._heterofed_makers():
                each._heterofed_made(name)
        common = set.intersection(*sets)
        if not common:
            raise EmptyIntersectionError("no id is common to all parties")
        announced = None
        for each in self._all:
            run = self._runs[each._heterofed_settings.feature_key]
            each._heterofed_split(run, common, announced)
            if plan_of(run).announced_split:
                announced = each.train_ids, each.test_ids

    def _batches(self, kind: Literal["train", "test"]) -> Iterator[list[Batch]]:
        """Every party's batch of the same rows; the Host's first."""
        hook, training = f"iterate_{kind}_feature", kind == "train"
        streams = []
        for each in self._all:
            run = self._runs[each._heterofed_settings.feature_key]
            if training:
                each._heterofed_set_modes(training=True)
            is_host = each is self._host
            learns = (
                training
                and each._heterofed_is_feature_trainable
                and (is_host or self._mode == "pooled")
            )
            ids = each._heterofed_round_ids(run) if training else run.state["test_ids"]
            streams.append(
                each._heterofed_own_batches(run, hook, ids, grad=learns, with_labels=is_host)
            )
        for batches in zip(*streams, strict=True):
            own, *theirs = batches
            rows = {rows_of(batch, hook) for batch in theirs}
            rows.add(rows_of(own, hook, next(iter(rows))))
            if len(rows) > 1:
                raise RowCountError(f"{hook}: batches of {sorted(rows)} rows; use one batch size")
            yield list(batches)

    def _projection(
        self, batches: Sequence[Batch], hook: str, number: int | None = None
    ) -> dict[str, Any]:
        """What `train_a_batch`, or in a test `test`, would get; `number` is of a train batch."""
        own, *theirs = batches
        run = self._runs[self._host._heterofed_settings.feature_key]
        projection: dict[str, Any] = (
            {} if own.features is None else {run.result.party: own.features}
        )
        names = [other._heterofed_settings.feature_key for other in self._others]
        parts = {n: named(each.features, hook) for n, each in zip(names, theirs, strict=True)}
        if self._mode == "local":
            parts = {
                # As features that are received: there may be no other weight to go backward to.
                name: (layout, Leaves(_zeros_like(tensors), trainable=number is not None).lent)
                for name, (layout, tensors) in parts.items()
            }
        if plan_of(run).fusion == "masked_sum":
            return projection | {MASKED_SUM: sum(joined(tensors) for _, tensors in parts.values())}
        rows = {name: rows_of(each, hook) for name, each in zip(names, theirs, strict=True)}
        keep = None if number is None else self._host._heterofed_kept_rows(run, number, rows)
        for name, (layout, tensors) in parts.items():
            projection[name] = restore(
                layout, tensors if keep is None else kept(tensors, keep[name])
            )
        return projection

    def _step(self, number: int, batches: Sequence[Batch]) -> dict[str, float]:
        optimizers = [
            other._heterofed_made("feature_optimizer")
            for other in self._others
            if self._mode == "pooled" and other._heterofed_is_feature_trainable
        ]
        for optimizer in optimizers:
            optimizer.zero_grad()
        run = self._runs[self._host._heterofed_settings.feature_key]
        projection = self._projection(batches, "iterate_train_feature", number)
        outcome = self._host._heterofed_seeded_hook("train_a_batch", projection, batches[0].labels)
        for optimizer in optimizers:
            optimizer.step()
        return self._host._heterofed_scalars(run, outcome)

    def _test(self) -> None:
        host = self._host
        models = [
            *(each._heterofed_made("feature_model") for each in self._all),
            host._heterofed_made("infer_model"),
        ]
        beside = [module for each in self._all for module in modules_beside(each, models)]
        with evaluating(*models, *beside):
            projections, labels = [], []
            for batches in self._batches("test"):
                projection = self._projection(batches, "iterate_test_feature")
                if streams_tests(type(host)):
                    host._heterofed_seeded_hook("test_a_batch", projection, batches[0].labels)
                else:
                    projections.append(copied(projection))
                    labels.append(copied(batches[0].labels))
            if streams_tests(type(host)):
                host._heterofed_seeded_hook("end_test")
            else:
                host._heterofed_seeded_hook(
                    "test", batched_feature_projections=projections, batched_labels=labels
                )
