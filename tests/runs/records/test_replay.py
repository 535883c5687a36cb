"""Each side of a recorded run is computed again without the other one, bit for bit."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from heterofed import errors as e
from heterofed import replay, simulate
from heterofed.compute.pace import Pace
from heterofed.hetero_nn.train import pacing
from heterofed.privacy.embedding_defences import ClippedGaussian
from heterofed.privacy.gradient_defences import IsotropicGaussian
from heterofed.privacy.label_dp import RandomisedResponse
from heterofed.privacy.synthetic_gradients import SyntheticGradients
from heterofed.protocol.messages import Mark
from heterofed.runs.records.segments import find_segment, open_segment, segments_in
from tests.e2e.processes import Parties, PartyProcess
from tests.e2e.tiny import TinyCollaborator, run, with_settings
from tests.hetero_nn import sites_tiny
from tests.identity.test_receipts import wait_for
from tests.privacy.test_masked_sum import SumHost
from tests.runs.records.recorded import (
    ROUNDS,
    RecordingCollaborator,
    RecordingHost,
    folder_of,
    made,
)
from tests.runs.test_resume import crashing
from tests.runs.test_resume_options import LEARNING

BATCHES = 5
"""The batches of a round, which trains on 35 rows in batches of 8."""


class Recorded:
    """A run that was recorded by both parties."""

    def __init__(self, folder: Path, home: Path, host: Any = None, bob: Any = None) -> None:
        self.folder, self.home = folder, home
        self.given: dict[str, Any] = {"alice": host or {}, "bob": bob or {}}
        simulate(self.party("alice"), [self.party("bob")], task_id="tiny")

    def party(self, name: str, **settings: Any) -> Any:
        kind: Any = RecordingHost if name == "alice" else RecordingCollaborator
        return kind(self.folder, **{**self.given[name], **settings})

    def replay(self, name: str, round_number: int, batch: int, scheduler: Any = None) -> Any:
        scheduler = scheduler or self.party(name)
        folder = folder_of(self.folder, name)
        return replay(scheduler, folder, round_number=round_number, batch=batch)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("recorded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HETEROFED_HOME", str(folder / "home"))
        yield Recorded(folder, folder / "home", {"max_staleness": 1})


@pytest.fixture(autouse=True)
def same_home(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETEROFED_HOME", str(recorded.home))


@pytest.mark.parametrize("party", ["alice", "bob"])
def test_any_batch_is_computed_again_bit_for_bit(party: str, recorded: Recorded) -> None:
    for round_number, batch in ((1, 0), (3, 1)):
        found = recorded.replay(party, round_number, batch)
        assert found.is_same, found.difference.words()
        assert found.tensors > batch
        assert found.begun == f"round {round_number}, batch 0"
        assert found.versions == {}


@pytest.mark.parametrize("party", ["alice", "bob"])
def test_the_last_step_of_a_round_shows_in_the_checkpoint(party: str, recorded: Recorded) -> None:
    found = recorded.replay(party, 2, BATCHES - 1)
    assert (found.is_same, found.checkpoints, found.ended) == (True, 1, "the next checkpoint")


def test_the_first_difference_is_named_at_a_collaborator(recorded: Recorded) -> None:
    other = recorded.party("bob")
    other.wrong = (2, 2)
    found = recorded.replay("bob", 2, 3, other)
    assert found.difference.where == "Features to alice (round 2, batch 2)"
    assert (found.difference.index[0], found.difference.items) == (5, 8 * 4)
    assert 0 < found.difference.largest < 1
    assert "tensor '' differs first at [5, 0]" in found.difference.words()
    assert found.difference.recorded != found.difference.now


def test_the_first_difference_is_named_at_the_host(recorded: Recorded) -> None:
    other = recorded.party("alice")
    other.factor = 1.01
    found = recorded.replay("alice", 2, 1, other)
    assert found.difference.where == "Gradients to bob (round 2, batch 0)"
    assert found.difference.differing > 0


# -- every kind of training -----------------------------------------------------------------------

KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "checkpoints within rounds": ({"checkpoint_batches": 2}, {}),
    "the Host measures how stale": ({"max_staleness": "auto"}, {}),
    "early gradients": ({"early_gradients": True}, {}),
    "gradients once": ({"early_gradients": "once", "checkpoint_batches": 3}, {}),
    "a party drops out": ({"party_dropout": 0.5}, {}),
    "a frozen party": ({}, {"is_feature_trainable": False}),
    "compressed": ({"compress_features": "int8", "compress_gradients": "bf16"}, {}),
    "noisy gradients": ({"gradient_defence": IsotropicGaussian(1.0)}, {}),
    "noisy features": ({}, {"embedding_defence": ClippedGaussian(1.0, 0.5), "seed": None}),
    "learnt gradients": ({"gradient_defence": SyntheticGradients(features=8, memory=50)}, {}),
    "noisy labels": ({"label_dp": RandomisedResponse(1.0, classes=2), "seed": None}, {}),
}


def test_a_staleness_that_is_chosen_again_and_again(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choices = iter([2, 1, 2])
    monkeypatch.setattr(pacing, "PROBE_BATCHES", 2)
    monkeypatch.setattr(Pace, "review", lambda _, steps: (steps, True))
    monkeypatch.setattr(Pace, "choose", lambda _: next(choices))
    found = Recorded(tmp_path, home, {"max_staleness": "auto"})
    assert next(choices, None) is None  # so that a replay cannot choose
    for party in ("alice", "bob"):
        for round_number in (1, 2, 3):
            replayed = found.replay(party, round_number, BATCHES - 1)
            assert replayed.is_same, (party, replayed.difference.words())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_training(kind: str, tmp_path: Path, home: Path) -> None:
    found = Recorded(tmp_path, home, *KINDS[kind])
    for party in ("alice", "bob"):
        for round_number, batch in ((1, 1), (2, 0), (2, 2), (3, BATCHES - 1)):
            replayed = found.replay(party, round_number, batch)
            assert replayed.is_same, (party, replayed.difference.words())
            assert replayed.tensors > 0 or party == "alice"


@pytest.mark.slow
def test_parties_of_a_masked_sum(tmp_path: Path, home: Path) -> None:
    names = ["bob", "carol", "dave"]

    def party(name: str) -> Any:
        record = {"record": "inbound", "seed": None}
        if name == "alice":
            return SumHost(tmp_path, fusion="masked_sum", psi_protocol="ecdh", **record)
        return TinyCollaborator(tmp_path, name, **record)

    simulate(party("alice"), [party(name) for name in names], task_id="tiny")
    for name in ("alice", "carol"):
        found = replay(party(name), folder_of(tmp_path, name), round_number=2, batch=1)
        assert found.difference is None, found.difference.words()
        assert found.tensors > 0


@pytest.mark.slow
@pytest.mark.parametrize("share", ["gradient", "weights"])
def test_sites_of_a_role(share: str, tmp_path: Path, home: Path) -> None:
    """At all of them: the first one makes the key of the sums, which the others once get."""

    def parties() -> dict[str, Any]:
        given: dict[str, Any] = {"sites_share": share, "checkpoint_batches": 4}
        given |= {"sites_every": 2} if share == "weights" else {}
        bank, others = sites_tiny.parties(tmp_path, ("north", "south", "west"), **given)
        made = {"bank": bank, **{each.feature_key: each for each in others}}
        return {name: with_settings(each, record="inbound") for name, each in made.items()}

    bank, *others = parties().values()
    simulate(bank, others, task_id="tiny")
    for name in parties():
        for place in ((1, 1), (1, 5), (2, 6)):
            folder = folder_of(tmp_path, name)
            found = replay(parties()[name], folder, round_number=place[0], batch=place[1])
            assert found.difference is None, (name, place, found.difference.words())
            assert found.messages > 2


@pytest.mark.long
def test_a_defence_that_was_raised(tmp_path: Path, home: Path) -> None:
    """A replay knows the evidence of the batches before it."""
    learning = ["raised for labels", "raised for inputs"]
    for name in learning:
        alice, bob = (
            with_settings(each, record="inbound") for each in LEARNING[name](tmp_path / name)
        )
        simulate(alice, [bob], task_id="tiny")
        for place in ((1, 19), (2, 7), (3, 12), (4, 1)):
            for number, party in enumerate(("alice", "bob")):
                scheduler = LEARNING[name](tmp_path / name)[number]
                folder = folder_of(tmp_path / name, party)
                found = replay(scheduler, folder, round_number=place[0], batch=place[1])
                assert found.difference is None, (name, place, found.difference.words())


# -- runs with kills ------------------------------------------------------------------------------


def assert_all_same(results: Path, make: Any, rounds: int, batches: int, count: int) -> None:
    """Replay batches at random, at both parties."""
    draw = random.Random(7)
    for _ in range(count):
        party = draw.choice(["alice", "bob"])
        place = draw.randint(1, rounds), draw.randrange(batches)
        found = replay(
            make(party), folder_of(results, party), round_number=place[0], batch=place[1]
        )
        assert found.difference is None, (party, place, found.difference.words())


@pytest.mark.slow
@pytest.mark.usefixtures("late_readers")
def test_a_run_that_was_interrupted(tmp_path: Path, home: Path) -> None:
    """The batches before the crash and after it, and those that were trained twice."""
    given: dict[str, Any] = {"alice": {"checkpoint_batches": 2}, "bob": {}}

    def make(party: str) -> Any:
        kind: Any = RecordingHost if party == "alice" else RecordingCollaborator
        return kind(tmp_path, **given[party])

    outcomes = run(make("alice"), crashing(make("bob"), "iterate_train_feature", 4))
    assert isinstance(outcomes[0], e.PeerLostError)
    results = run(make("alice"), make("bob"))
    assert not any(isinstance(each, BaseException) for each in results), results
    launches = [each.mark for each in segments_in(folder_of(tmp_path, "bob"))]
    assert len(launches) > len(set(launches))
    for party in ("alice", "bob"):
        again = segments_in(folder_of(tmp_path, party))[launches.index(Mark(0, 4)) + 1]
        assert find_segment(home, folder_of(tmp_path, party), 1, 4) == again
    for party, number, batch in itertools.product(["alice", "bob"], [1, 2, 3], [1, 2]):
        folder = folder_of(tmp_path, party)
        found = replay(make(party), folder, round_number=number, batch=batch)
        assert found.difference is None, (party, number, batch, found.difference.words())


@pytest.mark.long
def test_a_hundred_batches_of_a_run_with_kills(
    tmp_path: Path, home: Path, parties: Parties
) -> None:
    """Real processes, of which each one is killed by `kill -9` and started again."""

    def start(party: str) -> PartyProcess:
        role = "host" if party == "alice" else "collaborator"
        return parties.start("-m", "tests.runs.records.recorded", role, str(tmp_path))

    running = {each: start(each) for each in ("alice", "bob")}
    for victim, mark in (("bob", "round-1-batch-2"), ("alice", "round-3"), ("bob", "round-5")):
        wait_for(folder_of(tmp_path, victim) / "resume" / mark)
        running[victim].kill()
        assert running[victim].wait() == -9
        running[victim] = start(victim)
    for each in running.values():
        assert each.wait() == 0, each.output
    segments = segments_in(folder_of(tmp_path, "bob"))
    assert len({open_segment(home, each).beginning.launch for each in segments}) == 1 + 3
    assert_all_same(tmp_path, lambda party: made(party, tmp_path), ROUNDS, BATCHES, 100)
