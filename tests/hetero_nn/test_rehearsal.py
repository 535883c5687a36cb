"""A rehearsal sends one batch from end to end, reports, and leaves results as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

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
    assert (answered.count(Gradients), answered.count(BatchDone)) == (1, 1)


def test_what_would_go_wrong_shows(tmp_path: Path) -> None:
    bob = TinyCollaborator(tmp_path)
    bob.batch = 5
    with pytest.raises(RowCountError):
        simulate(TinyHost(tmp_path), [bob], task_id="tiny", rehearse=True)


def test_all_parties_rehearse_or_none(tmp_path: Path) -> None:
    host, bob = TinyHost(tmp_path), TinyCollaborator(tmp_path)
    launch = bob.launch_task
    refused: list[BaseException] = []

    def rehearse_then_train(task_id: str) -> Any:
        try:
            launch(task_id, rehearse=True)
        except BaseException as error:
            refused.append(error)
        return launch(task_id)  # so that the Host, which waits for that, ends

    plain: Any = bob
    plain.launch_task = rehearse_then_train
    mine, _ = run(host, bob)
    assert isinstance(refused[0], OtherTaskError)
    assert mine.rounds == 2


def test_an_empty_first_batch(tmp_path: Path) -> None:
    class Host(TinyHost):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Any:
            yield feature_model(torch.zeros(0, 2)), torch.zeros(0)
            yield from super().iterate_train_feature(feature_model, train_ids)

    class Collaborator(TinyCollaborator):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Any:
            yield feature_model(torch.zeros(0, 3))
            yield from super().iterate_train_feature(feature_model, train_ids)

    done = simulate(Host(tmp_path), [Collaborator(tmp_path)], task_id="tiny", rehearse=True)
    report = done.results["alice"].rehearsal
    assert (report["rows"], report["seconds_per_round"]) == (0, None)


def test_features_that_only_a_sum_shows_stay_masked(tmp_path: Path) -> None:
    """A rehearsal masks as training does: nothing that comes is a party's own features."""
    made: list[torch.Tensor] = []

    class Collaborator(TinyCollaborator):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Any:
            for each in super().iterate_train_feature(feature_model, train_ids):
                made.append(each.detach().clone())
                yield each

    class Host(TinyHost):
        def train_a_batch(self, feature_projection: Any, labels: Any) -> Any:
            assert list(feature_projection) == ["alice", "masked_sum"]
            whole = sum(made)
            torch.testing.assert_close(feature_projection["masked_sum"].detach(), whole)
            return super().train_a_batch(feature_projection, labels)

    settings: Any = {"collaborators": ["bob", "carol"], "fusion": "masked_sum"}
    host = Host(tmp_path, psi_protocol="ecdh", **settings)
    parties = [Collaborator(tmp_path), Collaborator(tmp_path, "carol", seed=1)]
    done = simulate(host, parties, task_id="tiny", rehearse=True)
    came = [each for each in done.received["alice"] if isinstance(each.message, Features)]
    assert len(came) == 4
    tensors = [each.tensors()[""] for each in came]
    assert {each.dtype for each in tensors} == {torch.int64}
    values = torch.cat([each.flatten() for each in tensors])
    assert len(set(values.tolist())) == len(values)
    open_values = {int(each) for some in made for each in (some.double() * 2**32).flatten()}
    assert not open_values & set(values.tolist())
    assert done.results["alice"].rehearsal["shapes"]["masked_sum"] == [BATCH, 4]


@pytest.mark.parametrize("where", ["host", "collaborator", "infer"])
def test_a_last_batch_of_one_row(where: str, tmp_path: Path) -> None:
    def norm(width: int) -> nn.Module:
        return nn.Sequential(nn.LazyLinear(width), nn.BatchNorm1d(width))

    class Halves:
        """33 train ids in batches of 16."""

        drop_last = False

        def split_dataset(self, id_intersection: set[str]) -> Any:
            ids = list(id_intersection)
            return set(ids[:33]), set(ids[33:])

        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Any:
            if self.drop_last:
                train_ids = train_ids[: len(train_ids) // 16 * 16]
            yield from super().iterate_train_feature(feature_model, train_ids)  # type: ignore[misc]

    class Host(Halves, TinyHost):
        def make_feature_model(self) -> nn.Module:
            return norm(3) if where == "host" else super().make_feature_model()

        def make_infer_model(self) -> nn.Module:
            return norm(1) if where == "infer" else super().make_infer_model()

    class Collaborator(Halves, TinyCollaborator):
        def make_feature_model(self) -> nn.Module:
            return norm(4) if where == "collaborator" else super().make_feature_model()

    host, bob = Host(tmp_path), Collaborator(tmp_path)
    with pytest.raises(ValueError, match="more than 1 value per channel") as caught:
        simulate(host, [bob], task_id="tiny", rehearse=True)
    assert any("drop_last" in note for note in caught.value.__notes__) or where == "infer"
    host.drop_last = bob.drop_last = True
    simulate(host, [bob], task_id="tiny", rehearse=True)
