"""Noise that is drawn again for the same values alone, and that no seed search finds."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from heterofed.privacy.embedding_defences import ClippedGaussian
from heterofed.privacy.gradient_defences import GradientDefence, IsotropicGaussian, MaxNorm
from heterofed.privacy.marvell import Marvell
from heterofed.privacy.noise import Noise, added, drawn_from, grid, normal, normal_from, wide

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


# -- numerics ------------------------------------------------------------------------------------

ONES = 2**64 - 1
WORDS = [0, 1, 2**11 - 1, 2**32, 2**63 - 1, 2**63, ONES - 2**11, ONES - 1, ONES]


@pytest.mark.parametrize("default", [torch.float16, torch.float32, torch.float64])
def test_all_numbers_are_float64_to_the_last_bit(default: torch.dtype) -> None:
    """An int64 tensor times a number is of the default dtype: 24 bits, whatever it becomes."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        drawn = Noise(SECRET).normal((10_000,))
    finally:
        torch.set_default_dtype(before)
    assert drawn.dtype == torch.float64
    assert (drawn.float().double() == drawn).double().mean() < 0.01  # of float32 all
    mantissas = drawn.view(torch.int64) & (2**52 - 1)
    for bit in range(44):  # each is a coin, but for the first few
        assert ((mantissas >> bit) & 1).double().mean().item() == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("one", WORDS)
@pytest.mark.parametrize("other", WORDS)
def test_no_bits_make_noise_without_end(one: int, other: int) -> None:
    drawn = normal_from(np.array([one, other], dtype=np.uint64))
    assert torch.isfinite(drawn).all()
    assert drawn.abs().max() < 9.4


def test_the_tail_goes_on() -> None:
    """Of float32's 24 bits it would end at 5.8; beyond 8.2 is one number in 2^52."""
    smallest = normal_from(np.array([0, 0], dtype=np.uint64))
    assert smallest.abs().max() > 9.3
    lengths = np.array([2**bits for bits in range(63, 0, -1)], dtype=np.uint64)
    tail = normal_from(np.concatenate([lengths, np.zeros(63, np.uint64)]))[:63]
    wanted = [math.sqrt(-2 * math.log((2 ** (bits - 1) + 1) / 2**63)) for bits in range(63, 0, -1)]
    assert tail.tolist() == pytest.approx(wanted, abs=1e-7)


DEFENCES: dict[str, Callable[[Tensor], Tensor]] = {
    "embeddings": ClippedGaussian(1.0, 0.7),
    "isotropic": lambda rows: IsotropicGaussian(0.7)(rows, torch.arange(len(rows)) % 2),
    "marvell": lambda rows: Marvell(4.0)(rows, torch.arange(len(rows)) % 2),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", DEFENCES)
@pytest.mark.parametrize("size", [1e-3, 1.0, 300.0])
def test_low_bits_of_releases_tell_nothing(name: str, size: float, dtype: torch.dtype) -> None:
    """All of them are points of one coarse grid, whatever was hidden."""
    torch.manual_seed(0)
    rows = (size * torch.randn(64, 6, dtype=torch.float64)).to(dtype)
    with drawn_from(Noise(SECRET, name)):
        sent = DEFENCES[name](rows)
    assert sent.dtype == dtype
    assert torch.isfinite(sent).all()
    noise = (sent - rows).double() if name != "embeddings" else torch.full((2,), 0.7).double()
    step = grid(float(noise.square().mean().sqrt()) / 64)  # of the whole, within 64 times
    assert torch.equal((sent.double() / step).round() * step, sent.double())


def test_an_attacker_who_knows_two_candidates_cannot_tell_them_apart() -> None:
    """Which float32 sums can come about told the row of 200 out of 200, at an epsilon of 0.93."""
    torch.manual_seed(0)
    defence = ClippedGaussian(1.0, 9.0)
    candidates = torch.nn.functional.normalize(torch.randn(2, 16), dim=1).double()
    points = []
    for trial in range(200):
        with drawn_from(Noise(SECRET, "trial", trial)):
            points.append(defence(candidates[trial % 2][None].float())[0].double())
    step = grid(9.0)
    for sent in points:  # what remains are whole steps, and any of them fits any candidate
        assert torch.equal((sent / step).round() * step, sent)
    parities = torch.stack(points) / step % 2
    assert parities.mean().item() == pytest.approx(0.5, abs=0.04)
    # The best test that there is, of the likelihoods.
    nearer = [
        int((sent - candidates[1]).square().sum() < (sent - candidates[0]).square().sum())
        for sent in points
    ]
    right = sum(each == trial % 2 for trial, each in enumerate(nearer)) / len(nearer)
    assert right < 0.65


@pytest.mark.parametrize("size", [1e-42, 1e-30, 1e-22, 1e20, 1e37])
@pytest.mark.parametrize("name", ["isotropic", "marvell"])
def test_noise_is_as_long_as_gradients_are(name: str, size: float) -> None:
    """In float32 their squares are 0 or infinity: no noise, or nothing else."""
    torch.manual_seed(0)
    rows = torch.randn(64, 6)
    rows[::2] += 1
    sent = DEFENCES[name]((rows * size).double()) / size
    alone = DEFENCES[name](rows)
    ratio = (sent - rows).norm() / (alone - rows).norm()
    assert 0.5 < ratio.item() < 2
    small = DEFENCES[name]((rows * size).float())
    assert not torch.equal(small, (rows * size).float()) or size < 1e-40


@pytest.mark.parametrize("name", DEFENCES)
def test_noise_does_not_hang_on_the_default_dtype(name: str) -> None:
    """Numbers that become tensors are of that dtype; noise and its scales must not be."""
    torch.manual_seed(0)
    rows = torch.randn(64, 6)
    before, sent = torch.get_default_dtype(), []
    for default in (torch.float16, torch.float32, torch.float64):
        torch.set_default_dtype(default)
        try:
            with drawn_from(Noise(SECRET, name)):
                sent.append(DEFENCES[name](rows))
        finally:
            torch.set_default_dtype(before)
    assert torch.equal(sent[0], sent[1])
    assert torch.equal(sent[1], sent[2])


@pytest.mark.parametrize("size", [1e-30, 1e25])
def test_max_norm_of_very_short_and_very_long_gradients(size: float) -> None:
    torch.manual_seed(0)
    rows = size * torch.rand(64, 1) * torch.ones(64, 3)
    sent = MaxNorm()(rows, torch.zeros(64).long())
    assert torch.isfinite(sent).all()
    assert not torch.equal(sent, rows)


def test_a_clip_holds_in_any_dtype() -> None:
    torch.manual_seed(0)
    for size in (1e-3, 1.0, 1e4, 1e30):
        rows = size * torch.randn(200, 50)
        sent = ClippedGaussian(1.0, 1e-9)(rows.double())
        assert sent.norm(dim=1).max() <= 1 + 1e-7
        assert torch.isfinite(sent).all()


def test_sums_are_rounded_at_the_end_and_let_gradients_through() -> None:
    clean = torch.linspace(-3, 3, 50, requires_grad=True)
    noise = torch.randn(50, dtype=torch.float64)
    total = added(clean, noise, 1.0)
    assert total.dtype == clean.dtype
    assert (total - (clean + noise)).abs().max() <= grid(1.0) / 2 + 1e-6
    total.sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(clean.grad, torch.ones(50))  # type: ignore[arg-type]
    assert torch.equal(added(clean, torch.zeros(50), 0.0), clean)


def test_grids_are_powers_of_two_beside_the_noise() -> None:
    for std in (1e-200, 1e-9, 0.5, 0.99, 1.0, 1.5, 2.0, 1e30):
        assert 2.0**-15 < grid(std) / std <= 2.0**-14
        assert math.frexp(grid(std))[0] == 0.5
    assert grid(0.0) == grid(math.inf) == grid(math.nan) == 0.0


def test_wide_numbers_are_the_same_numbers() -> None:
    for size in (1e-45, 1e-30, 1.0, 1e38):
        rows = (size * torch.tensor([[1.0, -0.3], [0.2, 0.9]], dtype=torch.float64)).float()
        scaled, scale = wide(rows)
        assert torch.equal((scaled * scale).float(), rows)
        assert scaled.abs().max() <= 1
    assert wide(torch.zeros(2, 2))[1] == wide(torch.zeros(0, 2))[1] == 1.0
