"""Defines all hooks of horizontal training, and the attributes and methods that hooks may use."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer

from heterofed.errors import ConfigError
from heterofed.homo_nn.settings import HomoCollaboratorSettings
from heterofed.privacy.dpsgd import Sampling, poisson_batches
from heterofed.runs.engine import Engine
from heterofed.runs.lifecycle import Lifecycle
from heterofed.runs.run import Resume
from heterofed.runs.scheduler import Scheduler
from heterofed.runs.settings import Settings, Shown, check_last_round
from heterofed.runs.task import Task

if TYPE_CHECKING:
    from heterofed.events import Callback
    from heterofed.reporting.task_result import TaskResult

HOOK_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "extra_state": (),
    "is_task_finished": (),
    "load_extra_state": ("state",),
    "make_model": (),
    "make_optimizer": ("model",),
    "on_round_end": (),
    "take_scores": ("trained", "tested"),
    "test": ("model",),
    "train_a_round": ("model",),
    "validate_context": (),
}
"""The arguments of each hook of horizontal training, in order."""


class HomoEngine(Engine[Any]):
    """The engine of a scheduler of horizontal training.

    Args:
        settings: the settings from the constructor.
        averaging: makes the task.
    """

    def __init__(self, settings: Settings, averaging: Callable[[Any], Task]) -> None:
        super().__init__(settings)
        self.averaging = averaging


class HomoHooks(Scheduler):
    """The hooks, attributes and methods of both roles."""

    _heterofed: HomoEngine

    def launch_task(
        self,
        task_id: str,
        resume: Resume = "auto",
        *,
        callbacks: Sequence[Callback] = (),
        watch: bool = False,
    ) -> TaskResult:
        """Run the task in this process until it ends.

        Args:
            task_id: the id of the task, which is the same at every party. Parties on one machine
                find each other by it.
            resume: how to treat an interrupted run of this task. "auto" resumes from the newest
                checkpoint that all parties hold, or starts anew if there is none. "never" starts
                anew. "require" raises an error if the run cannot be resumed.
            callbacks: further callables that get the events of this launch.
            watch: whether to serve a live page of the task until the launch ends. Its address is
                printed to stderr. It needs the extra `watch`.

        Returns:
            The result of the task, which is also written to `summary.json` in the results folder.

        Raises:
            ConfigError: a setting or file of this party is wrong; nothing was done.
            TaskFailed: the task failed; it is a `TaskAborted` if another party ended it.
            Exception: a hook of this party raised it; it has a note with the hook and the phase.
        """
        task = self._heterofed.averaging(self)
        return Lifecycle(task).launch(task_id, resume, callbacks=callbacks, watch=watch)

    def load_local_ids(self) -> Iterable[str]:
        """Return no ids: a horizontal task compares none, and never calls this method."""
        return ()

    # -- hooks -----------------------------------------------------------------------------

    def on_round_end(self) -> None:
        """Hook: called after each round and its test, to step learning-rate schedules."""

    def extra_state(self) -> Any:
        """Hook: return state that checkpoints do not contain by themselves, as of other libraries.

        Returns:
            Tensors and plain values (numbers, strings, and lists and dicts of them), or None.
        """
        return None

    def load_extra_state(self, state: Any) -> None:
        """Hook: restore the state of `extra_state` when a run is resumed from a checkpoint.

        Args:
            state: the result of `extra_state` when the checkpoint was written.
        """

    # -- what hooks may read ---------------------------------------------------------------

    @Shown
    def parties(self) -> tuple[str, ...]:
        """The feature keys of all parties, the Host's first; empty before they are connected."""
        agreement = self._heterofed.run.maybe_agreement if self._heterofed.run else None
        return (agreement.plan.host, *agreement.plan.collaborators) if agreement else ()

    @Shown
    def agreed(self) -> dict[str, str]:
        """The settings that the Host announced, or the constructor's before the plan is known."""
        agreement = self._heterofed.run.maybe_agreement if self._heterofed.run else None
        return dict(agreement.plan.agreed if agreement else self._heterofed.settings.agreed)


class HomoHostHooks(HomoHooks):
    """The hooks of the Host. All of them are optional."""

    def make_model(self) -> nn.Module | None:
        """Hook: return the model with the weights to begin with, such as a pretrained one.

        By default the training begins with the weights that the first Collaborator made.
        """
        return None

    def take_scores(self, trained: Mapping[str, float], tested: Mapping[str, float]) -> None:
        """Hook: take the means of what the Collaborators returned in this round.

        It may append them to a metrics set, or call `self.mark_best()`.

        Args:
            trained: the numbers that `train_a_round` returned, weighted by rows.
            tested: the numbers that `test` returned, weighted by rows; empty without a test.
        """

    def is_task_finished(self) -> bool:
        """Hook: return after each round whether it was the last; by default after `max_rounds`."""
        run = self._heterofed.run
        return run is not None and run.round >= self._heterofed.settings.max_rounds

    def validate_context(self) -> None:
        """Hook: check settings before the task begins; call `super().validate_context()`.

        Raises:
            ConfigError: a setting of the constructor is wrong.
        """
        super().validate_context()
        if ends_by_default(type(self)):
            check_last_round(self._heterofed.settings.max_rounds)

    # -- what hooks may read and call ------------------------------------------------------

    @Shown
    def max_rounds(self) -> int:
        """The constructor's argument: the number of rounds to train."""
        rounds: int = self._heterofed.settings.max_rounds
        return rounds

    @Shown
    def weights(self) -> dict[str, Tensor]:
        """The current weights of all parties, by name; empty before they are agreed."""
        run = self._heterofed.run
        return dict(run.state.kept.averaged.get("weights", {})) if run else {}

    def mark_best(self) -> None:
        """Make every party keep this round's weights as `best_model.pt`; call it in `take_scores`.

        Raises:
            ConfigError: no round has begun.
        """
        self._heterofed.mark_best("take_scores")


class HomoCollaboratorHooks(HomoHooks):
    """The hooks of a Collaborator."""

    @abstractmethod
    def make_model(self) -> nn.Module:
        """Hook: return the model, with the same tensors at every party.

        Its initial weights are replaced by those that all parties begin with.
        """

    @abstractmethod
    def make_optimizer(self, model: nn.Module) -> Optimizer | None:
        """Hook: return the optimizer of the model, which keeps its state from round to round.

        It is not called if the Host's strategy averages gradients (`FedSGD`).
        """

    @abstractmethod
    def train_a_round(self, model: nn.Module) -> Any:
        """Hook: train the model on this party's rows for one round, with `self.optimizer`.

        Args:
            model: the model in train mode, with the weights of all parties.

        Returns:
            The number of rows that it was trained on; or a dict with "rows" and other numbers, such
            as the mean loss. The Host learns all of them, and writes their means to `train.csv`.
        """

    def test(self, model: nn.Module) -> Any:  # noqa: ARG002
        """Hook: test the new weights on this party's rows, in eval mode and without gradients.

        Args:
            model: the model, with the average of the round.

        Returns:
            None (the default), or a dict of numbers and, for their mean over parties, "rows". The
            Host learns all of them, and writes their means to `test.csv`.
        """
        return None

    # -- what hooks may read and call ------------------------------------------------------

    _heterofed: HomoEngine

    @Shown
    def model(self) -> Any:
        """The model, which is made on first use in a run."""
        return self._heterofed.made("model")

    @Shown
    def optimizer(self) -> Any:
        """The optimizer of the model; None if the strategy averages gradients."""
        return self._heterofed.made("optimizer")

    def poisson_batches(self, rows: int, batch_size: int) -> list[list[int]]:
        """Draw the batches of this round for DP-SGD: each batch contains each row independently.

        Call it in `train_a_round`, and step on every batch. Nobody else knows the rows of a batch.

        Args:
            rows: the number of rows of this party.
            batch_size: the average number of rows in a batch.

        Returns:
            The numbers of the rows of each batch, from 0.

        Raises:
            ConfigError: no round has begun, or there are fewer rows.
        """
        run = self._heterofed.run
        if run is None or run.round == 0:
            raise ConfigError("poisson_batches: there is no round yet; call it in train_a_round")
        if not isinstance(rows, int) or not isinstance(batch_size, int) or rows < 1:
            raise ConfigError(
                f"poisson_batches: {rows!r} rows in batches of {batch_size!r}; give whole numbers"
            )
        numbers: Any = range(rows)
        batches: Any = poisson_batches(
            numbers, batch_size, secret=run.noise, round_number=run.round
        )
        run.state.sampled_round = run.round
        run.state.sampling = Sampling(batch_size, rows, tuple(map(len, batches)), 1)
        drawn: list[list[int]] = batches
        return drawn


def ends_by_default(cls: type[HomoHostHooks]) -> bool:
    """Return whether the task ends after `max_rounds`."""
    return cls.is_task_finished is HomoHostHooks.is_task_finished


def keeps_extra_state(cls: type[HomoHooks]) -> bool:
    """Return whether a class adds state to checkpoints."""
    return cls.extra_state is not HomoHooks.extra_state


def collaborator_settings(scheduler: HomoHooks) -> HomoCollaboratorSettings:
    """Return the settings of a Collaborator's scheduler."""
    settings: HomoCollaboratorSettings = scheduler._heterofed.settings
    return settings
