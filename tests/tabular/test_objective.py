"""Losses against torch's own and scikit-learn's weights; scores and what is kept with a model."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from heterofed.errors import ColumnError, ConfigError
from heterofed.tabular.objectives import Objective, read_labels

DATA: dict[str, Any] = {
    "binary": [0, 1, 1, 0, 0],
    "multiclass": ["a", "b", "c", "a", "a"],
    "multilabel": torch.tensor([[1, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 1], [1, 0, 0]]),
    "regression": [1.5, -2.0, 3.0, 0.5, 9.0],
    "counts": [0, 3, 1, 0, 7],
}


def objective(kind: str, **fit: Any) -> tuple[Objective, torch.Tensor]:
    labels = read_labels(DATA[kind], kind=kind)  # type: ignore[arg-type]
    codes = labels.encode(DATA[kind])
    return Objective(labels=labels).fit(codes, **fit), codes


@pytest.mark.parametrize("kind", DATA)
def test_loss_goes_down_and_scores_fit(kind: str) -> None:
    made, codes = objective(kind)
    outputs = torch.zeros(5, made.outputs, requires_grad=True)
    optimizer = torch.optim.Adam([outputs], lr=0.1)
    first = made.loss(outputs, codes)
    assert first.shape == ()
    for _ in range(300):
        optimizer.zero_grad()
        made.loss(outputs, codes, reduction="sum").backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert made.loss(outputs, codes) < first
    scores = made.scores(outputs.detach())
    if kind in ("binary", "multiclass", "multilabel"):
        assert made.codes(scores).equal(codes.long())
    else:
        torch.testing.assert_close(scores, codes, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("kind", DATA)
def test_it_can_be_kept(kind: str) -> None:
    made, codes = objective(kind)
    kept = msgspec.json.decode(msgspec.json.encode(made), type=Objective)
    outputs = torch.randn(5, made.outputs, generator=torch.Generator().manual_seed(1))
    assert kept.loss(outputs, codes) == made.loss(outputs, codes)
    assert kept.scores(outputs).equal(made.scores(outputs))


def test_balanced_classes_are_scikit_learns() -> None:
    for kind in ("binary", "multiclass"):
        made, codes = objective(kind, class_weights="balanced")
        wanted = compute_class_weight("balanced", classes=np.unique(codes.numpy()), y=codes.numpy())
        assert made.class_weights == pytest.approx(wanted)
        each = torch.tensor(wanted)[codes.long()]
        assert float(each.mean()) == pytest.approx(1)


def test_losses_are_torchs() -> None:
    outputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    made, codes = objective("multiclass")
    torch.testing.assert_close(made.loss(outputs, codes), functional.cross_entropy(outputs, codes))
    made, codes = objective("binary", class_weights={"1": 3})
    plain = functional.binary_cross_entropy_with_logits(outputs[:, 0], codes, reduction="none")
    wanted = (plain * torch.where(codes == 1, 3.0, 1.0)).mean()
    torch.testing.assert_close(made.loss(outputs[:, :1], codes), wanted)
    made, codes = objective("multilabel", class_weights="balanced")
    assert made.class_weights == pytest.approx((2 / 3, 3 / 2, 2 / 3))


def test_sample_weights_count_as_repeated_rows_over_all_batches() -> None:
    weights = torch.tensor([1.0, 2.0, 1.0, 1.0, 3.0])
    made, codes = objective("binary", weights=weights)
    outputs = torch.randn(5, generator=torch.Generator().manual_seed(3))
    at = torch.repeat_interleave(torch.arange(5), weights.long())
    repeated = made.loss(outputs[at], codes[at])
    torch.testing.assert_close(made.loss(outputs, codes, weights), repeated)
    halves = [
        made.loss(outputs[s], codes[s], weights[s], reduction="sum")
        for s in (slice(2), slice(2, 5))
    ]
    torch.testing.assert_close(sum(halves) / 5, made.loss(outputs, codes, weights))


def test_regressions_are_fitted_to_the_train_rows_alone() -> None:
    made, _ = objective("regression")
    train = torch.tensor([10.0, 20.0])
    fitted = made.fit(train)
    assert (fitted.centre, fitted.scale) == (15.0, 5.0)
    assert fitted.scores(torch.tensor([[1.0]])).tolist() == [20.0]
    assert made.fit(torch.tensor([4.0, 4.0])).scale == 1.0
    counts, _ = objective("counts")
    assert torch.isfinite(counts.scores(torch.tensor([1e6]))).all()
    assert counts.scores(torch.zeros(1)).item() == pytest.approx(11 / 5)


def test_what_does_not_fit_is_refused() -> None:
    made, _ = objective("binary")
    with pytest.raises(ColumnError, match="all train rows are of one class"):
        made.fit(torch.zeros(4))
    for kind, given in [
        ("regression", "balanced"),
        ("binary", "even"),
        ("binary", {"2": 1}),
        ("binary", {"1": -1}),
        ("binary", {"0": 0, "1": 0}),
    ]:
        with pytest.raises(ConfigError, match=r"class.weights"):
            objective(kind, class_weights=given)
