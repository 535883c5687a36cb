"""The leak report keeps within its time and says what it found."""

from __future__ import annotations

import pytest
import torch

from heterofed.privacy.findings import Leak, worst_of
from heterofed.privacy.label_attacks import MOST_CLASSES, class_numbers
from heterofed.privacy.leakage import (
    KEPT_BYTES,
    SHARE,
    SHARE_AT_END,
    Budget,
    InputLeaks,
    LabelLeaks,
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds


def test_samples_take_their_share_of_the_time() -> None:
    clock = Clock()
    budget = Budget("sample", clock)
    ran = 0
    for _ in range(3):  # rounds
        budget.start()
        for _ in range(1000):
            clock.work(0.01)
            if budget.allows("attack", 0.002):
                budget.timed("attack", lambda: clock.work(0.02))
                ran += 1
        budget.stop()
        clock.work(100)  # tests between rounds do not count
    assert ran >= 5
    assert 0.8 * SHARE * 30 < budget.spent <= SHARE * 31.5
    left = SHARE_AT_END * 30 - budget.spent  # kept for the attacks at the end
    assert budget.allows("new", 0.9 * left, running=False)
    assert not budget.allows("new", 1.2 * left, running=False)


def test_all_or_nothing() -> None:
    assert Budget("full").allows("attack", 1e9)
    assert not Budget("off").allows("attack", 0.0)


def batch(rows: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    labels = (torch.arange(rows) % 4 == 0).long()
    return torch.where(labels == 1, -0.75, 0.25)[:, None] * torch.ones(rows, 3), labels


def test_a_short_run_measures_one_batch_of_each_party() -> None:
    gradients, labels = batch()
    leaks = LabelLeaks(Budget("sample", Clock()))  # no time goes by: no budget
    for party in ("a", "b", "a"):
        leaks.note(party, gradients, gradients, labels, gradients)
    leaks.note("a", gradients[:1], gradients[:1], labels[:1], gradients[:1])  # one class: skipped
    found = leaks.end_round()
    assert {(each.party, each.attack) for each in found} == {
        (party, attack) for party in "ab" for attack in ("norm", "cosine", "spectral")
    }
    assert {each.samples for each in found} == {1}
    assert all(each.value == 1 for each in found)
    assert leaks.end_round() == []


def test_completion_and_decoder_run_at_the_end_where_there_is_time() -> None:
    torch.manual_seed(0)
    labels = torch.arange(400) % 2
    embeddings = torch.randn(400, 3) + 4 * labels[:, None]
    leaks = LabelLeaks(Budget("full"))
    leaks.note("a", embeddings, embeddings, labels.float(), embeddings)
    (found,) = leaks.at_end()
    assert (found.attack, found.samples) == ("completion", 400)
    assert found.value > 0.95
    inputs = InputLeaks(Budget("full"))
    inputs.note(torch.randn(200, 2), torch.randn(200, 5))
    (found,) = inputs.at_end()
    assert 0 <= found.value < 0.2
    assert LabelLeaks(Budget("sample")).at_end() == []


def test_a_ridge_with_too_few_rows_is_not_told() -> None:
    leaks = InputLeaks(Budget("full"))
    leaks.note(torch.randn(30, 2), torch.randn(30, 10))
    assert [each.attack for each in leaks.end_round()] == ["distance_correlation"]
    leaks.note(torch.randn(30, 2), torch.randn(30, 10))  # with those before it there are enough
    assert {each.attack for each in leaks.end_round()} == {"ridge", "distance_correlation"}
    leaks.note(torch.zeros(30, 2, dtype=torch.int64), torch.randn(30, 2))
    assert leaks.end_round() == []


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.97, "can read"), (0.8, "can guess much of"), (0.62, "can guess some of"), (0.5, "little")],
)
def test_plain_words(value: float, words: str) -> None:
    line = Leak("shop", "norm", "auc", value, 3).words()
    assert line.startswith(f"label AUC from gradient norms {value:.2f}: shop ")
    assert words in line
    assert line.endswith("the labels")


def test_the_worst_of_each_party() -> None:
    leaks = [
        Leak("the Host", "ridge", "r2", 0.3, 1),
        Leak("the Host", "distance_correlation", "correlation", 0.5, 1),
        Leak("shop", "norm", "auc", 0.6, 1),
    ]
    assert [each.attack for each in worst_of(leaks)] == ["distance_correlation", "norm"]


def test_class_numbers_may_be_large() -> None:
    """Nothing is allocated, nor scored, per number up to the largest."""
    clean, labels = batch()
    found = []
    for numbers in (labels, labels * 3_000_000_000_000 + 7):
        leaks = LabelLeaks(Budget("full"))
        leaks.note("bob", clean, clean, numbers, clean)
        leaks.note("bob", clean, clean, numbers, clean)
        found.append([(each.attack, each.value) for each in leaks.end_round() + leaks.at_end()])
    assert found[0] == found[1]
    assert dict(found[0])["cosine"] == 1.0


def test_a_thousand_amounts_are_no_classes() -> None:
    assert class_numbers(torch.arange(2 * MOST_CLASSES) % MOST_CLASSES) is not None
    assert class_numbers(torch.arange(2 * MOST_CLASSES) % (MOST_CLASSES + 1)) is None


def test_wide_rows_are_kept_for_as_much_as_there_is_room() -> None:
    leaks, wide = InputLeaks(Budget("full")), 20_000
    for number in range(5):
        leaks.note(torch.full((64, wide), float(number)), torch.zeros(64, 4))
    assert leaks._kept is not None
    inputs, embeddings = leaks._kept.last()
    assert 0.9 * KEPT_BYTES < inputs.numel() * 4 + embeddings.numel() * 4 <= KEPT_BYTES
    assert inputs[-1, 0] == 4
    held = sum(each.numel() * 4 for pair in leaks._kept._batches for each in pair)
    assert held < KEPT_BYTES + 64 * wide * 4 + 5 * 64 * 16
