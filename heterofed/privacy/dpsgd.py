"""DP-SGD of one party's released weights, through Opacus (the extra `privacy`).

Per-sample gradients are computed from the gradient at the cut layer that the Host sends. Each of
them is clipped, and noise is added to their sum. The training code needs no change: the model gets
hooks, and the optimizer is wrapped.

Epsilon bounds what somebody learns who gets the trained weights. It does not cover the parties of
the task: the Host sees embeddings and knows who is in each batch. It holds only if every party that
trains uses DP-SGD, because the weights of a party without it carry a person's influence unclipped
into the gradients of the others. The steps of all parties together are one Gaussian mechanism with
the noise of `joint_noise`.
"""

from __future__ import annotations

import functools
import hashlib
import math
import secrets
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from heterofed.compute.autograd import BATCH_NORMS
from heterofed.compute.tensors import is_finite
from heterofed.errors import ConfigError, NonFiniteError, needing
from heterofed.privacy.accountant import composed_epsilon, gaussian_epsilon
from heterofed.privacy.gradient_defences import check_positive
from heterofed.privacy.noise import SECRET_BYTES, Noise, added, widest
from heterofed.protocol.plan import LossReduction

if TYPE_CHECKING:
    from opacus.optimizers import DPOptimizer


class DPSGD:
    """DP-SGD for the weights of one party, to be passed to the scheduler as `weights_defence`.

    Args:
        noise_multiplier: the standard deviation of the noise, in units of `max_grad_norm`.
        max_grad_norm: the L2 norm to which the gradient of one sample is clipped, over all weights
            of this party.
        batch_size: the average number of rows in a batch.
        rows: the number of train ids, so that batch_size / rows is the probability of a row to be
            in a batch. None takes the number from the run's split.
        delta: the delta of the (epsilon, delta) guarantee, which should be well below 1 / rows.
        poisson: whether the batches are those of `self.poisson_batches`. Only then does sampling
            reduce epsilon; otherwise every row is taken to be in one batch of each round. A run
            checks this, `rows` and, for drawn batches, `batch_size`.
        loss_reduction: "mean" or "sum", for how the Host's loss combines the rows of a batch; it
            must agree with the plan. With "mean", the gradient of each row is divided by the number
            of rows.
        others: the noise multipliers of the other parties that train.

    Raises:
        ConfigError: a setting is out of range, or Opacus is not installed.
    """

    def __init__(
        self,
        noise_multiplier: float,
        max_grad_norm: float,
        *,
        batch_size: int,
        rows: int | None = None,
        delta: float = 1e-5,
        poisson: bool = False,
        loss_reduction: LossReduction = "mean",
        others: Sequence[float] = (),
    ) -> None:
        for name, value in (
            ("noise_multiplier", noise_multiplier),
            ("max_grad_norm", max_grad_norm),
        ):
            check_positive(f"DPSGD {name}", value)
        for each in others:
            check_positive("DPSGD others: a noise multiplier", each)
        check_positive("DPSGD delta", delta, most=0.5)
        _check_batch_size(batch_size, rows)
        if loss_reduction not in get_args(LossReduction):
            raise ConfigError(f"DPSGD loss_reduction={loss_reduction!r}: give 'mean' or 'sum'")
        _opacus()
        self.loss_reduction = loss_reduction
        self._noise_multiplier = noise_multiplier
        self._max_grad_norm = max_grad_norm
        self.batch_size = batch_size
        self.rows, self._rows_given = rows, rows is not None
        self.poisson = poisson
        self.others = tuple(others)
        self._delta = delta
        self._joint = joint_noise([noise_multiplier, *others])
        self._hooks: list[Any] = []  # keeps Opacus' hooks alive
        self.steps = 0  # the number of steps so far, including those on empty batches

    def __repr__(self) -> str:
        """Return the call that makes the same defence."""
        return (
            f"DPSGD({self._noise_multiplier}, {self._max_grad_norm}, batch_size={self.batch_size},"
            f" rows={self.rows if self._rows_given else None}, delta={self._delta},"
            f" poisson={self.poisson}, loss_reduction={self.loss_reduction!r},"
            f" others={self.others})"
        )

    def model(self, model: nn.Module) -> nn.Module:
        """Make a model of this party compute per-sample gradients, and return the same model.

        Args:
            model: a model of this party, before its first forward pass.

        Raises:
            ConfigError: the model mixes the rows of a batch (BatchNorm), or keeps buffers.
        """
        check_rows_apart(model, "DP-SGD")
        try:
            hooks = _opacus().grad_sample.GradSampleHooks(model, loss_reduction=self.loss_reduction)
        except NotImplementedError as error:
            raise ConfigError(
                f"DP-SGD cannot train this model: {error}; replace that layer, or leave out"
                " weights_defence"
            ) from None
        self._hooks.append(hooks)
        # Opacus warns at every backward pass, but the inputs of a feature model need no gradient.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        return model

    def optimizer(self, optimizer: Optimizer, *, parts: int = 1, counts: bool = True) -> Optimizer:
        """Wrap an optimizer of this party, so that each step clips and adds noise.

        Args:
            optimizer: the optimizer of a model that was passed to `model`.
            parts: the number of optimizers of this party that step together. `max_grad_norm` is
                divided equally among them.
            counts: whether to count this optimizer's steps; it is true for one of the parts.
        """
        share = math.sqrt(parts)
        wrapped: DPOptimizer = _noisy_optimizer()(
            optimizer,
            noise_multiplier=self._noise_multiplier * share,
            max_grad_norm=self._max_grad_norm / share,
            expected_batch_size=self.batch_size,
            loss_reduction=self.loss_reduction,
        )
        if counts:
            wrapped.attach_step_hook(self._stepped)
        return cast(Optimizer, wrapped)

    def epsilon(self, rounds: int) -> float:
        """Return the epsilon against somebody who gets the weights of all parties.

        Args:
            rounds: the number of rounds begun so far, which counts without Poisson sampling.

        Raises:
            ConfigError: the number of rows from which batches are drawn is not known.
        """
        if self.steps == 0:
            return 0.0
        if not self.poisson:
            return gaussian_epsilon(rounds, 1.0, self._joint, self._delta)
        return sampled_epsilon(*self.draw(self.steps), self._delta)

    def epsilon_where_batches_are_known(self, participations: int) -> float:
        """Return the epsilon against somebody who also knows the rows of each batch, as the Host
        does.

        Args:
            participations: the number of batches with a person's row; see `most_participations`.
        """
        return gaussian_epsilon(participations, 1.0, self._joint, self._delta)

    @property
    def delta(self) -> float:
        """The delta of the (epsilon, delta) guarantee."""
        return self._delta

    @property
    def squared_mu(self) -> float:
        """The contribution of one step with a row to the sum of `accountant.composed_epsilon`.

        It applies if the rows of each batch are known.
        """
        return 1 / self._joint**2

    def draw(self, steps: int) -> tuple[float, float, int]:
        """Return the joint noise multiplier, the probability to be in a batch, and the steps.

        Raises:
            ConfigError: the number of rows from which batches are drawn is not known.
        """
        if self.rows is None:
            raise ConfigError("DPSGD: give rows; without a run there is no split to take them from")
        return self._joint, self.batch_size / self.rows, steps

    def take_rows(self, train_ids: int) -> None:
        """Take the number of train ids from the split.

        Raises:
            ConfigError: the user gave another number, or it is smaller than a batch.
        """
        if not self._rows_given:
            _check_batch_size(self.batch_size, train_ids)
            self.rows = train_ids
        if train_ids != self.rows:
            raise ConfigError(
                f"DPSGD(rows={self.rows}): the split has {train_ids} train ids; give that number"
                " or None, because epsilon depends on it"
            )

    def check_sampling(self, drawn: Sampling | None, batch: int, rows: int) -> None:
        """Refuse a batch that was not drawn as `poisson` claims.

        Args:
            drawn: the result of `self.poisson_batches` in this round; None if it was not called.
            batch: the number of the batch in its round.
            rows: the number of rows in the batch.

        Raises:
            ConfigError: the batch does not match, so epsilon would be wrong.
        """
        if not self.poisson:
            if drawn is not None:
                raise ConfigError(
                    "DPSGD(poisson=False), but self.poisson_batches draws the batches, so that some"
                    " rows occur more than once in a round; give poisson=True"
                )
            return
        if drawn is None:
            raise ConfigError(
                "DPSGD(poisson=True), but iterate_train_feature does not use self.poisson_batches;"
                " use it at every party, or leave poisson out"
            )
        if (drawn.batch_size, drawn.ids) != (self.batch_size, self.rows):
            raise ConfigError(
                f"DPSGD(batch_size={self.batch_size}, rows={self.rows}), and self.poisson_batches"
                f" draws {drawn.batch_size} of {drawn.ids}; give both the same, of all train ids"
            )
        if batch >= len(drawn.sizes) or rows != drawn.sizes[batch]:
            raise ConfigError(
                f"DPSGD(poisson=True): batch {batch} has {rows} rows and is not the one that"
                " self.poisson_batches drew; yield each of them as it is, in their order"
            )

    def _stepped(self, _optimizer: DPOptimizer) -> None:
        """Count a step; Opacus calls this after each one."""
        self.steps += 1


@dataclass(frozen=True, slots=True)
class Sampling:
    """The batches that `self.poisson_batches` drew in one round.

    Attributes:
        batch_size: the average number of rows in a batch.
        ids: the number of ids from which they were drawn.
        sizes: the number of rows in each batch.
        most: the largest number of batches that contain the same id.
    """

    batch_size: int
    ids: int
    sizes: tuple[int, ...]
    most: int


def joint_noise(noise_multipliers: Sequence[float]) -> float:
    """Return the noise multiplier of several parties' steps on one batch, as one mechanism.

    Each party k has its own clipping norm and noise multiplier z_k. Scaled to noise of standard
    deviation 1, a sample moves party k's coordinates by 1/z_k, and all coordinates by
    sqrt(sum 1/z_k^2).
    """
    return 1 / math.sqrt(sum(1 / each**2 for each in noise_multipliers))


def sampled_epsilon(noise_multiplier: float, rate: float, steps: int, delta: float) -> float:
    """Return epsilon of Poisson-sampled DP-SGD, by Renyi DP (Mironov, Talwar and Zhang 2019)."""
    return weights_epsilon([(noise_multiplier, rate, steps)], 0.0, delta)


def weights_epsilon(
    draws: Sequence[tuple[float, float, int]], squared: float, delta: float
) -> float:
    """Return the epsilon of all runs that a party trained by DP-SGD.

    Args:
        draws: the noise multiplier, rate and steps of runs with drawn batches (see
            `sampled_epsilon`).
        squared: the sum of squared mus of runs in which the rows of each batch are known.
        delta: the delta of the (epsilon, delta) guarantee.
    """
    if not draws:
        return composed_epsilon(squared, delta)
    known = [(1 / math.sqrt(squared), 1.0, 1)] if squared else []
    accountant = _opacus().accountants.RDPAccountant()
    accountant.history = [*draws, *known]
    with warnings.catch_warnings():  # the bound is looser at the end of the range of orders
        warnings.filterwarnings("ignore", message="Optimal order is the")
        return float(accountant.get_epsilon(delta))


def check_rows_apart(model: nn.Module, what: str) -> None:
    """Refuse a model in which the rows of a batch influence one another.

    Raises:
        ConfigError: the model has a BatchNorm, so that no per-sample gradient depends on one person
            alone.
    """
    for name, module in model.named_modules():
        if isinstance(module, BATCH_NORMS):
            raise ConfigError(
                f"{what} does not go with {type(module).__name__} ({name or 'the model itself'}):"
                " it mixes the rows of a batch; use GroupNorm or LayerNorm"
            )


def poisson_batches(
    ids: Sequence[str], batch_size: int, *, secret: bytes, round_number: int
) -> list[list[str]]:
    """Draw the batches of one round: each batch contains each id independently.

    The probability is batch_size / len(ids). The batches are the same at every party that has the
    secret. Some ids occur twice in a round and some not at all. A batch may be empty, but the
    optimizer must still step on it.

    Args:
        ids: the ids, in the same order at every party.
        batch_size: the average number of rows in a batch.
        secret: a secret that the parties share; it determines who is in which batch.
        round_number: the number of the round, from 1.

    Returns:
        ceil(len(ids) / batch_size) batches.
    """
    if not 0 < batch_size <= len(ids):
        raise ConfigError(
            f"poisson_batches: batch_size={batch_size!r} of {len(ids)} ids; give 1 to the number of"
            " ids"
        )
    digest = hashlib.sha256(b"poisson batches" + round_number.to_bytes(8, "big") + secret).digest()
    chance = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))
    return [
        [
            ids[row]
            for row in np.flatnonzero(chance.random(len(ids)) < batch_size / len(ids)).tolist()
        ]
        for _ in range(math.ceil(len(ids) / batch_size))
    ]


def most_participations(batches: Iterable[Sequence[str]]) -> int:
    """Return the largest number of batches that contain the same id."""
    counts = Counter(each for batch in batches for each in batch)
    return max(counts.values(), default=0)


@functools.cache
def _noisy_optimizer() -> Any:
    """Return Opacus' optimizer with noise that is fresh in every process and not reproducible."""

    class NoisyOptimizer(_opacus().optimizers.DPOptimizer):  # type: ignore[misc]
        noise_multiplier: float

        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            self._noise = Noise(secrets.token_bytes(SECRET_BYTES))

        def add_noise(self) -> None:
            multiplier, self.noise_multiplier = self.noise_multiplier, 0.0
            super().add_noise()  # only sums the clipped gradients
            self.noise_multiplier = multiplier
            std = multiplier * self.max_grad_norm
            for each in self.params:
                drawn = std * self._noise.normal(each.grad.shape)
                each.grad = added(each.grad, drawn.to(each.device, widest(each.device)), std)
            _check_step([each.grad for each in self.params], "a gradient before")

        def step(self, closure: Any = None) -> Any:
            outcome = super().step(closure)
            _check_step(self.params, "a weight after")
            return outcome

    return NoisyOptimizer


def _check_step(tensors: Iterable[Tensor], what: str) -> None:
    """Refuse a step on NaN or infinity, which would spend privacy on a useless model.

    Raises:
        NonFiniteError: a tensor holds NaN or infinity.
    """
    if not all(is_finite(each) for each in tensors):
        raise NonFiniteError(
            f"{what} a step of DP-SGD holds NaN or infinity; lower the learning rate, or look for"
            " missing values in the data"
        )


def _check_batch_size(batch_size: int, rows: int | None) -> None:
    """Raise ConfigError if a batch size is not from 1 to the number of rows."""
    if batch_size <= 0 or (rows is not None and batch_size > rows):
        most = "the number of train ids" if rows is None else f"rows={rows!r}"
        raise ConfigError(f"DPSGD batch_size={batch_size!r}: give 1 to {most}")


def _opacus() -> Any:
    """Return the package Opacus; raise ConfigError if it is not installed."""
    with needing("privacy", "DP-SGD"):
        import opacus
    return opacus
