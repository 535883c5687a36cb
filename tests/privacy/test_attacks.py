"""The attacks find exactly what was put there, where the answer is known beforehand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from heterofed.errors import ConfigError
from heterofed.privacy.input_attacks import (
    decoder_reconstruction,
    distance_correlation,
    ridge_reconstruction,
)
from heterofed.privacy.label_attacks import (
    class_numbers,
    cosine_leak,
    model_completion,
    norm_leak,
    spectral_leak,
)
from heterofed.privacy.scores import auc, folded


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def normal_cdf(x: float) -> float:
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


# -- AUC -----------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), max_size=30))
def test_auc_is_the_share_of_pairs_in_order(pairs: list[tuple[int, bool]]) -> None:
    highs = [score for score, positive in pairs if positive]
    lows = [score for score, positive in pairs if not positive]
    found = auc(
        torch.tensor([float(score) for score, _ in pairs]),
        torch.tensor([positive for _, positive in pairs], dtype=torch.bool),
    )
    if not highs or not lows:
        assert math.isnan(found)
        return
    won = sum((high > low) + (high == low) / 2 for high in highs for low in lows)
    assert found == pytest.approx(won / len(highs) / len(lows))


def test_auc_of_two_normals(rng: torch.Generator) -> None:
    positive = torch.arange(20_000) % 4 == 0
    scores = torch.randn(20_000, generator=rng) + 1.0 * positive
    assert auc(scores, positive) == pytest.approx(normal_cdf(1 / math.sqrt(2)), abs=0.01)
    assert folded(0.2) == 0.8


# -- labels --------------------------------------------------------------------------------------


def gradients(labels: Tensor, rng: torch.Generator, noise: float = 0.0) -> Tensor:
    """As a logistic head gives them: (p - y) w; positives are rare, so their p - y is large."""
    weight = torch.tensor([1.0, -2.0, 0.5, 0.0])
    residual = torch.where(labels == 1, -0.8, 0.2)
    clean = residual[:, None] * weight
    return clean + noise * torch.randn(clean.shape, generator=rng)


def test_undefended_gradients_give_labels_away(rng: torch.Generator) -> None:
    labels = (torch.arange(200) % 5 == 0).long()
    sent = gradients(labels, rng, noise=0.01)
    assert norm_leak(sent, labels).tolist() == [1.0]
    assert cosine_leak(sent, labels, generator=rng).tolist() == [1.0]
    assert spectral_leak(sent, labels).tolist() == [1.0]
    assert norm_leak(-sent.reshape(200, 2, 2), labels).tolist() == [1.0]


def test_equal_lengths_hide_from_the_norm_but_not_from_the_direction(rng: torch.Generator) -> None:
    labels = torch.randint(2, (500,), generator=rng)
    sent = torch.where(labels == 1, 1.0, -1.0)[:, None] * torch.ones(500, 3)
    assert norm_leak(sent, labels).item() == 0.5
    assert cosine_leak(sent, labels, generator=rng).item() == 1.0


def test_noise_alone_gives_nothing_away(rng: torch.Generator) -> None:
    labels = (torch.arange(20_000) % 5 == 0).long()
    sent = torch.randn(20_000, 8, generator=rng)
    for attack in (norm_leak, spectral_leak):
        assert attack(sent, labels).item() == pytest.approx(0.5, abs=0.02)
    assert cosine_leak(sent, labels, known=50, generator=rng).item() == pytest.approx(0.5, abs=0.02)


def test_direction_of_a_known_undefended_gradient(rng: torch.Generator) -> None:
    """Noise of one size over all directions: the cosine with the true one still tells some."""
    labels = torch.randint(2, (20_000,), generator=rng)
    clean = torch.where(labels == 1, 1.0, -1.0)[:, None] * torch.tensor([1.0, 0.0])
    sent = clean + torch.tensor([1.0, 1e-6]) * torch.randn(clean.shape, generator=rng)
    # In one dimension only the sign counts: P(positive > 0) = cdf(1), and half of the ties.
    right = normal_cdf(1.0)
    expected = right * right + right * (1 - right)
    found = cosine_leak(sent, labels, clean=clean, generator=rng).item()
    assert found == pytest.approx(expected, abs=0.01)


def test_several_classes_each_against_the_rest(rng: torch.Generator) -> None:
    labels = torch.arange(300) % 3
    sent = torch.eye(3)[labels] * torch.tensor([1.0, 1.0, 3.0])
    assert norm_leak(sent, labels).tolist() == [0.25, 0.25, 1.0]
    assert cosine_leak(sent, labels, generator=rng).tolist() == [1.0, 1.0, 1.0]


def test_a_class_that_is_missing_is_not_scored(rng: torch.Generator) -> None:
    labels = torch.zeros(10, dtype=torch.int64)
    for attack in (norm_leak, spectral_leak, cosine_leak):
        assert math.isnan(attack(torch.randn(10, 3, generator=rng), labels).item())


@pytest.mark.parametrize(
    ("labels", "numbers"),
    [
        (torch.tensor([0.0, 1.0]), [0, 1]),
        (torch.tensor([[1], [0]]), [1, 0]),
        (torch.tensor([True, False]), [1, 0]),
        (torch.tensor([[0, 0, 1], [1, 0, 0]]), [2, 0]),
        (torch.tensor([0.5, 1.0]), None),
        (torch.tensor([float("nan"), 1.0]), None),
        (torch.tensor([-1, 1]), None),
        (torch.tensor([[1.0, 2.0], [0.0, 1.0]]), None),
        (["a", "b"], None),
        (torch.tensor([1, 0, 1]), None),
        ({"label": torch.tensor([1, 0]), "weight": torch.tensor([2.0, 1.0])}, [1, 0]),
        ({"weight": torch.tensor([2.0, 1.0])}, None),
        ({"y": torch.tensor([1, 0]), "target": torch.tensor([0, 1])}, None),
    ],
)
def test_labels_as_class_numbers(labels: object, numbers: list[int] | None) -> None:
    found = class_numbers(labels, rows=2)
    assert (None if found is None else found.tolist()) == numbers


def test_completion_of_two_clusters(rng: torch.Generator) -> None:
    labels = (torch.arange(1200) % 4 == 0).long()
    shift = 3.0
    embeddings = torch.randn(1200, 4, generator=rng)
    embeddings[:, 0] += shift * labels
    before = torch.get_rng_state()
    found = model_completion(embeddings, labels, known=40)
    assert torch.equal(torch.get_rng_state(), before)
    assert found.auc == pytest.approx(normal_cdf(shift / math.sqrt(2)), abs=0.03)
    assert found.majority == pytest.approx(0.75, abs=0.01)
    nothing = model_completion(torch.randn(1200, 4, generator=rng), labels, known=40)
    assert nothing.auc == pytest.approx(0.5, abs=0.08)


def test_completion_trains_a_copy_of_the_bottom_model(rng: torch.Generator) -> None:
    labels = torch.arange(300) % 3
    inputs = torch.randn(300, 5, generator=rng) + 4 * torch.eye(5)[labels]
    bottom = nn.Linear(5, 4)
    before = [each.clone() for each in bottom.parameters()]
    found = model_completion(inputs, labels, known=30, bottom=bottom)
    assert found.accuracy > 0.9
    assert all(torch.equal(old, new) for old, new in zip(before, bottom.parameters(), strict=True))
    assert all(each.grad is None for each in bottom.parameters())


def test_completion_needs_two_classes() -> None:
    with pytest.raises(ConfigError, match="two classes"):
        model_completion(torch.zeros(50, 2), torch.zeros(50, dtype=torch.int64))


# -- inputs --------------------------------------------------------------------------------------


def test_ridge_inverts_a_linear_model(rng: torch.Generator) -> None:
    x = torch.randn(400, 6, generator=rng)
    whole = ridge_reconstruction(x, x @ torch.randn(6, 6, generator=rng), penalty=1e-9)
    assert whole.r2 == pytest.approx(1, abs=1e-6)
    half = ridge_reconstruction(x, x[:, :3])
    assert half.columns[:3].min() > 0.999
    assert half.columns[3:].abs().max() < 0.1
    assert half.r2 == pytest.approx(0.5, abs=0.05)


def test_ridge_through_noise_explains_what_the_noise_leaves(rng: torch.Generator) -> None:
    x = torch.randn(20_000, 2, generator=rng)
    found = ridge_reconstruction(x, x + 2 * torch.randn(20_000, 2, generator=rng))
    assert found.r2 == pytest.approx(1 / (1 + 4), abs=0.02)


def test_decoder_finds_what_ridge_cannot(rng: torch.Generator) -> None:
    x = torch.randn(2000, 1, generator=rng)
    z = torch.cat([x.relu() ** 2, (-x).relu() ** 3], dim=1)
    linear, trained = ridge_reconstruction(x, z), decoder_reconstruction(x, z)
    assert linear.r2 < 0.75
    assert trained.r2 > 0.95


def test_reconstruction_of_a_constant_column(rng: torch.Generator) -> None:
    x = torch.cat([torch.randn(50, 1, generator=rng), torch.ones(50, 1)], dim=1)
    found = ridge_reconstruction(x, x)
    assert found.r2 > 0.99
    assert math.isnan(found.columns[1])
    with pytest.raises(ConfigError, match="same on both sides"):
        ridge_reconstruction(x, x[:7])


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("width", [2, 9])
def test_distance_correlation_with_itself_turned_and_scaled(
    unbiased: bool, width: int, rng: torch.Generator
) -> None:
    x = torch.randn(60, width, generator=rng, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(width, width, generator=rng, dtype=torch.float64))
    assert distance_correlation(x, 3 * x @ turn + 1, unbiased=unbiased).item() == pytest.approx(1)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_distance_correlation_of_two_normals(rho: float, rng: torch.Generator) -> None:
    """Székely, Rizzo and Bakirov (2007), theorem 7."""
    x, other = torch.randn(2, 2000, 1, generator=rng, dtype=torch.float64)
    z = rho * x + math.sqrt(1 - rho**2) * other
    above = (
        rho * math.asin(rho)
        + math.sqrt(1 - rho**2)
        - rho * math.asin(rho / 2)
        - math.sqrt(4 - rho**2)
        + 1
    )
    expected = math.sqrt(above / (1 + math.pi / 3 - math.sqrt(3)))
    found = distance_correlation(x, z, unbiased=True).item()
    assert found == pytest.approx(expected, abs=0.03 if rho else 0.06)


def test_distance_correlation_has_a_gradient() -> None:
    x = torch.randn(12, 2, dtype=torch.float64)
    z = torch.randn(12, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda each: distance_correlation(x, each), z)
    same = torch.zeros(5, 3, requires_grad=True)
    distance_correlation(torch.randn(5, 2), same).backward()  # type: ignore[no-untyped-call]
    assert same.grad is not None
    assert torch.isfinite(same.grad).all()
