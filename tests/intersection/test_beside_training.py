"""A count or an intersection with the task id of a training leaves what that training has made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from heterofed import errors as e
from heterofed.hetero_nn.psi import RSAPSICollaboratorScheduler, RSAPSIInitiatorScheduler
from tests.e2e.tiny import TinyCollaborator, TinyHost, run
from tests.intersection.test_overlap import Answerer, Asker

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]

IDS = [f"somebody-{number}-here" for number in range(60)]


class Stops(TinyHost):
    """Its second test fails, and the checkpoint of the first round remains."""

    tests = 0

    def test(self, *given: Any) -> None:
        self.tests += 1
        if self.tests == 2:
            raise RuntimeError
        super().test(*given)


def interrupted(folder: Path) -> set[Path]:
    """Train until a checkpoint is there, and fail; the names of the checkpoints."""
    run(Stops(folder), TinyCollaborator(folder))
    found = kept(folder)
    assert {each.parent.parent.name for each in found} == {"alice", "bob"}
    return found


def others(folder: Path, asker: Any, answerer: Any) -> list[Any]:
    """The parties of another kind of task, under the names of those that trained."""
    here: Any = {"join_timeout": 30, "results_dir": folder, "ids": IDS}
    return [asker("alice", collaborators=1, **here), answerer("bob", **here)]


def kept(folder: Path) -> set[Path]:
    return {each.relative_to(folder) for each in folder.rglob("round-*")}


def test_a_count_leaves_an_unfinished_training_as_it_was(tmp_path: Path) -> None:
    before = interrupted(tmp_path)
    assert run(*others(tmp_path, Asker, Answerer)) == [{"bob": 60}, {"alice": 60}]
    assert kept(tmp_path) == before
    outcomes = run(TinyHost(tmp_path), TinyCollaborator(tmp_path))
    assert all("resume" in outcome.phases for outcome in outcomes)


def test_a_count_leaves_a_finished_training_where_it_is(tmp_path: Path) -> None:
    run(TinyHost(tmp_path), TinyCollaborator(tmp_path))
    before = {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()}
    assert run(*others(tmp_path, Asker, Answerer)) == [{"bob": 60}, {"alice": 60}]
    assert {each: each.read_bytes() for each in before} == before


def test_an_intersection_moves_an_unfinished_training_aside_whole(tmp_path: Path) -> None:
    before = interrupted(tmp_path)
    parties = others(tmp_path, RSAPSIInitiatorScheduler, RSAPSICollaboratorScheduler)
    assert [len(found) for found in run(*parties)] == [60, 60]
    names = {each.name for each in before}
    assert {each.name for each in tmp_path.rglob("*.1/resume/round-*")} == names


def test_an_intersection_that_fails_at_once_removes_no_training(tmp_path: Path) -> None:
    before = interrupted(tmp_path)
    parties = others(tmp_path, RSAPSIInitiatorScheduler, RSAPSICollaboratorScheduler)

    def twice() -> None:
        raise e.DataError("no ids here; give some")

    for each in parties:
        each.validate_context = twice
    run(*parties)
    assert kept(tmp_path) == before
