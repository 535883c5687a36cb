"""A class may have its models made after the split: fitted on train rows, in every kind of run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from heterofed import simulate
from tests.e2e.tiny import TinyCollaborator, TinyHost


class Late:
    """Counts what its hooks are told."""

    models_after_split = True

    def make_feature_model(self) -> nn.Module:
        seen: Any = self
        seen.fitted_on = len(seen.train_ids)
        model: nn.Module = super().make_feature_model()  # type: ignore[misc]
        return model


class LateHost(Late, TinyHost):
    pass


class LateCollaborator(Late, TinyCollaborator):
    pass


def weights(results: Path, party: str, task: str) -> dict[str, torch.Tensor]:
    path = results / task / party / "feature_model.pt"
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
    return state


@pytest.mark.slow
def test_they_know_the_train_ids_and_train_as_any_others(tmp_path: Path) -> None:
    host, other = LateHost(tmp_path / "late"), LateCollaborator(tmp_path / "late")
    simulate(host, [other], task_id="t", baselines=["pooled"])
    assert host.fitted_on == other.fitted_on == len(host.train_ids) > 0  # type: ignore[attr-defined]
    assert host.parties == other.parties == ("alice", "bob")
    simulate(TinyHost(tmp_path / "early"), [TinyCollaborator(tmp_path / "early")], task_id="t")
    for party in ("alice", "bob"):
        late, early = (weights(tmp_path / name, party, "t") for name in ("late", "early"))
        assert all(torch.equal(late[key], early[key]) for key in early)


def test_a_rehearsal_makes_them_too(tmp_path: Path) -> None:
    host, other = LateHost(tmp_path), LateCollaborator(tmp_path)
    done = simulate(host, [other], task_id="t", rehearse=True)
    assert done.results["alice"].rehearsal["train_ids"] > 0
