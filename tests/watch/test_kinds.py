"""What the page of a run that goes on shows of sites and of horizontal tasks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from heterofed import simulate
from heterofed.watch.fragments import RunParts
from heterofed.watch.run import Seen, WatchedRun
from heterofed.watch.runs import runs_in
from tests.hetero_nn import sites_tiny
from tests.homo_nn import tiny as horizontal


def looked_at(results: Path) -> dict[str, tuple[Seen, dict[str, str]]]:
    """Each party's run, and the parts of its page without markup."""
    found = {}
    for each in runs_in(results):
        seen = WatchedRun(each).look()
        parts = {name: re.sub("<[^>]+>", " ", part) for name, part in RunParts()(seen).items()}
        found[each.party] = seen, {name: " ".join(part.split()) for name, part in parts.items()}
    return found


def during(party: Any, hook: str, at: int, results: Path) -> dict[str, Any]:
    """Look at all pages at one call of a hook; what was seen is there after the run."""
    original, calls = getattr(party, hook), iter(range(1, 1000))
    found: dict[str, Any] = {}

    def call(*args: Any) -> Any:
        if next(calls) == at:
            found.update(looked_at(results))
        return original(*args)

    setattr(party, hook, call)
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_sites_are_parties(tmp_path: Path) -> None:
    bank, others = sites_tiny.parties(tmp_path, ("north", "south"))
    live = during(bank, "train_a_batch", 12, tmp_path)  # in the second round of 10 batches
    simulate(bank, others, task_id="t")
    names = {"bank", "lab", "shop.north", "shop.south"}
    assert set(live) == names
    for party, (seen, parts) in live.items():
        assert {party, *seen.state.parties} == names
        assert (seen.life, seen.planned) == ("running", 2), party
        assert seen.rounds == 1 or (party == "lab" and seen.rounds == 0)
        assert f"Rounds {seen.rounds} of 2" in parts["now"]
    assert "Round 2 of 2: features and gradients travel" in live["bank"][1]["top"]
    for seen, _ in looked_at(tmp_path).values():
        assert (seen.life, seen.rounds) == ("finished", 2)


@pytest.mark.slow
@pytest.mark.usefixtures("home")
def test_parties_of_a_horizontal_task_have_numbers_of_their_own(tmp_path: Path) -> None:
    parties = [horizontal.Party(tmp_path, name, place) for place, name in enumerate("abc")]
    live = during(parties[2], "train_a_round", 3, tmp_path)
    horizontal.run(horizontal.host(tmp_path, 3, 4), parties)
    rounds = {name: seen.rounds for name, (seen, _) in live.items()}
    assert (rounds["head"], rounds["c"]) == (2, 2)
    assert {rounds["a"], rounds["b"]} <= {1, 2}  # their next phase may not have begun
    for name, (seen, parts) in live.items():
        assert {name, *seen.state.parties} == {"head", "a", "b", "c"}
        assert "features and gradients" not in " ".join(parts.values())
        assert "has no labels" not in parts["learning"]
        assert "loss" in parts["learning"], name
    assert "each party trains on its own rows, updates are averaged" in live["c"][1]["top"]
