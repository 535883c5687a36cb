"""A rehearsal: one train batch and one test batch from end to end, and nothing kept of it.

The parties meet, intersect ids and split them as in the task. Then each computes its first batch;
the Host makes one step on it, and gradients travel. The models that learnt from it are thrown away.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from heterofed.compute.autograd import evaluating, sharing_cores
from heterofed.compute.batch import Batch
from heterofed.compute.labels import count_of_plain
from heterofed.compute.tensors import named
from heterofed.errors import SplitMismatchError
from heterofed.events import Callback
from heterofed.hetero_nn.collaborator import HeteroNNCollaboratorScheduler, InFlight
from heterofed.hetero_nn.hooks import streams_tests
from heterofed.hetero_nn.host import HeteroNNHostScheduler
from heterofed.hetero_nn.train.announced_split import announce_split, announced_split
from heterofed.hetero_nn.train.feature_sender import FeatureFeed
from heterofed.hetero_nn.train.joint_batch import JointBatch
from heterofed.hetero_nn.train.subtask import Errand
from heterofed.hetero_nn.training_scheduler import TrainingScheduler
from heterofed.intersection.host import intersect_as_collaborator, intersect_as_host
from heterofed.messaging.party import Party
from heterofed.protocol import messages as msg
from heterofed.reporting.results import TaskResult
from heterofed.runs.connect import as_collaborator, as_host
from heterofed.runs.extra_modules import modules_beside
from heterofed.runs.run import Run, party_of, plan_of

logger = logging.getLogger("heterofed")

MOST_CLASSES = 20


def rehearse(scheduler: TrainingScheduler, task_id: str) -> TaskResult:
    """See `launch_task(rehearse=True)`."""
    if isinstance(scheduler, HeteroNNHostScheduler):
        return _AtHost(scheduler).launch_task(task_id)
    if isinstance(scheduler, HeteroNNCollaboratorScheduler):
        return _AtCollaborator(scheduler).launch_task(task_id)
    raise TypeError(f"a {type(scheduler).__name__} has nothing to rehearse")


class _Rehearsal(Errand):
    """One batch end to end, with the hooks of a scheduler."""

    FOLDER = "rehearsal"

    def launch_task(self, task_id: str) -> TaskResult:
        return self._launch_beside(task_id)

    def _heterofed_ids(self, run: Run) -> Iterable[str]:
        """Own ids; models and optimizers are made, so that what is wrong with them shows here."""
        with party_of(run).in_phase("prepare"):
            ids = self._heterofed_call_hook("load_local_ids", self._owner.load_local_ids)
            for name in () if self._owner.models_after_split else self._owner._heterofed_makers():
                self._owner._heterofed_made(name)
        return ids

    def _last_batch(self, run: Run, rows: int) -> Iterator[Batch]:
        """The last batch of a round, where it will have one row, a model of this party has
        BatchNorm, which refuses that, and the hook does not leave it out; nothing is sent of it.
        """
        owner, ids = self._owner, self._owner._heterofed_round_ids(run)
        if rows < 2 or len(ids) % rows != 1 or "sampling" in run.state:
            return
        models = [owner._heterofed_made(name) for name in owner._heterofed_models]
        parts = [part for model in models if model is not None for part in model.modules()]
        if not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in parts):
            return
        trains, hook = owner._heterofed_is_feature_trainable, "iterate_train_feature"
        labelled = isinstance(owner, HeteroNNHostScheduler)
        try:
            yield from itertools.islice(
                owner._heterofed_own_batches(
                    run, hook, ids[-1:], grad=trains, with_labels=labelled
                ),
                1,
            )
        except Exception as error:
            error.add_note(
                f"heterofed: the last batch of a round has one row ({len(ids)} train ids in batches"
                f" of {rows}); leave it out (drop_last) at every party, or take another batch size"
            )
            raise


def _first_row(features: Any) -> Any:
    if isinstance(features, Tensor):
        return features[:1].detach()
    if isinstance(features, Mapping):
        return {name: _first_row(each) for name, each in features.items()}
    return tuple(map(_first_row, features))


class _AtHost(_Rehearsal):
    def __init__(self, host: HeteroNNHostScheduler) -> None:
        super().__init__(host)
        self._host = host

    @contextmanager
    def _heterofed_meet(self, run: Run, callbacks: Sequence[Callback]) -> Iterator[Party]:
        with (
            as_host(
                run,
                self._heterofed_settings,
                callbacks,
                purpose="rehearse",
                expected=self._host._heterofed_collaborators,
                timeouts=self._heterofed_timeouts(self._host._heterofed_calculation_timeout),
                make_plan=self._host._heterofed_make_plan,
            ) as party,
            sharing_cores(1 + len(plan_of(run).collaborators)),
        ):
            yield party

    def _heterofed_perform(self, run: Run) -> None:
        party, host = party_of(run), self._host
        common = intersect_as_host(run, self._heterofed_ids(run))
        with party.in_phase("split"):
            split = host._heterofed_split(run, common)
            if plan_of(run).announced_split:
                announce_split(party, common, run.state["train_ids"], run.state["test_ids"])
            party.broadcast(split)
            for peer in party.peers.values():
                party.take(peer, msg.SplitAccepted)
        run.round = 1
        host._heterofed_set_modes(training=True)
        models = [host._heterofed_made(name) for name in host._heterofed_models]
        began = party.clock()
        with party.in_phase("train", round_number=1, unit="batches"):
            party.broadcast(msg.BeginTrain(1, host._heterofed_staleness_at_start(run, 0)))
            for batch in self._first_batch(
                run, "iterate_train_feature", host._heterofed_round_ids(run)
            ):
                report = self._report(run, batch)
                form = batch.projection(party.name)
                host._heterofed_step(run, 0, batch)
                self._try_last(run, report["rows"], form)
        if report["rows"]:  # an empty batch (of Poisson sampling) tells nothing of time
            batches = math.ceil(len(run.state["train_ids"]) / report["rows"])
            report["seconds_per_round"] = round((party.clock() - began) * batches, 3)
        with (
            party.in_phase("test", round_number=1, unit="batches"),
            evaluating(*models, *modules_beside(host, models)),
        ):
            party.broadcast(msg.BeginTest(1))
            for batch in self._first_batch(run, "iterate_test_feature", run.state["test_ids"]):
                self._heterofed_test(party, batch)
        with party.in_phase("finish"):
            party.broadcast(msg.Finish(1))
            for peer in list(party.peers.values()):
                party.take_leave(peer)
        run.result.rehearsal = report
        for key, value in report.items():
            logger.info("rehearsal: %s: %s", key, value)

    def _try_last(self, run: Run, rows: int, form: dict[str, Any]) -> None:
        """Train on one row where the last batch of a round will have one; others' features are
        those of the first batch.
        """
        for batch in self._last_batch(run, rows):
            projection = {name: _first_row(each) for name, each in form.items()}
            if batch.features is not None:
                projection[self._heterofed_settings.feature_key] = batch.features
            self._host._heterofed_seeded_hook("train_a_batch", projection, batch.labels)

    def _first_batch(self, run: Run, hook: str, ids: Sequence[str]) -> Iterator[JointBatch]:
        host = self._host
        own = host._heterofed_own_batches(
            run, hook, ids, grad=host._heterofed_is_feature_trainable, with_labels=True
        )
        yield from host._heterofed_joint_batches(run, itertools.islice(own, 1), hook)

    def _report(self, run: Run, batch: JointBatch) -> dict[str, Any]:
        """What a user wants to see before a long run."""
        shapes: dict[str, Any] = {}
        for name, features in batch.projection(self._heterofed_settings.feature_key).items():
            tensors = named(features, name)[1]
            shapes[name] = {key: list(each.shape) for key, each in tensors.items()}
            if list(shapes[name]) == [""]:
                shapes[name] = shapes[name][""]
        labels, classes = batch.mine.labels, Counter[str]()
        if count_of_plain(labels) is not None:
            plain = labels.reshape(-1).tolist() if hasattr(labels, "reshape") else list(labels)
            classes.update(map(str, plain))
        return {
            "ids": run.result.ids,
            "train_ids": len(run.state["train_ids"]),
            "test_ids": len(run.state["test_ids"]),
            "rows": batch.theirs[0].rows,
            "seconds_per_round": None,
            "shapes": shapes,
            "classes": dict(classes) if len(classes) <= MOST_CLASSES else {},
        }

    def _heterofed_test(self, party: Party, batch: JointBatch) -> None:
        host, projection = self._host, batch.projection(party.name)
        if streams_tests(type(host)):
            host._heterofed_seeded_hook("test_a_batch", projection, batch.mine.labels)
            host._heterofed_seeded_hook("end_test")
        else:
            host._heterofed_seeded_hook(
                "test",
                batched_feature_projections=[projection],
                batched_labels=[batch.mine.labels],
            )
        for each in batch.theirs:
            party.post(each.peer, msg.BatchDone(1, 0, stepped=False))

    def _heterofed_open_folder(self, run: Run) -> None:
        super()._heterofed_open_folder(run)
        for path in run.result.folder.glob("*.csv"):
            path.unlink()  # of an earlier rehearsal
        self._host._heterofed_open_registered_metrics(run)


class _AtCollaborator(_Rehearsal):
    def __init__(self, collaborator: HeteroNNCollaboratorScheduler) -> None:
        super().__init__(collaborator)
        self._collaborator = collaborator

    @contextmanager
    def _heterofed_meet(self, run: Run, callbacks: Sequence[Callback]) -> Iterator[Party]:
        with (
            as_collaborator(
                run,
                self._heterofed_settings,
                callbacks,
                purpose="rehearse",
                timeouts=self._heterofed_timeouts(),
                trainable=self._collaborator._heterofed_is_feature_trainable,
            ) as party,
            sharing_cores(1 + len(plan_of(run).collaborators)),
        ):
            yield party

    def _heterofed_perform(self, run: Run) -> None:
        party, owner = party_of(run), self._collaborator
        (host,) = party.peers.values()
        common = intersect_as_collaborator(
            run, host, self._heterofed_ids(run), max_peer_ids=owner._heterofed_max_peer_ids
        )
        with party.in_phase("split"):
            announces = plan_of(run).announced_split
            announced = announced_split(party, host, common) if announces else None
            theirs = party.take(host, msg.SplitPlan).of(msg.SplitPlan)
            if owner._heterofed_split(run, common, announced) != theirs:
                raise SplitMismatchError(
                    f"split_dataset gives other ids at {party.name} than at {host.name}; use the"
                    " same function at every party"
                )
            party.post(host, msg.SplitAccepted())
        run.round = 1
        party.take(host, msg.BeginTrain)
        owner._heterofed_set_modes(training=True)
        model = owner._heterofed_made("feature_model")
        with party.in_phase("train", round_number=1, unit="batches"):
            self._send_one(
                run, "iterate_train_feature", owner._heterofed_round_ids(run), train=True
            )
        party.take(host, msg.BeginTest)
        with (
            party.in_phase("test", round_number=1, unit="batches"),
            evaluating(model, *modules_beside(owner, [model])),
        ):
            self._send_one(run, "iterate_test_feature", run.state["test_ids"], train=False)
        party.take(host, msg.Finish)
        with party.in_phase("finish"):
            party.leave(host)

    def _send_one(self, run: Run, hook: str, ids: Sequence[str], *, train: bool) -> None:
        """The features of the first batch, and in training the step on its gradients."""
        party, owner = party_of(run), self._collaborator
        (host,) = party.peers.values()
        learns = train and owner._heterofed_is_feature_trainable
        feed = FeatureFeed(
            party, host, witness=owner._heterofed_guard(run).witness() if learns else None
        )
        for layout, tensors, batch in itertools.islice(
            owner._heterofed_features(run, hook, ids, grad=learns), 1
        ):
            masked = owner._heterofed_guard(run).masked(
                layout, tensors, feed.number, testing=not train
            )
            feed.send(*masked, owner._heterofed_proof(run, feed, hook, batch))
            if learns:
                owner._heterofed_update(run, feed, InFlight(0, layout, tensors, batch.features))
            if train:
                rows = len(next(iter(tensors.values())))
                list(self._last_batch(run, rows))
        feed.end()
        feed.settle()
