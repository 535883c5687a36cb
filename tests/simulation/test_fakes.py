"""One side of a task can be written before the other one is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from heterofed import ConfigError, fake_peer, simulate
from heterofed.protocol.messages import Features
from heterofed.simulation.fake_peer import random_columns
from tests.e2e.tiny import BATCH, TinyCollaborator, TinyHost

pytestmark = pytest.mark.usefixtures("home")


@pytest.mark.slow
def test_a_host_with_a_fake_collaborator(tmp_path: Path) -> None:
    host = TinyHost(tmp_path, psi_protocol="ecdh")
    other = fake_peer(host, "bob", batch_size=BATCH, shape=(2, 3), seed=0)

    def flattened(projection: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: each.flatten(1) for name, each in projection.items()}

    train, test = host.train_a_batch, host.test
    plain: Any = host
    plain.train_a_batch = lambda p, y: train(flattened(p), y)
    plain.test = lambda batched_feature_projections, batched_labels: test(
        [flattened(each) for each in batched_feature_projections], batched_labels
    )
    done = simulate(host, [other], task_id="alone")
    assert done.results["alice"].rounds == 2
    shapes = {
        crossing.tensors()[""].shape[1:]
        for crossing in done.received["alice"]
        if isinstance(crossing.message, Features)
    }
    assert shapes == {(2, 3)}


@pytest.mark.slow
def test_a_collaborator_with_a_fake_host(tmp_path: Path) -> None:
    mine = TinyCollaborator(tmp_path)
    host = fake_peer(mine, "alice", batch_size=BATCH, max_rounds=2, psi_protocol="ecdh")
    done = simulate(host, [mine], task_id="alone")
    assert done.results["bob"].rounds == 2
    before = torch.nn.Linear(3, 4)
    assert mine.feature_model.weight.shape == before.weight.shape


def test_columns_depend_on_the_id_alone() -> None:
    both = random_columns(["a", "b"])
    assert torch.equal(random_columns(["b"]), both[1:])
    assert not torch.equal(both[0], both[1])


def test_a_batch_size_is_needed(tmp_path: Path) -> None:
    for size in (None, 0, True, 1.5):
        with pytest.raises(ConfigError, match="batch_size"):
            fake_peer(TinyCollaborator(tmp_path), batch_size=size)  # type: ignore[arg-type]
    assert fake_peer(TinyHost(tmp_path, batch_size=7))._rows == 7
