"""DP-SGD across the cut: the right per-sample gradients, the right noise, the right epsilon."""

from __future__ import annotations

import math
import sys
from collections import Counter
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from heterofed.errors import ConfigError, NonFiniteError
from heterofed.privacy.accountant import gaussian_epsilon
from heterofed.privacy.dpsgd import (
    DPSGD,
    check_rows_apart,
    joint_noise,
    most_participations,
    poisson_batches,
    sampled_epsilon,
)
from heterofed.privacy.noise import grid
from heterofed.protocol.plan import LossReduction


def private(noise: float = 1.0, clip: float = 1.0, **settings: Any) -> DPSGD:
    return DPSGD(noise, clip, **{"batch_size": 8, "rows": 64, **settings})


def bottom() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(1, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(15, 4), nn.LayerNorm(4)
    ).double()


def top() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def grad_samples(model: nn.Module) -> list[Tensor]:
    return [cast(Any, each).grad_sample for each in model.parameters()]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_per_sample_gradients_through_the_split_are_the_joined_models(
    reduction: LossReduction,
) -> None:
    torch.manual_seed(0)
    theirs, mine = bottom(), top()
    x, own, labels = torch.randn(7, 1, 6).double(), torch.randn(7, 2).double(), torch.arange(7) % 3

    def joined_loss(rows: slice, how: LossReduction) -> Tensor:
        fused = torch.cat([theirs(x[rows]), own[rows]], 1)
        return F.cross_entropy(mine(fused), labels[rows], reduction=how)

    weights = [*theirs.parameters(), *mine.parameters()]
    wanted = [
        torch.autograd.grad(joined_loss(slice(row, row + 1), "sum"), weights) for row in range(7)
    ]
    # The split: only the gradient at the cut layer travels.
    for model in (theirs, mine):
        private(loss_reduction=reduction).model(model)
    embedding = theirs(x)
    leaf = embedding.detach().requires_grad_()
    loss = F.cross_entropy(mine(torch.cat([leaf, own], 1)), labels, reduction=reduction)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.autograd.backward([embedding], [cast(Tensor, leaf.grad)])
    for found, each in zip(
        [*grad_samples(theirs), *grad_samples(mine)], zip(*wanted, strict=True), strict=True
    ):
        assert torch.allclose(found, torch.stack(list(each)), atol=1e-10, rtol=0)


def test_a_wrong_loss_reduction_would_be_off_by_the_batch() -> None:
    """Why it is agreed: nothing that travels shows it."""
    model = nn.Linear(3, 1).double()
    private().model(model)
    model(torch.ones(5, 3).double()).backward(torch.ones(5, 1).double())  # as of a sum
    assert grad_samples(model)[0].flatten().tolist() == [5.0] * 15


def stepped(model: nn.Module, dpsgd: DPSGD, x: Tensor, gradient: Tensor, lr: float = 1.0) -> Tensor:
    """How far one step moves the weights, flat."""
    dpsgd.model(model)
    optimizer = dpsgd.optimizer(torch.optim.SGD(model.parameters(), lr=lr))
    before = nn.utils.parameters_to_vector(model.parameters()).clone()
    optimizer.zero_grad()
    torch.autograd.backward([model(x)], [gradient])
    optimizer.step()
    return nn.utils.parameters_to_vector(model.parameters()).detach() - before


def test_each_sample_moves_the_weights_by_the_clip_at_most() -> None:
    x = torch.zeros(8, 2)
    x[0] = 1000.0
    moved = stepped(nn.Linear(2, 1), private(1e-9, clip=0.5), x, torch.ones(8, 1) / 8)
    # Seven samples have gradient 1 in the bias, clipped to 0.5; the large one too.
    expected = -torch.tensor([0.5 / math.sqrt(2), 0.5 / math.sqrt(2), 7 * 0.5]) / 8
    assert torch.allclose(moved, expected, atol=1e-3)


def test_an_empty_batch_steps_on_noise_alone() -> None:
    dpsgd = private(2.0, clip=3.0, poisson=True)
    model = nn.Linear(500, 20)
    moved = stepped(model, dpsgd, torch.zeros(0, 500), torch.zeros(0, 20))
    assert moved.std().item() == pytest.approx(2.0 * 3.0 / 8, rel=0.05)
    assert dpsgd.steps == 1
    assert 0 < dpsgd.epsilon(1) < 10


def test_noise_does_not_hang_on_the_global_seed() -> None:
    """torch's own generator starts from a seed that everybody knows."""
    moves = []
    for _ in range(2):
        torch.manual_seed(0)
        moves.append(stepped(nn.Linear(4, 2), private(), torch.zeros(3, 4), torch.zeros(3, 2)))
    assert not torch.allclose(moves[0], moves[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_low_bits_of_a_step_tell_nothing(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Linear(50, 20, dtype=dtype)
    x, gradient = torch.randn(16, 50, dtype=dtype), torch.randn(16, 20, dtype=dtype)
    stepped(model, private(1.5, clip=2.0, loss_reduction="sum"), x, gradient)
    step = grid(3.0)
    for each in model.parameters():
        assert each.grad is not None
        assert torch.equal((each.grad / step).round() * step, each.grad)


@pytest.mark.parametrize("spoilt", ["gradient", "weight"])
def test_a_step_that_leads_nowhere_is_refused(spoilt: str) -> None:
    model, gradient = nn.Linear(2, 1), torch.ones(4, 1)
    if spoilt == "gradient":
        gradient[2] = math.nan
    else:
        model.weight.data[0, 0] = math.inf
    with pytest.raises(NonFiniteError, match=f"a {spoilt} (before|after) a step of DP-SGD"):
        stepped(model, private(), torch.ones(4, 2), gradient)


def test_many_weights_stay_finite() -> None:
    """A uniform number that rounds to 1 is infinite noise: once in 2^25 of float32's."""
    for _ in range(3):
        model = nn.Linear(1000, 1000)
        moved = stepped(model, private(), torch.zeros(0, 1000), torch.zeros(0, 1000))
        assert torch.isfinite(moved).all()


def test_two_optimizers_share_one_clip() -> None:
    dpsgd = private(0.7, clip=2.0)
    models = [nn.Linear(300, 30), nn.Linear(300, 30)]
    for each in models:
        dpsgd.model(each)
    wrapped = [
        dpsgd.optimizer(torch.optim.SGD(each.parameters(), 1.0), parts=2, counts=number == 0)
        for number, each in enumerate(models)
    ]
    before = [each.weight.detach().clone() for each in models]
    for optimizer, model in zip(wrapped, models, strict=True):
        optimizer.zero_grad()
        model(torch.zeros(0, 300)).sum().backward()
        optimizer.step()
    assert dpsgd.steps == 1
    for old, model in zip(before, models, strict=True):
        assert (model.weight - old).std().item() == pytest.approx(0.7 * 2.0 / 8, rel=0.05)
    for optimizer in wrapped:
        assert cast(Any, optimizer).max_grad_norm == pytest.approx(2.0 / math.sqrt(2))


# -- guards --------------------------------------------------------------------------------------


def test_batch_norm_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    with pytest.raises(ConfigError, match="BatchNorm1d \\(1\\): it mixes the rows"):
        private().model(model)
    with pytest.raises(ConfigError, match="use GroupNorm"):
        check_rows_apart(nn.BatchNorm2d(1), "DP-SGD")
    check_rows_apart(nn.Sequential(nn.GroupNorm(1, 2), nn.LayerNorm(3)), "DP-SGD")


def test_a_trainable_layer_with_a_buffer_is_refused() -> None:
    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 2)
            self.register_buffer("seen", torch.zeros(1))

    with pytest.raises(ConfigError, match="cannot train this model"):
        private().model(Counting())


def test_settings_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for settings in (
        {"noise": 0.0},
        {"clip": -1.0},
        {"batch_size": 65},
        {"delta": 0},
        {"others": [0.0]},
        {"loss_reduction": "none"},
    ):
        with pytest.raises(ConfigError, match="DPSGD"):
            private(**cast(Any, settings))
    monkeypatch.setitem(sys.modules, "opacus", None)
    with pytest.raises(ConfigError, match="needs an extra"):
        private()


# -- sampling and epsilon ------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "epsilon"), [(938, 0.53), (1876, 0.55)])
def test_epsilon_of_a_published_run(steps: int, epsilon: float) -> None:
    assert round(sampled_epsilon(1.1, 64 / 60_000, steps, 1e-5), 2) == epsilon


def test_epsilon_counts_steps_and_other_parties() -> None:
    rates: dict[str, Any] = {"batch_size": 64, "rows": 60_000, "poisson": True}
    alone, joint = DPSGD(1.1, 1.0, **rates), DPSGD(1.1, 1.0, **rates, others=[1.1])
    known = DPSGD(1.1, 1.0, batch_size=64, rows=60_000)
    for each in (alone, joint, known):
        assert each.epsilon(1) == 0
        each.steps = 938
    assert round(alone.epsilon(1), 2) == 0.53
    assert joint.epsilon(1) > alone.epsilon(1)
    assert joint_noise([1.1, 1.1]) == pytest.approx(1.1 / math.sqrt(2))
    # Without sampling, and for the Host: one release a round, or as many as there were.
    assert known.epsilon(1) == gaussian_epsilon(1, 1.0, 1.1, 1e-5)
    assert alone.epsilon_where_batches_are_known(4) == gaussian_epsilon(4, 1.0, 1.1, 1e-5)
    assert alone.epsilon_where_batches_are_known(4) > 5 * alone.epsilon(1)


def test_poisson_batches_are_the_same_everywhere_and_of_the_right_sizes() -> None:
    ids = [f"id-{number}" for number in range(1000)]
    batches = poisson_batches(ids, 20, secret=b"s", round_number=1)
    assert batches == poisson_batches(ids, 20, secret=b"s", round_number=1)
    assert batches != poisson_batches(ids, 20, secret=b"t", round_number=1)
    assert batches != poisson_batches(ids, 20, secret=b"s", round_number=2)
    assert len(batches) == 50
    sizes = torch.tensor([float(len(each)) for each in batches])
    assert sizes.mean().item() == pytest.approx(20, abs=2.5)
    assert sizes.var().item() == pytest.approx(20 * 0.98, rel=0.6)  # binomial, not fixed
    counts = Counter(each for batch in batches for each in batch)
    assert most_participations(batches) == max(counts.values()) > 1
    assert len(counts) == pytest.approx(1000 * (1 - 0.98**50), abs=50)
    tiny = [poisson_batches(["a", "b"], 1, secret=b"s", round_number=n) for n in range(1, 40)]
    assert any(not each for batches in tiny for each in batches)
    with pytest.raises(ConfigError, match="batch_size"):
        poisson_batches(ids, 0, secret=b"s", round_number=1)
