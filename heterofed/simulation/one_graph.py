"""Trains one baseline by calling the hooks of all parties in one process, without messages.

The graph is cut at the features, as in the joint run: what `train_a_batch` does to gradients there
(scaling, clipping, two backward passes) has the same effect.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from heterofed.compute.alignment import SortedIdSet, check_ids
from heterofed.compute.autograd import backward, gradients_like, sharing_cores
from heterofed.compute.batch import Batch, copied, rows_of
from heterofed.compute.features import FeatureBatch
from heterofed.compute.leaves import Leaves
from heterofed.errors import EmptyIntersectionError, RowCountError
from heterofed.files import own_folder, writing
from heterofed.hetero_nn.half import Half
from heterofed.hetero_nn.hooks import (
    CollaboratorHooks,
    HostHooks,
    PartyHooks,
    ends_by_default,
    half_engine,
    updates_by_default,
)
from heterofed.hetero_nn.models import HalfModels, HostModels
from heterofed.hetero_nn.train.host_loop import HostLoop
from heterofed.hetero_nn.train.joint_batch import MASKED_SUM, kept
from heterofed.hetero_nn.train.own_batches import TESTS, TRAINS
from heterofed.hetero_nn.train.recording import as_numbers, record_training, scalars_of
from heterofed.hetero_nn.train.rounds import go_through_rounds
from heterofed.hetero_nn.train.split import split
from heterofed.hetero_nn.train.test_hooks import TestHooks
from heterofed.messaging.party import Party
from heterofed.messaging.peer import Timeouts
from heterofed.metrics import registered_metrics
from heterofed.privacy.rows import joined, parted
from heterofed.protocol.states import Role
from heterofed.rendezvous.agreement import Agreement
from heterofed.reporting.task_result import TaskResult
from heterofed.runs.run import Run, new_run
from heterofed.transport.memory import Hub

Mode = Literal["local", "pooled"]


class Baseline:
    """One baseline of a joint run.

    Args:
        host: the Host's scheduler.
        collaborators: the other parties', in task order.
        task_id: the id of the joint run.
        folder: the folder for the results of the baseline.
        mode: `pooled` trains every half, `local` only the Host's.
        secret: the secret of the joint run, from which Poisson batches are drawn.
    """

    def __init__(
        self,
        host: HostHooks,
        collaborators: Sequence[CollaboratorHooks],
        task_id: str,
        folder: Path,
        mode: Mode,
        secret: bytes,
    ) -> None:
        self._host, self._owners = host, [host, *collaborators]
        self._task_id, self._folder, self._mode = task_id, folder, mode
        self._secret = secret
        self._mine: Half[HostModels]
        self._others: list[Half[HalfModels]]
        self._loop: HostLoop
        self._warned: set[str] = set()

    @property
    def _halves(self) -> list[Half[Any]]:
        return [self._mine, *self._others]

    def train(self) -> TaskResult:
        """Train the baseline to its end, and return the result."""
        settings = half_engine(self._host).settings
        with self._begun(), sharing_cores(len(self._owners)):
            self._split()
            run = self._mine.run
            go_through_rounds(
                run,
                self._mine.hooks,
                settings,
                train=self._train_a_round,
                test=self._test,
                end=lambda _loss, _seconds, _last: self._end_round(),
            )
            for half in self._halves:
                half.files().save()
            for half in self._others:
                key, models = half.settings.feature_key, half.run.result.models
                run.result.models |= {f"{key} {name}": path for name, path in models.items()}
            return run.result

    @contextmanager
    def _begun(self) -> Iterator[None]:
        """Give every scheduler a run of its own, and remove it afterwards."""
        engines = [half_engine(each) for each in self._owners]
        before = [each.run for each in engines]
        with ExitStack() as stack:
            runs = [self._run_of(each, stack) for each in self._owners]
            names = tuple(each.settings.feature_key for each in engines[1:])
            ends = ends_by_default(type(self._host))
            plan = engines[0].settings.training_plan(names, order=runs[0].order, default_end=ends)
            for run in runs:
                run.maybe_agreement = Agreement(plan, bytes(16), self._secret)
            self._mine = Half(self._host, runs[0], HostModels)
            others = zip(self._owners[1:], runs[1:], strict=True)
            self._others = [Half(owner, run, HalfModels) for owner, run in others]
            self._loop = HostLoop(self._host, self._mine, engines[0].settings)
            runs[0].open_all_metrics(registered_metrics(type(self._host)))
            try:
                yield
            finally:
                for engine, run_before in zip(engines, before, strict=True):
                    engine.run = run_before

    def _run_of(self, owner: PartyHooks, stack: ExitStack) -> Run:
        """Return a run of a party without connections."""
        engine, is_host = half_engine(owner), owner is self._host
        key, joint = engine.settings.feature_key, engine.run
        folder = self._folder if is_host else self._folder / key
        with writing(folder):
            own_folder(folder)
        run = engine.run = new_run(self._task_id, key, folder, "never", engine.settings.seed)
        if joint is not None and joint.maybe_agreement and joint.task_id == self._task_id:
            run.seed, run.noise, run.order = joint.seed, joint.noise, joint.plan.seed
        role, timeouts = Role.HOST if is_host else Role.COLLABORATOR, Timeouts()
        party = Party(key, role, Hub().listen(), timeouts=timeouts, account=run.account)
        run.maybe_party = party
        stack.callback(party.close, 0)
        return run

    def _split(self) -> None:
        sets = []
        for half in self._halves:
            sets.append(set(check_ids(half.hooks.call("load_local_ids"))))
            if not half.owner.models_after_split:
                half.models.make_all()
        common = set.intersection(*sets)
        for key in range(1, self._mine.run.plan.id_keys):
            further = [set(half.further_ids(SortedIdSet(common), key)) for half in self._halves]
            common |= set.intersection(*further)
        if not common:
            raise EmptyIntersectionError(
                "no id is common to all parties; compare how they write their ids (spaces, case,"
                " leading zeros)"
            )
        announced = None
        for half in self._halves:
            split(half, common, announced)
            half.models.make_all()  # in round 0, as in the joint run, on the same random streams
            if half.run.plan.announced_split:
                announced = half.run.state.train_ids, half.run.state.test_ids

    def _train_a_round(self) -> float | None:
        run = self._mine.run
        for half in self._others:
            half.run.round = run.round
        recorded = [self._step(*each) for each in enumerate(self._batches(TRAINS))]
        return record_training(run, type(self._host), as_numbers(recorded))

    def _end_round(self) -> None:
        for half in self._halves:
            half.hooks.call("on_round_end")

    def _batches(self, hook: str) -> Iterator[list[Batch]]:
        """Yield the batches of all parties for the same rows, the Host's first."""
        training = hook == TRAINS
        streams = []
        for half in self._halves:
            is_host = half is self._mine
            if training:
                half.models.set_modes(training=True)
            learns = half.settings.is_feature_trainable and (is_host or self._mode == "pooled")
            ids = half.round_ids() if training else half.run.state.test_ids
            streams.append(
                half.batches.of(hook, ids, grad=training and learns, with_labels=is_host)
            )
        for own, *theirs in zip(*streams, strict=True):
            rows = {rows_of(batch, hook) for batch in theirs}
            rows.add(rows_of(own, hook, next(iter(rows))))
            if len(rows) > 1:
                raise RowCountError(f"{hook}: batches of {sorted(rows)} rows; use one batch size")
            yield [own, *theirs]

    def _parts(self, batches: Sequence[Batch], hook: str) -> list[FeatureBatch]:
        """Return the features of the other parties, with their graphs."""
        return [FeatureBatch.of(each.features, hook) for each in batches]

    def _received(self, parts: Sequence[FeatureBatch]) -> dict[str, FeatureBatch]:
        """Return what the Host would receive of these features, by the key of a projection."""
        if self._mode == "local":
            parts = [each.holding(_zeros_like(each.tensors)) for each in parts]
        if self._mine.run.plan.fusion == "masked_sum":
            total = sum((joined(each.tensors).detach() for each in parts), torch.zeros(()))
            return {MASKED_SUM: FeatureBatch("tensor", {"": total})}
        copies = [
            each.holding({name: of.detach().clone() for name, of in each.tensors.items()})
            for each in parts
        ]
        names = [half.settings.feature_key for half in self._others]
        return dict(zip(names, copies, strict=True))

    def _projection(self, own: Batch, received: Mapping[str, FeatureBatch]) -> dict[str, Any]:
        """Return the projection for `train_a_batch` or `test`."""
        mine = {} if own.features is None else {self._mine.run.result.party: own.features}
        return mine | {key: each.arranged() for key, each in received.items()}

    def _step(self, number: int, batches: Sequence[Batch]) -> dict[str, float | torch.Tensor]:
        own, *theirs = batches
        parts = self._parts(theirs, TRAINS)
        received = self._received(parts)
        # Without other parties these need a gradient too, because there may be no other weight.
        learns = [
            self._mode == "local" or half.settings.is_feature_trainable for half in self._others
        ]
        leaves = {
            key: Leaves(each.tensors, trainable=is_learning)
            for (key, each), is_learning in zip(received.items(), learns, strict=False)
        }
        keep = self._loop.kept_rows(number, {key: each.rows for key, each in received.items()})
        lent = {
            key: each.holding(
                leaves[key].lent if keep is None else kept(leaves[key].lent, keep[key])
            )
            for key, each in received.items()
        }
        optimizer = self._mine.models.made("optimizer")
        with optimizer.covering(list(leaves.values())):
            projection = self._projection(own, lent)
            outcome = self._mine.hooks.seeded("train_a_batch", projection, own.labels)
        if self._mode == "pooled":
            for half, features in zip(self._others, parts, strict=True):
                key = half.settings.feature_key
                self._update(half, features, leaves[key if key in leaves else MASKED_SUM])
        return scalars_of(outcome, self._warned)

    def _update(self, half: Half[Any], features: FeatureBatch, leaves: Leaves) -> None:
        """Step on the gradients of a party's features, as the party does in the joint run."""
        gradients, hook = leaves.gradients(), "update_feature_model"
        owner: Any = half.owner
        if not gradients:
            return
        if self._mine.run.plan.fusion == "masked_sum":
            gradients = parted(gradients[""], features.tensors)
        if updates_by_default(owner):
            half.models.feature_optimizer.zero_grad()
            half.hooks.seeded_as(hook, backward, features.tensors, gradients)
            half.hooks.call_as(hook, half.models.feature_optimizer.step)
        else:
            arranged = gradients_like(features.layout, features.tensors, gradients)
            half.hooks.seeded(hook, features.given, arranged)

    def _test(self) -> None:
        tested = TestHooks(self._host, self._mine.hooks)
        with ExitStack() as stack:
            for half in self._halves:
                stack.enter_context(half.evaluating())
            for batches in self._batches(TESTS):
                own, *theirs = batches
                received = self._received(self._parts(theirs, TESTS))
                projection, labels = self._projection(own, received), own.labels
                if tested.keeps:
                    projection, labels = copied(projection), copied(labels)
                tested.add(projection, labels)
            tested.end()


def _zeros_like(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(each, requires_grad=False) for name, each in tensors.items()}
