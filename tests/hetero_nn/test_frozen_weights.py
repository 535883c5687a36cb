"""Frozen weights of a large model stay out of files, and must be there again where others load."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from heterofed import ConfigError, leave_out_frozen_weights, simulate, simulate_prediction
from heterofed.compute.frozen_weights import DIGEST
from tests.e2e.tiny import TinyCollaborator, TinyHost

WIDE = 40_000
SMALL = {"inner.out.weight", "inner.out.bias", f"inner.{DIGEST}"}


class Inner(nn.Module):
    """A wide frozen layer of which nothing is drawn in the run, and a small one that learns."""

    def __init__(self, salt: int = 0) -> None:
        super().__init__()
        self.wide, self.out = nn.Linear(3, WIDE), nn.Linear(4, 4)
        with torch.no_grad():
            self.wide.weight.copy_(torch.arange(3.0 * WIDE).add(salt).sin().reshape(WIDE, 3))
            self.wide.bias.zero_()
        self.wide.requires_grad_(False)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.wide(x).reshape(len(x), 4, -1).mean(dim=2))
        return y


class Outer(nn.Module):
    def __init__(self, salt: int = 0) -> None:
        super().__init__()
        self.inner = leave_out_frozen_weights(Inner(salt))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return y


class Large(TinyCollaborator):
    salt = 0

    def make_feature_model(self) -> nn.Module:
        return Outer(self.salt)

    def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
        return optim.SGD((e for e in feature_model.parameters() if e.requires_grad), lr=0.1)


class Host(TinyHost):
    def predict_a_batch(self, feature_projection: dict[str, Tensor]) -> Tensor:
        fused = torch.cat(list(feature_projection.values()), dim=1)
        score: Tensor = self.infer_model(fused).squeeze(1)
        return score


def test_a_state_holds_what_is_trained_and_loads_beside_the_same_frozen_weights() -> None:
    model, other = Outer(), Outer()
    state = model.state_dict()
    assert state.keys() == SMALL
    nn.init.ones_(other.inner.out.weight)
    other.load_state_dict(state)
    assert torch.equal(other.inner.out.weight, model.inner.out.weight)
    assert other.state_dict().keys() == SMALL
    assert copy.deepcopy(model)(torch.ones(1, 3)).equal(model(torch.ones(1, 3)))
    with pytest.raises(RuntimeError, match="the same model as in the training"):
        Outer(salt=1).load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"Missing key.*inner\.out\.bias"):
        other.load_state_dict({name: each for name, each in state.items() if "bias" not in name})
    plain = Inner()
    with pytest.raises(RuntimeError, match=r"wide\.weight"):  # it knows nothing of a digest
        plain.load_state_dict({n.removeprefix("inner."): e for n, e in state.items()})


def test_weights_that_change_after_all_are_kept() -> None:
    model, other = Outer(), Outer()
    model.inner.wide.bias.requires_grad_()
    assert model.state_dict().keys() == SMALL | {"inner.wide.bias"}
    with torch.no_grad():
        model.inner.wide.bias.add_(1.0)
    model.inner.wide.bias.requires_grad_(False)
    state = model.state_dict()
    assert state.keys() == SMALL | {"inner.wide.bias"}
    other.load_state_dict(state)
    assert torch.equal(other.inner.wide.bias, torch.ones(WIDE))
    assert other.state_dict().keys() == state.keys()


@pytest.mark.slow
def test_checkpoints_and_files_are_small_and_are_loaded_again(tmp_path: Path) -> None:
    """A run that ends in round 2 and goes on is as one that was not disturbed."""
    sizes: list[int] = []

    class Failing(Host):
        def on_round_end(self) -> None:
            folder = tmp_path / "half" / "t" / "bob" / "resume"
            sizes.extend(each.stat().st_size for each in folder.rglob("*"))
            if self.current_round == 2:
                raise InterruptedError

    settings: dict[str, Any] = {"max_rounds": 3}
    simulate(Host(tmp_path / "whole", **settings), [Large(tmp_path / "whole")], task_id="t")
    with pytest.raises(InterruptedError):
        simulate(Failing(tmp_path / "half", **settings), [Large(tmp_path / "half")], task_id="t")
    host, bob = Host(tmp_path / "half", **settings), Large(tmp_path / "half")
    simulate(host, [bob], task_id="t", resume="auto")
    whole, half = (
        torch.load(tmp_path / name / "t" / "bob" / "feature_model.pt", weights_only=True)
        for name in ("whole", "half")
    )
    assert whole.keys() == SMALL
    assert all(torch.equal(whole[name], half[name]) for name in whole)
    frozen = sum(e.numel() * 4 for e in bob.feature_model.inner.wide.parameters())
    assert max(sizes) < frozen / 2

    table = simulate_prediction(Host(tmp_path / "half"), [Large(tmp_path / "half")], task_id="t")
    assert len(table.results["alice"]) > 0
    changed = Large(tmp_path / "half")
    changed.salt = 1
    with pytest.raises(ConfigError, match="the same model as in the training"):
        simulate_prediction(Host(tmp_path / "half"), [changed], task_id="t")
