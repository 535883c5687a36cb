"""Runs a dry run: one train batch and one test batch from end to end, of which nothing is kept.

The parties connect, intersect ids and split them as in the task, and process their first batch: the
Host makes one step, and gradients are sent. The models are discarded afterwards.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from heterofed.compute.autograd import has_batch_norm
from heterofed.compute.batch import Batch
from heterofed.compute.labels import count_of_plain
from heterofed.compute.tensors import named
from heterofed.hetero_nn.half import Half
from heterofed.hetero_nn.half_task import CollaboratorHalfTask, HostHalfTask
from heterofed.hetero_nn.train.host_loop import HostLoop
from heterofed.hetero_nn.train.joint_batch import JointBatch
from heterofed.hetero_nn.train.own_batches import TRAINS
from heterofed.hetero_nn.train.split import split_as_collaborator, split_as_host
from heterofed.intersection.collaborator import intersect_as_collaborator
from heterofed.intersection.host import intersect_as_host
from heterofed.messaging.peer import Peer
from heterofed.protocol import messages as msg
from heterofed.runs.beside import BesideTask
from heterofed.runs.run import Run

logger = logging.getLogger("heterofed")

MOST_CLASSES = 20


class HostDryRun(BesideTask, HostHalfTask):
    """A dry run at the Host."""

    purpose = "rehearse"
    subfolder = "rehearsal"
    loop: _ReportedLoop

    def make_loop(self) -> HostLoop:
        """Return a loop that reports the form of its batch."""
        return _ReportedLoop(self.owner, self.half, self.settings)

    def open_folder(self, run: Run) -> None:
        """Make the folder, and remove the measurements of an earlier dry run."""
        super().open_folder(run)
        for path in run.result.folder.glob("*.csv"):
            path.unlink()
        self.open_metrics(run)

    def perform(self, run: Run) -> None:
        """Process one train batch and one test batch, from the phase after the join to the
        finish.
        """
        party, ids = run.party, _prepared(self.half)
        common = intersect_as_host(run, ids, self.half.further_ids)
        split_as_host(self.half, common, self.loop.sites)
        run.round = 1
        began = party.clock()
        self.loop.train_a_leg(0, most=1)
        report = self.loop.report
        self._try_last(run)
        if report["rows"]:  # an empty batch (of Poisson sampling) shows nothing about time
            batches = math.ceil(len(run.state.train_ids) / report["rows"])
            report["seconds_per_round"] = round((party.clock() - began) * batches, 3)
        self.loop.test(most=1)
        with party.in_phase("finish"):
            party.broadcast(msg.Finish(1))
            for peer in list(party.peers.values()):
                party.take_leave(peer)
        run.result.rehearsal = report
        for key, value in report.items():
            logger.info("rehearsal: %s: %s", key, value)

    def _try_last(self, run: Run) -> None:
        """Train on one row if the last batch of a round will have only one.

        The features of the other parties are those of the first batch.
        """
        for batch in _last_batch(self.half, self.loop.report["rows"], with_labels=True):
            projection = dict(self.loop.first_rows)
            if batch.features is not None:
                projection[run.result.party] = batch.features
            self.half.hooks.seeded("train_a_batch", projection, batch.labels)


class CollaboratorDryRun(BesideTask, CollaboratorHalfTask):
    """A dry run at a Collaborator."""

    purpose = "rehearse"
    subfolder = "rehearsal"

    def is_trainable(self) -> bool:
        """Return whether this party's features get gradients."""
        return self.settings.is_feature_trainable

    def perform(self, run: Run) -> None:
        """Process one train batch and one test batch, from the phase after the join to the
        finish.
        """
        party, most = run.party, self.settings.max_peer_ids
        (host,) = party.peers.values()
        self.loop.check_plan()
        ids = _prepared(self.half)
        further = self.half.further_ids
        common = intersect_as_collaborator(run, host, ids, further, max_peer_ids=most)
        split_as_collaborator(self.half, host, common, self.loop.begin)
        self.half.models.check_trains()  # for models that are made after the split
        run.round = 1
        self._take_next(host, msg.BeginTrain)
        rows = self.loop.train_a_leg(host, 0, most=1)
        for _ in _last_batch(self.half, rows, with_labels=False):
            pass
        self._take_next(host, msg.BeginTest)
        self.loop.test(host, most=1)
        party.take(host, msg.Finish)
        with party.in_phase("finish"):
            party.leave(host)

    def _take_next(self, host: Peer, kind: type[msg.Message]) -> None:
        """Receive the next message of a kind, before which a site is told its rows."""
        mail = self.half.run.party.take(host, kind, msg.SiteRows)
        if isinstance(mail.message, msg.SiteRows):
            self.loop.take_rows(mail, host)
            self.half.run.party.take(host, kind)


class _ReportedLoop(HostLoop):
    """The Host's loop, which also reports the batch.

    Attributes:
        report: the facts that a user wants to see before a long run.
        first_rows: the first row of each party's features.
    """

    report: dict[str, Any]
    first_rows: dict[str, Any]

    def step(
        self, number: int, batch: JointBatch, staleness: int | None = None
    ) -> dict[str, float | Tensor]:
        """Report the batch, and train on it."""
        run = self._run
        projection = batch.projection(run.result.party)
        self.report = _report(run, batch, projection)
        self.first_rows = {name: _first_row(each) for name, each in projection.items()}
        return super().step(number, batch, staleness)


def _prepared(half: Half[Any]) -> Sequence[str]:
    """Return the own ids, after making models and optimizers so that their errors show early."""
    with half.run.party.in_phase("prepare"):
        ids: Sequence[str] = half.hooks.call("load_local_ids")
        if not half.owner.models_after_split:
            half.models.make_all()
            half.models.check_trains()
    return ids


def _last_batch(half: Half[Any], rows: int, *, with_labels: bool) -> Iterator[Batch]:
    """Yield the last batch of a round if it has one row that BatchNorm of this party would refuse.

    Nothing is yielded if the hook leaves this batch out. The batch is not sent.
    """
    run, ids = half.run, half.round_ids()
    if rows < 2 or len(ids) % rows != 1 or run.state.sampling is not None:
        return
    if not any(map(has_batch_norm, half.models.models())):
        return
    grad = half.settings.is_feature_trainable
    try:
        own = half.batches.of(TRAINS, ids[-1:], grad=grad, with_labels=with_labels)
        yield from itertools.islice(own, 1)
    except Exception as error:
        error.add_note(
            f"heterofed: the last batch of a round has one row ({len(ids)} train ids in batches"
            f" of {rows}); leave it out (drop_last) at every party, or take another batch size"
        )
        raise


def _report(run: Run, batch: JointBatch, projection: Mapping[str, Any]) -> dict[str, Any]:
    shapes: dict[str, Any] = {}
    for name, features in projection.items():
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
        "train_ids": len(run.state.train_ids),
        "test_ids": len(run.state.test_ids),
        "rows": batch.theirs[0].features.rows,
        "seconds_per_round": None,
        "shapes": shapes,
        "classes": dict(classes) if len(classes) <= MOST_CLASSES else {},
    }


def _first_row(features: Any) -> Any:
    if isinstance(features, Tensor):
        return features[:1].detach().clone()
    if isinstance(features, Mapping):
        return {name: _first_row(each) for name, each in features.items()}
    return tuple(map(_first_row, features))
