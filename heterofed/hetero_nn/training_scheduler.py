"""What both roles of a training task share: their hooks, and the models of one run.

The loops themselves are in `heterofed.hetero_nn`.
"""

from __future__ import annotations

import functools
import itertools
import logging
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import msgspec
from torch import Tensor, nn
from torch.optim import Optimizer

from heterofed.compute.alignment import (
    SortedIdSet,
    check_split,
    default_split,
    keyed_digest,
    round_order,
)
from heterofed.compute.autograd import check_model, check_optimizer, has_weights, optimizer_of
from heterofed.compute.batch import Batch, as_batch, rows_of
from heterofed.compute.freshness import Freshness
from heterofed.compute.movement import Movement
from heterofed.compute.plain import strings
from heterofed.compute.streams import random_stream, streamed
from heterofed.compute.tensors import dtype_name, named
from heterofed.data import VerticalTable
from heterofed.data.signature import SIGNATURE, Reader, Signature
from heterofed.errors import ConfigError, TaskFailed
from heterofed.metrics import register_metrics
from heterofed.privacy.dpsgd import DPSGD, Sampling, most_participations, poisson_batches
from heterofed.privacy.leakage import Effort, check_effort
from heterofed.privacy.passes import Kind, Pass
from heterofed.protocol.messages import Mark, SplitPlan
from heterofed.reporting.results import TaskResult, write_whole
from heterofed.runs.checkpointing import ResumableScheduler
from heterofed.runs.data_check import DataChecker
from heterofed.runs.lifecycle import Scheduler
from heterofed.runs.object_walk import roots_of
from heterofed.runs.run import Resume, Run, party_of, plan_of
from heterofed.runs.settings import Shown, check_flag
from heterofed.runs.snapshot import Snapshot

logger = logging.getLogger("heterofed")

T = TypeVar("T")

KINDS: dict[str, Kind] = {
    "iterate_train_feature": "train",
    "iterate_test_feature": "test",
    "iterate_predict_feature": "predict",
}
"""What the rows of a feature hook are for."""

MOVEMENT = "the look at what a round has changed"
UNMOVED = {
    "feature_model": "iterate_train_feature has to yield what the model returns, with its graph (no"
    " torch.no_grad, no detach); the Host's loss has to use these features, and an optimizer made"
    " of this model's parameters to step",
    "infer_model": "train_a_batch has to go backward from a loss that uses the model, and"
    " self.optimizer to step; make_infer_optimizer has to take the parameters of the model that it"
    " is given",
}

__all__ = [
    "ConfigError",
    "DataChecker",
    "Scheduler",
    "TaskFailed",
    "TrainingScheduler",
    "register_metrics",
]


class TrainingScheduler(ResumableScheduler):
    """Base of the two schedulers of split training.

    Attributes:
        models_after_split: a class sets it to True to have its models made after the split, when
            `self.train_ids` are known: to fit a scaler or a vocabulary on train rows alone. What is
            wrong with the models then shows after the intersection, not before it.
    """

    models_after_split: bool = False

    _heterofed_is_feature_trainable: bool = True
    _heterofed_leak_report: Effort = "sample"
    _heterofed_weights_defence: DPSGD | None = None

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
        return (
            self._heterofed_rehearse(task_id)
            if rehearse
            else self._heterofed_launch(task_id, resume)
        )

    @abstractmethod
    def _heterofed_rehearse(self, task_id: str) -> TaskResult:
        """One batch from end to end."""

    # -- hooks -----------------------------------------------------------------------------

    def validate_context(self) -> None:
        """Hook: check settings before anything else; call `super().validate_context()`.

        Raises:
            ConfigError: a setting of the constructor cannot work.
        """
        super().validate_context()
        check_flag("is_feature_trainable", self._heterofed_is_feature_trainable)
        check_effort(self._heterofed_leak_report)

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

    # -- what hooks may read ---------------------------------------------------------------

    @Shown
    def is_feature_trainable(self) -> bool:
        """As given to the constructor."""
        return self._heterofed_is_feature_trainable

    @Shown
    def feature_model(self) -> Any:
        """This party's feature model; made on first use in a run."""
        return self._heterofed_made("feature_model")

    @Shown
    def feature_optimizer(self) -> Any:
        """The feature model's optimizer; None at a frozen party."""
        return self._heterofed_made("feature_optimizer")

    @Shown
    def train_ids(self) -> list[str]:
        """Train ids, sorted; empty before the split."""
        return self._heterofed_run.state.get("train_ids", []) if self._heterofed_run else []

    @Shown
    def test_ids(self) -> list[str]:
        """Test ids, sorted; empty before the split."""
        return self._heterofed_run.state.get("test_ids", []) if self._heterofed_run else []

    @Shown
    def batch_size(self) -> int | None:
        """Rows of an agreed batch; None before the parties met, or where none was agreed."""
        agreement = self._heterofed_run.agreement if self._heterofed_run else None
        return agreement.plan.batch_size or None if agreement else None

    @Shown
    def parties(self) -> tuple[str, ...]:
        """Feature keys of all parties, the Host's first; empty before they met."""
        agreement = self._heterofed_run.agreement if self._heterofed_run else None
        return (agreement.plan.host, *agreement.plan.collaborators) if agreement else ()

    @Shown
    def agreed(self) -> dict[str, str]:
        """Settings that the Host announced; before the parties met, what this party was given."""
        agreement = self._heterofed_run.agreement if self._heterofed_run else None
        return dict(agreement.plan.agreed if agreement else self._heterofed_settings.agreed)

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
        size = plan_of(self._heterofed_run).batch_size if self._heterofed_run else 0
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
        run = self._heterofed_run
        if run is None or run.agreement is None:
            raise ConfigError("poisson_batches: there is no round yet; call it in a hook")
        if run.agreement.plan.checkpoint_batches:
            raise ConfigError(
                "poisson_batches draws from all train ids, checkpoint_batches gives a part of them"
                " at a time: take one of the two"
            )
        secret = run.agreement.secret
        batches = poisson_batches(train_ids, batch_size, secret=secret, round_number=run.round)
        sizes, most = tuple(map(len, batches)), most_participations(batches)
        run.state["sampling"] = run.round, Sampling(batch_size, len(train_ids), sizes, most)
        run.state[f"most in {party_of(run).phase}"] = max(1, most)
        return batches

    # -- for the loops ---------------------------------------------------------------------

    def _heterofed_makers(self) -> dict[str, Callable[[], Any]]:
        """How each model and optimizer of this role is made, by name."""
        return {
            "feature_model": self._heterofed_make_feature_model,
            "feature_optimizer": self._heterofed_make_feature_optimizer,
        }

    def _heterofed_make_feature_model(self) -> nn.Module | None:
        model = check_model(self._heterofed_seeded_hook("make_feature_model"), "make_feature_model")
        return (
            self._heterofed_private_model(model) if self._heterofed_is_feature_trainable else model
        )

    def _heterofed_private_model(self, model: nn.Module | None) -> nn.Module | None:
        """The model, as DP-SGD needs it where this party trains by it."""
        if self._heterofed_weights_defence is None or model is None:
            return model
        return self._heterofed_weights_defence.model(model)

    def _heterofed_private_optimizer(
        self, optimizer: Optimizer, *, parts: int = 1, counts: bool = True
    ) -> Optimizer:
        """The optimizer, wrapped where this party trains by DP-SGD."""
        if self._heterofed_weights_defence is None:
            return optimizer
        return self._heterofed_weights_defence.optimizer(optimizer, parts=parts, counts=counts)

    def _heterofed_make_feature_optimizer(self) -> Optimizer | None:
        model = self._heterofed_made("feature_model")
        if model is None or not self._heterofed_is_feature_trainable:
            return None
        hook, parts = "make_feature_optimizer", self._heterofed_parts()
        made = optimizer_of(model, functools.partial(self._heterofed_seeded_hook, hook))
        optimizer = check_optimizer(made, hook)
        if optimizer is None and not has_weights(model):
            return None
        if optimizer is None:
            raise ConfigError(
                "make_feature_optimizer returned None, but this party's features are trainable;"
                " return an optimizer, or pass is_feature_trainable=False"
            )
        return self._heterofed_private_optimizer(optimizer, parts=parts, counts=parts == 1)

    def _heterofed_parts(self) -> int:
        """Optimizers of this party that step together, where its feature model has one."""
        return 1

    def _heterofed_seeded_hook(self, hook: str, *args: Any, **kwargs: Any) -> Any:
        """Call a hook under its own random stream of this round and batch."""
        return self._heterofed_seeded(hook, getattr(self, hook), *args, **kwargs)

    def _heterofed_seeded(
        self, hook: str, call: Callable[..., T], *args: Any, also: str = "", **kwargs: Any
    ) -> T:
        """Call what stands for a hook as the hook would be called; `also` names its stream too."""
        run = self._heterofed_run
        seed = run.seed if run else 0
        batch = (run.party.batch if run and run.party else None) or 0
        path = (self._heterofed_settings.feature_key, hook, run.round if run else 0, batch)
        with random_stream(seed, *path, *filter(None, (also,))):
            return self._heterofed_call_hook(hook, call, *args, **kwargs)

    def _heterofed_accumulates(self) -> bool:
        return self._heterofed_weights_defence is None  # which knows no steps that wait

    def _heterofed_roots(self) -> dict[str, Any]:
        if self._heterofed_weights_defence is None:
            return super()._heterofed_roots()
        return roots_of(self)  # what wraps the models and optimizers is ours

    def _heterofed_own_batches(
        self,
        run: Run,
        hook: str,
        ids: Iterable[str],
        *,
        grad: bool,
        with_labels: bool | None,
        around: Callable[[Iterable[Any]], Iterator[Any]] | None = None,
        first: int = 0,
    ) -> Generator[Batch, None, None]:
        """What a feature hook yields, checked, each batch under its own random stream; `around`
        may do more around each step of the hook; `first` is the number of the first batch.
        """
        ids = list(ids)
        run.passing = Pass(KINDS[hook], ids)
        fresh = (
            self._heterofed_freshness(run, hook)
            if grad and hook == "iterate_train_feature"
            else None
        )
        with self._heterofed_in_hook(hook), fresh.making() if fresh else nullcontext():
            items = getattr(self, hook)(self._heterofed_made("feature_model"), list(ids))
            if not hasattr(items, "__next__"):
                if not hasattr(items, "__iter__"):
                    raise ConfigError(f"{hook} must be a generator; it returned no iterable")
                items = iter(items)
            items = around(items) if around is not None else items
        path = (self._heterofed_settings.feature_key, hook, run.round)
        stepping = streamed(items, run.seed, *path, grad=grad, first=first)
        where = f"{hook} of {self._heterofed_settings.shown_name}"
        for number in itertools.count(first):
            party_of(run).batch = number
            with self._heterofed_in_hook(hook), fresh.making() if fresh else nullcontext():
                try:
                    item = next(stepping)
                except StopIteration:
                    return
            batch = as_batch(item, where, with_labels=with_labels)
            del item
            if fresh is not None and batch.features is not None:
                tensors = named(batch.features, where)[1]
                fresh.check(tensors, number)
                self._heterofed_tell_of_no_graph(run, tensors)
                del tensors
            self._heterofed_compare_features(run, batch, hook)
            if self._heterofed_weights_defence is not None and hook == "iterate_train_feature":
                when, drawn = run.state.get("sampling", (0, None))
                drawn = drawn if when == run.round else None
                self._heterofed_weights_defence.check_sampling(drawn, number, rows_of(batch, where))
            yield batch
            del batch  # before the next one is made

    def _heterofed_freshness(self, run: Run, hook: str) -> Freshness:
        name = f"{hook} of {self._heterofed_settings.shown_name}"
        fresh: Freshness = run.state.setdefault(
            "freshness", Freshness(name, self._heterofed_weights)
        )
        return fresh

    def _heterofed_weights(self) -> Iterator[Tensor]:
        """What a step on its features changes: all that its model or optimizer holds."""
        model, optimizer = (
            self._heterofed_made("feature_model"),
            self._heterofed_made("feature_optimizer"),
        )
        yield from model.parameters() if model is not None else ()
        for group in optimizer.param_groups if optimizer is not None else ():
            yield from group["params"]

    # -- what the half is fed --------------------------------------------------------------

    @contextmanager
    def _heterofed_in_hook(self, hook: str) -> Iterator[None]:
        with super()._heterofed_in_hook(hook):
            if self._heterofed_run is None:
                yield
                return
            with self._heterofed_reader(self._heterofed_run).reading():
                yield

    def _heterofed_reader(self, run: Run) -> Reader:
        """This party's half as it reads its rows in this run."""
        reader: Reader | None = run.state.get("reader")
        if reader is None:
            kept = msgspec.convert(run.state.get("signature", {}), Signature)
            ids = run.state.get("train_ids", ())
            name = self._heterofed_settings.shown_name
            reader = run.state["reader"] = Reader(kept, name, ids, trains=not run.predicts)
        return reader

    def _heterofed_compare_features(self, run: Run, batch: Batch, hook: str) -> None:
        """Note in training what the half yields; before it serves the first row, compare."""
        reader = self._heterofed_reader(run)
        if run.predicts:
            reader.compare_frames(_frames_of(self))
        elif hook != "iterate_train_feature":
            return
        layout, tensors = ("none", {}) if batch.features is None else named(batch.features, hook)
        kinds = {name: (dtype_name(each), list(each.shape[1:])) for name, each in tensors.items()}
        reader.compare_features(layout, kinds, hook)

    def _heterofed_compare_columns(self, run: Run) -> None:
        columns = self._heterofed_call_hook("feature_columns", self.feature_columns)
        names = None if columns is None else strings(columns, "feature_columns")
        self._heterofed_reader(run).compare_columns(names)

    def _heterofed_keep_checkpoint(self, run: Run, *, last: bool) -> None:
        run.state["signature"] = msgspec.to_builtins(self._heterofed_reader(run).signature)
        super()._heterofed_keep_checkpoint(run, last=last)

    def _heterofed_put_back(self, run: Run, mark: Mark) -> Snapshot:
        snapshot = super()._heterofed_put_back(run, mark)
        run.state.pop("reader", None)  # of what was trained since then
        return snapshot

    def _heterofed_save_models(self, run: Run, prefix: str = "") -> None:
        super()._heterofed_save_models(run, prefix)
        reader = self._heterofed_reader(run)
        reader.compare_frames(_frames_of(self))
        text = msgspec.json.format(msgspec.json.encode(reader.signature), indent=2)
        write_whole(run.result.folder / SIGNATURE, lambda file: file.write(text))

    # -- ids -------------------------------------------------------------------------------

    def _heterofed_prepare(self, run: Run) -> list[str]:
        """Load the ids, make models and optimizers: what is wrong with them shows before PSI, but
        for those of a class that makes them after the split.
        """
        with party_of(run).in_phase("prepare"):
            ids = self._heterofed_load_ids(run)
            run.result.own_ids = len(ids)
            if not self.models_after_split:
                self._heterofed_make_all(run)
        return ids

    def _heterofed_make_all(self, run: Run) -> None:
        """Make models and optimizers, and note what this party carries beside them."""
        for name in self._heterofed_makers():
            self._heterofed_made(name)
        self._heterofed_carried(run).begin()

    def _heterofed_split(
        self,
        run: Run,
        common: Iterable[str],
        announced: tuple[Sequence[str], Sequence[str]] | None = None,
    ) -> SplitPlan:
        """Split the common ids, unless the Host has announced its split; gives the digests by which
        the parties compare their splits.
        """
        common = SortedIdSet(common)
        train, test = check_split(
            announced or self._heterofed_call_hook("split_dataset", self.split_dataset, common)
        )
        if not common.issuperset(train) or not common.issuperset(test):
            logger.info("split_dataset returned names that are not ids of the intersection")
        if self._heterofed_weights_defence is not None:
            self._heterofed_weights_defence.take_rows(len(train))
        if twice := len(set(train) & set(test)):
            logger.warning(
                "%d of the %d test ids are train ids too: the test is of rows that were trained on",
                twice,
                len(test),
            )
        run.result.ids = len(common)
        run.result.train_rows, run.result.test_rows = len(train), len(test)
        run.state["train_ids"], run.state["test_ids"] = train, test
        run.state.pop("reader", None)  # made before the train ids were known
        self._heterofed_compare_columns(run)
        agreement = run.agreement
        secret = agreement.secret if agreement else b""
        return SplitPlan(
            keyed_digest(secret, "train", train),
            keyed_digest(secret, "test", test),
            len(train),
            len(test),
        )

    def _heterofed_keep_split(self, run: Run, common: int) -> None:
        if self.models_after_split:
            self._heterofed_make_all(run)
        super()._heterofed_keep_split(run, common)

    def _heterofed_round_ids(self, run: Run) -> list[str]:
        plan = plan_of(run)
        return round_order(
            run.state["train_ids"], seed=plan.seed, round_number=run.round, shuffle=plan.shuffle
        )

    def _heterofed_leg(self, run: Run, first: int) -> list[str]:
        """The train ids from batch `first` of this round on, as far as its next checkpoint."""
        plan, order = plan_of(run), self._heterofed_round_ids(run)
        start, rows = first * plan.batch_size, plan.checkpoint_batches * plan.batch_size
        return order[start : start + rows] if rows else order

    def _heterofed_tell_of_no_graph(self, run: Run, features: Mapping[str, Tensor]) -> None:
        if any(each.requires_grad for each in features.values()) or "no graph" in run.state:
            return
        if has_weights(self._heterofed_made("feature_model")):
            run.state["no graph"] = True
            logger.warning(
                "what iterate_train_feature yields has no graph, so this party does not train:"
                " yield what feature_model returns, not detached, and not computed under"
                " torch.no_grad, or pass is_feature_trainable=False"
            )

    def _heterofed_watch_movement(self, run: Run) -> None:
        """Note what the models are before the first step."""
        if "movement" in run.state:
            return
        run.state["movement"] = None
        with run.harmless(MOVEMENT):
            models = {name: self._heterofed_made(name) for name in self._heterofed_models}
            if not self._heterofed_is_feature_trainable:
                models.pop("feature_model")
            run.state["movement"] = Movement(models)

    def _heterofed_tell_unmoved(self, run: Run) -> None:
        """Warn, after the first round, of models that it has not changed."""
        movement: Movement | None = run.state.get("movement")
        run.state["movement"] = None
        if movement is None:
            return
        with run.harmless(MOVEMENT):
            for name in movement.unmoved():
                if name == "feature_model" and "no graph" in run.state:
                    continue  # which was told
                logger.warning(
                    "no weight of %s changed in round %d: %s", name, run.round, UNMOVED[name]
                )

    def _heterofed_close_round(self, run: Run, *, best: bool, last: bool) -> None:
        self._heterofed_tell_unmoved(run)
        super()._heterofed_close_round(run, best=best, last=last)

    def _heterofed_set_modes(self, training: bool) -> None:
        """Feature model: train mode while training unless frozen, eval otherwise."""
        model = self._heterofed_made("feature_model")
        if model is not None:
            model.train(training and self._heterofed_is_feature_trainable)


def _frames_of(owner: object) -> dict[str, list[str]]:
    """Column names of the DataFrames (of pandas, or like them) among the attributes, by name."""
    found = {}
    for name, value in vars(owner).items():
        columns = None if isinstance(value, type) else getattr(value, "columns", None)
        if (
            hasattr(value, "dtypes")
            and columns is not None
            and not isinstance(value, VerticalTable)
        ):
            found[name] = [str(each) for each in columns]
    return found
