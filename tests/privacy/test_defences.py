"""Noise, clipping, randomised response: as strong as they say, and no stronger."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from heterofed.errors import ConfigError
from heterofed.privacy.accountant import gaussian_delta, gaussian_epsilon, noise_for
from heterofed.privacy.embedding_defences import ClippedGaussian, Decorrelation
from heterofed.privacy.gradient_defences import IsotropicGaussian, MaxNorm
from heterofed.privacy.input_attacks import distance_correlation
from heterofed.privacy.label_attacks import cosine_leak, norm_leak
from heterofed.privacy.label_dp import RandomisedResponse
from heterofed.privacy.rows import joined, parted


def logistic(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    labels = (torch.arange(rows) % 5 == 0).long()
    return torch.where(labels == 1, -0.8, 0.2)[:, None] * torch.tensor([3.0, 4.0]), labels


# -- gradients -----------------------------------------------------------------------------------


def test_max_norm_hides_lengths_not_directions() -> None:
    torch.manual_seed(0)
    clean, labels = logistic(50_000)
    sent = MaxNorm()(clean, labels)
    for label in (0, 1):
        mean_square = sent[labels == label].square().sum(1).mean().item()
        assert mean_square == pytest.approx(16.0, rel=0.05)  # the longest: 0.8 * 5
    assert (sent[labels == 0].mean(0) - clean[labels == 0].mean(0)).abs().max() < 0.1
    across = sent @ torch.tensor([4.0, -3.0])
    assert across.abs().max() < 1e-4  # the direction stays
    assert norm_leak(clean, labels).item() == 1.0
    assert 0.5 < norm_leak(sent, labels).item() < 0.85
    assert cosine_leak(sent, labels, clean=clean).item() > 0.75


def test_max_norm_leaves_zeros_alone() -> None:
    zeros = torch.zeros(4, 3)
    assert torch.equal(MaxNorm()(zeros, torch.zeros(4).long()), zeros)
    assert MaxNorm()(zeros[:0], torch.zeros(0).long()).shape == (0, 3)


def test_isotropic_noise_has_its_power() -> None:
    torch.manual_seed(0)
    clean, labels = logistic(50_000)
    noise = IsotropicGaussian(0.5)(clean, labels) - clean
    assert noise.square().sum(1).mean().item() == pytest.approx(8.0, rel=0.05)
    assert noise.std(0).tolist() == pytest.approx([2.0, 2.0], rel=0.05)
    assert len(IsotropicGaussian(0.5)(clean[:0], labels[:0])) == 0


def test_several_tensors_are_seen_as_one() -> None:
    tensors = {
        "a": torch.randn(3, 2, 2, dtype=torch.float64),
        "b": torch.randn(3, 1).to(torch.bfloat16),
    }
    rows = joined(tensors)
    assert rows.shape == (3, 5)
    assert rows.dtype == torch.float64
    back = parted(rows, tensors)
    assert all(
        torch.equal(back[name], each) and back[name].dtype == each.dtype
        for name, each in tensors.items()
    )
    empty = {"a": torch.zeros(0, 2, 2), "b": torch.zeros(0, 3)}
    assert {name: each.shape for name, each in parted(joined(empty), empty).items()} == {
        name: each.shape for name, each in empty.items()
    }


# -- labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epsilon", "classes"), [(1.0, 2), (2.0, 10)])
def test_randomised_response_keeps_as_many_as_it_says(epsilon: float, classes: int) -> None:
    respond = RandomisedResponse(epsilon, classes, secret=bytes(32))
    ids = [f"id-{number}" for number in range(20_000)]
    labels = torch.arange(20_000) % classes
    turned = respond(labels, ids)
    keeping = math.exp(epsilon) / (math.exp(epsilon) + classes - 1)
    assert respond.keeping == pytest.approx(keeping)
    assert (turned == labels).double().mean().item() == pytest.approx(keeping, abs=0.02)
    # What may be told apart: each answer is at most e^epsilon likelier from one label than another.
    shares = torch.stack(
        [turned[labels == each].bincount(minlength=classes).double() for each in range(classes)]
    )
    shares /= shares.sum(1, keepdim=True)
    ratio = (shares.max(0).values / shares.min(0).values).max().item()
    assert ratio < math.exp(epsilon) * (1.1 if classes == 2 else 1.6)


def test_the_same_id_answers_alike_in_every_round() -> None:
    respond = RandomisedResponse(0.5)
    ids = [f"id-{number}" for number in range(200)]
    labels = (torch.arange(200) % 2).float()[:, None]
    first = respond(labels, ids)
    assert first.shape == labels.shape
    assert first.dtype == labels.dtype
    order = torch.randperm(200)
    again = respond(labels[order], [ids[each] for each in order])
    assert torch.equal(again, first[order])
    assert not torch.equal(RandomisedResponse(0.5)(labels, ids), first)  # another secret


@pytest.mark.parametrize("labels", [torch.tensor([0, 2]), torch.tensor([0.5, 1.0])])
def test_randomised_response_refuses_other_labels(labels: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="whole numbers"):
        RandomisedResponse(1.0)(labels, ["a", "b"])


def test_randomised_response_refuses_settings() -> None:
    for make in (
        lambda: RandomisedResponse(0),
        lambda: RandomisedResponse(1.0, 1),
        lambda: RandomisedResponse(1.0, secret=b"short"),
        lambda: RandomisedResponse(1.0)(torch.tensor([1]), []),
    ):
        with pytest.raises(ConfigError):
            make()


# -- embeddings ----------------------------------------------------------------------------------


def test_clipping_and_noise() -> None:
    torch.manual_seed(0)
    rows = torch.cat([torch.full((20_000, 4), 10.0), torch.full((20_000, 4), 0.1)])
    sent = ClippedGaussian(clip=1.0, noise_multiplier=0.5)(rows)
    assert sent[:20_000].mean(0).norm().item() == pytest.approx(1.0, abs=0.02)
    assert sent[20_000:].mean(0).norm().item() == pytest.approx(0.2, abs=0.02)
    assert sent.std(0).max().item() == pytest.approx(0.5, abs=0.1)


def test_gradients_go_through_the_clip() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.3, 0.4]], dtype=torch.float64, requires_grad=True)
    ClippedGaussian(1.0, 1e-9)(rows)[:, 0].sum().backward()  # type: ignore[no-untyped-call]
    assert rows.grad is not None
    assert rows.grad[0].tolist() == pytest.approx([0.128, -0.096], abs=1e-6)
    assert rows.grad[1].tolist() == pytest.approx([1.0, 0.0])


def test_decorrelation_lowers_what_it_says() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(64, 3)
    model = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    before = distance_correlation(inputs, model(inputs)).item()
    for _ in range(200):
        optimizer.zero_grad()
        rows = model(inputs)
        rows.backward(Decorrelation(1.0).gradient(inputs, rows))
        optimizer.step()
    assert distance_correlation(inputs, model(inputs)).item() < 0.8 * before


# -- the accountant ------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.floats(0.05, 5), st.integers(1, 400), st.floats(1e-8, 1e-2))
def test_epsilon_and_noise_are_inverse(epsilon: float, releases: int, delta: float) -> None:
    std = noise_for(epsilon, delta, releases, sensitivity=2.0)
    reached = gaussian_epsilon(releases, 2.0, std, delta)
    assert 0.99 * epsilon <= reached <= epsilon * (1 + 1e-6)


def test_gaussian_delta_by_counting() -> None:
    """The definition itself: how much more often an answer comes from one of two neighbours."""
    mu, epsilon = 1.3, 0.7
    x = torch.linspace(-12, 12, 400_001, dtype=torch.float64)
    here = torch.exp(-((x - mu) ** 2) / 2)
    there = torch.exp(-(x**2) / 2)
    excess = (here - math.exp(epsilon) * there).clamp_min(0) / math.sqrt(2 * math.pi)
    assert gaussian_delta(epsilon, mu) == pytest.approx(torch.trapezoid(excess, x).item(), abs=1e-6)


def test_known_epsilons() -> None:
    # Balle and Wang's own: sigma of (1, 1e-5) at sensitivity 1 is 3.73.
    assert noise_for(1.0, 1e-5, 1) == pytest.approx(3.7306, abs=0.002)
    # Four releases cost as much as one with half the noise.
    assert gaussian_epsilon(4, 1.0, 8.0, 1e-5) == pytest.approx(
        gaussian_epsilon(1, 1.0, 4.0, 1e-5), rel=1e-3
    )
    assert gaussian_epsilon(3, 1.0, 0.0, 1e-5) == math.inf
    assert gaussian_epsilon(0, 1.0, 1.0, 1e-5) == 0
    assert gaussian_epsilon(1, 1.0, 1e-3, 1e-5) > 1e4
    embedding = ClippedGaussian(clip=5.0, noise_multiplier=8.0)
    assert embedding.epsilon(4) == pytest.approx(gaussian_epsilon(4, 2.0, 8.0, 1e-5), rel=1e-3)
    with pytest.raises(ConfigError, match="delta"):
        gaussian_epsilon(1, 1.0, 1.0, 0.0)
