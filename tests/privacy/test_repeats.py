"""Batches that are trained again get the noise that they had, as far as a peer can move them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from heterofed.privacy import repeats as module
from heterofed.privacy.gradient_defences import IsotropicGaussian
from heterofed.privacy.marvell import Marvell
from heterofed.privacy.noise import Noise, drawn_from
from heterofed.privacy.repeats import Place, Repeats

HERE = Place("train", "bob", 1, 0)


def gradients(size: float = 1.0) -> Tensor:
    torch.manual_seed(0)
    return size * torch.randn(32, 4)


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1.0, 1e20])
@pytest.mark.parametrize("moved", [0.0, 1e-7, 1e-5, 1e-3])
def test_what_moved_less_than_its_noise_is_sent_again(moved: float, size: float) -> None:
    """Whatever is moved, and however often: averaging gains nothing."""
    clean, labels, repeats = gradients(size), torch.arange(32) % 2, Repeats()
    sent = IsotropicGaussian(1.0)(clean, labels)
    repeats.note(HERE, clean, sent)
    for _ in range(20):
        again = clean + moved * size * torch.randn_like(clean).sign()
        assert torch.equal(repeats.find(HERE, again), sent)  # type: ignore[arg-type]


def test_what_moved_more_is_another_thing() -> None:
    """The same answer would tell less than there is to learn; the same noise would tell all."""
    clean, repeats = gradients(), Repeats()
    repeats.note(HERE, clean, clean + 1.0)  # of length 2
    moved = clean.clone()
    moved[3, 1] += 0.26
    assert repeats.find(HERE, moved) is None
    moved[3, 1] -= 0.02
    assert repeats.find(HERE, moved) is not None
    repeats.note(HERE, clean + 5, clean + 9)
    assert torch.equal(repeats.find(HERE, clean), clean + 1.0)  # type: ignore[arg-type]
    assert torch.equal(repeats.find(HERE, clean + 5), clean + 9)  # type: ignore[arg-type]
    for other in (HERE._replace(peer="eve"), HERE._replace(round=2), HERE._replace(batch=1)):
        assert repeats.find(other, clean) is None
    assert repeats.find(HERE, clean[:5]) is None


def test_nothing_to_hide_is_no_reason_to_send_something_else() -> None:
    repeats, clean = Repeats(), gradients()
    repeats.note(HERE, clean, clean)
    assert repeats.find(HERE, clean) is not None
    assert repeats.find(HERE, clean + 1e-6) is None
    repeats.note(HERE._replace(batch=1), clean[:0], clean[:0])
    assert len(repeats.find(HERE._replace(batch=1), clean[:0])) == 0  # type: ignore[arg-type]


def test_rounds_that_nobody_goes_back_to_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    repeats, clean = Repeats(), gradients()
    for number in (1, 2, 3):
        repeats.note(HERE._replace(round=number), clean, clean)
    assert [repeats.find(HERE._replace(round=number), clean) is None for number in (1, 2, 3)] == [
        True,
        False,
        False,
    ]
    monkeypatch.setattr(module, "MAX_BYTES", 3 * 2 * clean.nbytes)
    for batch in range(1, 5):
        repeats.note(HERE._replace(round=3, batch=batch), clean, clean)
    kept = [
        repeats.find(HERE._replace(round=3, batch=each), clean) is not None for each in range(5)
    ]
    assert kept == [False, False, True, True, True]


def test_averaging_repeats_gains_nothing() -> None:
    """Twenty answers with low bits moved: independent noise would be a fifth of itself."""
    repeats = Repeats()
    labels = torch.arange(200) % 2
    torch.manual_seed(0)
    clean = torch.where(labels == 1, -0.8, 0.2)[:, None] * torch.tensor([3.0, 4.0])
    answers = []
    for _ in range(20):
        moved = clean * (1 + 1e-6 * torch.randn(200, 1))
        sent = repeats.find(HERE, moved)
        if sent is None:
            with drawn_from(Noise(bytes(32), *HERE)):
                sent = Marvell(power=4.0)(moved, labels)
            repeats.note(HERE, moved, sent)
        answers.append(sent)
    noise = torch.stack(answers).mean(0) - clean
    assert noise.norm() > 0.9 * (answers[0] - clean).norm()
