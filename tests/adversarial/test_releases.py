"""Who asks for the same rows again and again, in whatever way: it is counted, told and bounded."""

from __future__ import annotations

import csv
import functools
import math
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from heterofed import TaskResult
from heterofed import errors as e
from heterofed.privacy.embedding_defences import ClippedGaussian
from heterofed.privacy.label_dp import RandomisedResponse
from heterofed.protocol import messages as m
from tests.adversarial.peers import LyingHost, Victim
from tests.e2e.tiny import IDS, TinyCollaborator, run
from tests.privacy.test_privacy_runs import Collaborator, Host
from tests.runs.test_resume import crashing

pytestmark = pytest.mark.slow

NOISE = ClippedGaussian(clip=1.0, noise_multiplier=20.0)


@pytest.fixture(autouse=True)
def ledgers(home: Path) -> Path:
    return home / "releases"


def most_sent(ledgers: Path) -> int:
    """The most releases of any row, as any ledger has them."""
    found = 0
    for path in ledgers.glob("*.sqlite"):
        base = sqlite3.connect(path)
        found = max(found, base.execute("SELECT max(sent) FROM rows").fetchone()[0] or 0)
        base.close()
    return found


def told(folder: Path, party: str, column: str) -> list[float]:
    """What `privacy.csv` says of a run that may have ended badly."""
    with (folder / "tiny" / party / "privacy.csv").open(newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file)]


class Returning(LyingHost):
    """A Host that lets a round pass and goes back, as often as it is let."""

    def take_a_round(self, number: int = 1) -> None:
        self.link.say(m.BeginTrain(number))
        self.take_batches(number)

    def take_batches(self, number: int = 1) -> None:
        while True:
            heard = self.hear_any(m.Features, m.EndOfFeatures)
            if isinstance(heard, m.EndOfFeatures):
                return
            assert isinstance(heard, m.Features)
            self.link.say(m.BatchDone(number, heard.batch, stepped=False))

    def hear_any(self, *kinds: type[m.Message]) -> m.Message:
        while True:
            for message, _ in self.link._heard:
                assert isinstance(message, kinds), message
            if self.link._heard:
                return self.link._heard.pop(0)[0]
            assert not self.link.lost, "lost"
            self.link.pump()

    def end_round(self, number: int = 1) -> None:
        self.link.say(m.RoundEnd(number, best=False, last=False))
        self.link.hear(m.CheckpointHeld)

    def drop(self) -> None:
        self.close()

    def again(self, mark: m.Mark) -> None:
        """Come back as the same Host with the same run, and go on from a mark."""
        fresh = LyingHost(self._name, **self._plan)
        self._endpoint, self._stack = fresh._endpoint, fresh._stack
        said = fresh.met()
        self.link = fresh.link
        assert said.held is not None
        assert mark in said.held.marks, said.held
        plan = fresh.plan_for(said)
        self.link.say(m.WelcomeBack(1, self.run, self.secret, plan, mark))


def test_legs_of_no_agreed_size_are_refused_with_the_plan(tmp_path: Path, ledgers: Path) -> None:
    bob, host = Victim(TinyCollaborator(tmp_path)), LyingHost(checkpoint_batches=1)
    host.welcome()
    outcome = bob.outcome()
    host.close()
    assert isinstance(outcome, e.RemoteProtocolError), repr(outcome)
    assert "no batch_size" in str(outcome)
    assert most_sent(ledgers) == 0


@pytest.mark.parametrize("fusion", ["separate", "masked_sum"])
@pytest.mark.parametrize("lie", [m.BeginTest(1), m.RoundEnd(1, best=False, last=False)],
                         ids=["test", "end"])  # fmt: skip
def test_a_round_is_tested_and_ended_as_a_whole(
    lie: m.Message, fusion: str, tmp_path: Path, ledgers: Path
) -> None:
    """Else a Host could have one party of a sum tested with older weights than another."""
    bob = Victim(TinyCollaborator(tmp_path, is_feature_trainable=False))
    parties: dict[str, Any] = {}
    if fusion == "masked_sum":
        parties = {"collaborators": ("bob", "carol")}
    host = Returning(checkpoint_batches=1, batch_size=16, fusion=fusion, **parties)
    host.welcome().to_train()
    host.take_batches()
    host.link.say(lie)
    outcome = bob.outcome()
    host.close()
    assert isinstance(outcome, e.RemoteProtocolError), repr(outcome)
    assert "of which 1 batches are trained" in str(outcome)
    assert most_sent(ledgers) == 1


@pytest.mark.parametrize("lie", [m.BeginTrain(2), m.Finish(1)], ids=["another round", "the end"])
def test_a_round_without_end_is_the_last_and_is_told(
    lie: m.Message, tmp_path: Path, ledgers: Path
) -> None:
    bob, host = Victim(TinyCollaborator(tmp_path, embedding_defence=NOISE)), Returning()
    host.welcome().to_train()
    host.take_batches()
    host.link.say(lie)
    outcome = bob.outcome()
    host.close()
    assert isinstance(outcome, e.RemoteProtocolError), repr(outcome)
    assert "has not ended" in str(outcome)
    assert most_sent(ledgers) == 1
    assert told(tmp_path, "bob", "eps_embeddings") == [pytest.approx(NOISE.epsilon(1))]


def test_rows_are_counted_before_the_host_has_them(tmp_path: Path, ledgers: Path) -> None:
    bob, host = Victim(TinyCollaborator(tmp_path)), Returning()
    host.welcome().to_train()
    host.link.hear(m.Features)
    assert most_sent(ledgers) == 1
    host.close()
    assert isinstance(bob.outcome(), e.TaskFailed)


def test_a_host_that_goes_back_is_bounded_and_told_of(tmp_path: Path, ledgers: Path) -> None:
    shop = TinyCollaborator(tmp_path, embedding_defence=NOISE, max_rollbacks=2)
    bob, host = Victim(shop), Returning(max_rounds=1, wait_for_peers=60)
    host.welcome().to_train()
    passes = 1
    host.take_batches()
    host.end_round()
    with pytest.raises(AssertionError, match=r"lost|Abort"):
        while passes < 20:
            host.drop()
            host.again(m.Mark(0))
            host.take_a_round()
            passes += 1
            host.end_round()
    outcome = bob.outcome()
    host.close()
    assert isinstance(outcome, e.RollbackLimitError), repr(outcome)
    assert "max_rollbacks is 2" in str(outcome)
    assert passes == 3
    assert most_sent(ledgers) == passes
    assert told(tmp_path, "bob", "eps_embeddings")[-1] == pytest.approx(NOISE.epsilon(passes))
    # Over a restart of the process, too.
    again = Victim(TinyCollaborator(tmp_path, embedding_defence=NOISE, max_rollbacks=2))
    host.again(m.Mark(0))
    assert isinstance(again.outcome(), e.RollbackLimitError)
    host.close()
    assert most_sent(ledgers) == passes


class Looked(TinyCollaborator):
    """Lets the Host look at its test rows once more."""

    def iterate_final_feature(self, feature_model: Any, final_ids: list[str]) -> Any:
        return self.iterate_test_feature(feature_model, final_ids)


def test_a_host_that_has_the_last_look_repeated_is_bounded(tmp_path: Path, ledgers: Path) -> None:
    bob = Victim(Looked(tmp_path, max_rollbacks=2))
    host = Returning(max_rounds=1, wait_for_peers=60, final_rows=100)
    host.welcome().to_train()
    host.take_batches()
    host.link.say(m.RoundEnd(1, best=False, last=True))
    host.link.hear(m.CheckpointHeld)
    looks = 0
    with pytest.raises(AssertionError, match=r"lost|Abort"):
        while looks < 20:
            host.link.say(m.BeginTest(1))
            host.take_batches()
            looks += 1
            host.drop()
            host.again(m.Mark(1))
    outcome = bob.outcome()
    host.close()
    assert isinstance(outcome, e.RollbackLimitError), repr(outcome)
    assert looks == 3


def test_a_collaborator_that_vanishes_is_bounded(tmp_path: Path, ledgers: Path) -> None:
    taken: list[Any] = []  # not the party's: what that carries goes back with it

    class Vanishing(Collaborator):
        """Takes gradients of a batch, and is gone; each time once more."""

        def update_feature_model(self, features: Any, gradients: Any) -> None:
            taken.append(gradients.clone())
            self._heterofed.run.party.close(0)  # type: ignore[union-attr]

    bank = Host(tmp_path, wait_for_peers=60, max_rollbacks=2)
    shop = Vanishing(tmp_path)
    outcomes = run(bank, shop)
    assert isinstance(outcomes[0], e.RollbackLimitError), outcomes
    assert "max_rollbacks is 2 at alice" in str(outcomes[0])
    assert isinstance(outcomes[1], e.RollbackLimitError | e.PeerLostError), outcomes
    assert len(taken) == 3
    assert most_sent(ledgers) == 3


def test_a_run_that_crashes_again_and_again_is_bounded_over_restarts(tmp_path: Path) -> None:
    outcomes: list[Any] = []
    for _ in range(3):
        bank = crashing(Host(tmp_path, max_rollbacks=1), "train_a_batch", 2)
        outcomes = run(bank, Collaborator(tmp_path))
    assert isinstance(outcomes[0], e.RollbackLimitError), outcomes
    assert isinstance(outcomes[1], e.RollbackLimitError), outcomes
    # The remedy that the message names.
    assert all(isinstance(each, TaskResult) for each in run(Host(tmp_path), Collaborator(tmp_path)))


def test_rounds_that_are_repeated_count_against_those_of_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = TinyCollaborator(tmp_path, max_rollbacks=0)
    bob, host = Victim(shop), Returning(max_rounds=2)
    begun = iter([5])  # as after many returns
    monkeypatch.setattr("heterofed.privacy.ledger.ReleaseLedger.count", lambda *_: next(begun))
    host.welcome().to_train()
    outcome = bob.outcome()
    host.close()
    assert isinstance(outcome, e.RemoteProtocolError), repr(outcome)
    assert "5 rounds in a run of 2" in str(outcome)


# -- a party's own limits ----------------------------------------------------------------------


def test_a_collaborator_caps_releases_of_a_row(tmp_path: Path, ledgers: Path) -> None:
    shop = Collaborator(tmp_path, max_releases_per_row=1)
    at_bank, at_shop = run(Host(tmp_path, max_rounds=3), shop)
    assert type(at_shop) is e.ReleaseLimitError
    assert (at_shop.measure, at_shop.value, at_shop.limit) == ("releases_per_row", 2, 1)
    assert isinstance(at_bank, e.ReleaseLimitError)
    assert isinstance(at_bank, e.TaskAborted)
    assert len(shop.kept) == 2  # the batches of one round
    assert most_sent(ledgers) == 1


def test_a_host_caps_gradients_of_a_row(tmp_path: Path) -> None:
    shop = Collaborator(tmp_path)
    at_bank, at_shop = run(Host(tmp_path, max_rounds=3, max_releases_per_row=2), shop)
    assert type(at_bank) is e.ReleaseLimitError
    assert isinstance(at_shop, e.TaskAborted)
    assert len(shop.kept) == 4


def test_epsilon_is_capped_before_it_is_spent(tmp_path: Path) -> None:
    limit = NOISE.epsilon(2) + 1e-6
    shop = Collaborator(tmp_path, embedding_defence=NOISE, max_epsilon=limit)
    _, at_shop = run(Host(tmp_path, max_rounds=5), shop)
    assert type(at_shop) is e.ReleaseLimitError
    assert at_shop.measure == "eps_embeddings"
    assert at_shop.value == pytest.approx(NOISE.epsilon(3))
    assert told(tmp_path, "bob", "eps_embeddings")[-1] == pytest.approx(NOISE.epsilon(2))


def test_all_runs_of_a_task_count_together(tmp_path: Path) -> None:
    for runs in (1, 2):
        shop = Collaborator(tmp_path, embedding_defence=NOISE)
        outcomes = run(Host(tmp_path, max_rounds=1), shop)
        assert isinstance(outcomes[1], TaskResult), outcomes
        found = told(tmp_path, "bob", "eps_embeddings")
        assert found == [pytest.approx(NOISE.epsilon(runs))]
    # What once left without noise stays told for ever.
    run(Host(tmp_path, max_rounds=1), Collaborator(tmp_path))
    run(Host(tmp_path, max_rounds=1), Collaborator(tmp_path, embedding_defence=NOISE))
    assert told(tmp_path, "bob", "eps_embeddings") == [math.inf]


def test_other_coins_for_the_same_labels_add_up(tmp_path: Path) -> None:
    for secret, epsilon in ((b"a" * 32, 1.0), (b"a" * 32, 1.0), (b"b" * 32, 3.0)):
        bank = Host(tmp_path, max_rounds=1, label_dp=RandomisedResponse(1.0 + 0, secret=secret))
        outcomes = run(bank, Collaborator(tmp_path))
        assert isinstance(outcomes[0], TaskResult), outcomes
        expected = epsilon if secret[:1] == b"a" else 2.0
        assert told(tmp_path, "alice", "eps_labels") == [pytest.approx(expected)]


def test_a_rehearsal_counts(tmp_path: Path, ledgers: Path) -> None:
    bank: Any = Host(tmp_path)
    shop: Any = Collaborator(tmp_path)
    for each in (bank, shop):
        each.launch_task = functools.partial(each.launch_task, rehearse=True)
    outcomes = run(bank, shop)
    assert all(isinstance(each, TaskResult) for each in outcomes), outcomes
    assert most_sent(ledgers) == 1


def test_predictions_count_with_what_was_trained(tmp_path: Path, ledgers: Path) -> None:
    class Predicting(Host):
        def predict_a_batch(self, feature_projection: dict[str, Any]) -> Any:
            fused = torch.cat(list(feature_projection.values()), dim=1)
            return torch.sigmoid(self.infer_model(fused).squeeze(1))

    bank = Predicting(tmp_path, max_rounds=1)
    shop: Any = Collaborator(tmp_path, embedding_defence=NOISE, max_releases_per_row=3)
    assert isinstance(run(bank, shop)[1], TaskResult)
    outcomes: list[Any] = []
    for number in range(3):
        serving = Collaborator(tmp_path, embedding_defence=NOISE, max_releases_per_row=3)
        serve: Any = serving
        serve.launch_task = functools.partial(
            serving.serve_predictions, max_rows_per_day=1000, requests=1
        )
        ask: Any = Predicting(tmp_path, max_rounds=1)
        ask.launch_task = functools.partial(ask.predict, ids=IDS[10:13])
        outcomes = run(ask, serve)
        if number < 2:
            assert outcomes[1] == 3, outcomes
            with (tmp_path / "tiny/bob/predictions/privacy.csv").open(newline="") as file:
                found = [float(row["eps_embeddings"]) for row in csv.DictReader(file)]
            assert found[-1] == pytest.approx(NOISE.epsilon(number + 2))
    assert type(outcomes[1]) is e.ReleaseLimitError, outcomes
    assert isinstance(outcomes[0], e.ReleaseLimitError)
    assert most_sent(ledgers) == 3


def test_rows_that_come_twice_in_a_round_count_twice(tmp_path: Path, ledgers: Path) -> None:
    class Twice(Host):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            for _ in range(2):
                yield from super().iterate_train_feature(feature_model, train_ids)

    class TwiceThere(Collaborator):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            for _ in range(2):
                yield from super().iterate_train_feature(feature_model, train_ids)

    run(Twice(tmp_path, max_rounds=1), TwiceThere(tmp_path))
    assert most_sent(ledgers) == 2
