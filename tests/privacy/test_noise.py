"""Noise that is drawn again for the same values alone, and that no seed search finds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from heterofed.privacy.embedding_defences import ClippedGaussian
from heterofed.privacy.gradient_defences import GradientDefence, IsotropicGaussian, MaxNorm
from heterofed.privacy.marvell import Marvell
from heterofed.privacy.noise import Noise, added, drawn_from, normal

SECRET = bytes(range(32))


def test_numbers_are_standard_normal() -> None:
    drawn = Noise(SECRET, "train", 1, 0).normal((1000, 401))
    assert drawn.dtype == torch.float64
    assert drawn.shape == (1000, 401)
    assert drawn.mean().item() == pytest.approx(0, abs=0.01)
    assert drawn.std().item() == pytest.approx(1, abs=0.01)
    for at in (-2.0, -0.5, 1.0, 3.0):
        below = (drawn < at).double().mean().item()
        assert below == pytest.approx(0.5 * (1 + math.erf(at / math.sqrt(2))), abs=0.003)
    flat = drawn.flatten()
    for lag in (1, len(flat) // 2, len(flat) // 2 + 1):  # pairs of one draw lie half a stream apart
        assert (flat[:-lag] * flat[lag:]).mean().item() == pytest.approx(0, abs=0.01)
    assert Noise(SECRET).normal((0, 3)).shape == (0, 3)
    assert Noise(SECRET).normal(()).shape == ()


def test_the_same_again_only_where_nothing_differs() -> None:
    values = torch.arange(6.0).reshape(2, 3)

    def drawn(
        secret: bytes = SECRET, *path: str | int, hidden: tuple[Tensor | float, ...]
    ) -> Tensor:
        return Noise(secret, *(path or ("train", "bob", 1, 0))).normal((4,), *hidden)

    first = drawn(hidden=(values, 0.5))
    assert torch.equal(first, drawn(hidden=(values.clone(), 0.5)))
    moved = values.clone()
    moved[1, 2] = torch.nextafter(moved[1, 2], torch.tensor(9.0))
    others = [
        drawn(hidden=(moved, 0.5)),
        drawn(hidden=(values, 0.6)),
        drawn(hidden=(values.double(), 0.5)),
        drawn(hidden=(values.reshape(3, 2), 0.5)),
        drawn(SECRET, "test", "bob", 1, 0, hidden=(values, 0.5)),
        drawn(SECRET, "train", "eve", 1, 0, hidden=(values, 0.5)),
        drawn(SECRET, "train", "bob", 2, 0, hidden=(values, 0.5)),
        drawn(SECRET, "train", "bob", 1, 1, hidden=(values, 0.5)),
        drawn(SECRET[:31] + b"x", hidden=(values, 0.5)),
    ]
    noise = Noise(SECRET, "train", "bob", 1, 0)
    others += [noise.normal((4,), values, 0.5) for _ in range(2)][1:]
    assert not any(torch.isclose(first, each).any() for each in others)


@pytest.mark.parametrize(
    "defence",
    [MaxNorm(), IsotropicGaussian(1.0), Marvell(8.0)],
    ids=lambda each: type(each).__name__,
)
def test_gradient_defences_never_reuse_noise(defence: GradientDefence) -> None:
    """Who gets two releases with the same noise subtracts them."""
    torch.manual_seed(0)
    clean, labels = torch.randn(40, 3), torch.arange(40) % 2

    def sent(rows: Tensor) -> Tensor:
        torch.manual_seed(1)  # as the stream of a batch that is trained again
        with drawn_from(Noise(SECRET, "train", "bob", 1, 0)):
            return defence(rows, labels)

    again, other = sent(clean), sent(clean * 1.5)
    assert torch.equal(again, sent(clean))
    noises = torch.stack([(again - clean).flatten(), (other - 1.5 * clean).flatten()])
    assert torch.corrcoef(noises)[0, 1].abs().item() < 0.5  # the same numbers: 1


def test_embedding_noise_hangs_on_its_scale_too() -> None:
    """A run that goes on with less noise must not scale the same numbers down."""
    rows = torch.randn(8, 4)

    def noise(multiplier: float) -> Tensor:
        with drawn_from(Noise(SECRET, "train", 1, 0)):
            sent = ClippedGaussian(1e3, multiplier)(rows)
        return (sent - rows) / (1e3 * multiplier)

    assert not torch.isclose(noise(1.0), noise(0.5), atol=1e-3).any()


def test_outside_of_a_run_torch_draws() -> None:
    torch.manual_seed(3)
    first = normal(torch.zeros(5))
    torch.manual_seed(3)
    assert torch.equal(first, normal(torch.zeros(5), 1.0))


def test_sums_are_rounded_once() -> None:
    """In float32 alone 1e8 plus anything small is a multiple of 8."""
    clean = torch.full((100,), 1e8)
    noise = torch.linspace(0, 1e-3, 100, dtype=torch.float64) - 1e8
    assert added(clean, noise).dtype == torch.float32
    assert len(set(added(clean, noise).tolist())) == 100
