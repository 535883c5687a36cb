"""Joint predictions are the last test's outputs; who is missing, or unfit, is named before."""

from __future__ import annotations

import contextlib
import dataclasses
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
    HookFailedError,
    JoinTimeoutError,
    LimitReachedError,
    MissingIdsError,
    MissingPartyError,
    OtherRunError,
    PartySettingsError,
    PSILimitError,
    RemoteProtocolError,
    RowCountError,
    RowOrderError,
)
from heterofed.files import file_lock, heterofed_home
from heterofed.hetero_nn.half_task import HostHalfTask
from heterofed.hetero_nn.predict import collaborator as serving
from heterofed.hetero_nn.predict import models, quota
from heterofed.hetero_nn.predict.quota import Quota
from heterofed.hetero_nn.train.collaborator_guard import CollaboratorGuard
from heterofed.privacy.dpsgd import DPSGD
from heterofed.privacy.embedding_defences import Decorrelation
from heterofed.rendezvous.local import lock_path
from heterofed.runs import artifacts
from tests.e2e.tiny import IDS, TinyCollaborator, TinyHost, rows, with_settings

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]

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
    artifacts = (tmp_path / "tiny/alice/summary.json").read_text()
    fresh = (Host(tmp_path, collaborators=ALL), [Carol(tmp_path), Collaborator(tmp_path)])
    frame = predicted(fresh, ids)
    assert list(frame.columns) == ["id", "prediction", "parties"]
    assert list(frame["id"]) == ids
    # Batches of another size: the same numbers but for the order of additions.
    np.testing.assert_allclose(frame["prediction"], host.last.flip(0).numpy(), rtol=0, atol=1e-6)
    assert set(frame["parties"]) == {"alice+carol+bob"}
    assert (tmp_path / "tiny/alice/summary.json").read_text() == artifacts
    run = json.loads(artifacts)["run"]
    for party, rows_key in (("alice", "parties"), ("bob", "host"), ("carol", "host")):
        log = (tmp_path / f"tiny/{party}/predictions/log.jsonl").read_text()
        line, *ended = map(json.loads, log.splitlines())
        assert (line["run"], line["rows"]) == (run, len(ids))
        want = [] if party == "alice" else [("served", len(ids))]
        assert [(each["outcome"], each["sent"]) for each in ended] == want
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
    np.testing.assert_allclose(best["prediction"], host.best.numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(last["prediction"], host.last.numpy(), rtol=0, atol=1e-6)
    assert np.abs(last["prediction"] - best["prediction"]).max() > 1e-3


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
                features = {
                    party._heterofed.settings.feature_key: there,
                    salt: stand * (missing == "mean"),
                }
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
    with pytest.raises(JoinTimeoutError, match="carol, bob; run serve_predictions there"):
        quick(host).predict("tiny", IDS[:3])
    frame = quick(host).predict("tiny", IDS[:3], missing_party="mean")
    assert list(frame["parties"]) == ["alice"] * 3
    assert frame["prediction"].nunique() == 3


def test_nobody_is_left_out_unless_something_stands_for_them(three: Any) -> None:
    host, (_, bob) = three
    with pytest.raises(MissingPartyError, match="leaves out carol") as caught:
        host.predict("tiny", IDS[10:12], parties=["bob"])
    assert caught.value.party == "carol"
    with pytest.raises(MissingPartyError, match="leaves out carol"):
        predicted((host, [bob]), IDS[10:12])
    for parties in ([], "bob", ["dave"]):
        for missing in ("error", "zero"):
            with pytest.raises(ConfigError, match="those of the training"):
                host.predict("tiny", IDS[10:12], parties=parties, missing_party=missing)


def quick(host: Host) -> Host:
    return Host(host._heterofed.settings.results_dir, collaborators=ALL, join_timeout=2)


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


def test_limits(three: Any, home: Path) -> None:
    Quota("other", "carol", 10).take(7)
    Quota("other", "carol", 10).take(3)
    with pytest.raises(LimitReachedError, match="10 were predicted today"):
        Quota("other", "carol", 10).take(1)
    # What is tried out in one process gives nothing away, and takes nothing from a limit.
    before = files(home)
    assert len(predicted(three, IDS[20:23])) == 3
    assert files(home) == before


def test_rows_are_given_back_to_the_day_that_they_were_taken_from(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Quota("other", "carol", 10)
    rows.take(8)
    rows.give_back()
    rows.give_back()  # there is nothing left to give
    rows.take(10)
    monkeypatch.setattr(quota, "today", lambda: "2999-01-01")
    Quota("other", "carol", 10).take(9)
    rows.give_back()
    with pytest.raises(LimitReachedError, match="9 were predicted today"):
        Quota("other", "carol", 10).take(2)
    (count,) = (home / "predictions").glob("*.json")
    again = Quota("other", "carol", 10)
    again.take(1)
    count.write_text("{")
    again.give_back()  # no room is made by what cannot be read
    with pytest.raises(LimitReachedError, match="10 were predicted today"):
        Quota("other", "carol", 10).take(1)


def test_a_clock_that_is_set_back_begins_no_day(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Quota("other", "carol", 10).take(8)
    monkeypatch.setattr(quota, "today", lambda: "2001-01-01")
    rows = Quota("other", "carol", 10)
    with pytest.raises(LimitReachedError, match="8 were predicted today"):
        rows.take(3)
    rows.take(2)
    rows.give_back()
    rows.take(2)
    monkeypatch.undo()
    monkeypatch.setenv("HETEROFED_HOME", str(home))
    with pytest.raises(LimitReachedError, match="10 were predicted today"):
        Quota("other", "carol", 10).take(1)


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(each.relative_to(folder)): each.read_bytes()
        for each in folder.rglob("*.json")
        if each.is_file()
    }


class Serving(threading.Thread):
    """A Collaborator that serves over the real socket, for as long as it can."""

    def __init__(self, collaborator: Collaborator, **limits: Any) -> None:
        super().__init__(daemon=True)
        self.error: BaseException | None = None
        self._collaborator = collaborator
        self._limits = {"max_rows_per_day": 1000, **limits}
        self.start()

    def run(self) -> None:
        try:
            self._collaborator.serve_predictions("tiny", **self._limits)
        except BaseException as error:
            self.error = error


class Broken(Exception):
    """Ends a server of this test."""


def end(server: Serving, host: Host) -> None:
    """End a server: by a hook of its own that raises at the next request."""

    def fail() -> Any:
        raise Broken

    server._collaborator.load_local_ids = fail  # type: ignore[method-assign]
    deadline = time.monotonic() + 60
    while server.is_alive() and time.monotonic() < deadline:
        with contextlib.suppress(Exception):
            quick(host).predict("tiny", IDS[16:18], missing_party="zero")
    assert isinstance(server.error, Broken)


@pytest.mark.long
def test_a_server_serves_on(three: Any, tmp_path: Path) -> None:
    """Over the real socket: several requests, one over the limit, one for models it has not."""
    _, (_, bob) = three
    server = Serving(bob, max_rows_per_day=4, max_ids_per_day=22, allow_ids=IDS[15:40])
    host = Host(tmp_path, collaborators=ALL, join_timeout=60)
    bobs: Any = {"parties": ["bob"], "missing_party": "zero"}
    frame = host.predict("tiny", IDS[14:17], **bobs)
    assert list(frame["parties"]) == ["alice", "alice+bob", "alice+bob"]
    with pytest.raises(LimitReachedError):
        host.predict("tiny", IDS[16:19], **bobs)
    for name in ("feature_model.pt", "infer_model.pt", "feature_means.pt"):
        shutil.copy(tmp_path / "tiny/alice" / name, tmp_path / "tiny/alice" / f"best_{name}")
    with pytest.raises(OtherRunError):
        host.predict("tiny", IDS[16:18], models="best", **bobs)
    torch.save(nn.Linear(9, 9).state_dict(), tmp_path / "tiny/bob/best_feature_model.pt")
    with pytest.raises(OtherRunError):
        host.predict("tiny", IDS[16:18], models="best", **bobs)
    assert len(host.predict("tiny", IDS[16:18], **bobs)) == 2  # the other ones took no row
    with pytest.raises(PSILimitError):
        host.predict("tiny", IDS[:20], **bobs)  # 12 were asked for, 22 may be on a day
    with pytest.raises(JoinTimeoutError, match="carol"):
        Host(tmp_path, collaborators=ALL, join_timeout=5).predict("tiny", IDS[16:18])
    assert server.is_alive()  # a Host that waited for others in vain ends no server
    log = (tmp_path / "tiny/bob/predictions/log.jsonl").read_text()
    lines = [json.loads(each) for each in log.splitlines()]
    assert [(each.get("rows"), each.get("sent"), each.get("outcome")) for each in lines] == [
        (2, None, None),
        (None, 2, "served"),
        (None, 0, "LimitReachedError"),
        (None, 0, "OtherRunError"),
        (None, 0, "OtherRunError"),
        (2, None, None),
        (None, 2, "served"),
        (None, 0, "PSILimitError"),
    ]
    end(server, host)


@pytest.mark.long
def test_what_a_plan_leads_to_ends_no_server(three: Any, tmp_path: Path, home: Path) -> None:
    """Its fields may not be those of the training, and a Host may choose them to do harm."""

    class Agreed(Collaborator):
        def iterate_predict_feature(self, feature_model: Any, predict_ids: list[str]) -> Any:
            for ids in self.batches(predict_ids):
                yield Batch(feature_model(rows(ids, 3, 7)).reshape(2, 4), ids=ids)

    bob = Agreed(tmp_path, weights_defence=DPSGD(1.0, 0.5, batch_size=4, others=[1.0]))
    server = Serving(bob, max_rows_per_day=2)
    bobs: Any = {"parties": ["bob"], "missing_party": "zero"}
    for settings, error in (
        ({}, PartySettingsError),  # no batch_size, where the hook asks for it
        ({"batch_size": 1, "checkpoint_batches": 1}, HookFailedError),
        ({"batch_size": 1, "max_staleness": 2, "loss_reduction": "sum"}, HookFailedError),
    ):
        host = Host(tmp_path, collaborators=ALL, join_timeout=60, **settings)
        with pytest.raises(error) as caught:
            host.predict("tiny", IDS[16:18], **bobs)
        assert caught.value.party == "bob"
        assert server.is_alive()
    (counted,) = (home / "predictions").glob("*.json")
    assert json.loads(counted.read_text())["rows"] == 0  # none of them has left
    Agreed.iterate_predict_feature = Collaborator.iterate_predict_feature  # type: ignore[method-assign]
    assert len(host.predict("tiny", IDS[16:18], **bobs)) == 2
    assert json.loads(counted.read_text())["rows"] == 2
    end(server, host)


@pytest.mark.long
def test_an_idle_server_waits_on(three: Any, tmp_path: Path) -> None:
    host, _ = three
    idle: list[int] = []

    class Idle(Collaborator):
        def load_local_ids(self) -> list[str]:
            idle.append(1)  # once for each time that it begins to wait
            return super().load_local_ids()

    bob = Idle(tmp_path, join_timeout=0.1, data_channel_timeout=(0.1, 60))
    with pytest.raises(JoinTimeoutError):
        bob.serve_predictions("tiny", max_rows_per_day=1, requests=1)
    server = Serving(bob)
    deadline = time.monotonic() + 60
    while len(idle) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(idle) >= 3
    assert server.is_alive()
    end(server, host)


def test_rows_that_left_are_logged_whatever_happens_then(three: Any, tmp_path: Path) -> None:
    host, _ = three

    class Breaking(Host):
        def predict_a_batch(self, feature_projection: dict[str, Tensor]) -> Any:
            raise ZeroDivisionError

    host.__class__ = Breaking
    with pytest.raises(ZeroDivisionError):
        predicted(three, IDS[12:20])
    log = (tmp_path / "tiny/bob/predictions/log.jsonl").read_text()
    began, ended = map(json.loads, log.splitlines())
    assert (began["host"], began["rows"]) == ("alice", 8)
    assert (ended["host"], ended["sent"], ended["outcome"]) == ("alice", 8, "HookFailedError")


def test_weights_of_another_model_show_before_anybody_is_waited_for(
    three: Any, tmp_path: Path
) -> None:
    class Other(Collaborator):
        def make_feature_model(self) -> nn.Module:
            return nn.Linear(3, 9)

    with pytest.raises(ConfigError, match="another model than make_feature_model"):
        Other(tmp_path).serve_predictions("tiny", max_rows_per_day=9)


# -- masked sums ---------------------------------------------------------------------------------


class SumHost(Host):
    """Adds the Collaborators' features up, where they have not come as a sum."""

    def score(self, projection: dict[str, Tensor]) -> Tensor:
        theirs = sum(each for name, each in projection.items() if name != "alice")
        return super().score({"alice": projection["alice"], "theirs": theirs})  # type: ignore[dict-item]


def test_features_that_only_a_sum_shows_are_not_predicted_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summing = SumHost(tmp_path, collaborators=ALL, fusion="masked_sum")
    parties = [Carol(tmp_path), Collaborator(tmp_path)]
    simulate(summing, parties, task_id="tiny")
    separate = SumHost(tmp_path, collaborators=ALL)
    for host in (summing, separate):  # whatever this Host says of the run that has ended
        with pytest.raises(ConfigError, match="masked_sum"):
            host.predict("tiny", IDS[12:20])
    with pytest.raises(ConfigError, match="masked_sum"):
        parties[0].serve_predictions("tiny", max_rows_per_day=9)
    # A Host that asks all the same, of Collaborators whose summary does not tell.
    read = artifacts.read_trained
    tells = lambda *args: dataclasses.replace(read(*args), fusion="separate")  # noqa: E731
    monkeypatch.setattr(artifacts, "read_trained", tells)
    monkeypatch.setattr(models, "read_trained", tells)
    monkeypatch.setattr(
        HostHalfTask,
        "make_plan",
        lambda _task, run, names: summing._heterofed.settings.training_plan(
            names, order=run.order, default_end=True
        ),
    )
    with pytest.raises(RemoteProtocolError, match="masked_sum"):
        simulate_prediction(separate, parties, task_id="tiny", ids=IDS[12:20])


# -- a peer's features that are not those of training --------------------------------------------


def test_batches_without_rows_hold_nobody_up(three: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Empty(Collaborator):
        def iterate_predict_feature(self, feature_model: Any, predict_ids: list[str]) -> Any:
            while True:
                yield Batch(torch.ones(0, 4), ids=[])

    host, (_, bob) = three
    bob.__class__ = Empty
    with pytest.raises(RowCountError, match="iterate_predict_feature yielded a batch without rows"):
        predicted(three, IDS[12:15])
    monkeypatch.setattr(serving, "check_some", lambda rows, _hook: rows)  # a hostile one
    with pytest.raises(RowCountError, match="bob sent a batch without rows") as caught:
        predicted(three, IDS[12:15])
    assert caught.value.party == "bob"

    class EmptyHost(Host):
        def iterate_predict_feature(self, feature_model: Any, predict_ids: list[str]) -> Any:
            while True:
                yield Batch(torch.ones(0, 3), ids=[])

    host.__class__ = EmptyHost
    with pytest.raises(RowCountError, match="without rows"):
        predicted(three, IDS[12:15])


@pytest.mark.parametrize("missing", ["error", "mean", "zero"])
@pytest.mark.parametrize(
    "features",
    [
        lambda rows, _batch: torch.ones(rows, 5),
        lambda rows, batch: torch.ones(rows, 4 + batch),
        lambda rows, _batch: {"x": torch.ones(rows, 4)},
        lambda rows, _batch: (torch.ones(rows, 4),),
        lambda rows, _batch: torch.ones(rows, 4, dtype=torch.int64),
        lambda rows, _batch: torch.ones(rows, 4, 1),
    ],
)
def test_features_other_than_in_training(features: Any, missing: str, three: Any) -> None:
    class Odd(Collaborator):
        def iterate_predict_feature(self, feature_model: Any, predict_ids: list[str]) -> Any:
            for batch, start in enumerate(range(0, len(predict_ids), 5)):
                ids = predict_ids[start : start + 5]
                yield Batch(features(len(ids), batch), ids=ids)

    _, (_, bob) = three
    bob.__class__ = Odd
    # Widths that change from batch to batch end the task where they are made.
    with pytest.raises(FeatureError, match=r"in training|in earlier batches") as caught:
        predicted(three, IDS[12:32], missing_party=missing)
    assert caught.value.party == "bob"


def test_rows_of_no_one_shape(tmp_path: Path) -> None:
    """Training takes features whose batches differ in length; then nothing stands for a row."""

    def ragged(batches: Any, length: Any) -> Iterator[Any]:
        for number, each in enumerate(batches):
            tensor: Any = each.features if isinstance(each, Batch) else each
            yield Batch(
                tensor[:, None, :].expand(-1, length(number), -1).contiguous(),
                ids=each.ids if isinstance(each, Batch) else None,
            )

    class Ragged(Collaborator):
        length: Any = staticmethod(lambda number: number + 1)

        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Any:
            return ragged(super().iterate_train_feature(feature_model, train_ids), lambda n: n + 1)

        def iterate_test_feature(self, feature_model: Any, test_ids: list[str]) -> Any:
            return ragged(super().iterate_train_feature(feature_model, test_ids), lambda _n: 2)

        def iterate_predict_feature(self, feature_model: Any, predict_ids: list[str]) -> Any:
            return ragged(super().iterate_predict_feature(feature_model, predict_ids), self.length)

    class Meaning(Host):
        def train_a_batch(self, feature_projection: dict[str, Tensor], labels: Tensor) -> Any:
            return super().train_a_batch(flat(feature_projection), labels)

        def score(self, projection: dict[str, Tensor]) -> Tensor:
            return super().score(flat(projection))

    def flat(projection: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: each.mean(1) if each.dim() == 3 else each for key, each in projection.items()}

    host = Meaning(tmp_path, log_rounds=1, leak_report="off")
    bob = Ragged(tmp_path, leak_report="off")
    simulate(host, [bob], task_id="tiny")
    Ragged.length = staticmethod(lambda _number: 3)
    assert len(predicted((host, [bob]), IDS[12:40])) == 28
    with pytest.raises(MissingPartyError, match="no one shape"):
        predicted((host, [bob]), IDS[5:40], missing_party="mean")
    Ragged.length = staticmethod(lambda number: number + 1)
    with pytest.raises(FeatureError, match="before or in training"):
        predicted((host, [bob]), IDS[12:40])


def test_row_order_that_is_not_verified(three: Any, caplog: pytest.LogCaptureFixture) -> None:
    host, (_, bob) = three
    caplog.clear()
    predicted(three, IDS[12:20])
    assert not [each for each in caplog.records if "row order" in each.getMessage()]

    class Silent(Collaborator):
        def iterate_predict_feature(self, feature_model: Any, predict_ids: list[str]) -> Any:
            yield feature_model(rows(predict_ids, 3, 7))

    class SilentHost(Host):
        def iterate_predict_feature(self, feature_model: Any, predict_ids: list[str]) -> Any:
            yield feature_model(rows(predict_ids, 2, 0)), torch.zeros(len(predict_ids))

    def warned() -> list[str]:
        caplog.clear()
        predicted(three, IDS[12:20])
        found = [each.getMessage() for each in caplog.records]
        return [each for each in found if "row order not verified" in each]

    bob.__class__ = Silent
    assert ["bob yields no ids" in each for each in warned()] == [True, True]  # bob, and alice
    bob.__class__, host.__class__ = Collaborator, SilentHost
    assert ["alice yields no ids" in each for each in warned()] == [True]


def test_what_was_predicted_with_is_not_kept_for_training(
    three: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No defence of training takes hold of the inputs of a prediction."""
    guards: list[Any] = []
    leaves = CollaboratorGuard.leaves

    def look(guard: CollaboratorGuard, batch: Any) -> None:
        leaves(guard, batch)
        if isinstance(guard._defence, Decorrelation):
            guards.append(guard)

    monkeypatch.setattr(CollaboratorGuard, "leaves", look)
    _, (_, bob) = three
    with_settings(bob, embedding_defence=Decorrelation(0.1))
    predicted(three, IDS[12:32])
    assert guards[0]._inputs == {}


@pytest.mark.parametrize("same", [False, True], ids=["two", "one"])
def test_two_callers_of_predict_take_turns(tmp_path: Path, same: bool) -> None:
    """From two processes that is as from two schedulers: the folder's lock knows no process."""
    simulate(Host(tmp_path), [Collaborator(tmp_path)], task_id="tiny")
    hosts = [Host(tmp_path)] * 2 if same else [Host(tmp_path), Host(tmp_path)]
    bob, found = Collaborator(tmp_path), dict[int, Any]()

    def ask(number: int) -> None:
        found[number] = hosts[number].predict("tiny", IDS[20 + number : 30 + number])

    limits = {"max_rows_per_day": 100, "requests": 2}
    calls = [
        threading.Thread(target=bob.serve_predictions, args=("tiny",), kwargs=limits),
        *(threading.Thread(target=ask, args=[number]) for number in range(2)),
    ]
    for each in calls:
        each.start()
    for each in calls:
        each.join(60)
    assert [len(found[number]) for number in range(2)] == [10, 10]
    assert list(found[1]["id"]) == IDS[21:31]


def test_a_second_caller_of_predict_does_not_wait_for_ever(tmp_path: Path) -> None:
    simulate(Host(tmp_path), [Collaborator(tmp_path)], task_id="tiny")
    folder = tmp_path / "tiny" / "alice" / "predictions"
    with (
        file_lock(lock_path(f"results {folder}", heterofed_home())),
        pytest.raises(ConfigError, match="raise join_timeout"),
    ):
        Host(tmp_path, join_timeout=0.2).predict("tiny", IDS[20:30])
