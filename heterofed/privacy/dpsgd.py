"""DP-SGD of one party's released weights, through Opacus (the extra `privacy`).

Per-sample gradients are taken from the gradient at the cut layer as it comes from the Host, each
is clipped, and noise is added to their sum. Nothing of the training code changes: the model gets
hooks, the optimizer is wrapped.

What epsilon covers: somebody who gets the trained weights, not who takes part. The Host sees
embeddings and knows who is in each batch. And it holds only where every party that trains uses
DP-SGD: weights of a party that does not carry a person into the others' gradients unclipped. All
parties' steps together are one Gaussian mechanism, of `joint_noise`.
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

from heterofed.compute.tensors import is_finite
from heterofed.errors import ConfigError, NonFiniteError
from heterofed.privacy.accountant import composed_epsilon, gaussian_epsilon
from heterofed.privacy.gradient_defences import check_positive
from heterofed.privacy.noise import SECRET_BYTES, Noise, added, widest
from heterofed.protocol.plan import LossReduction

if TYPE_CHECKING:
    from opacus.optimizers import DPOptimizer


class DPSGD:
    """DP-SGD for the weights of one party: give it to the scheduler as `weights_defence`.

    Args:
        noise_multiplier: standard deviation of the noise, in units of `max_grad_norm`.
        max_grad_norm: longest gradient of one sample, over all weights of this party.
        batch_size: rows that a batch has on average.
        rows: train ids, so that batch_size / rows is the chance of being in a batch; None: as many
            as a run's split has.
        delta: of the (epsilon, delta) that is told; well below 1 / rows.
        poisson: whether batches are those of `self.poisson_batches`. Only then does sampling count
            in favour; otherwise everybody is taken to be in one batch of each round. A run checks
            this, `rows` and, where batches are drawn, `batch_size`.
        loss_reduction: how the Host's loss is taken over the rows of a batch, as the plan says too:
            where it is a mean, the gradient of each row comes divided by the rows.
        others: noise multipliers of the other parties that train.

    Raises:
        ConfigError: a setting out of range, or Opacus is not installed.
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
        self._hooks: list[Any] = []  # Opacus' hooks live as long as these do
        self.steps = 0  # so far, empty batches too

    def model(self, model: nn.Module) -> nn.Module:
        """Make a model keep per-sample gradients; gives the same model.

        Args:
            model: of this party, before its first forward.

        Raises:
            ConfigError: the model mixes the rows of a batch (BatchNorm), or keeps buffers.
        """
        check_rows_apart(model, "DP-SGD")
        try:
            hooks = _opacus().grad_sample.GradSampleHooks(model, loss_reduction=self.loss_reduction)
        except NotImplementedError as error:
            raise ConfigError(f"DP-SGD cannot train this model: {error}") from None
        self._hooks.append(hooks)
        # Said at every backward: inputs of a feature model are data and need no gradient.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        return model

    def optimizer(self, optimizer: Optimizer, *, parts: int = 1, counts: bool = True) -> Optimizer:
        """Wrap an optimizer of this party, so that each step clips and adds noise.

        Args:
            optimizer: of weights whose model went through `model`.
            parts: optimizers of this party that step together. A sample's gradient is clipped to
                `max_grad_norm` over all of them: to an equal part in each.
            counts: whether its steps are those of the party; true for one of the parts.
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
        """For who gets the weights of all parties after the steps made so far.

        Args:
            rounds: begun so far; they count where there is no Poisson sampling.

        Raises:
            ConfigError: batches are drawn from nobody knows how many rows.
        """
        if self.steps == 0:
            return 0.0
        if not self.poisson:
            return gaussian_epsilon(rounds, 1.0, self._joint, self._delta)
        return sampled_epsilon(*self.draw(self.steps), self._delta)

    def epsilon_where_batches_are_known(self, participations: int) -> float:
        """For who also knows whose rows were in which batch, as the Host does.

        Args:
            participations: batches that one person was in; see `most_participations`.
        """
        return gaussian_epsilon(participations, 1.0, self._joint, self._delta)

    @property
    def delta(self) -> float:
        """Of the (epsilon, delta) that is told."""
        return self._delta

    @property
    def squared_mu(self) -> float:
        """What one step that a row is in adds to the sum of `accountant.composed_epsilon`, where
        it is known who is in a batch.
        """
        return 1 / self._joint**2

    def draw(self, steps: int) -> tuple[float, float, int]:
        """Noise multiplier of all parties together, chance to be in a batch, and steps.

        Raises:
            ConfigError: nobody knows of how many rows batches are drawn.
        """
        if self.rows is None:
            raise ConfigError("DPSGD: give rows; without a run there is no split to take them from")
        return self._joint, self.batch_size / self.rows, steps

    def take_rows(self, train_ids: int) -> None:
        """Learn how many train ids there are.

        Raises:
            ConfigError: another number was given, or fewer than a batch has.
        """
        if not self._rows_given:
            _check_batch_size(self.batch_size, train_ids)
            self.rows = train_ids
        if train_ids != self.rows:
            raise ConfigError(
                f"DPSGD(rows={self.rows}): the split has {train_ids} train ids; give that number"
                " or None, since epsilon is told from it"
            )

    def check_sampling(self, drawn: Sampling | None, batch: int, rows: int) -> None:
        """Refuse a batch that was not drawn as was said.

        Args:
            drawn: what `self.poisson_batches` gave in this round; None where it was not called.
            batch: number of the batch in its round.
            rows: that it has.

        Raises:
            ConfigError: epsilon would be told for another sampling.
        """
        if not self.poisson:
            if drawn is not None:
                raise ConfigError(
                    "DPSGD(poisson=False), and self.poisson_batches draws the batches: then some"
                    " rows come more than once in a round; give poisson=True"
                )
            return
        if drawn is None:
            raise ConfigError(
                "DPSGD(poisson=True), but iterate_train_feature does not draw its batches by"
                " self.poisson_batches; do so at every party, or leave poisson out"
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
        self.steps += 1


@dataclass(frozen=True, slots=True)
class Sampling:
    """What `self.poisson_batches` drew in one round.

    Attributes:
        batch_size: rows of a batch on average.
        ids: from how many.
        sizes: rows of each batch.
        most: in how many batches the id is that is in most.
    """

    batch_size: int
    ids: int
    sizes: tuple[int, ...]
    most: int


def joint_noise(noise_multipliers: Sequence[float]) -> float:
    """The noise multiplier of several parties' steps on one batch, seen as one mechanism.

    Each has its own clip and noise; scaled to noise 1 a sample moves them by 1/z_k in different
    coordinates, together by sqrt(sum 1/z_k^2).
    """
    return 1 / math.sqrt(sum(1 / each**2 for each in noise_multipliers))


def sampled_epsilon(noise_multiplier: float, rate: float, steps: int, delta: float) -> float:
    """Epsilon of DP-SGD with Poisson sampling, by Renyi DP (Mironov, Talwar and Zhang 2019)."""
    return weights_epsilon([(noise_multiplier, rate, steps)], 0.0, delta)


def weights_epsilon(
    draws: Sequence[tuple[float, float, int]], squared: float, delta: float
) -> float:
    """Epsilon of all that a party trained by DP-SGD, one run after another.

    Args:
        draws: noise multiplier, rate and steps where batches were drawn (see `sampled_epsilon`).
        squared: sum of squared mus where it is known who was in a batch.
        delta: of the (epsilon, delta) that is told.
    """
    if not draws:
        return composed_epsilon(squared, delta)
    known = [(1 / math.sqrt(squared), 1.0, 1)] if squared else []
    accountant = _opacus().accountants.RDPAccountant()
    accountant.history = [*draws, *known]
    with warnings.catch_warnings():  # the best order at the end of the range: a looser bound
        warnings.filterwarnings("ignore", message="Optimal order is the")
        return float(accountant.get_epsilon(delta))


def check_rows_apart(model: nn.Module, what: str) -> None:
    """Refuse a model in which the rows of a batch change one another.

    Raises:
        ConfigError: it has a BatchNorm, which mixes them: no per-sample gradient is one person's.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ConfigError(
                f"{what} does not go with {type(module).__name__} ({name or 'the model itself'}):"
                " it mixes the rows of a batch; use GroupNorm or LayerNorm"
            )


def poisson_batches(
    ids: Sequence[str], batch_size: int, *, secret: bytes, round_number: int
) -> list[list[str]]:
    """Batches of one round in which each id is with chance batch_size / len(ids), by itself.

    The same at every party that has the secret. Some ids come twice in a round and some not at
    all; a batch may be empty, and must still be stepped on.

    Args:
        ids: in the same order everywhere.
        batch_size: rows of a batch on average.
        secret: shared by the parties; who guesses it knows who was in which batch.
        round_number: from 1.

    Returns:
        ceil(len(ids) / batch_size) batches.
    """
    if not 0 < batch_size <= len(ids):
        raise ConfigError(f"poisson_batches: batch_size={batch_size!r} of {len(ids)} ids")
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
    """In how many batches the id is that is in most."""
    counts = Counter(each for batch in batches for each in batch)
    return max(counts.values(), default=0)


@functools.cache
def _noisy_optimizer() -> Any:
    """Opacus' optimizer with noise that is fresh in every process, and cannot be drawn again."""

    class NoisyOptimizer(_opacus().optimizers.DPOptimizer):  # type: ignore[misc]
        noise_multiplier: float

        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            self._noise = Noise(secrets.token_bytes(SECRET_BYTES))

        def add_noise(self) -> None:
            multiplier, self.noise_multiplier = self.noise_multiplier, 0.0
            super().add_noise()  # the clipped gradients' sums alone
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
    """Refuse a step that leads nowhere: it would be spent privacy for a model of no use.

    Raises:
        NonFiniteError: a tensor holds NaN or infinity.
    """
    if not all(is_finite(each) for each in tensors):
        raise NonFiniteError(
            f"{what} a step of DP-SGD holds NaN or infinity; lower the learning rate, or look for"
            " missing values in the data"
        )


def _check_batch_size(batch_size: int, rows: int | None) -> None:
    if batch_size <= 0 or (rows is not None and batch_size > rows):
        most = "the number of train ids" if rows is None else f"rows={rows!r}"
        raise ConfigError(f"DPSGD batch_size={batch_size!r}: give 1 to {most}")


def _opacus() -> Any:
    try:
        import opacus
    except ImportError:
        raise ConfigError("DP-SGD needs an extra: pip install 'heterofed[privacy]'") from None
    return opacus
