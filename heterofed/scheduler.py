"""What both roles of a training task share: their hooks, and the models of one run.

The loops themselves are in `heterofed.hetero_nn`.
"""

from __future__ import annotations

import functools
import itertools
import logging
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

from heterofed.alignment import (
    SortedIdSet,
    check_ids,
    check_split,
    default_split,
    keyed_digest,
    round_order,
)
from heterofed.checker import DataChecker
from heterofed.errors import ConfigError, TaskFailed
from heterofed.lifecycle import Run, Scheduler, Shown, party_of, plan_of
from heterofed.metrics import register_metrics
from heterofed.protocol.messages import SplitPlan
from heterofed.results import TaskResult, write_whole
from heterofed.training import (
    Batch,
    Lazy,
    as_batch,
    check_model,
    check_optimizer,
    random_stream,
    streamed,
)

logger = logging.getLogger("heterofed")

T = TypeVar("T")

__all__ = [
    "ConfigError",
    "DataChecker",
    "Scheduler",
    "TaskFailed",
    "TrainingScheduler",
    "register_metrics",
]


class TrainingScheduler(Scheduler):
    """Base of the two schedulers of split training."""

    _is_feature_trainable: bool = True

    def launch_task(self, task_id: str) -> TaskResult:
        """Run the task in this process until it ends.

        Args:
            task_id: the same at every party; parties on one machine find each other by it.

        Returns:
            What came of it; also written to `summary.json` in the results folder.

        Raises:
            ConfigError: something at this party cannot work; nothing was done.
            TaskFailed: the task could not go on; a `TaskAborted` where another party ended it.
            Exception: a hook of this party raised; unchanged, with a note of where.
        """
        return self._launch(task_id)

    # -- hooks -----------------------------------------------------------------------------

    def split_dataset(self, id_intersection: set[str]) -> tuple[set[str], set[str]]:
        """Hook: split the common ids into train and test ids; the same function at every party.

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
            A Collaborator `features` or `Batch(features)`; the Host `(features, labels)` or
            `Batch(features, labels)`. Features are a tensor, tuple or dict of tensors, [rows, ...].
        """

    @abstractmethod
    def iterate_test_feature(self, feature_model: nn.Module, test_ids: list[str]) -> Iterator[Any]:
        """Hook, a generator: as `iterate_train_feature`, without gradients and in eval mode."""

    def on_round_end(self) -> None:
        """Hook: a round and its test are over; the place for learning-rate schedules."""

    # -- what hooks may read ---------------------------------------------------------------

    @Shown
    def is_feature_trainable(self) -> bool:
        """As given to the constructor."""
        return self._is_feature_trainable

    @Shown
    def feature_model(self) -> Any:
        """This party's feature model; made on first use in a run."""
        return self._made("feature_model")

    @Shown
    def feature_optimizer(self) -> Any:
        """The feature model's optimizer; None at a frozen party."""
        return self._made("feature_optimizer")

    @Shown
    def train_ids(self) -> list[str]:
        """Train ids, sorted; empty before the split."""
        return self._run.state.get("train_ids", []) if self._run else []

    @Shown
    def test_ids(self) -> list[str]:
        """Test ids, sorted; empty before the split."""
        return self._run.state.get("test_ids", []) if self._run else []

    # -- for the loops ---------------------------------------------------------------------

    def _makers(self) -> dict[str, Callable[[], Any]]:
        """How each model and optimizer of this role is made, by name."""
        return {
            "feature_model": lambda: check_model(
                self._seeded_hook("make_feature_model"), "make_feature_model"
            ),
            "feature_optimizer": self._make_feature_optimizer,
        }

    def _make_feature_optimizer(self) -> Optimizer | None:
        model = self._made("feature_model")
        if model is None or not self._is_feature_trainable:
            return None
        optimizer = check_optimizer(
            self._seeded_hook("make_feature_optimizer", model), "make_feature_optimizer"
        )
        if optimizer is None:
            raise ConfigError(
                "make_feature_optimizer returned None, but this party's features are trainable;"
                " return an optimizer, or pass is_feature_trainable=False"
            )
        return optimizer

    def _made(self, name: str) -> Any:
        """A model or optimizer of this run, made on first use.

        Raises:
            ConfigError: no run has begun.
        """
        if self._run is None:
            raise ConfigError(f"{name} is made when a task is launched; there is none yet")
        made: dict[str, Lazy] = self._run.state.setdefault("made", {})
        if name not in made:
            made[name] = Lazy(self._makers()[name])
        return made[name]()

    def _seeded_hook(self, hook: str, *args: Any, **kwargs: Any) -> Any:
        """Call a hook under its own random stream of this round and batch."""
        return self._seeded(hook, getattr(self, hook), *args, **kwargs)

    def _seeded(self, hook: str, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call what stands for a hook as the hook would be called."""
        run = self._run
        seed = run.seed if run else 0
        batch = (run.party.batch if run and run.party else None) or 0
        with random_stream(seed, self._settings.feature_key, hook, run.round if run else 0, batch):
            return self._call_hook(hook, call, *args, **kwargs)

    def _own_batches(
        self, run: Run, hook: str, ids: Iterable[str], *, grad: bool, with_labels: bool
    ) -> Generator[Batch, None, None]:
        """What a feature hook yields, checked, each batch under its own random stream."""
        with self._in_hook(hook):
            items = getattr(self, hook)(self._made("feature_model"), list(ids))
            if not hasattr(items, "__next__"):
                if not hasattr(items, "__iter__"):
                    raise ConfigError(f"{hook} must be a generator; it returned no iterable")
                items = iter(items)
        path = (self._settings.feature_key, hook, run.round)
        stepping = streamed(items, run.seed, *path, grad=grad)
        where = f"{hook} of {self._settings.shown_name}"
        for number in itertools.count():
            party_of(run).batch = number
            with self._in_hook(hook):
                try:
                    item = next(stepping)
                except StopIteration:
                    return
            yield as_batch(item, where, with_labels=with_labels)

    def _prepare(self, run: Run) -> list[str]:
        """Load the ids, make models and optimizers: what is wrong with them shows before PSI."""
        with party_of(run).in_phase("prepare"):
            ids = check_ids(self._call_hook("load_local_ids", self.load_local_ids))
            for name in self._makers():
                self._made(name)
        return ids

    def _split(self, run: Run, common: Iterable[str]) -> SplitPlan:
        """Split the common ids; gives the digests by which the parties compare their splits."""
        common = SortedIdSet(common)
        train, test = check_split(self._call_hook("split_dataset", self.split_dataset, common))
        if not common.issuperset(train) or not common.issuperset(test):
            logger.info("split_dataset returned names that are not ids of the intersection")
        run.result.ids = len(common)
        run.state["train_ids"], run.state["test_ids"] = train, test
        agreement = run.agreement
        secret = agreement.secret if agreement else b""
        return SplitPlan(
            keyed_digest(secret, "train", train),
            keyed_digest(secret, "test", test),
            len(train),
            len(test),
        )

    def _round_ids(self, run: Run) -> list[str]:
        plan = plan_of(run)
        return round_order(
            run.state["train_ids"], seed=plan.seed, round_number=run.round, shuffle=plan.shuffle
        )

    def _set_modes(self, training: bool) -> None:
        """Feature model: train mode while training unless frozen, eval otherwise."""
        model = self._made("feature_model")
        if model is not None:
            model.train(training and self._is_feature_trainable)

    def _save_models(self, run: Run, names: Sequence[str], prefix: str = "") -> None:
        """Write each model's `state_dict` to `<prefix><name>.pt`, whole or not at all."""
        for name in names:
            model = self._made(name)
            if model is not None:
                run.result.models[prefix + name] = write_whole(
                    run.result.folder / f"{prefix}{name}.pt",
                    functools.partial(torch.save, model.state_dict()),
                )
        run.result.rounds = run.round
