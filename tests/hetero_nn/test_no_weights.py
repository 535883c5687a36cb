"""Hosts without weights on top, or in their own half, or at all; and several optimizers of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from heterofed import ConfigError, simulate
from heterofed.privacy.dpsgd import DPSGD
from heterofed.simulation.simulate import simulate_prediction
from tests.e2e.tiny import TinyCollaborator, TinyHost

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]

TOPS: dict[str, Any] = {
    "none": lambda: None,
    "identity": nn.Identity,
    "activation": lambda: nn.Sequential(nn.Flatten(), nn.ReLU()),
    "frozen": lambda: nn.Linear(1, 1).requires_grad_(False),
}


class Logistic(TinyHost):
    """Vertical logistic regression: the sum of all parties' partial logits."""

    top: str = "none"

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(folder, psi_protocol="ecdh", leak_report="off", **settings)

    def make_feature_model(self) -> Any:
        return nn.Linear(2, 1)

    def make_infer_model(self) -> Any:
        return TOPS[self.top]()

    def make_infer_optimizer(self, infer_model: Any) -> Any:
        weights = [each for each in infer_model.parameters() if each.requires_grad]
        if weights or self.top != "frozen":
            return optim.SGD(weights, lr=0.5)
        return None

    def logits(self, projection: dict[str, Tensor]) -> Tensor:
        total = torch.stack(list(projection.values())).sum(dim=0)
        return total.squeeze(1) if self.infer_model is None else self.infer_model(total).squeeze(1)

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Any:
        self.optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(
            self.logits(feature_projection), labels
        )
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss

    def test(self, batched_feature_projections: list[Any], batched_labels: list[Any]) -> None:
        for each in batched_feature_projections:
            self.logits(each)

    def predict_a_batch(self, feature_projection: dict[str, Any]) -> Tensor:
        return self.logits(feature_projection)


class LabelOnly(Logistic):
    """Has no weights anywhere."""

    def make_feature_model(self) -> Any:
        return None

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for _, labels in super().iterate_train_feature(lambda each: each, train_ids):
            yield None, labels


class RawColumns(Logistic):
    """An own half that only hands on a column."""

    def make_feature_model(self) -> Any:
        return nn.Identity()

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for features, labels in super().iterate_train_feature(feature_model, train_ids):
            yield features[:, :1], labels


class Partial(TinyCollaborator):
    def make_feature_model(self) -> Any:
        return nn.Linear(3, 1)


@pytest.mark.parametrize("top", TOPS)
@pytest.mark.parametrize("kind", [Logistic, LabelOnly, RawColumns])
def test_train_resume_and_predict(kind: type[Logistic], top: str, tmp_path: Path) -> None:
    class Host(kind):  # type: ignore[valid-type, misc]
        pass

    Host.top = top
    host, other = Host(tmp_path), Partial(tmp_path)
    before: list[Tensor] = []

    def noting(feature_model: Any, train_ids: list[str]) -> Any:
        before.append(feature_model.weight.detach().clone())
        return Partial.iterate_train_feature(other, feature_model, train_ids)

    other.iterate_train_feature = noting  # type: ignore[method-assign]
    simulate(host, [other], task_id="bare", rehearse=True)
    done = simulate(host, [other], task_id="bare", baselines=["pooled", "local"])
    assert not torch.equal(before[-1], before[1])
    assert ("infer_model" in done.results["alice"].models) == (top != "none")
    table = simulate_prediction(Host(tmp_path), [Partial(tmp_path)], task_id="bare")
    assert len(table.results["alice"]) == 40


def test_make_infer_optimizer_is_needed_for_weights(tmp_path: Path) -> None:
    class Forgetful(TinyHost):
        def make_infer_optimizer(self, infer_model: Any) -> Any:
            return None

    with pytest.raises(ConfigError, match="the infer model has weights"):
        simulate(Forgetful(tmp_path), [TinyCollaborator(tmp_path)], task_id="bare")


def test_errors_of_an_optimizer_hook_come_out_as_they_are(tmp_path: Path) -> None:
    class Wrong(TinyHost):
        def make_infer_optimizer(self, infer_model: Any) -> Any:
            return optim.SGD(infer_model.parameters(), lr=-1.0)

    with pytest.raises(ValueError, match="Invalid learning rate"):
        simulate(Wrong(tmp_path), [TinyCollaborator(tmp_path)], task_id="bare")


def test_a_collaborator_without_weights_is_told_what_to_do(tmp_path: Path) -> None:
    class Raw(TinyCollaborator):
        def make_feature_model(self) -> Any:
            return nn.Identity()

    with pytest.raises(ConfigError, match="is_feature_trainable=False"):
        simulate(TinyHost(tmp_path), [Raw(tmp_path)], task_id="bare")


def test_epsilon_counts_the_steps_of_the_only_optimizer(tmp_path: Path) -> None:
    pytest.importorskip("opacus")

    class Private(Logistic):
        top = "identity"

    private = DPSGD(1.0, 1.0, batch_size=16)
    host = Private(tmp_path, weights_defence=private, loss_reduction="mean")
    simulate(host, [Partial(tmp_path)], task_id="bare")
    assert private.steps == 2 * 3
    assert private.epsilon(2) > 0


@pytest.mark.parametrize("kind", [list, tuple])
def test_several_optimizers_of_one_half_step_together(kind: Any, tmp_path: Path) -> None:
    """As one optimizer with two groups would."""

    def weights_after(split: bool) -> list[Tensor]:
        def optimizers(model: nn.Module) -> Any:
            parts = [{"params": [each], "lr": 0.1} for each in model.parameters()]
            if not split:
                return optim.SGD(parts, momentum=0.9)
            return kind(optim.SGD([each], momentum=0.9) for each in parts)

        class Host(TinyHost):
            def make_infer_model(self) -> nn.Module:
                return nn.Linear(7, 1)

            def make_infer_optimizer(self, infer_model: nn.Module) -> Any:
                return optimizers(infer_model)

            def make_feature_optimizer(self, feature_model: nn.Module) -> Any:
                return optimizers(feature_model)

        class Collaborator(TinyCollaborator):
            def make_feature_optimizer(self, feature_model: nn.Module) -> Any:
                return optimizers(feature_model)

        host, other = Host(tmp_path, psi_protocol="ecdh"), Collaborator(tmp_path)
        simulate(host, [other], task_id=f"several {split}")
        if split:
            assert [type(each) for each in other.feature_optimizer] == [optim.SGD, optim.SGD]
        models = host.infer_model, host.feature_model, other.feature_model
        return [each for model in models for each in model.parameters()]

    for here, there in zip(weights_after(True), weights_after(False), strict=True):
        torch.testing.assert_close(here, there)


@pytest.mark.parametrize("wrong", [[], ["adam"], {"a": 1}, 3])
def test_what_is_no_optimizer_is_refused(wrong: Any, tmp_path: Path) -> None:
    class Wrong(TinyCollaborator):
        def make_feature_optimizer(self, feature_model: nn.Module) -> Any:
            return wrong

    with pytest.raises(ConfigError, match="a list of them"):
        simulate(TinyHost(tmp_path), [Wrong(tmp_path)], task_id="bare")
