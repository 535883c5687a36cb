"""Modules on `self` beside the models that hooks make: served as trained, in eval mode."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from heterofed import ConfigError, simulate, simulate_prediction
from tests.e2e.tiny import TinyCollaborator, TinyHost, rows

pytestmark = pytest.mark.usefixtures("home")


class Holder:
    """A class of the user's own."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module


def head(width: int = 1) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.Dropout(0.5))


WAYS: dict[str, tuple[Callable[[nn.Module], Any], Callable[[Any], nn.Module]]] = {
    "attribute": (lambda module: module, lambda held: held),
    "list": (lambda module: [module], lambda held: held[0]),
    "dict": (lambda module: {"head": module}, lambda held: held["head"]),
    "own class": (Holder, lambda held: held.module),
    "namespace": (lambda module: {"of": [SimpleNamespace, module]}, lambda held: held["of"][1]),
}


class Host(TinyHost):
    """A head, and a learnt scale, that no hook returns."""

    batch = 11  # no last batch of one row

    def __init__(self, folder: Path, way: str, made: nn.Module | None = None) -> None:
        super().__init__(folder, leak_report="off", psi_protocol="ecdh", log_rounds=1)
        hold, self.read = WAYS[way]
        self.held = hold(head() if made is None else made)
        self.scales = [nn.Parameter(torch.ones(1))]
        self.modes: list[bool] = []

    def make_infer_optimizer(self, infer_model: nn.Module) -> optim.Optimizer:
        extra = [*self.read(self.held).parameters(), *self.scales]
        return optim.SGD([*infer_model.parameters(), *extra], lr=0.5)

    def make_infer_model(self) -> nn.Module:
        model = nn.Linear(7, 1)
        model.register_forward_hook(lambda _m, _i, output: self.read(self.held)(output))
        return model

    def score(self, projection: dict[str, Tensor]) -> Tensor:
        fused = torch.cat(list(projection.values()), dim=1)
        output: Tensor = self.infer_model(fused).squeeze(1)
        return output * self.scales[0]

    def train_a_batch(self, feature_projection: dict[str, Any], labels: Tensor) -> Any:
        self.optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(
            self.score(feature_projection), labels
        )
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss

    def test(self, *_: Any, **__: Any) -> None:
        self.modes.append(self.read(self.held).training)
        if self.current_round == 1:
            self.mark_best()

    def predict_a_batch(self, feature_projection: dict[str, Any]) -> Any:
        self.modes.append(self.read(self.held).training)
        return self.score(feature_projection)


class Collaborator(TinyCollaborator):
    """Its features go through a module that it made in `__init__`."""

    batch = 11  # no last batch of one row

    def __init__(self, folder: Path, way: str) -> None:
        super().__init__(folder, leak_report="off")
        hold, self.read = WAYS[way]
        self.held = hold(head(4))

    def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
        parameters = [*feature_model.parameters(), *self.read(self.held).parameters()]
        return optim.SGD(parameters, lr=0.5)

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for start in range(0, len(train_ids), self.batch):
            ids = train_ids[start : start + self.batch]
            yield self.read(self.held)(feature_model(rows(ids, 3, 7)))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_fresh_object_predicts_with_what_was_learnt(way: str, tmp_path: Path) -> None:
    host, collaborator = Host(tmp_path, way), Collaborator(tmp_path, way)
    simulate(host, [collaborator], task_id="beside")
    assert host.modes == [False, False]
    assert host.read(host.held).training
    assert collaborator.read(collaborator.held).training

    fresh, others = Host(tmp_path, way), Collaborator(tmp_path, way)
    frame = simulate_prediction(fresh, [others], task_id="beside").results["alice"]
    assert fresh.modes
    assert not any(fresh.modes)
    ids = frame["id"].tolist()
    for each in (host.read(host.held), collaborator.read(collaborator.held)):
        each.eval()
    with torch.no_grad():
        features = collaborator.read(collaborator.held)(collaborator.feature_model(rows(ids, 3, 7)))
        expected = host.score({"alice": host.feature_model(rows(ids, 2, 0)), "bob": features})
    torch.testing.assert_close(torch.tensor(frame["prediction"].to_numpy()), expected)


@pytest.mark.slow
def test_the_best_round_has_its_own(tmp_path: Path) -> None:
    host = Host(tmp_path, "attribute")
    done = simulate(host, [Collaborator(tmp_path, "attribute")], task_id="beside")
    folder = done.results["alice"].folder
    last, best = (
        torch.load(folder / f"{which}extra_modules.pt", weights_only=True)
        for which in ("", "best_")
    )
    assert [each[:2] for each in last] == [each[:2] for each in best]
    # Not the weight before a BatchNorm: of one feature its gradient is next to nothing.
    assert not torch.equal(last[0][2]["1.running_mean"], best[0][2]["1.running_mean"])


@pytest.mark.slow
def test_another_module_in_its_place_is_refused(tmp_path: Path) -> None:
    simulate(Host(tmp_path, "dict"), [Collaborator(tmp_path, "dict")], task_id="beside")
    other = Host(tmp_path, "dict", nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1)))
    with pytest.raises(ConfigError, match=r"self\.held\['head'\] is not what it was in training"):
        simulate_prediction(other, [Collaborator(tmp_path, "dict")], task_id="beside")


@pytest.mark.slow
def test_what_is_not_there_any_more_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    simulate(Host(tmp_path, "list"), [Collaborator(tmp_path, "list")], task_id="beside")
    fresh = Host(tmp_path, "list")
    fresh.scales = []
    fresh.score = lambda projection: fresh.infer_model(  # type: ignore[method-assign]
        torch.cat(list(projection.values()), dim=1)
    )
    with caplog.at_level(logging.WARNING):
        simulate_prediction(fresh, [Collaborator(tmp_path, "list")], task_id="beside")
    assert "self.scales[0], which is not there now" in caplog.text


@pytest.mark.slow
def test_nothing_beside_the_models_is_no_file(tmp_path: Path) -> None:
    done = simulate(TinyHost(tmp_path), [TinyCollaborator(tmp_path)], task_id="beside")
    assert not list(done.results["alice"].folder.glob("*extra*"))


@pytest.mark.slow
def test_whatever_an_object_holds_the_run_goes_on(tmp_path: Path) -> None:
    def holding() -> TinyHost:
        host: Any = TinyHost(tmp_path)
        host.cycle = [1]
        host.cycle.append(host.cycle)
        host.holder = Holder(host)
        host.never_used = nn.LazyLinear(2)
        return host  # type: ignore[no-any-return]

    simulate(holding(), [TinyCollaborator(tmp_path)], task_id="beside")
