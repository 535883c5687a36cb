"""Sites of a role train exactly the joined model, whatever their rows are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from heterofed import simulate
from heterofed.compute.alignment import sorted_by_lot
from heterofed.simulation.simulate import Simulation
from tests.hetero_nn.sites_tiny import BATCH, IDS, ROUNDS, joined, parties, site_of, split

NEAR: dict[str, Any] = {"rtol": 0, "atol": 1e-10}
TWO, THREE = ("north", "south"), ("north", "south", "west")


def state(done: Simulation, party: str, name: str = "feature_model") -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(
        done.results[party].models[name], weights_only=True
    )
    return found


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("sites", [TWO, THREE], ids=len)
def test_sites_train_the_joined_model(sites: tuple[str, ...], kind: str, tmp_path: Path) -> None:
    bank, others = parties(tmp_path, sites, kind=kind)
    done = simulate(bank, others, task_id="sites")
    train = sorted(split(IDS)[0])
    losses, models = joined([train] * ROUNDS, kind)
    rows = [{site_of(i, sites) for i in train[s : s + BATCH]} for s in range(0, len(train), BATCH)]
    assert any(len(each) < len(sites) for each in rows), "a site has no row of some batch"
    assert len(bank.losses) == len(losses) == ROUNDS * len(rows)
    torch.testing.assert_close(torch.tensor(bank.losses), torch.tensor(losses), **NEAR)
    for site in sites:
        torch.testing.assert_close(state(done, f"shop.{site}"), models["shop"].state_dict(), **NEAR)
        assert all(
            torch.equal(a, b)
            for a, b in zip(
                state(done, f"shop.{site}").values(), state(done, "shop.north").values(), strict=True
            )
        )
    torch.testing.assert_close(state(done, "lab"), models["lab"].state_dict(), **NEAR)
    torch.testing.assert_close(
        state(done, "bank", "infer_model"), models["infer"].state_dict(), **NEAR
    )
    assert [len(each) for each in bank.tested] == [8, 2]


def test_shuffled_rounds_in_parts(tmp_path: Path) -> None:
    bank, others = parties(tmp_path, TWO, lab=False, shuffle=True, checkpoint_batches=3)
    done = simulate(bank, others, task_id="sites")
    plan, train = bank._heterofed.run.plan, sorted(split(IDS)[0])  # type: ignore[union-attr]
    order = [sorted_by_lot(train, seed=plan.seed, round_number=n + 1) for n in range(ROUNDS)]
    assert order[0] != order[1] != train
    losses, models = joined(order, lab=False)
    torch.testing.assert_close(torch.tensor(bank.losses), torch.tensor(losses), **NEAR)
    for site in TWO:
        torch.testing.assert_close(state(done, f"shop.{site}"), models["shop"].state_dict(), **NEAR)
