"""A rehearsal sends one batch from end to end, reports, and leaves results as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from heterofed import simulate
from heterofed.errors import OtherTaskError, RowCountError
from heterofed.protocol.messages import BatchDone, Features, Gradients
from tests.e2e.tiny import BATCH, TinyCollaborator, TinyHost, run

pytestmark = pytest.mark.usefixtures("home")


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(each.relative_to(folder)): each.read_bytes()
        for each in sorted(folder.rglob("*"))
        if each.is_file() and "rehearsal" not in each.parts
    }


@pytest.mark.parametrize("settings", [{}, {"max_staleness": 2}])
def test_one_batch_and_a_report(settings: dict[str, Any], tmp_path: Path) -> None:
    host = TinyHost(tmp_path, psi_protocol="ecdh", **settings)
    bob = TinyCollaborator(tmp_path)
    trained = simulate(host, [bob], task_id="tiny")
    before, weights = files(tmp_path), host.infer_model.weight.detach().clone()
    done = simulate(host, [bob], task_id="tiny", rehearse=True)
    assert files(tmp_path) == before
    assert torch.equal(host.infer_model.weight, weights)
    report = done.results["alice"].rehearsal
    assert done.results["bob"].rehearsal is None
    assert trained.results["alice"].rehearsal is None
    assert (report["rows"], report["ids"]) == (BATCH, 40)
    assert report["train_ids"] + report["test_ids"] == 40
    assert report["shapes"] == {"alice": [BATCH, 3], "bob": [BATCH, 4]}
    assert sum(report["classes"].values()) == BATCH
    assert set(report["classes"]) == {"0.0", "1.0"}
    assert report["seconds_per_round"] > 0
    sent = [type(each.message) for each in done.received["alice"]]
    assert sent.count(Features) == 2
    answered = [type(each.message) for each in done.received["bob"]]
    assert (answered.count(Gradients), answered.count(BatchDone)) == (1, 2)


def test_what_would_go_wrong_shows(tmp_path: Path) -> None:
    bob = TinyCollaborator(tmp_path)
    bob.batch = 5
    with pytest.raises(RowCountError):
        simulate(TinyHost(tmp_path), [bob], task_id="tiny", rehearse=True)


def test_all_parties_rehearse_or_none(tmp_path: Path) -> None:
    host, bob = TinyHost(tmp_path, join_timeout=1), TinyCollaborator(tmp_path)
    launch = bob.launch_task
    plain: Any = bob
    plain.launch_task = lambda task_id: launch(task_id, rehearse=True)
    _, theirs = run(host, bob)
    assert isinstance(theirs, OtherTaskError)
