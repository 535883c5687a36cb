"""A split run trains what one joined model would, step for step: the heart of the suite."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.e2e import mnist_parties as task
from tests.e2e.processes import Parties

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("dtype", "tolerance", "option"),
    [("float64", 1e-10, "early"), ("float32", 2e-4, "early"), ("float64", 1e-10, "plain")],
)
def test_split_run_equals_joined_model(
    dtype: str, tolerance: float, option: str, mnist: Path, parties: Parties, tmp_path: Path
) -> None:
    arguments = ["exact", str(mnist), str(tmp_path), dtype, option]
    started = [
        parties.start("-m", "tests.e2e.mnist_parties", role, *arguments)
        for role in ("collaborator", "host")
    ]
    losses, models = task.joined(mnist, getattr(torch, dtype))
    for party in started:
        assert party.wait() == 0, party.output

    folder = tmp_path / "exact"
    split_losses = torch.load(folder / task.HOST / "losses.pt", weights_only=True)
    assert len(split_losses) == len(losses) == 2 * 8
    torch.testing.assert_close(
        torch.tensor(split_losses), torch.tensor(losses), rtol=tolerance, atol=tolerance
    )
    for name, file in (
        (task.HOST, f"{task.HOST}/feature_model.pt"),
        (task.COLLABORATOR, f"{task.COLLABORATOR}/feature_model.pt"),
        ("infer", f"{task.HOST}/infer_model.pt"),
    ):
        state = torch.load(folder / file, weights_only=True)
        assert state.keys() == models[name].keys()
        for key, value in state.items():
            torch.testing.assert_close(value, models[name][key], rtol=tolerance, atol=tolerance)
