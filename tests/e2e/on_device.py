"""The tiny task in float64 at parties that each compute on a device of their own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim

from heterofed import Batch, TaskResult
from tests.e2e.tiny import TinyCollaborator, TinyHost, rows, run


def columns(ids: list[str], count: int, salt: int) -> Tensor:
    with torch.device("cpu"):
        return rows(ids, count, salt).double()


def net(inputs: int, outputs: int, salt: int) -> nn.Module:
    """Two layers with the same weights on every device."""
    generator = torch.Generator("cpu").manual_seed(salt)
    model = nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, outputs)).double()
    for each in model.parameters():
        numbers = torch.randn(each.shape, generator=generator, dtype=torch.float64, device="cpu")
        each.data = numbers / 3
    return model


def sgd(*models: nn.Module) -> optim.Optimizer:
    return optim.SGD([p for each in models for p in each.parameters()], lr=0.1, momentum=0.5)


class _Placed:
    """Hooks of both roles; `place` is the device of the party."""

    place = "cpu"
    batch = 20
    compiled = False
    salt = 1

    def make_feature_model(self) -> nn.Module:
        model = net(2 if self.salt == 1 else 3, 4, self.salt).to(self.place)
        if self.compiled:
            model.compile()
        return model

    def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
        return sgd(feature_model)

    def cuts(self, ids: list[str]) -> Iterator[list[str]]:
        return (ids[start : start + self.batch] for start in range(0, len(ids), self.batch))


class PlacedHost(_Placed, TinyHost):
    """A Host on a device."""

    def make_infer_model(self) -> nn.Module:
        return net(4 if self.sums else 4 * len(self.parties), 1, 3).to(self.place)

    sums = False

    def make_infer_optimizer(self, infer_model: nn.Module) -> optim.Optimizer:
        return sgd(infer_model)

    models_after_split = True

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for ids in self.cuts(train_ids):
            labels = torch.tensor([float(int(each[3:]) % 2) for each in ids], dtype=torch.float64)
            features = feature_model(columns(ids, 2, 0).to(self.place))
            yield Batch(features, labels.to(self.place), ids)

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Any:
        given = list(feature_projection.values())
        assert {each.device.type for each in given} == {torch.device(self.place).type}
        fused = sum(given) if self.sums else torch.cat([each.double() for each in given], dim=1)
        output = self.infer_model(fused).squeeze(1)
        loss = nn.functional.binary_cross_entropy_with_logits(output, labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss

    def test(
        self, batched_feature_projections: list[dict[str, Tensor]], batched_labels: list[Tensor]
    ) -> None:
        pass


class PlacedCollaborator(_Placed, TinyCollaborator):
    """A Collaborator on a device."""

    salt = 2

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for ids in self.cuts(train_ids):
            yield Batch(feature_model(columns(ids, 3, 7).to(self.place)), ids=ids)


def placed(scheduler: Any, place: str, **attributes: Any) -> Any:
    """The scheduler, on a device."""
    for name, value in {"place": place, **attributes}.items():
        setattr(scheduler, name, value)
    return scheduler


def finished(*schedulers: Any, task: str = "tiny") -> list[TaskResult]:
    outcomes = run(*schedulers, task=task)
    for each in outcomes:
        if isinstance(each, BaseException):
            raise each
    return outcomes


def weights(*results: TaskResult) -> dict[str, Tensor]:
    """All weights of all parties, in main memory."""
    return {
        f"{result.party}.{name}.{key.removeprefix('_orig_mod.')}": tensor
        for result in results
        for name, path in result.models.items()
        for key, tensor in torch.load(path, map_location="cpu", weights_only=True).items()
    }


def joined(train_ids: list[str], rounds: int, place: str) -> dict[str, Tensor]:
    """The weights of the joined model, trained by plain PyTorch on one device."""
    left, right, top = net(2, 4, 1).to(place), net(3, 4, 2).to(place), net(8, 1, 3).to(place)
    models = {"alice.feature_model": left, "bob.feature_model": right, "alice.infer_model": top}
    optimizer = sgd(left, right, top)
    for _ in range(rounds):
        for start in range(0, len(train_ids), 20):
            ids = train_ids[start : start + 20]
            labels = torch.tensor([float(int(each[3:]) % 2) for each in ids], dtype=torch.float64)
            ours = left(columns(ids, 2, 0).to(place))
            theirs = right(columns(ids, 3, 7).to(place))
            output = top(torch.cat([ours, theirs], dim=1)).squeeze(1)
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(output, labels.to(place))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return {
        f"{name}.{key}": tensor.detach().cpu()
        for name, model in models.items()
        for key, tensor in model.state_dict().items()
    }


def folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="hf", dir="/tmp"))
