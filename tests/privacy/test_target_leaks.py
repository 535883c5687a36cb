"""Labels that are no classes: amounts, and several labels of a row."""

from __future__ import annotations

import itertools

import pytest
import torch

from heterofed.privacy.findings import Leak
from heterofed.privacy.label_attacks import numeric_targets
from heterofed.privacy.leakage import Budget
from heterofed.privacy.target_leaks import TargetLeaks

ROWS = 400


def leak_of(gradients: torch.Tensor, targets: torch.Tensor, embeddings: torch.Tensor) -> Leak:
    report = TargetLeaks(Budget("full"))
    for at in range(0, ROWS, 100):
        part = slice(at, at + 100)
        report.note("shop", gradients[part], targets[part], embeddings[part])
    (found,) = report.end_round()
    return found


@pytest.mark.parametrize("labels", [1, 3])
def test_errors_times_a_vector_give_the_labels_away(labels: int) -> None:
    chance = torch.Generator().manual_seed(0)
    embeddings = torch.randn(ROWS, 16, generator=chance)
    predicted = embeddings[:, :labels] * 0.5
    targets = predicted + torch.randn(ROWS, labels, generator=chance)
    gradients = (predicted - targets) @ torch.randn(labels, 16, generator=chance) / ROWS
    found = leak_of(gradients, targets, embeddings)
    assert (found.party, found.attack, found.measure) == ("shop", "regression", "r2")
    assert found.value > 0.8
    assert "labels" in found.words()
    noise = torch.randn(ROWS, 16, generator=chance)
    assert leak_of(noise, targets[torch.randperm(ROWS, generator=chance)], noise).value < 0.1


def test_a_short_run_and_two_parties_are_measured_once() -> None:
    seconds = itertools.count()
    report = TargetLeaks(Budget("sample", lambda: float(next(seconds))))  # attacks take long
    rows = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    assert not report.is_used
    for party in ("a", "b"):
        report.note(party, rows, rows[:, :1], rows)
    assert report.has_time()
    assert {each.party for each in report.end_round()} == {"a", "b"}
    assert not report.has_time()
    off = TargetLeaks(Budget("off"))
    assert not off.has_time()


def test_which_labels_are_amounts() -> None:
    amounts = torch.arange(100.0)
    assert numeric_targets(amounts) is not None  # whole ones too: each row has its own
    assert numeric_targets({"label": amounts + 0.5, "weight": amounts}) is not None
    several = numeric_targets(torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    assert several is not None
    assert several.shape == (2, 2)
    for classes in (
        amounts % 3,
        amounts.long(),
        torch.eye(4),
        torch.tensor([1.0, torch.nan]),
        ["a", "b"],
    ):
        assert numeric_targets(classes) is None
