"""All hooks of split training, to be read from top to bottom; and what hooks may read and call.

A scheduler's class is made of these: `PartyHooks` for both roles, `HostHooks` and
`CollaboratorHooks` for one each. How hooks are called is said in `heterofed.hetero_nn.train`; all
that belongs to that is behind one attribute.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from heterofed.compute.alignment import default_split
from heterofed.compute.autograd import backward, gradients_by_name
from heterofed.compute.joint_optimizer import JointOptimizer
from heterofed.compute.tensors import named
from heterofed.errors import ConfigError
from heterofed.hetero_nn.engine import HalfEngine
from heterofed.hetero_nn.settings import CollaboratorSettings, HostSettings
from heterofed.privacy.dpsgd import Sampling, most_participations, poisson_batches
from heterofed.reporting.results import TaskResult
from heterofed.runs.beside import launch_beside
from heterofed.runs.lifecycle import Lifecycle
from heterofed.runs.run import Resume
from heterofed.runs.scheduler import Scheduler
from heterofed.runs.settings import Shown


class PartyHooks(Scheduler):
    """What both roles share.

    Attributes:
        models_after_split: a class sets it to True to have its models made after the split, when
            `self.train_ids` are known: to fit a scaler or a vocabulary on train rows alone. What is
            wrong with the models then shows after the intersection, not before it.
    """

    models_after_split: bool = False
    _heterofed: HalfEngine[Any]

    def launch_task(
        self, task_id: str, resume: Resume = "auto", *, rehearse: bool = False
    ) -> TaskResult:
        """Run the task in this process until it ends.

        Args:
            task_id: the same at every party; parties on one machine find each other by it.
            resume: what to do with a run of this task that has not ended: go on from the newest
                checkpoint that all parties hold, or begin anew where there is none ("auto"); begin
                anew ("never"); end with an error where it cannot go on ("require").
            rehearse: only one batch from end to end, at every party: the result's `rehearsal` at
                the Host tells shapes, classes and the estimated seconds per round. Nothing is
                trained, and the results folder stays as it is but for `rehearsal/`.

        Returns:
            What came of it; also written to `summary.json` in the results folder.

        Raises:
            ConfigError: something at this party cannot work; nothing was done.
            TaskFailed: the task could not go on; a `TaskAborted` where another party ended it.
            Exception: a hook of this party raised; unchanged, with a note of where.
        """
        engine = self._heterofed
        if rehearse:
            return launch_beside(engine.dry_run(self), task_id)
        return Lifecycle(engine.training(self)).launch(task_id, resume)

    # -- hooks -----------------------------------------------------------------------------

    def split_dataset(self, id_intersection: set[str]) -> tuple[set[str], set[str]]:
        """Hook: split the common ids into train and test ids; the same function at every party.

        Where the Host announces its split (`announce_split`), it is asked at the Host alone.

        Args:
            id_intersection: the common ids; iterates in sorted order.

        Returns:
            (train ids, test ids). By default a stable hash split, 80/20.
        """
        return default_split(id_intersection)

    @abstractmethod
    def make_feature_model(self) -> nn.Module | None:
        """Hook: this party's half of the model; None where it needs none."""

    @abstractmethod
    def make_feature_optimizer(self, feature_model: nn.Module) -> Optimizer | None:
        """Hook: the optimizer of the feature model; not asked of a frozen party."""

    @abstractmethod
    def iterate_train_feature(
        self, feature_model: nn.Module, train_ids: list[str]
    ) -> Iterator[Any]:
        """Hook, a generator: the batches of one round, each through the feature model.

        Args:
            feature_model: in train mode (eval where this party is frozen).
            train_ids: in the agreed order of this round, the same at every party.

        Yields:
            A Collaborator `features` or `Batch(features, ids=...)`; the Host `(features, labels)`
            or `Batch(features, labels, ids)`. Features are a tensor, tuple or dict of tensors,
            [rows, ...]. With ids the order of the rows is checked against the other parties'.
        """

    @abstractmethod
    def iterate_test_feature(self, feature_model: nn.Module, test_ids: list[str]) -> Iterator[Any]:
        """Hook, a generator: as `iterate_train_feature`, without gradients and in eval mode."""

    def iterate_predict_feature(
        self, feature_model: nn.Module, predict_ids: list[str]
    ) -> Iterator[Any]:
        """Hook, a generator: the batches of a joint prediction, one row per id, in eval mode.

        Args:
            feature_model: with the weights of the finished run.
            predict_ids: sorted; batches of any size, which need not be the other parties'.

        Yields:
            As `iterate_test_feature`, which it is by default; labels may be None.
        """
        yield from self.iterate_test_feature(feature_model, predict_ids)

    def feature_columns(self) -> Sequence[str] | None:
        """Hook: names of the columns that the feature hooks read, in their order; kept with the
        model, and compared when it predicts.

        Returns:
            Strings; None, the default, where a `VerticalTable` reads them: it knows its columns.
        """
        return None

    def extra_state(self) -> Any:
        """Hook: state of yours that no checkpoint keeps by itself: of other libraries, or files.

        Returns:
            Tensors and plain values (numbers, strings, lists, dicts of them), or None.
        """
        return None

    def on_round_end(self) -> None:
        """Hook: a round and its test are over; the place for learning-rate schedules."""

    def load_extra_state(self, state: Any) -> None:
        """Hook: the inverse of `extra_state`; called where a run goes on from a checkpoint.

        Args:
            state: what `extra_state` returned when the checkpoint was written.
        """

    # -- what hooks may read and call --------------------------------------------------------

    @Shown
    def is_feature_trainable(self) -> bool:
        """As given to the constructor."""
        trainable: bool = self._heterofed.settings.is_feature_trainable
        return trainable

    @Shown
    def feature_model(self) -> Any:
        """This party's feature model; made on first use in a run."""
        return self._heterofed.made("feature_model")

    @Shown
    def feature_optimizer(self) -> Any:
        """The feature model's optimizer; None at a frozen party."""
        return self._heterofed.made("feature_optimizer")

    @Shown
    def train_ids(self) -> list[str]:
        """Train ids, sorted; empty before the split."""
        return self._heterofed.run.state.train_ids if self._heterofed.run else []

    @Shown
    def test_ids(self) -> list[str]:
        """Test ids, sorted; empty before the split."""
        return self._heterofed.run.state.test_ids if self._heterofed.run else []

    @Shown
    def batch_size(self) -> int | None:
        """Rows of an agreed batch; None before the parties met, or where none was agreed."""
        agreement = self._heterofed.run.maybe_agreement if self._heterofed.run else None
        return agreement.plan.batch_size or None if agreement else None

    @Shown
    def parties(self) -> tuple[str, ...]:
        """Feature keys of all parties, the Host's first; empty before they met."""
        agreement = self._heterofed.run.maybe_agreement if self._heterofed.run else None
        return (agreement.plan.host, *agreement.plan.collaborators) if agreement else ()

    @Shown
    def agreed(self) -> dict[str, str]:
        """Settings that the Host announced; before the parties met, what this party was given."""
        agreement = self._heterofed.run.maybe_agreement if self._heterofed.run else None
        return dict(agreement.plan.agreed if agreement else self._heterofed.settings.agreed)

    def batches(self, ids: Sequence[str], *, drop_last: bool = False) -> Iterator[list[str]]:
        """Cut ids into the agreed batches; for use in the feature hooks.

        Args:
            ids: as the hook got them.
            drop_last: leave out the last batch where it is shorter; the same at every party.

        Yields:
            Lists of the Host's `batch_size` ids, in their order; the last may be shorter.

        Raises:
            ConfigError: the Host was given no batch_size.
        """
        run = self._heterofed.run
        size = run.plan.batch_size if run else 0
        if not size:
            raise ConfigError("batches: no batch_size was agreed; give one to the Host's scheduler")
        for start in range(0, len(ids) - (size - 1) * drop_last, size):
            yield list(ids[start : start + size])

    def poisson_batches(self, train_ids: Sequence[str], batch_size: int) -> list[list[str]]:
        """Batches of this round for DP-SGD: each id is in each with the same chance, by itself.

        The same at every party. For use in `iterate_train_feature`; a batch may be empty.

        Args:
            train_ids: as the hook got them.
            batch_size: rows of a batch on average.

        Raises:
            ConfigError: there is no round; or the Host writes checkpoints within rounds, for which
                a hook gets a part of the train ids at a time.
        """
        run = self._heterofed.run
        if run is None or run.maybe_agreement is None:
            raise ConfigError("poisson_batches: there is no round yet; call it in a hook")
        if run.plan.checkpoint_batches:
            raise ConfigError(
                "poisson_batches draws from all train ids, checkpoint_batches gives a part of them"
                " at a time: take one of the two"
            )
        secret = run.agreement.secret
        batches = poisson_batches(train_ids, batch_size, secret=secret, round_number=run.round)
        sizes, most = tuple(map(len, batches)), most_participations(batches)
        run.state.sampled_round = run.round
        run.state.sampling = Sampling(batch_size, len(train_ids), sizes, most)
        run.state.most_drawn[run.party.phase] = max(1, most)
        return batches


class HostHooks(PartyHooks):
    """What the Host's user fills in, reads and calls."""

    _heterofed: HalfEngine[HostSettings]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if tests_in_batches(cls) and getattr(cls.test, "__isabstractmethod__", False):
            cls.test = _no_test  # type: ignore[method-assign]

    # -- hooks -----------------------------------------------------------------------------

    @abstractmethod
    def make_infer_model(self) -> nn.Module | None:
        """Hook: the model on top of the fused features; None, or one without weights, where the
        features are fused as they are (as in a logistic regression, by their sum).
        """

    @abstractmethod
    def make_infer_optimizer(self, infer_model: nn.Module) -> Optimizer | None:
        """Hook: the optimizer of the infer model; not asked where there is none. None where it has
        no weights.
        """

    @abstractmethod
    def train_a_batch(self, feature_projection: dict[str, Any], labels: Any) -> Any:
        """Hook: one step: fuse the features, forward, loss, backward, `self.optimizer.step()`.

        Args:
            feature_projection: features by feature key, each as its hook yielded it, [rows, ...];
                without the Host's key where it is label-only.
            labels: what `iterate_train_feature` yielded beside the features.

        Returns:
            None, a 0-d loss or a dict of scalars, recorded in `train.csv` as means per round, each
            over the batches that returned it.
        """

    @abstractmethod
    def test(
        self, batched_feature_projections: list[dict[str, Any]], batched_labels: list[Any]
    ) -> None:
        """Hook: measure the models on the test batches, in eval mode and without gradients.

        Args:
            batched_feature_projections: one dict per batch, as in `train_a_batch`.
            batched_labels: labels of the same batches.
        """

    def test_a_batch(self, feature_projection: dict[str, Any], labels: Any) -> None:
        """Hook: measure one test batch, instead of `test`, for test sets that do not fit in memory.

        Args:
            feature_projection: features by feature key, as in `train_a_batch`.
            labels: labels of the same rows.
        """

    def end_test(self) -> None:
        """Hook: all test batches went through `test_a_batch`; the place to append metrics."""

    def load_predict_ids(self) -> Iterable[str]:
        """Hook: the ids that `predict` is for where it is given none; by default all own ones.

        Of these the ones that all parties have are predicted.
        """
        return self.load_local_ids()

    def predict_a_batch(self, feature_projection: dict[str, Any]) -> Any:
        """Hook: predictions of one batch, in eval mode and without gradients; only for `predict`.

        Args:
            feature_projection: features by feature key, as in `train_a_batch`.

        Returns:
            A tensor [rows] or [rows, columns], or a dict of them by column name.
        """
        raise NotImplementedError

    def is_task_finished(self) -> bool:
        """Hook: asked after each round; by default whether `max_rounds` are done."""
        return self._is_reach_max_rounds()

    def validate_context(self) -> None:
        """Hook: check settings before anything else; call `super().validate_context()`.

        Raises:
            ConfigError: a setting of the constructor cannot work.
        """
        super().validate_context()
        if ends_by_default(type(self)):
            self._heterofed.settings.check_rounds()

    # -- what hooks may read and call --------------------------------------------------------

    @Shown
    def max_rounds(self) -> int:
        """As given to the constructor."""
        return self._heterofed.settings.max_rounds

    @Shown
    def log_rounds(self) -> int:
        """As given to the constructor."""
        return self._heterofed.settings.log_rounds

    @Shown
    def calculation_timeout(self) -> float:
        """As given to the constructor, in seconds."""
        return self._heterofed.settings.calculation_timeout

    @Shown
    def infer_model(self) -> Any:
        """The model on top of the fused features; made on first use in a run."""
        return self._heterofed.made("infer_model")

    @Shown
    def infer_optimizer(self) -> Any:
        """The infer model's optimizer."""
        return self._heterofed.made("infer_optimizer")

    @Shown
    def optimizer(self) -> JointOptimizer:
        """All optimizers of the Host as one `torch.optim.Optimizer`; its `zero_grad` clears the
        gradients of received features too.
        """
        optimizer: JointOptimizer = self._heterofed.made("optimizer")
        return optimizer

    def mark_best(self) -> None:
        """Have every party keep this round's weights as `best_<model>.pt`; for use in `test`.

        Raises:
            ConfigError: no round is running.
        """
        run = self._heterofed.run
        if run is None or run.round == 0:
            raise ConfigError("mark_best: there is no round yet; call it in test")
        run.state.is_best = True

    def _is_reach_max_rounds(self) -> bool:
        run = self._heterofed.run
        return run is not None and run.round >= self._heterofed.settings.max_rounds


class CollaboratorHooks(PartyHooks):
    """What a Collaborator's user fills in, beside what both roles share."""

    _heterofed: HalfEngine[CollaboratorSettings]

    def update_feature_model(self, features: Any, gradients: Any) -> None:
        """Hook: one step of the feature model; the place for clipping, AMP, accumulation.

        Args:
            features: what `iterate_train_feature` yielded, still attached to its graph.
            gradients: dL/dfeatures in the same arrangement; None for tensors without one.

        By default: `zero_grad`, backward from the gradients, `step`. Where this is not overridden,
        backward runs while the Host is still busy with its own half.
        """
        tensors = named(features, "iterate_train_feature")[1]
        optimizer = self._heterofed.made("feature_optimizer")
        optimizer.zero_grad()
        backward(tensors, gradients_by_name(tensors, gradients))
        optimizer.step()


# -- what a user's class has defined -----------------------------------------------------------


def tests_in_batches(cls: type[HostHooks]) -> bool:
    """Whether a class tests batch by batch."""
    return cls.test_a_batch is not HostHooks.test_a_batch


def predicts(cls: type[HostHooks]) -> bool:
    """Whether a class says what its predictions are."""
    return cls.predict_a_batch is not HostHooks.predict_a_batch


def ends_by_default(cls: type[HostHooks]) -> bool:
    """Whether the task ends after `max_rounds`."""
    return cls.is_task_finished is HostHooks.is_task_finished


def keeps_extra_state(cls: type[PartyHooks]) -> bool:
    """Whether a class keeps state of its own in checkpoints."""
    return cls.extra_state is not PartyHooks.extra_state


def updates_by_default(scheduler: CollaboratorHooks) -> bool:
    """Whether a step of the feature model is the default one."""
    mine = getattr(scheduler.update_feature_model, "__func__", None)
    return mine is CollaboratorHooks.update_feature_model


def _no_test(*_: Any, **__: Any) -> None:
    """Stands for `test` where a class tests batch by batch."""


def half_engine(scheduler: PartyHooks) -> HalfEngine[Any]:
    """What is behind a scheduler of split training, for the parts of heterofed that run it."""
    return scheduler._heterofed
