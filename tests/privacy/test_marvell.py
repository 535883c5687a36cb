"""Marvell's four variances are the best there are, and hide what they should."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal, kl_divergence

from heterofed.errors import ConfigError
from heterofed.privacy.label_attacks import cosine_leak, norm_leak
from heterofed.privacy.marvell import (
    Marvell,
    Noise,
    Spread,
    auc_bound,
    best_noise,
    kl_for_auc,
    power_for_kl,
    spread_of,
    sum_kl,
)
from heterofed.privacy.scores import auc

size = st.floats(1e-3, 1e3)
spreads = st.builds(
    Spread,
    share=st.floats(0.01, 0.99),
    gap=size,
    positive=size,
    negative=size,
    dimensions=st.integers(1, 50),
)


def rivals(spread: Spread, power: float, best: Noise, dice: random.Random) -> list[Noise]:
    """Other ways to spend the power: anywhere, and close to the one that is said to be best."""
    across = spread.dimensions - 1
    weights = [
        spread.share,
        spread.share * across,
        1 - spread.share,
        (1 - spread.share) * across,
    ]
    centre = [
        best.positive_along,
        best.positive_across,
        best.negative_along,
        best.negative_across,
    ]
    found = []
    for number in range(400):
        if number % 2:
            parts = [dice.expovariate(1) ** 2 for _ in range(4)]
        else:
            reach = 10 ** dice.uniform(-4, -0.5)
            parts = [
                max(0.0, x * weight + reach * power * dice.uniform(-1, 1))
                for x, weight in zip(centre, weights, strict=True)
            ]
        usable = [part if weight else 0.0 for part, weight in zip(parts, weights, strict=True)]
        scale = power / (sum(usable) or 1.0)
        found.append(
            Noise(
                *(
                    scale * part / weight if weight else 0.0
                    for part, weight in zip(usable, weights, strict=True)
                )
            )
        )
    return found


@settings(deadline=None, max_examples=150)
@given(spreads, st.floats(1e-3, 1e3), st.integers(0, 2**32))
def test_no_other_noise_of_that_power_hides_better(spread: Spread, power: float, seed: int) -> None:
    best = best_noise(spread, power)
    assert best.power(spread) == pytest.approx(power, rel=1e-6)
    reached = sum_kl(spread, best)
    for rival in rivals(spread, power, best, random.Random(seed)):
        assert rival.power(spread) <= power * (1 + 1e-9)
        assert reached <= sum_kl(spread, rival) * (1 + 1e-6)


def test_the_divergence_is_that_of_two_normals() -> None:
    spread = Spread(share=0.3, gap=2.0, positive=0.5, negative=1.5, dimensions=4)
    noise = Noise(0.7, 0.2, 0.1, 0.05)
    direction = torch.tensor([math.sqrt(2.0), 0, 0, 0], dtype=torch.float64)
    ones = MultivariateNormal(direction, torch.diag(torch.tensor([1.2, 0.7, 0.7, 0.7]).double()))
    zeros = MultivariateNormal(
        0 * direction, torch.diag(torch.tensor([1.6, 1.55, 1.55, 1.55]).double())
    )
    expected = kl_divergence(ones, zeros) + kl_divergence(zeros, ones)
    assert sum_kl(spread, noise) == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.slow
@given(spreads, st.floats(0.51, 0.95))
def test_power_that_an_auc_needs(spread: Spread, bound: float) -> None:
    kl = kl_for_auc(bound)
    assert auc_bound(kl) == pytest.approx(bound)
    power = power_for_kl(spread, kl)
    assert sum_kl(spread, best_noise(spread, power)) <= kl * (1 + 1e-9)
    if power > 0:
        assert sum_kl(spread, best_noise(spread, 0.97 * power)) > kl


def two_classes(rows: int = 40_000) -> tuple[torch.Tensor, torch.Tensor]:
    labels = (torch.arange(rows) % 5 == 0).long()
    wide = torch.where(labels == 1, 0.3, 0.1)[:, None]
    clean = wide * torch.randn(rows, 6)
    clean[:, 0] += torch.where(labels == 1, -0.8, 0.2)
    return clean, labels


@pytest.mark.parametrize("bound", [0.55, 0.7])
def test_no_projection_beats_the_bound(bound: float) -> None:
    torch.manual_seed(0)
    clean, labels = two_classes()
    assert norm_leak(clean, labels).item() > 0.95
    sent = Marvell(bound=bound)(clean, labels)
    ideal = auc(-sent[:, 0], labels == 1)  # an attacker who knows the direction
    assert 0.5 < ideal < bound + 0.01
    assert norm_leak(sent, labels).item() < bound + 0.01
    assert cosine_leak(sent, labels, clean=clean, known=100).item() < bound + 0.01


def test_noise_is_as_computed_and_unbiased() -> None:
    torch.manual_seed(0)
    clean, labels = two_classes()
    noise = Marvell(power=2.0)(clean, labels) - clean
    spread, direction = spread_of(clean, labels == 1)
    best = best_noise(spread, 2.0 * spread.gap)
    along = noise.double() @ direction
    across = noise.double() - along[:, None] * direction
    for label, wanted_along, wanted_across in (
        (1, best.positive_along, best.positive_across),
        (0, best.negative_along, best.negative_across),
    ):
        of_class = labels == label
        assert along[of_class].var().item() == pytest.approx(wanted_along, rel=0.05)
        per_dimension = across[of_class].square().sum(1).mean().item() / 5
        assert per_dimension == pytest.approx(wanted_across, rel=0.05, abs=1e-9)
    assert noise.mean(0).abs().max() < 0.03
    assert noise.square().sum(1).mean().item() == pytest.approx(2 * spread.gap, rel=0.05)


def test_a_batch_of_one_class_is_not_sent_as_it_is() -> None:
    torch.manual_seed(0)
    clean, labels = two_classes(100)
    defence = Marvell(power=1.0)
    alone = clean[labels == 0]
    for _ in range(2):
        assert not torch.equal(defence(alone, torch.zeros(len(alone)).long()), alone)
        defence(clean, labels)
    equal = torch.ones(10, 3)  # no class differs from any other: nothing to hide
    sent = defence(equal, torch.arange(10) % 2)
    assert torch.isfinite(sent).all()
    assert sent.dtype == equal.dtype


def test_gradients_of_one_column() -> None:
    torch.manual_seed(0)
    labels = (torch.arange(20_000) % 4 == 0).long()
    clean = torch.where(labels == 1, -0.75, 0.25)[:, None] + 0.05 * torch.randn(20_000, 1)
    sent = Marvell(bound=0.6)(clean, labels)
    assert auc(-sent[:, 0], labels == 1) < 0.61


@pytest.mark.parametrize(
    "arguments", [{}, {"power": 1.0, "bound": 0.6}, {"power": 0}, {"bound": 0.5}, {"bound": 1.0}]
)
def test_refuses_settings(arguments: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="Marvell"):
        Marvell(**arguments)


def test_refuses_a_third_class() -> None:
    with pytest.raises(ConfigError, match="two classes"):
        Marvell(1.0)(torch.ones(3, 2), torch.arange(3))
