"""Runs with staleness against one process that follows the same schedule by hand."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.utils.checkpoint import checkpoint

from heterofed import ConfigError
from heterofed.compute import pace
from heterofed.compute.alignment import default_split
from heterofed.compute.pace import PROBE_BATCHES
from heterofed.compute.streams import random_stream
from tests.e2e.tiny import IDS, TinyCollaborator, TinyHost, rows, run

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]

SEED, BATCH, ROUNDS = 4, 2, 2
TRAIN = sorted(default_split(IDS[10:50])[0])
STARTS = range(0, len(TRAIN), BATCH)


def columns(ids: list[str], count: int, salt: int) -> Tensor:
    return rows(ids, count, salt).double()


def labels_of(ids: list[str]) -> Tensor:
    return torch.tensor([float(int(each[3:]) % 2) for each in ids], dtype=torch.float64)


class Net(nn.Module):
    """Two layers with dropout between."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(wide, 8).double(), nn.Linear(8, 4).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.dropout(torch.tanh(self.first(x)), 0.3, self.training))  # type: ignore[no-any-return]


def adam(model: nn.Module) -> optim.Optimizer:
    return optim.Adam(model.parameters(), lr=0.01)


def sgd(model: nn.Module) -> optim.Optimizer:
    return optim.SGD(model.parameters(), lr=0.1, momentum=0.5)


class Host(TinyHost):
    batch = BATCH

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, max_rounds=ROUNDS, **settings, seed=SEED)
        self.losses: list[float] = []

    def make_feature_model(self) -> nn.Module:
        return Net(2)

    def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
        return sgd(feature_model)

    def make_infer_model(self) -> nn.Module:
        return nn.Linear(4 + 4 * len(self._others), 1).double()

    _others: tuple[str, ...] = ("bob",)

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for start in range(0, len(train_ids), self.batch):
            ids = train_ids[start : start + self.batch]
            yield feature_model(columns(ids, 2, 0)), labels_of(ids)

    def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Any:
        loss = super().train_a_batch(feature_projection, labels)
        self.losses.append(loss.item())
        return loss


class Collaborator(TinyCollaborator):
    batch = BATCH
    salt = 7

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, seed=SEED, **settings)

    def make_feature_model(self) -> nn.Module:
        return Net(3)

    def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
        return adam(feature_model)

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for start in range(0, len(train_ids), self.batch):
            yield feature_model(columns(train_ids[start : start + self.batch], 3, self.salt))


class ByHand(Collaborator):
    """Overrides the update, and changes weights outside of the optimizer too."""

    def update_feature_model(self, features: Any, gradients: Any) -> None:
        self.feature_optimizer.zero_grad()
        torch.autograd.backward(features, gradients)
        self.feature_optimizer.step()
        with torch.no_grad():
            for parameter in self.feature_model.parameters():
                parameter.mul_(0.999)


class CheckpointedNet(Net):
    """Saves no activations, but its inputs, and computes twice."""

    def forward(self, x: Tensor) -> Tensor:
        x.requires_grad_(self.reentrant)
        return checkpoint(super().forward, x, use_reentrant=self.reentrant)

    reentrant = False


class ReentrantNet(CheckpointedNet):
    reentrant = True


class Checkpointed(Collaborator):
    def make_feature_model(self) -> nn.Module:
        return CheckpointedNet(3)


class CheckpointedByHand(ByHand):
    def make_feature_model(self) -> nn.Module:
        return CheckpointedNet(3)


class Reentrant(Collaborator):
    def make_feature_model(self) -> nn.Module:
        return ReentrantNet(3)


class CheckpointedLate(Collaborator):
    """Switches it on while batches are under way."""

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for number, each in enumerate(super().iterate_train_feature(feature_model, train_ids)):
            yield each
            feature_model.__class__ = Net if number < 4 else CheckpointedNet


def reference(
    behind: Callable[[int, int], int], *, shrink: float = 1.0
) -> tuple[list[float], dict[str, Tensor]]:
    """One process: forward of batch b of a round by copies of the weights after step b-1-k.

    Args:
        behind: k by round and batch.
        shrink: what the Collaborator's weights are multiplied with after each step.
    """
    with random_stream(SEED, "alice", "make_feature_model", 0, 0):
        left = Net(2)
    with random_stream(SEED, "alice", "make_infer_model", 0, 0):
        top = nn.Linear(8, 1).double()
    with random_stream(SEED, "bob", "make_feature_model", 0, 0):
        right = Net(3)
    own = [sgd(left), optim.SGD(top.parameters(), lr=0.1)]
    other, losses = adam(right), []
    for number in range(1, ROUNDS + 1):
        history = [{name: each.detach().clone() for name, each in right.named_parameters()}]
        for batch, start in enumerate(STARTS):
            ids = TRAIN[start : start + BATCH]
            steps_made = max(0, batch - behind(number, batch))
            old = {
                name: each.clone().requires_grad_() for name, each in history[steps_made].items()
            }
            with random_stream(SEED, "bob", "iterate_train_feature", number, batch):
                theirs = torch.func.functional_call(right, old, columns(ids, 3, 7))
            with random_stream(SEED, "alice", "iterate_train_feature", number, batch):
                ours = left(columns(ids, 2, 0))
            output = top(torch.cat([ours, theirs], dim=1)).squeeze(1)
            loss = F.binary_cross_entropy_with_logits(output, labels_of(ids))
            for each in own:
                each.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            for each in own:
                each.step()
            for name, parameter in right.named_parameters():
                parameter.grad = old[name].grad
            other.step()
            with torch.no_grad():
                for parameter in right.parameters():
                    parameter.mul_(shrink)
            history.append({name: each.detach().clone() for name, each in right.named_parameters()})
            losses.append(loss.item())
    return losses, dict(right.state_dict())


def compare(
    host: Host, collaborator: Collaborator, expected: tuple[list[float], dict[str, Tensor]]
) -> None:
    outcomes = run(host, collaborator)
    for each in outcomes:
        if isinstance(each, BaseException):
            raise each
    losses, weights = expected
    torch.testing.assert_close(
        torch.tensor(host.losses), torch.tensor(losses), rtol=1e-10, atol=1e-10
    )
    state = torch.load(outcomes[1].models["feature_model"], weights_only=True)
    for name, value in weights.items():
        torch.testing.assert_close(state[name], value, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("early", [False, True, "once"])
@pytest.mark.parametrize("steps", [0, 1, 3, 32])
def test_schedule_is_that_of_the_reference(
    steps: int, early: bool | Literal["once"], tmp_path: Path
) -> None:
    host = Host(tmp_path, max_staleness=steps, early_gradients=early)
    compare(host, Collaborator(tmp_path), reference(lambda *_: steps))


def test_staleness_changes_what_is_trained() -> None:
    assert reference(lambda *_: 0)[0][-1] != pytest.approx(reference(lambda *_: 3)[0][-1], 1e-6)


def test_users_own_update_sees_kept_weights_too(tmp_path: Path) -> None:
    expected = reference(lambda *_: 2, shrink=0.999)
    compare(Host(tmp_path, max_staleness=2), ByHand(tmp_path), expected)


@pytest.mark.parametrize("kind", [Checkpointed, CheckpointedByHand])
def test_activation_checkpointing_sees_kept_weights_too(
    kind: type[Collaborator], tmp_path: Path
) -> None:
    expected = reference(lambda *_: 2, shrink=0.999 if kind is CheckpointedByHand else 1.0)
    compare(Host(tmp_path, max_staleness=2), kind(tmp_path), expected)


@pytest.mark.parametrize(
    ("kind", "remedy"), [(Reentrant, "use_reentrant=False"), (CheckpointedLate, "make_feature")]
)
def test_checkpointing_that_would_see_newer_weights_is_refused(
    kind: type[Collaborator], remedy: str, tmp_path: Path
) -> None:
    outcome = run(Host(tmp_path, max_staleness=2), kind(tmp_path))[1]
    assert isinstance(outcome, ConfigError)
    assert remedy in str(outcome)


@pytest.mark.parametrize("early", [False, "once"])
def test_auto_begins_exactly_and_goes_on_with_its_choice(
    early: bool | Literal["once"],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(pace, "least_staleness", lambda *_: 3)
    host = Host(tmp_path, max_staleness="auto", early_gradients=early)
    collaborator = Collaborator(tmp_path)
    assert len(STARTS) > PROBE_BATCHES + 3
    with caplog.at_level(logging.INFO, "heterofed"):
        compare(
            host,
            collaborator,
            reference(
                # From batch 8 on: it has nothing in flight before it, batch 9 has one, ...
                lambda number, batch: 3 if number > 1 else min(3, max(0, batch - PROBE_BATCHES))
            ),
        )
    assert "chose max_staleness=3" in caplog.text
    for party in (host, collaborator):
        assert party._heterofed.run is not None
        assert party._heterofed.run.state.kept.staleness == 3


def test_auto_measures_by_itself(tmp_path: Path) -> None:
    host = Host(tmp_path, max_staleness="auto")
    outcomes = run(host, Collaborator(tmp_path))
    assert not any(isinstance(each, BaseException) for each in outcomes), outcomes
    assert host._heterofed.run is not None
    assert host._heterofed.run.state.kept.staleness in range(17)


def test_auto_chooses_from_a_short_first_round_too(tmp_path: Path) -> None:
    class Short(Host):
        batch = 8

    class Few(Collaborator):
        batch = 8

    host = Short(tmp_path, max_staleness="auto")
    outcomes = run(host, Few(tmp_path))
    assert not any(isinstance(each, BaseException) for each in outcomes), outcomes
    assert host._heterofed.run is not None
    assert host._heterofed.run.state.kept.staleness is not None


@pytest.mark.parametrize("steps", [-1, 33, 1.5, True, "fast", None])
def test_unknown_staleness_is_refused_before_anything_happens(steps: Any, tmp_path: Path) -> None:
    host = TinyHost(tmp_path / "results", max_staleness=steps)
    with pytest.raises(ConfigError, match=r"max_staleness=.*0 \(exact\) to 32"):
        host.launch_task("tiny")
    assert not (tmp_path / "results").exists()
