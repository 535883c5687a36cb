"""Joint predictions are the last test's outputs; who is missing, or unfit, is named before."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from heterofed import Batch, ConfigError, TaskAborted, simulate, simulate_prediction
from heterofed.errors import (
    FeatureError,
    JoinTimeoutError,
    LimitReachedError,
    MissingIdsError,
    MissingPartyError,
    OtherRunError,
    RowCountError,
    RowOrderError,
)
from heterofed.hetero_nn.serving import count_rows
from tests.e2e.tiny import IDS, TinyCollaborator, TinyHost, rows

pytestmark = pytest.mark.usefixtures("home")

ALL = ["carol", "bob"]


class Host(TinyHost):
    """Keeps what `test` saw; predicts with the same function."""

    def __init__(self, results: Path, **settings: Any) -> None:
        super().__init__(results, **{"psi_protocol": "ecdh", **settings})
        self.last: Tensor = torch.empty(0)

    def score(self, projection: dict[str, Tensor]) -> Tensor:
        output: Tensor = self.infer_model(torch.cat(list(projection.values()), dim=1)).squeeze(1)
        return torch.sigmoid(output)

    def test(
        self, batched_feature_projections: list[dict[str, Tensor]], batched_labels: list[Tensor]
    ) -> None:
        self.last = torch.cat([self.score(each) for each in batched_feature_projections])

    def iterate_predict_feature(self, feature_model: Any, predict_ids: list[str]) -> Iterator[Any]:
        for start in range(0, len(predict_ids), 7):
            ids = predict_ids[start : start + 7]
            yield Batch(feature_model(rows(ids, 2, 0)), ids=ids)

    def predict_a_batch(self, feature_projection: dict[str, Tensor]) -> Any:
        return self.score(feature_projection)


class Collaborator(TinyCollaborator):
    """Yields its batches with ids, in another size than the Host's."""

    def iterate_predict_feature(self, feature_model: Any, predict_ids: list[str]) -> Iterator[Any]:
        for start in range(0, len(predict_ids), 11):
            ids = predict_ids[start : start + 11]
            yield Batch(feature_model(rows(ids, 3, 7)), ids=ids)


class Carol(Collaborator):
    """Has other people than bob."""

    def __init__(self, results: Path, **settings: Any) -> None:
        super().__init__(results, "carol", **settings)

    def load_local_ids(self) -> list[str]:
        return IDS[:40]


@pytest.fixture
def three(tmp_path: Path) -> Any:
    """Three parties with a finished run."""
    host = Host(tmp_path, collaborators=ALL, log_rounds=1)
    parties = [Carol(tmp_path), Collaborator(tmp_path)]
    simulate(host, parties, task_id="tiny")
    return host, parties


def predicted(three: Any, ids: Any = None, **settings: Any) -> Any:
    host, parties = three
    return simulate_prediction(host, parties, task_id="tiny", ids=ids, **settings).results["alice"]


def test_predictions_are_the_last_tests_outputs(three: Any, tmp_path: Path) -> None:
    host, _ = three
    ids = host.test_ids[::-1]
    trained = (tmp_path / "tiny/alice/summary.json").read_text()
    fresh = (Host(tmp_path, collaborators=ALL), [Carol(tmp_path), Collaborator(tmp_path)])
    frame = predicted(fresh, ids)
    assert list(frame.columns) == ["id", "prediction", "parties"]
    assert list(frame["id"]) == ids
    assert np.array_equal(frame["prediction"], host.last.flip(0).numpy())
    assert set(frame["parties"]) == {"alice+carol+bob"}
    assert (tmp_path / "tiny/alice/summary.json").read_text() == trained
    run = json.loads(trained)["run"]
    for party, rows_key in (("alice", "parties"), ("bob", "host"), ("carol", "host")):
        log = (tmp_path / f"tiny/{party}/predictions/log.jsonl").read_text()
        (line,) = map(json.loads, log.splitlines())
        assert (line["run"], line["rows"]) == (run, len(ids))
        assert line[rows_key]
        assert "id-" not in log
        assert json.loads((tmp_path / f"tiny/{party}/summary.json").read_text())["run"] == run


def test_load_predict_ids_stands_in_for_ids_and_all_must_have_them(three: Any) -> None:
    host, _ = three
    frame = predicted(three)
    assert list(frame["id"]) == IDS[10:40]
    host.load_predict_ids = lambda: IDS[5:15]
    assert list(predicted(three)["id"]) == IDS[10:15]


def test_predict_a_batch_gives_the_columns(three: Any) -> None:
    host, _ = three
    host.predict_a_batch = lambda p: None  # an instance's own does not count as one
    with pytest.raises(FeatureError, match="a tensor or a dict of tensors, not a NoneType"):
        predicted(three)

    class Wide(Host):
        def predict_a_batch(self, feature_projection: dict[str, Tensor]) -> Any:
            score = self.score(feature_projection)
            return {"both": torch.stack([score, 1 - score], dim=1), "yes": score > 0.5}

    host.__class__ = Wide
    del host.predict_a_batch
    frame = predicted(three)
    assert list(frame.columns) == ["id", "both_0", "both_1", "yes", "parties"]
    assert frame["both_0"].to_numpy() + frame["both_1"].to_numpy() == pytest.approx(1)
    assert frame["yes"].dtype == bool


def test_best_models(tmp_path: Path) -> None:
    class Marking(Host):
        def test(self, batched_feature_projections: Any, batched_labels: Any) -> None:
            super().test(batched_feature_projections, batched_labels)
            if self.current_round == 1:
                self.mark_best()
                self.best = self.last

    host, bob = Marking(tmp_path, log_rounds=1), Collaborator(tmp_path)
    simulate(host, [bob], task_id="tiny")
    best = predicted((host, [bob]), host.test_ids, models="best")
    last = predicted((host, [bob]), host.test_ids)
    assert np.array_equal(best["prediction"], host.best.numpy())
    assert np.array_equal(last["prediction"], host.last.numpy())
    assert not np.array_equal(last["prediction"], best["prediction"])


# -- rows and parties that are missing -----------------------------------------------------------


def test_rows_that_a_party_lacks(three: Any, tmp_path: Path) -> None:
    ids = [IDS[5], IDS[45], IDS[20]]  # alice and carol; alice and bob; all
    with pytest.raises(MissingPartyError, match="2 of the 3 ids") as caught:
        predicted(three, ids)
    assert caught.value.numbers == (2, 3)
    whole = predicted(three, ids[2:])["prediction"][0]
    for missing in ("zero", "mean"):
        frame = predicted(three, ids, missing_party=missing)
        assert list(frame["id"]) == ids
        assert list(frame["parties"]) == ["alice+carol", "alice+bob", "alice+carol+bob"]
        assert frame["prediction"][2] == whole
        host, (carol, bob) = three
        stands = torch.load(tmp_path / "tiny/alice/feature_means.pt", weights_only=True)
        for place, (party, salt) in enumerate(((carol, "bob"), (bob, "carol"))):
            with torch.no_grad():
                there = party.feature_model(rows(ids[place : place + 1], 3, 7))
                own = host.feature_model(rows(ids[place : place + 1], 2, 0))
                stand = stands[salt]["means"][""][None]
                features = {party._settings.feature_key: there, salt: stand * (missing == "mean")}
                want = host.score({"alice": own, **{key: features[key] for key in ALL}})
            assert frame["prediction"][place] == pytest.approx(want.item(), abs=1e-6)


def test_the_means_are_those_of_the_last_round(three: Any, tmp_path: Path) -> None:
    kept = torch.load(tmp_path / "tiny/alice/feature_means.pt", weights_only=True)
    assert list(kept) == ALL
    assert kept["carol"]["means"][""].shape == (4,)
    # One batch alone: its weights are those of the round's end only without a step.
    frozen_host = Host(tmp_path / "frozen", max_rounds=1)
    frozen = Collaborator(tmp_path / "frozen", is_feature_trainable=False)
    simulate(frozen_host, [frozen], task_id="tiny")
    kept = torch.load(tmp_path / "frozen/tiny/alice/feature_means.pt", weights_only=True)
    want = frozen.feature_model(rows(frozen_host.train_ids, 3, 7)).mean(dim=0)
    torch.testing.assert_close(kept["bob"]["means"][""], want.detach())


def test_a_whole_party_is_missing(three: Any) -> None:
    host, (_, bob) = three
    frame = predicted((host, [bob]), IDS[:12], missing_party="zero")
    assert list(frame["parties"]) == ["alice"] * 10 + ["alice+bob"] * 2
    both = predicted(three, IDS[:12], missing_party="zero")
    assert both["prediction"][11] != frame["prediction"][11]


def test_going_on_without_who_does_not_come(three: Any) -> None:
    host, _ = three
    with pytest.raises(JoinTimeoutError, match="carol, bob"):
        quick(host).predict("tiny", IDS[:3])
    frame = quick(host).predict("tiny", IDS[:3], missing_party="mean")
    assert list(frame["parties"]) == ["alice"] * 3
    assert frame["prediction"].nunique() == 3


def quick(host: Host) -> Host:
    return Host(host._settings.results_dir, collaborators=ALL, join_timeout=0.2)


def test_party_dropout_zeroes_rows_in_training(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Watching(Host):
        def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Any) -> Any:
            seen.append(feature_projection["bob"].detach())
            return super().train_a_batch(feature_projection, labels)

        def test(self, batched_feature_projections: Any, batched_labels: Any) -> None:
            assert all((each["bob"] != 0).all() for each in batched_feature_projections)

    class Looking(Collaborator):
        def update_feature_model(self, features: Any, gradients: Any) -> None:
            given.append(gradients)
            super().update_feature_model(features, gradients)

    given: list[Tensor] = []
    simulate(
        Watching(tmp_path, party_dropout=0.4, max_rounds=10), [Looking(tmp_path)], task_id="tiny"
    )
    dropped = [(each == 0).all(dim=1) for each in seen]
    share = torch.cat(dropped).float().mean().item()
    assert 0.3 < share < 0.5
    for rows_dropped, gradient in zip(dropped, given, strict=True):
        assert (gradient[rows_dropped] == 0).all()
        assert (gradient[~rows_dropped] != 0).any(dim=1).all()
    with pytest.raises(ConfigError, match="party_dropout"):
        Host(tmp_path, party_dropout=1.0).launch_task("other")


# -- what is refused -----------------------------------------------------------------------------


def test_models_of_different_runs(three: Any, tmp_path: Path) -> None:
    host, (carol, bob) = three
    old = tmp_path / "old"
    shutil.copytree(tmp_path / "tiny/bob", old)
    simulate(host, [carol, bob], task_id="tiny")
    predicted(three, host.test_ids)
    shutil.rmtree(tmp_path / "tiny/bob")
    shutil.copytree(old, tmp_path / "tiny/bob")
    with pytest.raises(OtherRunError, match="another run") as caught:
        predicted(three, host.test_ids)
    assert caught.value.party == "bob"
    assert not isinstance(caught.value, TaskAborted)


def test_what_is_missing_shows_before_anybody_is_waited_for(three: Any, tmp_path: Path) -> None:
    host, (_, bob) = three
    with pytest.raises(ConfigError, match="no run that has ended well"):
        host.predict("never-run")
    with pytest.raises(ConfigError, match="no run that has ended well"):
        bob.serve_predictions("never-run", max_rows_per_day=1)
    with pytest.raises(MissingIdsError, match="1 of the 2 ids to predict"):
        host.predict("tiny", [IDS[0], "stranger"])
    with pytest.raises(ConfigError, match="mark_best"):
        host.predict("tiny", models="best")
    with pytest.raises(ConfigError, match="models="):
        host.predict("tiny", models="first")
    with pytest.raises(ConfigError, match="missing_party="):
        host.predict("tiny", missing_party="median")
    with pytest.raises(ConfigError, match="knows"):
        host.predict("tiny", parties=["dave"])
    with pytest.raises(ConfigError, match="max_rows_per_day"):
        bob.serve_predictions("tiny", max_rows_per_day=-1)
    with pytest.raises(ConfigError, match="allow_ids leaves no id"):
        bob.serve_predictions("tiny", max_rows_per_day=1, allow_ids=["stranger"])
    with pytest.raises(ConfigError, match="predict_a_batch"):
        TinyHost(tmp_path).predict("tiny")

    class Other(Host):
        def make_feature_model(self) -> nn.Module:
            return nn.Linear(2, 5)

    with pytest.raises(ConfigError, match="another model than make_feature_model"):
        Other(tmp_path, collaborators=ALL).predict("tiny")
    (tmp_path / "tiny/alice/infer_model.pt").write_bytes(b"PK")
    with pytest.raises(ConfigError, match="cannot be read"):
        host.predict("tiny")


@pytest.mark.parametrize("who", ["host", "collaborator"])
@pytest.mark.parametrize("wrong", ["fewer", "more", "swapped"])
def test_iterate_predict_feature_must_yield_the_rows_asked_for(
    wrong: str, who: str, three: Any
) -> None:
    host, (_, bob) = three

    def mangled(ids: list[str]) -> list[str]:
        if wrong == "swapped":
            return [ids[1], ids[0], *ids[2:]]
        return ids[:-1] if wrong == "fewer" else [*ids, ids[0]]

    party = host if who == "host" else bob
    original = party.iterate_predict_feature
    party.iterate_predict_feature = lambda model, ids: original(model, mangled(ids))
    error = RowOrderError if wrong == "swapped" else RowCountError
    with pytest.raises(error):
        predicted(three, host.test_ids)


def test_limits(three: Any) -> None:
    count_rows("tiny", "bob", 2**62 - 5, 2**62)
    assert len(predicted(three, IDS[20:23])) == 3
    with pytest.raises(LimitReachedError) as caught:
        predicted(three, IDS[20:23])
    assert caught.value.party == "bob"
    assert len(predicted(three, IDS[20:22])) == 2
    count_rows("other", "carol", 7, 10)
    count_rows("other", "carol", 3, 10)
    with pytest.raises(LimitReachedError, match="10 were predicted today"):
        count_rows("other", "carol", 1, 10)


def test_a_server_serves_on(three: Any, tmp_path: Path) -> None:
    """Over the real socket: several requests, one of them over the limit, one not allowed."""
    host, (_, bob) = three
    served: list[Any] = []

    def serve() -> None:
        try:
            bob.serve_predictions("tiny", max_rows_per_day=4, allow_ids=IDS[15:40])
        except BaseException as error:
            served.append(error)

    threading.Thread(target=serve, daemon=True).start()
    host = Host(tmp_path, collaborators=ALL, join_timeout=20)
    frame = host.predict("tiny", IDS[14:17], parties=["bob"], missing_party="zero")
    assert list(frame["parties"]) == ["alice", "alice+bob", "alice+bob"]
    with pytest.raises(LimitReachedError):
        host.predict("tiny", IDS[16:19], parties=["bob"], missing_party="zero")
    frame = host.predict("tiny", IDS[16:18], parties=["bob"], missing_party="zero")
    assert len(frame) == 2
    assert not served
    bob.load_local_ids = lambda: 1 / 0
    deadline = time.monotonic() + 20
    while not served and time.monotonic() < deadline:
        try:
            quick(host).predict("tiny", IDS[16:18], parties=["bob"], missing_party="zero")
        except Exception:
            time.sleep(0.2)
    assert isinstance(served[0], ZeroDivisionError)
