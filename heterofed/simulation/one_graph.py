"""Trains one baseline by calling the hooks of all parties in one graph, without messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from heterofed.compute.alignment import SortedIdSet, check_ids
from heterofed.compute.autograd import sharing_cores
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
from heterofed.privacy.rows import joined
from heterofed.protocol.states import Role
from heterofed.rendezvous.agreement import Agreement
from heterofed.reporting.results import TaskResult
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

    def _projection(
        self, batches: Sequence[Batch], hook: str, number: int | None = None
    ) -> dict[str, Any]:
        """Return the projection for `train_a_batch` or `test`; `number` is that of a train
        batch.
        """
        own, *theirs = batches
        run = self._mine.run
        projection: dict[str, Any] = (
            {} if own.features is None else {run.result.party: own.features}
        )
        names = [half.settings.feature_key for half in self._others]
        parts = {
            name: FeatureBatch.of(each.features, hook)
            for name, each in zip(names, theirs, strict=True)
        }
        if self._mode == "local":
            # Like received features, these need a gradient, because there may be no other weight.
            for each in parts.values():
                zeros = _zeros_like(each.tensors)
                each.tensors = Leaves(zeros, trainable=number is not None).lent
        if run.plan.fusion == "masked_sum":
            return projection | {MASKED_SUM: sum(joined(each.tensors) for each in parts.values())}
        rows = {name: each.rows for name, each in parts.items()}
        keep = None if number is None else self._loop.kept_rows(number, rows)
        for name, each in parts.items():
            if keep is not None:
                each.tensors = kept(each.tensors, keep[name])
            projection[name] = each.arranged()
        return projection

    def _step(self, number: int, batches: Sequence[Batch]) -> dict[str, float | torch.Tensor]:
        optimizers = [
            half.models.feature_optimizer
            for half in self._others
            if self._mode == "pooled" and half.settings.is_feature_trainable
        ]
        for optimizer in optimizers:
            optimizer.zero_grad()
        projection = self._projection(batches, TRAINS, number)
        outcome = self._mine.hooks.seeded("train_a_batch", projection, batches[0].labels)
        for optimizer in optimizers:
            optimizer.step()
        return scalars_of(outcome, self._warned)

    def _test(self) -> None:
        tested = TestHooks(self._host, self._mine.hooks)
        with ExitStack() as stack:
            for half in self._halves:
                stack.enter_context(half.evaluating())
            for batches in self._batches(TESTS):
                projection, labels = self._projection(batches, TESTS), batches[0].labels
                if tested.keeps:
                    projection, labels = copied(projection), copied(labels)
                tested.add(projection, labels)
            tested.end()


def _zeros_like(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(each, requires_grad=False) for name, each in tensors.items()}
