"""Defines all hooks of split training, and the attributes and methods that hooks may use.

A scheduler's class inherits from these: `PartyHooks` for both roles, and `HostHooks` or
`CollaboratorHooks` for one role. The loops in `heterofed.hetero_nn.train` call the hooks; their
state is behind one attribute.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from heterofed.compute.alignment import default_split, some_ids
from heterofed.compute.autograd import backward, gradients_by_name
from heterofed.compute.joint_optimizer import JointOptimizer
from heterofed.compute.packed_ids import PackedIds, Positions
from heterofed.compute.tensors import named
from heterofed.compute.workers.exchange import Exchange
from heterofed.compute.workers.launch import shared
from heterofed.compute.workers.sharding import sharding
from heterofed.errors import ConfigError
from heterofed.events import Callback
from heterofed.hetero_nn.engine import HalfEngine
from heterofed.hetero_nn.settings import CollaboratorSettings, HostSettings
from heterofed.hetero_nn.sites.cutting import cut
from heterofed.privacy.dpsgd import Sampling, most_participations, poisson_batches
from heterofed.reporting.task_result import TaskResult
from heterofed.runs.beside import launch_beside
from heterofed.runs.lifecycle import Lifecycle
from heterofed.runs.run import Resume
from heterofed.runs.scheduler import Scheduler
from heterofed.runs.settings import Shown, check_flag, check_last_round


class PartyHooks(Scheduler):
    """The hooks, attributes and methods of both roles.

    Attributes:
        models_after_split: whether the models are made after the split, when `self.train_ids` are
            known. A class sets it to True, for example, to fit a scaler or a vocabulary on train
            rows alone. Errors in the models then show after the intersection and not before it.
    """

    models_after_split: bool = False
    _heterofed: HalfEngine[Any]

    def launch_task(
        self,
        task_id: str,
        resume: Resume = "auto",
        *,
        rehearse: bool = False,
        callbacks: Sequence[Callback] = (),
        watch: bool = False,
    ) -> TaskResult:
        """Run the task in this process until it ends.

        If `torchrun` started several processes of this party, the first one does all of this, and
        the others compute parts of the feature model.

        Args:
            task_id: the id of the task, which is the same at every party. Parties on one machine
                find each other by it.
            resume: how to treat an interrupted run of this task. "auto" resumes from the newest
                checkpoint that all parties hold, or starts anew if there is none. "never" starts
                anew. "require" raises an error if the run cannot be resumed.
            rehearse: whether to do only a dry run, which sends one batch from end to end at every
                party. The result's `rehearsal` at the Host has shapes, classes and the estimated
                seconds per round. Nothing is trained, and only the folder `rehearsal/` of the
                results folder is written.
            callbacks: further callables that get the events of this launch, before those that the
                constructor was given.
            watch: whether to serve a live page of the task until the launch ends. Its address is
                printed to stderr. It needs the extra `watch`; a dry run has no page.

        Returns:
            The result of the task, which is also written to `summary.json` in the results folder.

        Raises:
            ConfigError: a setting or file of this party is wrong; nothing was done.
            TaskFailed: the task failed; it is a `TaskAborted` if another party ended it.
            Exception: a hook of this party raised it; it has a note with the hook and the phase.
        """
        check_flag("rehearse", rehearse)
        engine = self._heterofed

        def launch(exchange: Exchange | None) -> TaskResult:
            engine.exchange = exchange
            with sharding(exchange, wanted=engine.settings.shard_feature_model):
                if rehearse:
                    return launch_beside(engine.dry_run(self), task_id, callbacks)
                return Lifecycle(engine.training(self)).launch(
                    task_id, resume, callbacks=callbacks, watch=watch
                )

        return shared(launch, engine.deadline, engine.settings.feature_workers)

    # -- hooks -----------------------------------------------------------------------------

    def load_further_ids(self, common: set[str], key: int) -> Iterable[str]:
        """Hook: return the ids by a further key, of the rows that no key before has matched.

        It is called only if the Host's plan has several keys (`id_keys`); `load_local_ids` returns
        the ids by the first one.

        Args:
            common: the ids that all parties have by the keys before.
            key: the number of the key, from 1.

        Returns:
            Unique strings, which may be none. They must differ from ids by other keys, so mark them
            by their key, in the same way at every party.
        """
        raise ConfigError(
            f"the Host's plan matches rows by several keys, and there is none of number {key} for"
            f" rows that are not among the {len(common)} common ones: define load_further_ids"
        )

    def split_dataset(self, id_intersection: set[str]) -> tuple[set[str], set[str]]:
        """Hook: split the common ids into train and test ids; the same function at every party.

        If the Host announces its split (`announce_split`), this hook is called only at the Host.

        Args:
            id_intersection: the common ids, which iterate in sorted order.

        Returns:
            The train ids and the test ids. By default a hash of each id puts 80 % of the ids into
            the train set.
        """
        return default_split(id_intersection)

    def split_places(
        self,
        ids: PackedIds,  # noqa: ARG002
    ) -> tuple[Positions, Positions] | None:
        """Hook: return the positions of train and test ids among the sorted common ids, ascending.

        It saves memory where there are millions of ids: they are never strings all at once. Then
        hooks get them as a sequence that is not a list. With None, `split_dataset` is called.
        """
        return None

    @abstractmethod
    def make_feature_model(self) -> nn.Module | None:
        """Hook: return this party's half of the model, or None if it needs none."""

    @abstractmethod
    def make_feature_optimizer(self, feature_model: nn.Module) -> Optimizer | None:
        """Hook: return the optimizer of the feature model. It is not called at a frozen party."""

    @abstractmethod
    def iterate_train_feature(
        self, feature_model: nn.Module, train_ids: list[str]
    ) -> Iterator[Any]:
        """Hook, a generator: yield the batches of one round, each computed by the feature model.

        Args:
            feature_model: the feature model in train mode, or in eval mode at a frozen party.
            train_ids: the train ids in the agreed order of this round, the same at every party.

        Yields:
            At a Collaborator `features` or `Batch(features, ids=...)`, at the Host `(features,
            labels)` or `Batch(features, labels, ids)`. Features are a tensor, or a tuple or dict of
            tensors, with the shape [rows, ...]. If all parties yield ids, the order of the rows is
            compared between them.
        """

    @abstractmethod
    def iterate_test_feature(self, feature_model: nn.Module, test_ids: list[str]) -> Iterator[Any]:
        """Hook, a generator: yield the test batches like `iterate_train_feature`.

        It is called without gradients and with the feature model in eval mode.
        """

    def iterate_predict_feature(
        self, feature_model: nn.Module, predict_ids: list[str]
    ) -> Iterator[Any]:
        """Hook, a generator: yield the batches of a joint prediction, with one row per id.

        By default it calls `iterate_test_feature`.

        Args:
            feature_model: the feature model in eval mode, with the weights of the finished run.
            predict_ids: the ids to predict, sorted. Batch sizes may differ between parties.

        Yields:
            The same as `iterate_test_feature`; the labels may be None.
        """
        yield from self.iterate_test_feature(feature_model, predict_ids)

    def load_features(self, ids: list[str]) -> Any:
        """Hook: return the inputs of the feature model for some rows as they are now.

        Only serving calls it, for each request anew (see `heterofed serve`). Without it, serving
        calls `iterate_predict_feature`.

        Args:
            ids: the ids of the rows, which may be a single one.

        Returns:
            What the feature model is called with, such as a tensor of shape [rows, ...] whose rows
            are in the order of `ids`.
        """
        raise NotImplementedError(f"define load_features to serve {len(ids)} rows")

    def feature_columns(self) -> Sequence[str] | None:
        """Hook: return the names of the columns that the feature hooks read, in order.

        They are kept with the model and compared when it predicts.

        Returns:
            A list of names, or None (the default) if the hooks read a `VerticalTable`, which knows
            its columns.
        """
        return None

    def extra_state(self) -> Any:
        """Hook: return state that checkpoints do not contain by themselves, as of other libraries.

        Returns:
            Tensors and plain values (numbers, strings, and lists and dicts of them), or None.
        """
        return None

    def on_round_end(self) -> None:
        """Hook: called after each round and its test, to step learning-rate schedules."""

    def load_extra_state(self, state: Any) -> None:
        """Hook: restore the state of `extra_state` when a run is resumed from a checkpoint.

        Args:
            state: the result of `extra_state` when the checkpoint was written.
        """

    # -- what hooks may read and call --------------------------------------------------------

    @Shown
    def is_feature_trainable(self) -> bool:
        """The constructor's argument: False if this party's feature model is frozen."""
        trainable: bool = self._heterofed.settings.is_feature_trainable
        return trainable

    @Shown
    def feature_model(self) -> Any:
        """This party's feature model, which is made on first use in a run."""
        return self._heterofed.made("feature_model")

    @Shown
    def feature_optimizer(self) -> Any:
        """The feature model's optimizer, or None at a frozen party."""
        return self._heterofed.made("feature_optimizer")

    @Shown
    def train_ids(self) -> list[str]:
        """The train ids, sorted; empty before the split."""
        return _listed(ids_of(self)[0])

    @Shown
    def test_ids(self) -> list[str]:
        """The test ids, sorted; empty before the split."""
        return _listed(ids_of(self)[1])

    @Shown
    def batch_size(self) -> int | None:
        """The agreed number of rows in a batch; None before the plan is known or without one."""
        agreement = self._heterofed.run.maybe_agreement if self._heterofed.run else None
        return agreement.plan.batch_size or None if agreement else None

    @Shown
    def final_rows(self) -> int:
        """The number of test rows on which the best models are looked at after the last round; 0
        for none.
        """
        agreement = self._heterofed.run.maybe_agreement if self._heterofed.run else None
        return agreement.plan.final_rows if agreement else 0

    @Shown
    def id_keys(self) -> int:
        """The number of keys by which rows are matched; 1 before the plan is known, at a
        Collaborator.
        """
        agreement = self._heterofed.run.maybe_agreement if self._heterofed.run else None
        given: int = getattr(self._heterofed.settings, "id_keys", 1)
        return agreement.plan.id_keys if agreement else given

    @Shown
    def parties(self) -> tuple[str, ...]:
        """The feature keys of all parties, the Host's first; empty before the parties are
        connected.
        """
        agreement = self._heterofed.run.maybe_agreement if self._heterofed.run else None
        return (agreement.plan.host, *agreement.plan.collaborators) if agreement else ()

    @Shown
    def agreed(self) -> dict[str, str]:
        """The settings that the Host announced, or the constructor's before the plan is known."""
        agreement = self._heterofed.run.maybe_agreement if self._heterofed.run else None
        return dict(agreement.plan.agreed if agreement else self._heterofed.settings.agreed)

    def batches(self, ids: Sequence[str], *, drop_last: bool = False) -> Iterator[list[str]]:
        """Cut ids into the agreed batches, for use in the feature hooks.

        Args:
            ids: the ids as the hook got them.
            drop_last: whether to leave out a shorter last batch; the same at every party.

        Yields:
            Lists of `batch_size` ids in order; the last one may be shorter. If it would be shorter
            than `min_batch` of the terms, its ids are in the list before it. At a site of a role,
            each list has the ids of a batch that are at this site.

        Raises:
            ConfigError: no batch size was agreed; or `drop_last` is set in a task with sites.
        """
        run = self._heterofed.run
        size = run.plan.batch_size if run else 0
        if run and run.plan.sites and drop_last:
            raise ConfigError("batches: drop_last does not go with sites; leave it out")
        if run and run.batch_rows is not None:
            yield from cut(ids, run.batch_rows)
            return
        if not size:
            raise ConfigError("batches: no batch_size was agreed; give one to the Host's scheduler")
        least = (run.plan.limits.min_batch if run else None) or 0
        for start in range(0, len(ids) - (size - 1) * drop_last, size):
            rest = len(ids) - start - size
            if start and rest + size < least:
                return  # the list before has these ids too
            yield list(ids[start:] if rest < least and not drop_last else ids[start : start + size])

    def poisson_batches(self, train_ids: Sequence[str], batch_size: int) -> list[list[str]]:
        """Draw the batches of this round for DP-SGD: each batch contains each id independently.

        The batches are the same at every party. Call it in `iterate_train_feature`. A batch may be
        empty.

        Args:
            train_ids: the ids as the hook got them.
            batch_size: the average number of rows in a batch.

        Returns:
            The ids of each batch.

        Raises:
            ConfigError: no round has begun; or the Host writes checkpoints within rounds, so that
                the hook gets only a part of the train ids at a time.
        """
        run = self._heterofed.run
        if run is None or run.maybe_agreement is None:
            raise ConfigError("poisson_batches: there is no round yet; call it in a hook")
        if run.plan.sites:
            raise ConfigError(
                "poisson_batches draws from the train ids of all parties, of which a site has only"
                " some: use self.batches in a task with sites"
            )
        if run.plan.checkpoint_batches:
            raise ConfigError(
                "poisson_batches draws from all train ids, but with checkpoint_batches the hook"
                " gets only a part of them at a time: use one of the two"
            )
        secret = run.agreement.secret
        batches = poisson_batches(train_ids, batch_size, secret=secret, round_number=run.round)
        sizes, most = tuple(map(len, batches)), most_participations(batches)
        run.state.sampled_round = run.round
        run.state.sampling = Sampling(batch_size, len(train_ids), sizes, most)
        run.state.most_drawn[run.party.phase] = max(1, most)
        return batches


class HostHooks(PartyHooks):
    """The hooks, attributes and methods of the Host, in addition to those of both roles."""

    _heterofed: HalfEngine[HostSettings]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if tests_in_batches(cls) and getattr(cls.test, "__isabstractmethod__", False):
            cls.test = _no_test  # type: ignore[method-assign]

    # -- hooks -----------------------------------------------------------------------------

    @abstractmethod
    def make_infer_model(self) -> nn.Module | None:
        """Hook: return the model on top of the fused features.

        Return None, or a model without weights, if fusing the features gives the prediction, as
        their sum does in a logistic regression.
        """

    @abstractmethod
    def make_infer_optimizer(self, infer_model: nn.Module) -> Optimizer | None:
        """Hook: return the optimizer of the infer model, or None if that model has no weights.

        It is not called if there is no infer model.
        """

    @abstractmethod
    def train_a_batch(self, feature_projection: dict[str, Any], labels: Any) -> Any:
        """Hook: make one training step: fuse the features, forward, loss, backward, step.

        Args:
            feature_projection: the features by feature key, each in the form in which its hook
                yielded it, [rows, ...]. It has no entry for a Host without features.
            labels: the labels that `iterate_train_feature` yielded with the features.

        Returns:
            None, a 0-d loss or a dict of scalars. The mean per round of each of them, over the
            batches that returned it, is written to `train.csv`.
        """

    @abstractmethod
    def test(
        self, batched_feature_projections: list[dict[str, Any]], batched_labels: list[Any]
    ) -> None:
        """Hook: measure the models on all test batches, in eval mode and without gradients.

        Args:
            batched_feature_projections: the `feature_projection` of each batch, as in
                `train_a_batch`.
            batched_labels: the labels of each batch.
        """

    def test_a_batch(self, feature_projection: dict[str, Any], labels: Any) -> None:
        """Hook: measure one test batch. It replaces `test` for test sets that do not fit in memory.

        Args:
            feature_projection: the features by feature key, as in `train_a_batch`.
            labels: the labels of the same rows.
        """

    def end_test(self) -> None:
        """Hook: called after `test_a_batch` was called for all test batches, to append metrics."""

    def load_predict_ids(self) -> Iterable[str]:
        """Hook: return the ids for a `predict` without ids; by default all of this party's ids.

        The ids among them that all parties have are predicted.
        """
        return self.load_local_ids()

    def read_ids(self, ids: list[str]) -> list[str]:
        """Hook: return ids in the form that `load_local_ids` gives them.

        Only serving calls it, for ids of a request that are not served as they are: callers may
        write them otherwise. By default they are returned unchanged.

        Args:
            ids: the ids that a caller has sent.

        Returns:
            As many ids, in their order; one that cannot be read unchanged.
        """
        return ids

    def read_columns(self, columns: dict[str, list[Any]]) -> Any:
        """Hook: return the inputs of the feature model for rows that a request gives by column.

        Only serving calls it, for requests that have the Host's own columns with them.

        Args:
            columns: the values of each column, in the order of the rows; a caller has sent them, so
                check what they are.

        Returns:
            The inputs as `load_features` returns them.
        """
        raise ConfigError(
            f"a request has {len(columns)} columns with it: define read_columns to serve such"
        )

    def predict_a_batch(self, feature_projection: dict[str, Any]) -> Any:
        """Hook: return the predictions of one batch, in eval mode and without gradients.

        Only `predict` needs it.

        Args:
            feature_projection: the features by feature key, as in `train_a_batch`.

        Returns:
            A tensor [rows] or [rows, columns], or a dict of such tensors by column name.
        """
        raise NotImplementedError

    def final_look(self, party: str, number: int, features: Any) -> None:
        """Hook: look at one batch of a Collaborator with the models of the best round.

        It is called after the last round if `final_rows` was given, in eval mode and without
        gradients. The first batches of all parties come before any second one.

        Args:
            party: the feature key of the Collaborator.
            number: the number of its batch: 0 is as the model knows it, and in others something is
                changed by the Collaborator's `iterate_final_feature`.
            features: of the rows of `self.final_ids`, in the form in which they were yielded.
        """

    def end_final_look(self) -> Mapping[str, Sequence[float]]:
        """Hook: return what was found, by feature key: a number for each batch from the second on.

        Each Collaborator gets its own numbers (`take_findings`).
        """
        return {}

    def is_task_finished(self) -> bool:
        """Hook: return after each round whether it was the last; by default after `max_rounds`."""
        return self._is_reach_max_rounds()

    def validate_context(self) -> None:
        """Hook: check settings before the task begins; call `super().validate_context()`.

        Raises:
            ConfigError: a setting of the constructor is wrong.
        """
        super().validate_context()
        if ends_by_default(type(self)):
            check_last_round(self._heterofed.settings.max_rounds)

    # -- what hooks may read and call --------------------------------------------------------

    @Shown
    def max_rounds(self) -> int:
        """The constructor's argument: the number of rounds to train."""
        return self._heterofed.settings.max_rounds

    @Shown
    def log_rounds(self) -> int:
        """The constructor's argument: the number of rounds between two tests."""
        return self._heterofed.settings.log_rounds

    @Shown
    def calculation_timeout(self) -> float:
        """The constructor's argument, in seconds."""
        return self._heterofed.settings.calculation_timeout

    @Shown
    def final_ids(self) -> list[str]:
        """The test ids of the final evaluation after the last round, sorted."""
        run = self._heterofed.run
        if run is None or run.maybe_agreement is None:
            return []
        return some_ids(run.state.test_ids, seed=run.plan.seed, most=run.plan.final_rows)

    @Shown
    def infer_model(self) -> Any:
        """The model on top of the fused features, which is made on first use in a run."""
        return self._heterofed.made("infer_model")

    @Shown
    def infer_optimizer(self) -> Any:
        """The infer model's optimizer."""
        return self._heterofed.made("infer_optimizer")

    @Shown
    def optimizer(self) -> JointOptimizer:
        """All optimizers of the Host as one `torch.optim.Optimizer`.

        Its `zero_grad` also clears the gradients of received features.
        """
        optimizer: JointOptimizer = self._heterofed.made("optimizer")
        return optimizer

    def mark_best(self) -> None:
        """Make every party keep this round's weights as `best_<model>.pt`; call it in `test`.

        Raises:
            ConfigError: no round has begun.
        """
        self._heterofed.mark_best("test")

    def _is_reach_max_rounds(self) -> bool:
        run = self._heterofed.run
        return run is not None and run.round >= self._heterofed.settings.max_rounds


class CollaboratorHooks(PartyHooks):
    """The hooks of a Collaborator, in addition to those of both roles."""

    _heterofed: HalfEngine[CollaboratorSettings]

    def iterate_final_feature(
        self, feature_model: nn.Module, final_ids: list[str]
    ) -> Iterator[Any]:
        """Hook, a generator: yield batches of test rows for a look at the models of the best round.

        It is called after the last round if the Host's plan has `final_rows`. A class that does not
        define it refuses such a plan before any id is sent.

        Args:
            feature_model: the feature model of the best round, in eval mode.
            final_ids: the ids of the rows. Each batch has all of them, in this order.

        Yields:
            `Batch(features, ids=final_ids)`: first as in a test, then with something changed, such
            as one column's values dealt out to other rows; at most 257 batches.
        """
        raise NotImplementedError

    def take_findings(self, values: list[float]) -> None:
        """Hook: take what the Host has found of the batches of `iterate_final_feature`.

        Args:
            values: a number for each batch from the second on, NaN where it has no meaning; empty
                if the Host found nothing.
        """

    def update_feature_model(self, features: Any, gradients: Any) -> None:
        """Hook: make one step of the feature model; override it for clipping, AMP or accumulation.

        By default it calls `zero_grad`, backward from the gradients, and `step`. If it is not
        overridden, the backward pass may run while the Host still computes its own half.

        Args:
            features: the features that `iterate_train_feature` yielded, attached to their graph.
            gradients: dL/dfeatures in the same form, with None for tensors without a gradient.
        """
        tensors = named(features, "iterate_train_feature")[1]
        optimizer = self._heterofed.made("feature_optimizer")
        optimizer.zero_grad()
        backward(tensors, gradients_by_name(tensors, gradients))
        optimizer.step()


# -- what a user's class defines --------------------------------------------------------------


def tests_in_batches(cls: type[HostHooks]) -> bool:
    """Return whether a class tests batch by batch."""
    return cls.test_a_batch is not HostHooks.test_a_batch


def predicts(cls: type[HostHooks]) -> bool:
    """Return whether a class defines its predictions."""
    return cls.predict_a_batch is not HostHooks.predict_a_batch


def loads_features(cls: type[PartyHooks]) -> bool:
    """Return whether a class loads the inputs of single rows for serving."""
    return cls.load_features is not PartyHooks.load_features


def ends_by_default(cls: type[HostHooks]) -> bool:
    """Return whether the task ends after `max_rounds`."""
    return cls.is_task_finished is HostHooks.is_task_finished


def lets_look(scheduler: PartyHooks) -> bool:
    """Return whether a Collaborator takes part in a final evaluation of the best models."""
    mine = getattr(type(scheduler), "iterate_final_feature", None)
    return mine is not CollaboratorHooks.iterate_final_feature


def keeps_extra_state(cls: type[PartyHooks]) -> bool:
    """Return whether a class adds state to checkpoints."""
    return cls.extra_state is not PartyHooks.extra_state


def updates_by_default(scheduler: CollaboratorHooks) -> bool:
    """Return whether a scheduler uses the default step of the feature model."""
    mine = getattr(scheduler.update_feature_model, "__func__", None)
    return mine is CollaboratorHooks.update_feature_model


def _no_test(*_: Any, **__: Any) -> None:
    """Replace `test` in a class that tests batch by batch."""


def ids_of(owner: PartyHooks) -> tuple[Sequence[str], Sequence[str]]:
    """Return the train and test ids in the form in which the run holds them; empty before the
    split.
    """
    run = half_engine(owner).run
    return (run.state.train_ids, run.state.test_ids) if run else ([], [])


def _listed(ids: Sequence[str]) -> list[str]:
    return ids if isinstance(ids, list) else list(ids)


def half_engine(scheduler: PartyHooks) -> HalfEngine[Any]:
    """Return the engine behind a scheduler of split training."""
    return scheduler._heterofed
