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


class Answering:
    """Repeats that say which rows were hidden anew."""

    def __init__(self, **noise: float) -> None:
        self.repeats, self.noise = Repeats(), noise.get("noise", 1.0)
        self.drawn = 0

    def __call__(self, rows: Tensor, place: Place = HERE) -> Tensor:
        return self.repeats.answer(place, rows, lambda: self.hide(rows))

    def hide(self, rows: Tensor) -> Tensor:
        self.drawn += 1
        return rows + self.noise * self.drawn  # of length 2 for rows of four numbers


def gradients(size: float = 1.0) -> Tensor:
    torch.manual_seed(0)
    return size * torch.randn(32, 4)


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1.0, 1e20])
@pytest.mark.parametrize("moved", [0.0, 1e-7, 1e-5, 1e-3])
def test_what_moved_less_than_its_noise_is_sent_again(moved: float, size: float) -> None:
    """Whatever is moved, and however often: averaging gains nothing."""
    clean, labels, repeats = gradients(size), torch.arange(32) % 2, Repeats()
    sent = IsotropicGaussian(1.0)(clean, labels)
    assert torch.equal(repeats.answer(HERE, clean, lambda: sent), sent)
    for _ in range(20):
        again = clean + moved * size * torch.randn_like(clean).sign()
        assert torch.equal(repeats.answer(HERE, again, lambda: sent + size), sent)


def test_what_moved_more_is_another_thing() -> None:
    """The same answer would tell less than there is to learn; the same noise would tell all."""
    clean, answer = gradients(), Answering()
    first = answer(clean)
    moved = clean.clone()
    moved[3, 1] += 0.24
    assert torch.equal(answer(moved), first)
    assert answer.drawn == 2  # a defence sees each batch, because it may learn from it
    assert torch.equal(answer(clean + 5), clean + 5 + 3)
    assert torch.equal(answer(clean), first)
    assert torch.equal(answer(clean + 5), clean + 5 + 3)
    others = (HERE._replace(peer="eve"), HERE._replace(round=2), HERE._replace(batch=1))
    for number, other in enumerate(others, 6):
        assert torch.equal(answer(clean, other), clean + number)
    answer(clean[:5])
    assert answer.drawn == 9


def test_rows_that_did_not_move_are_answered_as_before_whatever_others_do() -> None:
    """Else one row that is given up would buy new noise for all others, to average."""
    clean, answer = gradients(), Answering()
    first, moved = answer(clean), clean.clone()
    for number in range(1, 20):
        moved[3] = clean[3] + number
        sent = answer(moved)
        assert answer.drawn == number + 1
        assert torch.equal(sent[3], moved[3] + answer.drawn)
        assert torch.equal(sent[torch.arange(32) != 3], first[torch.arange(32) != 3])
    assert torch.equal(answer(clean), first)


def test_small_steps_do_not_lead_away_from_the_first_answer_unseen() -> None:
    clean, answer = gradients(), Answering()
    first, moved = answer(clean), clean.clone()
    moved[3] += 50  # so that each answer is kept
    moved[5, 0] += 0.24
    assert torch.equal(answer(moved)[5], first[5])
    moved[3] += 50
    moved[5, 0] += 0.24
    assert not torch.equal(answer(moved)[5], first[5])


def test_nothing_to_hide_is_no_reason_to_send_something_else() -> None:
    answer, clean = Answering(noise=0.0), gradients()
    for rows in (clean, clean, clean + 1e-6):
        assert torch.equal(answer(rows), rows)
    assert answer.drawn == 3
    for _ in range(2):
        assert len(answer(clean[:0], HERE._replace(batch=1))) == 0
    assert answer.drawn == 5


def test_rounds_that_nobody_goes_back_to_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    answer, clean = Answering(), gradients()

    def forgotten(*places: Place) -> list[bool]:
        return [place not in answer.repeats._kept for place in places]

    rounds = [HERE._replace(round=number) for number in (1, 2, 3)]
    for place in rounds:
        answer(clean, place)
    assert forgotten(*rounds) == [True, False, False]
    monkeypatch.setattr(module, "MAX_BYTES", 3 * 2 * clean.nbytes)
    batches = [HERE._replace(round=3, batch=batch) for batch in range(5)]
    for place in batches[1:]:
        answer(clean, place)
    assert forgotten(*batches) == [True, True, False, False, False]


@pytest.mark.parametrize("given_up", [0, 1, 20])
def test_averaging_repeats_gains_nothing(given_up: int) -> None:
    """Twenty answers with low bits moved: independent noise would be a fifth of itself."""
    repeats = Repeats()
    labels = torch.arange(200) % 2
    torch.manual_seed(0)
    clean = torch.where(labels == 1, -0.8, 0.2)[:, None] * torch.tensor([3.0, 4.0])
    answers = []
    for number in range(20):
        moved = clean * (1 + 1e-6 * torch.randn(200, 1))
        moved[:given_up] *= 1 + 50 * number

        def hide(rows: Tensor = moved) -> Tensor:
            with drawn_from(Noise(bytes(32), *HERE)):
                return Marvell(power=4.0)(rows, labels)

        answers.append(repeats.answer(HERE, moved, hide)[given_up:])
    noise = torch.stack(answers).mean(0) - clean[given_up:]
    assert noise.norm() > 0.9 * (answers[0] - clean[given_up:]).norm()
