"""Synthetic gradients follow the gradients but no label of the batch, and hide as they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from heterofed.errors import ConfigError
from heterofed.privacy.gradient_defences import MaxNorm, defended
from heterofed.privacy.label_attacks import norm_leak, one_hot
from heterofed.privacy.marvell import Marvell
from heterofed.privacy.scores import auc
from heterofed.privacy.synthetic_gradients import SyntheticGradients
from tests.e2e.tiny import TinyCollaborator, TinyHost

WIDTH = 4


def batch(
    rows: int, seed: int, *, classes: int = 2, scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients, labels and embeddings; the embeddings tell something of the labels."""
    random = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(99)
    means, slopes = (torch.randn(classes, WIDTH, generator=fixed) for _ in range(2))
    chances = torch.full((classes,), 1.0) if classes > 2 else torch.tensor([0.8, 0.2])
    labels = chances.multinomial(rows, replacement=True, generator=random)
    embeddings = 0.7 * means[labels] + torch.randn(rows, WIDTH, generator=random)
    clean = slopes[labels] + 0.05 * torch.randn(rows, WIDTH, generator=random)
    return scale * clean, labels, embeddings


def fitted(bound: float, *, classes: int = 2, scale: float = 1.0) -> SyntheticGradients:
    defence = SyntheticGradients(bound, features=16)
    for seed in range(20):
        defence.defend(*batch(500, seed, classes=classes, scale=scale))
    return defence


def best_attack(sent: Tensor, labels: Tensor) -> float:
    """The AUC of the best linear attack on the worst class, fitted on half of the rows."""
    half, worst = torch.arange(len(sent)) % 2 == 0, 0.5
    for positive in one_hot(labels).T:
        gap = sent[half & positive].mean(0) - sent[half & ~positive].mean(0)
        inside = torch.cov(sent[half & positive].T) + torch.cov(sent[half & ~positive].T)
        scores = sent @ torch.linalg.solve(inside, gap)
        worst = max(worst, auc(scores[~half], positive[~half]))
    return worst


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 5), st.integers(2, 4))
def test_no_row_of_a_batch_is_answered_by_its_own_label(
    seed: int, rows: int, width: int, classes: int
) -> None:
    """Whatever the labels and gradients of a batch are: its answer is the same, bit for bit."""
    random = torch.Generator().manual_seed(seed)
    defences = [SyntheticGradients(features=8, memory=100) for _ in range(2)]

    def gradients() -> tuple[Tensor, Tensor]:
        drawn = torch.randn(rows, width, generator=random)
        return drawn, torch.randint(classes, (rows,), generator=random)

    for past in range(3):
        embeddings = torch.randn(rows, 3, generator=random)
        pair = [gradients(), gradients()] if past == 2 else [gradients()] * 2
        answers = []
        for defence, (clean, labels) in zip(defences, pair, strict=True):
            torch.manual_seed(seed % 1000)
            answers.append(defence.defend(clean, labels, embeddings))
        assert torch.equal(*answers)
        assert answers[0].isfinite().all()
        assert bool(answers[0].any()) == (past > 0)  # the first batch is answered by zeros


@pytest.mark.parametrize(("bound", "classes"), [(0.55, 2), (0.65, 2), (0.6, 6)])
def test_no_linear_attack_beats_the_bound(bound: float, classes: int) -> None:
    torch.manual_seed(0)
    clean, labels, embeddings = batch(40_000, 100, classes=classes)
    assert best_attack(clean, labels) > 0.95
    sent = fitted(bound, classes=classes).defend(clean, labels, embeddings)
    assert bound - 0.06 < best_attack(sent, labels) < bound + 0.015
    norms = norm_leak(sent, labels)
    assert torch.maximum(norms, 1 - norms).max() < bound + 0.015


def test_what_embeddings_explain_is_followed() -> None:
    """The mean of many answers is the part of the gradients that the embeddings explain."""
    torch.manual_seed(0)
    defence = fitted(0.9)
    clean, labels, embeddings = batch(4000, 100)
    sent = defence.defend(clean, labels, embeddings)
    inputs = torch.cat([torch.ones(4000, 1), embeddings], 1)
    wanted, found = (torch.linalg.lstsq(inputs, each).solution for each in (clean, sent))
    assert (wanted - found).norm() < 0.1 * wanted.norm()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_any_scale_is_hidden_alike(scale: float) -> None:
    torch.manual_seed(0)
    clean, labels, embeddings = batch(5000, 100, scale=scale)
    sent = fitted(0.6, scale=scale).defend(clean, labels, embeddings)
    torch.manual_seed(0)
    plain = fitted(0.6).defend(clean / scale, labels, embeddings)
    assert torch.allclose(sent / scale, plain, rtol=1e-3, atol=1e-3)


def test_odd_batches() -> None:
    defence = SyntheticGradients(features=4)
    nothing = torch.zeros(0, 3)
    assert defence.defend(nothing, torch.zeros(0).long(), nothing).shape == (0, 3)
    one_class = torch.zeros(6).long()
    for labels in (one_class, one_class, torch.tensor([0, 0, 7, 0, 0, 1])):
        sent = defence.defend(torch.ones(6, 3).half(), labels, torch.ones(6, 100))
        assert sent.dtype == torch.float16
        assert sent.isfinite().all()


def test_settings_are_checked() -> None:
    for wrong in ({"bound": 0.5}, {"bound": True}, {"features": 0}, {"memory": 1.5}):
        with pytest.raises(ConfigError, match="SyntheticGradients"):
            SyntheticGradients(**wrong)
    assert repr(SyntheticGradients(0.6)) == "SyntheticGradients(0.6, features=64, memory=10000)"


def test_others_are_called_without_embeddings() -> None:
    clean, labels, embeddings = batch(50, 0)
    for defence in (MaxNorm(), Marvell(1.0)):
        torch.manual_seed(0)
        plain = defence(clean, labels)
        torch.manual_seed(0)
        assert torch.equal(defended(defence, clean, labels, embeddings), plain)


# -- in runs -------------------------------------------------------------------------------------


class Telling(SyntheticGradients):
    """Keeps what a run gave it; copies share it."""

    seen: list[tuple[Tensor, Tensor]] = []  # noqa: RUF012

    def defend(self, gradients: Tensor, labels: Tensor, embeddings: Tensor) -> Tensor:
        sent = super().defend(gradients, labels, embeddings)
        self.seen.append((embeddings.clone(), sent.clone()))
        return sent


class Collaborator(TinyCollaborator):
    """Keeps what it sends, and the gradients that it learns from."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.kept: list[tuple[Tensor, Tensor]] = []

    def update_feature_model(self, features: Any, gradients: Any) -> None:
        self.kept.append((features.detach().clone(), gradients.clone()))
        super().update_feature_model(features, gradients)


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_a_run_predicts_from_what_came_and_sends_the_prediction(tmp_path: Path) -> None:
    from tests.e2e.tiny import run

    Telling.seen.clear()
    collaborator = Collaborator(tmp_path)
    run(TinyHost(tmp_path, gradient_defence=Telling(features=4)), collaborator)
    assert len(collaborator.kept) == len(Telling.seen) > 2
    for (embeddings, sent), (features, gradients) in zip(
        Telling.seen, collaborator.kept, strict=True
    ):
        assert torch.equal(embeddings, features)
        assert torch.equal(sent, gradients)
    assert bool(Telling.seen[-1][1].any())


@pytest.mark.usefixtures("home")
def test_masked_sums_are_refused(tmp_path: Path) -> None:
    host = TinyHost(
        tmp_path, gradient_defence=SyntheticGradients(), fusion="masked_sum", collaborators=2
    )
    with pytest.raises(ConfigError, match="needs to see the embeddings"):
        host.launch_task("tiny")


def test_numbers_of_classes_may_be_large() -> None:
    """Codes of products, for example: nothing is kept for the numbers between them."""
    answers = []
    for codes in (torch.tensor([0, 1, 2]), torch.tensor([7 * 10**17, 5, 10**12])):
        defence = SyntheticGradients(features=8)
        torch.manual_seed(1)
        for seed in range(3):
            clean, labels, embeddings = batch(60, seed, classes=3)
            answers.append(defence.defend(clean, codes[labels], embeddings))
    for small, large in zip(answers[:3], answers[3:], strict=True):
        assert torch.allclose(small, large, rtol=1e-4, atol=1e-6)


def test_rows_of_another_length_are_refused_by_a_sentence() -> None:
    defence = SyntheticGradients(features=8)
    clean, labels, embeddings = batch(60, 0)
    defence.defend(clean, labels, embeddings)
    longer = torch.cat([embeddings, embeddings], dim=1)
    for other in ((clean, labels, longer), (clean[:, :1], labels, embeddings)):
        with pytest.raises(ConfigError, match="pad all sequences to one length"):
            defence.defend(*other)
    again = SyntheticGradients(features=8)
    again.load_state_dict(defence.state_dict())
    with pytest.raises(ConfigError, match="pad all sequences to one length"):
        again.defend(clean, labels, longer)
