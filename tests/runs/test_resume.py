"""A run goes on after parties were lost, and gives what an undisturbed one gives, bit for bit."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn, optim

from heterofed import TaskResult, register_metrics
from heterofed import errors as e
from heterofed.events import PartyLost
from heterofed.messaging.party import Party
from heterofed.protocol.messages import Mark
from heterofed.runs import checkpoint_format as snapshots
from heterofed.runs.checkpoint_store import CheckpointStore
from tests.e2e.processes import Parties
from tests.e2e.tiny import IDS, TinyCollaborator, TinyHost, run, training_by
from tests.e2e.tiny import rows as tiny_rows

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]

ROUNDS = 4


class CrashError(Exception):
    """Stands for kill -9 where a party is a thread: its connections close, nothing else happens."""


def crashing(scheduler: Any, hook: str, at: int) -> Any:
    """Let the scheduler die, without a word to anybody, at the `at`-th call of a hook."""
    original, calls = getattr(scheduler, hook), iter(range(1, 10_000))

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == at:
            scheduler._heterofed.run.party.close(0)
            scheduler._heterofed.run.party.abort = lambda *_: None
            raise CrashError
        return original(*args, **kwargs)

    setattr(scheduler, hook, call)
    return scheduler


def host(folder: Path, **settings: Any) -> TinyHost:
    return TinyHost(folder, **{"max_rounds": ROUNDS, "log_rounds": 1, **settings})


def weights(*results: TaskResult) -> dict[str, torch.Tensor]:
    return {
        f"{result.party}.{name}.{key}": tensor
        for result in results
        for name, path in result.models.items()
        for key, tensor in torch.load(path, weights_only=True).items()
    }


def rows(result: TaskResult) -> dict[str, str]:
    # How much the leak report measures hangs on the time that there is.
    return {n: path.read_text() for n, path in result.metrics.items() if n != "leakage"}


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Weights and CSVs of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HETEROFED_HOME", str(folder / "home"))
        results = run(host(folder), TinyCollaborator(folder), task="undisturbed")
    assert all(isinstance(each, TaskResult) for each in results), results
    return weights(*results), rows(results[0])


def assert_same(results: list[Any], undisturbed: tuple[Any, Any]) -> None:
    assert all(isinstance(each, TaskResult) for each in results), results
    now = weights(*results)
    assert now.keys() == undisturbed[0].keys()
    for name, tensor in now.items():
        assert torch.equal(tensor, undisturbed[0][name]), name
    assert rows(results[0]) == undisturbed[1]
    for each in results:
        assert not (each.folder / "resume").exists()


PLACES = [
    ("load_local_ids", 1),
    ("split_dataset", 1),
    ("iterate_train_feature", 1),
    ("iterate_train_feature", 3),
    ("iterate_test_feature", 2),
    ("on_round_end", 1),
    ("on_round_end", ROUNDS),
]


@pytest.mark.parametrize(("hook", "at"), PLACES)
@pytest.mark.parametrize("victim", ["alice", "bob"])
def test_all_started_again(
    victim: str, hook: str, at: int, tmp_path: Path, undisturbed: tuple[Any, Any]
) -> None:
    first = [host(tmp_path), TinyCollaborator(tmp_path)]
    crashing(first[victim == "bob"], hook, at)
    outcomes = run(*first)
    told = outcomes[victim == "alice"]
    assert isinstance(outcomes[victim == "bob"], CrashError)
    assert isinstance(told, e.PeerLostError)
    assert victim in str(told)
    assert_same(run(host(tmp_path), TinyCollaborator(tmp_path)), undisturbed)


@pytest.mark.parametrize(("hook", "at"), PLACES)
@pytest.mark.parametrize("victim", ["alice", "bob"])
def test_one_started_again_while_the_other_waits(
    victim: str, hook: str, at: int, tmp_path: Path, undisturbed: tuple[Any, Any]
) -> None:
    parties: dict[str, Any] = {
        "alice": host(tmp_path, wait_for_peers=30),
        "bob": TinyCollaborator(tmp_path),
    }
    crashing(parties[victim], hook, at)
    again: list[Any] = []
    original = parties[victim].launch_task

    def launch(task: str) -> Any:
        with pytest.raises(CrashError):
            original(task)
        fresh = host(tmp_path, wait_for_peers=30) if victim == "alice" else None
        again.append(fresh or TinyCollaborator(tmp_path))
        return again[0].launch_task(task)

    parties[victim].launch_task = launch
    assert_same(run(*parties.values()), undisturbed)


def test_several_lost_of_three(tmp_path: Path) -> None:
    def parties(folder: Path, **settings: Any) -> list[Any]:
        names = ["bob", "carol", "dave"]
        return [
            host(folder, collaborators=names, **settings),
            *(TinyCollaborator(folder, name) for name in names),
        ]

    whole = run(*parties(tmp_path / "whole"), task="whole")
    disturbed = parties(tmp_path / "disturbed", wait_for_peers=30)
    for index, (hook, at) in {1: ("on_round_end", 1), 3: ("iterate_test_feature", 3)}.items():
        crashing(disturbed[index], hook, at)
        name = disturbed[index].feature_key

        def launch(
            task: str, original: Any = disturbed[index].launch_task, name: str = name
        ) -> Any:
            with pytest.raises(CrashError):
                original(task)
            return TinyCollaborator(tmp_path / "disturbed", name).launch_task(task)

        disturbed[index].launch_task = launch
    results = run(*disturbed, task="disturbed")
    expected, now = weights(*whole), weights(*results)
    assert now.keys() == expected.keys()
    assert all(torch.equal(now[name], expected[name]) for name in now)
    assert rows(results[0]) == rows(whole[0])


def interrupted(folder: Path, hook: str = "iterate_train_feature", at: int = 5) -> None:
    """Leave a run behind that holds the checkpoint of round 2."""
    outcomes = run(host(folder), crashing(TinyCollaborator(folder), hook, at))
    assert isinstance(outcomes[0], e.PeerLostError), outcomes


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "a/b", ".", "x" * 200, ""])
def test_a_metrics_name_in_a_checkpoint_is_no_path(tmp_path: Path, name: str) -> None:
    """Whoever can write one could else have any CSV cut or removed."""
    interrupted(tmp_path)
    kept = store(tmp_path, "alice")
    for mark, content in [(mark, kept.load(mark)) for mark in kept.marks()]:
        snapshot = snapshots.decode(content)
        snapshot.metrics[name] = (["a"], 0)
        kept.keep(mark, snapshots.encode(snapshot, proven=True))
    outside = tmp_path / "evil.csv"
    outside.write_text("precious")
    outcome, _ = run(host(tmp_path), TinyCollaborator(tmp_path))
    assert isinstance(outcome, e.CheckpointError)
    assert outside.read_text() == "precious"


def test_a_checkpoint_of_another_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr(snapshots, "FORMAT", 1)
        interrupted(tmp_path)
    outcome, _ = run(host(tmp_path), TinyCollaborator(tmp_path))
    assert isinstance(outcome, e.CheckpointError)
    assert "format 1" in str(outcome)
    assert 'resume="never"' in str(outcome)


def store(folder: Path, party: str) -> CheckpointStore:
    return CheckpointStore(folder / "tiny" / party / "resume")


def test_the_last_two_are_kept_and_readable_by_this_user_alone(tmp_path: Path) -> None:
    interrupted(tmp_path, at=7)
    for party in ("alice", "bob"):
        assert store(tmp_path, party).marks() == (Mark(2), Mark(3))
        assert store(tmp_path, party).folder.stat().st_mode & 0o077 == 0


def test_a_run_that_waits_goes_on_without_psi(tmp_path: Path) -> None:
    interrupted(tmp_path)
    results = run(host(tmp_path), TinyCollaborator(tmp_path))
    for result in results:
        assert "psi" not in result.phases
        assert "resume" in result.phases
        assert result.rounds == ROUNDS
        assert result.ids == 40


@pytest.mark.parametrize("victim", ["alice", "bob"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_used(
    victim: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, undisturbed: tuple[Any, Any]
) -> None:
    interrupted(tmp_path, at=7)
    newest = store(tmp_path, victim).folder / "round-3"
    raw = bytearray(newest.read_bytes())
    raw[len(raw) // 2] ^= 1
    newest.write_bytes(raw)
    begun: list[Any] = []
    again = host(tmp_path, callbacks=[begun.append])
    assert_same(run(again, TinyCollaborator(tmp_path)), undisturbed)
    assert any("round-3 is damaged" in each for each in caplog.messages)
    assert any(type(each).__name__ == "Resumed" and each.round == 2 for each in begun)


def test_a_record_that_is_damaged_means_a_new_run(tmp_path: Path) -> None:
    interrupted(tmp_path)
    record = store(tmp_path, "bob").folder / "run"
    record.write_bytes(record.read_bytes()[:-1])
    results = run(host(tmp_path), TinyCollaborator(tmp_path))
    assert all("psi" in each.phases for each in results), results
    assert (tmp_path / "tiny" / "alice.1" / "resume" / "round-2").exists()


def damage(folder: Path, party: str, *names: str) -> None:
    for name in names:
        path = store(folder, party).folder / name
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)


@pytest.mark.parametrize("victim", ["alice", "bob"])
def test_without_a_common_checkpoint_a_new_run_begins(
    victim: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, undisturbed: tuple[Any, Any]
) -> None:
    interrupted(tmp_path, at=7)
    damage(tmp_path, victim, "round-2", "round-3")
    assert_same(run(host(tmp_path), TinyCollaborator(tmp_path)), undisturbed)
    assert any("no checkpoint of the run" in each for each in caplog.messages)
    assert len([each for each in caplog.messages if "is moved aside" in each]) == 2
    for party in ("alice.1", "bob.1"):
        assert (tmp_path / "tiny" / party / "resume" / "round-3").exists()


def test_without_a_common_checkpoint_require_refuses(tmp_path: Path) -> None:
    interrupted(tmp_path, at=7)
    damage(tmp_path, "alice", "round-2", "round-3")
    damage(tmp_path, "bob", "round-2", "round-3")
    outcomes = run(launching(host(tmp_path), "require"), TinyCollaborator(tmp_path))
    refused(outcomes, 0, "not all other parties hold")
    assert not (tmp_path / "tiny" / "alice.1").exists()


# -- refused, with the difference named -----------------------------------------------------


def refused(at: list[Any], party: int, *words: str) -> None:
    culprit, told = at[party], at[1 - party]
    assert type(culprit) is e.ResumeError, repr(culprit)
    for word in words:
        assert word in str(culprit), str(culprit)
    assert isinstance(told, e.ResumeError), repr(told)
    assert isinstance(told, e.TaskAborted)


def test_other_ids(tmp_path: Path) -> None:
    interrupted(tmp_path)

    class Fewer(TinyCollaborator):
        def load_local_ids(self) -> list[str]:
            return IDS[:15:-1]

    refused(run(host(tmp_path), Fewer(tmp_path)), 1, "50 ids then, 44 now")
    assert store(tmp_path, "bob").marks() == (Mark(1), Mark(2))


def test_other_order_of_ids_is_no_difference(tmp_path: Path, undisturbed: tuple[Any, Any]) -> None:
    interrupted(tmp_path)

    class Sorted(TinyCollaborator):
        def load_local_ids(self) -> list[str]:
            return IDS[10:]

    assert_same(run(host(tmp_path), Sorted(tmp_path)), undisturbed)


def test_another_model(tmp_path: Path) -> None:
    interrupted(tmp_path)

    class Wider(TinyHost):
        def make_feature_model(self) -> nn.Module:
            return nn.Linear(2, 5)

    outcomes = run(Wider(tmp_path, max_rounds=ROUNDS, log_rounds=1), TinyCollaborator(tmp_path))
    refused(outcomes, 0, "feature_model", "bias is [5] torch.float32, then [3]")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"max_rounds": 7}, "max_rounds was 4 and is 7"),
        ({"shuffle": True}, "shuffle was False and is True"),
        ({"seed": 1}, "another seed"),
        ({"collaborators": ["bob", "carol"]}, "collaborators was ('bob',)"),
    ],
)
def test_another_plan(changed: dict[str, Any], says: str, tmp_path: Path) -> None:
    interrupted(tmp_path)
    with pytest.raises(e.ResumeError) as caught:
        host(tmp_path, **changed).launch_task("tiny")
    assert says in str(caught.value)
    assert "never" in str(caught.value)
    assert store(tmp_path, "alice").marks() == (Mark(1), Mark(2))


@pytest.mark.parametrize(
    "longer", [{"calculation_timeout": 900}, {"schedule_timeout": 40}, {"wait_for_peers": 45}]
)
def test_how_long_to_wait_may_change(
    longer: dict[str, Any], tmp_path: Path, undisturbed: tuple[Any, Any]
) -> None:
    interrupted(tmp_path)
    bob = TinyCollaborator(tmp_path)
    assert_same(run(host(tmp_path, **longer), bob), undisturbed)
    assert bob._heterofed.run is not None
    ((name, seconds),) = longer.items()
    assert (
        getattr(bob._heterofed.run.agreement.plan, name) == seconds
    )  # what the Host has now holds


def test_other_optimizer_settings_are_pointed_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, undisturbed: tuple[Any, Any]
) -> None:
    interrupted(tmp_path)

    class Faster(TinyCollaborator):
        def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
            return optim.SGD(feature_model.parameters(), lr=0.5)

    assert_same(run(host(tmp_path), Faster(tmp_path)), undisturbed)
    assert any("lr 0.1 (now 0.5)" in each for each in caplog.messages)


def test_a_learning_rate_of_numpy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Rate(TinyCollaborator):
        def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
            momentum: Any = np.float32(0.9)
            return optim.SGD(feature_model.parameters(), lr=np.float64(0.1), momentum=momentum)

    whole = run(host(tmp_path / "whole"), Rate(tmp_path / "whole"))
    run(host(tmp_path), crashing(Rate(tmp_path), "iterate_train_feature", 5))
    results = run(host(tmp_path), Rate(tmp_path))
    expected, now = weights(*whole), weights(*results)
    assert all(torch.equal(now[name], expected[name]) for name in expected)
    assert not any("goes on with the settings it began with" in each for each in caplog.messages)


@pytest.mark.parametrize("late", [False, True])
def test_what_could_not_be_loaded_again_is_refused_at_the_first_checkpoint(
    late: bool, tmp_path: Path
) -> None:
    class Odd(TinyCollaborator):
        def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
            optimizer = super().make_feature_optimizer(feature_model)
            if not late:
                optimizer.param_groups[0]["odd"] = Path()
            return optimizer

        def on_round_end(self) -> None:
            self.feature_optimizer.state["odd"] = Path()

    at_host, at_bob = run(host(tmp_path), Odd(tmp_path))
    assert type(at_bob) is e.ConfigError
    assert "the state of feature_optimizer cannot be kept" in str(at_bob)
    assert isinstance(at_host, e.TaskAborted)
    assert store(tmp_path, "bob").marks() == ((Mark(0),) if late else ())


# -- resume= --------------------------------------------------------------------------------


def launching(scheduler: Any, resume: str) -> Any:
    original = scheduler.launch_task
    scheduler.launch_task = lambda task: original(task, resume=resume)
    return scheduler


def test_never_moves_the_old_run_aside(tmp_path: Path, undisturbed: tuple[Any, Any]) -> None:
    interrupted(tmp_path)
    again = [host(tmp_path), launching(TinyCollaborator(tmp_path), "never")]
    results = run(*again)
    assert_same(results, undisturbed)
    assert all("psi" in each.phases for each in results)
    for party in ("alice.1", "bob.1"):
        assert (tmp_path / "tiny" / party / "resume" / "round-2").exists()


@pytest.mark.parametrize("party", [0, 1])
def test_require_refuses_where_there_is_nothing(party: int, tmp_path: Path) -> None:
    scheduler: Any = (host, TinyCollaborator)[party](tmp_path)
    with pytest.raises(e.ResumeError, match="no unfinished run"):
        scheduler.launch_task("tiny", resume="require")
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize("party", [0, 1])
def test_require_refuses_where_another_party_begins_anew(party: int, tmp_path: Path) -> None:
    interrupted(tmp_path)
    again: list[Any] = [host(tmp_path), TinyCollaborator(tmp_path)]
    launching(again[party], "require")
    launching(again[1 - party], "never")
    refused(run(*again), party, "not all other parties hold")
    assert store(tmp_path, ("alice", "bob")[party]).marks() == (Mark(1), Mark(2))


def test_resume_takes_one_of_three_words(tmp_path: Path) -> None:
    with pytest.raises(e.ConfigError, match="auto, never, require"):
        host(tmp_path).launch_task("tiny", resume="always")  # type: ignore[arg-type]


def test_another_optimizer(tmp_path: Path) -> None:
    interrupted(tmp_path)

    class Other(TinyCollaborator):
        def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
            return optim.Adam(feature_model.parameters(), lr=0.1)

    outcomes = run(host(tmp_path), Other(tmp_path))
    refused(outcomes, 1, "feature_optimizer was SGD and is Adam")


@pytest.mark.parametrize("party", [0, 1])
def test_another_trainability(party: int, tmp_path: Path) -> None:
    interrupted(tmp_path)
    frozen: list[Any] = [{}, {}]
    frozen[party] = {"is_feature_trainable": False}
    outcomes = run(host(tmp_path, **frozen[0]), TinyCollaborator(tmp_path, **frozen[1]))
    refused(outcomes, party, "feature_optimizer was SGD and is none", "is_feature_trainable")


@pytest.mark.parametrize("left", [None, 20])
def test_rows_that_are_gone_are_told_of(
    left: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    interrupted(tmp_path)
    quality = tmp_path / "tiny" / "alice" / "quality.csv"
    kept = quality.read_bytes()[: left or 0]
    quality.unlink() if left is None else quality.write_bytes(kept)
    results = run(host(tmp_path), TinyCollaborator(tmp_path))
    assert all(isinstance(each, TaskResult) for each in results), results
    assert any(f"{quality} is not complete" in each for each in caplog.messages)
    assert b"\0" not in quality.read_bytes()
    assert pd.read_csv(quality)["round"].tolist() == [3, 4]


# -- user state -----------------------------------------------------------------------------


def test_a_model_that_has_no_shape_yet(tmp_path: Path) -> None:
    """A lazy module that no batch has reached has nothing to keep, and is no reason to fail."""

    class Idle(TinyHost):
        def make_infer_model(self) -> nn.Module:
            return nn.ModuleDict({"used": nn.LazyLinear(1), "idle": nn.LazyLinear(1)})

        @property
        def used(self) -> Any:
            return self.infer_model["used"]

        def train_a_batch(self, feature_projection: Any, labels: Any) -> Any:
            output = self.used(torch.cat(list(feature_projection.values()), dim=1)).squeeze(1)
            loss = nn.functional.binary_cross_entropy_with_logits(output, labels)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()

        def make_infer_optimizer(self, infer_model: nn.Module) -> optim.Optimizer:
            return optim.SGD(infer_model["used"].parameters(), lr=0.1)  # type: ignore[index]

        def test(self, *_: Any, **__: Any) -> None:
            pass

    def idle(folder: Path) -> TinyHost:
        return Idle(folder, max_rounds=ROUNDS)

    run(idle(tmp_path / "whole"), TinyCollaborator(tmp_path / "whole"), task="whole")
    run(idle(tmp_path), crashing(TinyCollaborator(tmp_path), "iterate_train_feature", 5))
    results = run(idle(tmp_path), TinyCollaborator(tmp_path))
    assert all(isinstance(each, TaskResult) for each in results), results
    expected, now = (
        (folder / "bob" / "feature_model.pt").read_bytes()
        for folder in (tmp_path / "whole" / "whole", tmp_path / "tiny")
    )
    assert now == expected


class Scheduled(TinyCollaborator):
    """Halves its learning rate each round, by a schedule of its own."""

    def make_feature_optimizer(self, feature_model: nn.Module) -> optim.Optimizer:
        optimizer = super().make_feature_optimizer(feature_model)
        self.schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return optimizer

    def on_round_end(self) -> None:
        self.schedule.step()

    def extra_state(self) -> Any:
        return self.schedule.state_dict()

    def load_extra_state(self, state: Any) -> None:
        self.schedule.load_state_dict(state)


def test_extra_state(tmp_path: Path) -> None:
    whole = run(host(tmp_path / "whole"), Scheduled(tmp_path / "whole"))
    run(host(tmp_path), crashing(Scheduled(tmp_path), "iterate_train_feature", 5))
    again = Scheduled(tmp_path)
    results = run(host(tmp_path), again)
    assert again.schedule.last_epoch == ROUNDS
    expected, now = weights(*whole), weights(*results)
    assert all(torch.equal(now[name], expected[name]) for name in expected)


def test_extra_state_of_what_cannot_be_loaded(tmp_path: Path) -> None:
    class Bad(TinyCollaborator):
        def extra_state(self) -> Any:
            return {"model": nn.Linear(1, 1)}

    at_host, at_collaborator = run(host(tmp_path), Bad(tmp_path))
    assert type(at_collaborator) is e.ConfigError
    assert "extra_state must give tensors and plain values" in str(at_collaborator)
    assert isinstance(at_host, e.TaskAborted)


def test_best_weights_survive(tmp_path: Path) -> None:
    class Marks(TinyHost):
        def test(self, *_: Any, **__: Any) -> None:
            if self.current_round == 1:
                self.mark_best()

    def marking() -> Any:
        return Marks(tmp_path, max_rounds=ROUNDS, log_rounds=1)

    run(marking(), crashing(TinyCollaborator(tmp_path), "iterate_train_feature", 5))
    for result in run(marking(), TinyCollaborator(tmp_path)):
        assert result.models["best_feature_model"].exists()


@pytest.mark.parametrize("marked", [1, 2])
def test_best_weights_of_a_round_that_is_rolled_back_go(
    marked: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In round 3 they were marked, and saved; then round 3 was lost, and is not marked again."""

    class Marks(TinyHost):
        best = (marked, 3)

        def test(self, *_: Any, **__: Any) -> None:
            if self.current_round in self.best:
                self.mark_best()

    settings: Any = {"max_rounds": ROUNDS, "log_rounds": 1}
    run(Marks(tmp_path, **settings), crashing(TinyCollaborator(tmp_path), "on_round_end", 3))
    again = Marks(tmp_path, **settings)
    again.best = (marked, 99)
    for result in run(again, TinyCollaborator(tmp_path)):
        assert isinstance(result, TaskResult)
        assert not [each for each in result.models if each.startswith("best_")]
        assert not list(result.folder.glob("best_*_model.pt"))
    said = [each for each in caplog.messages if f"the best round, {marked}, are gone" in each]
    assert len(said) == 2


def test_drafts_of_a_killed_write_go(tmp_path: Path) -> None:
    """Files that were being written, as `kill -9` leaves them."""
    interrupted(tmp_path)
    code = (
        "import os, sys, pathlib\n"
        "from heterofed.reporting.results import write_whole\n"
        "os.fsync = lambda _: os.kill(os.getpid(), 9)\n"
        "write_whole(pathlib.Path(sys.argv[1]), lambda file: file.write(bytes(1000)))\n"
    )
    folder = tmp_path / "tiny" / "bob"
    for place in (folder / "feature_model.pt", folder / "resume" / "round-3"):
        subprocess.run([sys.executable, "-c", code, str(place)], check=False, timeout=60)
    assert len([*folder.glob(".*"), *(folder / "resume").glob(".*")]) == 2
    results = run(host(tmp_path), TinyCollaborator(tmp_path))
    assert all(isinstance(each, TaskResult) for each in results), results
    assert not list(folder.glob(".*"))


# -- within a round -------------------------------------------------------------------------


class Legs(TinyHost):
    """Batches are those that were agreed."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        agreed = {"batch_size": 8, "checkpoint_batches": 2, "max_rounds": 3, "log_rounds": 1}
        super().__init__(folder, **{**agreed, **settings})
        self.seen: list[tuple[int, int]] = []

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for ids in self.batches(train_ids):
            labels = torch.tensor([float(int(each[3:]) % 2) for each in ids])
            yield feature_model(tiny_rows(ids, 2, 0)), labels

    def train_a_batch(self, feature_projection: Any, labels: Any) -> Any:
        assert self._heterofed.run is not None
        self.seen.append((self.current_round, self._heterofed.run.party.batch or 0))
        return super().train_a_batch(feature_projection, labels)


class LegsCollaborator(TinyCollaborator):
    """Draws dropout masks, so that a batch under another number would show."""

    def make_feature_model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5))

    def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
        for ids in self.batches(train_ids):
            yield feature_model(tiny_rows(ids, 3, 7))


@pytest.mark.parametrize("staleness", [0, 2])
def test_checkpoints_within_rounds(staleness: int, tmp_path: Path) -> None:
    settings: Any = {"max_staleness": staleness, "shuffle": True}
    whole = run(Legs(tmp_path / "whole", **settings), LegsCollaborator(tmp_path / "whole"))
    expected = weights(*whole)
    if staleness == 0:
        settings["checkpoint_batches"] = 0
        plain = run(Legs(tmp_path / "p", **settings), LegsCollaborator(tmp_path / "p"))
        assert all(torch.equal(weights(*plain)[name], expected[name]) for name in expected)
        del settings["checkpoint_batches"]
    first = Legs(tmp_path, **settings)
    crashing(first, "train_a_batch", 8)  # of five batches a round: the third of round 2
    run(first, LegsCollaborator(tmp_path))
    assert store(tmp_path, "alice").marks()[-1] == Mark(1, 2)
    again = Legs(tmp_path, **settings)
    results = run(again, LegsCollaborator(tmp_path))
    assert all(isinstance(each, TaskResult) for each in results), results
    each_round = range(5)  # nothing twice: the list is carried on from the checkpoint
    assert again.seen == [(number, batch) for number in (1, 2, 3) for batch in each_round]
    now = weights(*results)
    assert all(torch.equal(now[name], expected[name]) for name in expected)
    assert rows(results[0]) == rows(whole[0])


def test_means_of_features_are_of_the_whole_round(tmp_path: Path) -> None:
    """They stand for missing rows in predictions: not only of the last leg, nor since a resume."""

    def means(folder: Path) -> torch.Tensor:
        kept = torch.load(folder / "tiny/alice/feature_means.pt", weights_only=True)
        mean: torch.Tensor = kept["bob"]["means"][""]
        return mean

    folders = [tmp_path / name for name in ("whole", "legs", "resumed")]
    for folder, every in zip(folders, (0, 2, 2), strict=True):
        settings: Any = {"max_rounds": 1, "checkpoint_batches": every}
        if folder.name == "resumed":
            first = crashing(Legs(folder, **settings), "train_a_batch", 4)
            run(first, LegsCollaborator(folder))
            assert store(folder, "alice").marks()[-1] == Mark(0, 2)
        results = run(Legs(folder, **settings), LegsCollaborator(folder))
        assert all(isinstance(each, TaskResult) for each in results), results
    whole, legs, resumed = map(means, folders)
    assert torch.equal(whole, legs)
    assert torch.equal(whole, resumed)


def test_legs_need_the_agreed_batches(tmp_path: Path) -> None:
    class Own(Legs):
        def iterate_train_feature(self, *args: Any) -> Iterator[Any]:
            yield from list(super().iterate_train_feature(*args))[:-1]

    class OwnCollaborator(LegsCollaborator):
        def iterate_train_feature(self, *args: Any) -> Iterator[Any]:
            yield from list(super().iterate_train_feature(*args))[:-1]

    at_host, at_bob = run(Own(tmp_path), OwnCollaborator(tmp_path))
    assert type(at_host) is e.ConfigError
    assert "gave 1 batches where 2 were due" in str(at_host)
    assert isinstance(at_bob, e.TaskAborted)
    for settings in ({"batch_size": None}, {"checkpoint_batches": -1}):
        with pytest.raises(e.ConfigError, match="checkpoint_batches"):
            Legs(tmp_path, **settings).launch_task("tiny")


def test_who_flaps_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heterofed.runs.lifecycle.MOST_FUTILE", 3)
    attempts = []

    class Flaps(TinyCollaborator):
        def iterate_train_feature(self, *_: Any) -> Iterator[Any]:
            attempts.append(1)
            self._heterofed.run.party.close(0)  # type: ignore[union-attr]
            yield from super().iterate_train_feature(*_)

    outcomes = run(host(tmp_path, wait_for_peers=30), Flaps(tmp_path))
    assert all(isinstance(each, e.TaskFailed) for each in outcomes), outcomes
    assert 2 <= len(attempts) <= 5


# -- the end --------------------------------------------------------------------------------


def die_before(scheduler: Any, method: str) -> Any:
    """Let the scheduler die when it comes to a step of its training."""

    def die(*_: Any) -> None:
        scheduler._heterofed.run.party.close(0)
        scheduler._heterofed.run.party.abort = lambda *_: None
        raise CrashError

    return training_by(scheduler, **{method: die})


def test_host_killed_after_the_last_checkpoint(
    tmp_path: Path, undisturbed: tuple[Any, Any]
) -> None:
    run(die_before(host(tmp_path), "_finish"), TinyCollaborator(tmp_path))
    assert_same(run(host(tmp_path), TinyCollaborator(tmp_path)), undisturbed)


@pytest.mark.long
def test_killed_between_finish_and_goodbye(tmp_path: Path, undisturbed: tuple[Any, Any]) -> None:
    bob = TinyCollaborator(tmp_path)
    die_before(bob, "_finish")
    at_host, at_bob = run(host(tmp_path), bob)
    assert isinstance(at_host, TaskResult)  # its own part is complete
    assert isinstance(at_bob, CrashError)
    # The Host begins a new run, and tells whom still holds the last checkpoint of the old one.
    again: Any = host(tmp_path, join_timeout=6)
    anew, completed = run(again, TinyCollaborator(tmp_path))
    assert isinstance(anew, e.JoinTimeoutError)
    assert isinstance(completed, TaskResult)
    assert_same([at_host, completed], undisturbed)


def test_a_host_that_waits_hears_the_last_goodbye(
    tmp_path: Path, undisturbed: tuple[Any, Any]
) -> None:
    bob = TinyCollaborator(tmp_path)
    die_before(bob, "_finish")
    original = bob.launch_task

    def launch(task: str) -> Any:
        with pytest.raises(CrashError):
            original(task)
        return TinyCollaborator(tmp_path).launch_task(task)

    bob.launch_task = launch  # type: ignore[method-assign, assignment]
    assert_same(run(host(tmp_path, wait_for_peers=30), bob), undisturbed)


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets a party die in a method of its `Party`, once."""

    def let_die(name: str, method: str, at: int = 1, first: Any = lambda: None) -> None:
        original, calls = getattr(Party, method), iter(range(1, 10_000))

        def call(self: Party, *args: Any) -> Any:
            if self.name == name and next(calls) == at:
                first()
                self.close(0)
                self.abort = lambda *_: None  # type: ignore[method-assign]
                raise CrashError
            return original(self, *args)

        monkeypatch.setattr(Party, method, call)

    return let_die


def both(folder: Path, **settings: Any) -> list[Any]:
    """Alice, who waits for bob and carol, and those two."""
    names = ["bob", "carol"]
    others = [TinyCollaborator(folder, name) for name in names]
    return [host(folder, collaborators=names, **settings), *others]


def soon_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heterofed.runs.unfinished.GOODBYE_SECONDS", 2.0)


def settled(*folders: Path) -> Any:
    """Waits until these parties have ended well."""

    def wait() -> None:
        deadline = time.monotonic() + 60
        while not all((each / "summary.json").exists() for each in folders):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    return wait


@pytest.mark.long
def test_a_host_killed_before_the_goodbyes_does_not_wait_for_them(
    tmp_path: Path, dying: Any, monkeypatch: pytest.MonkeyPatch, undisturbed: tuple[Any, Any]
) -> None:
    soon_gone(monkeypatch)
    dying("alice", "take_leave", first=settled(tmp_path / "tiny" / "bob"))
    crashed, at_bob = run(host(tmp_path), TinyCollaborator(tmp_path))
    assert isinstance(crashed, CrashError)
    (at_host,) = run(host(tmp_path, join_timeout=3600))
    assert_same([at_host, at_bob], undisturbed)


def test_a_complete_host_lets_nobody_in_who_begins_anew(
    tmp_path: Path, dying: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon_gone(monkeypatch)
    ended = settled(tmp_path / "tiny" / "bob", tmp_path / "tiny" / "carol")
    dying("alice", "take_leave", at=2, first=ended)
    crashed, *_ = run(*both(tmp_path))
    assert isinstance(crashed, CrashError)
    first = {path: path.read_bytes() for path in (tmp_path / "tiny").rglob("*_model.pt")}
    at_host, *refused = run(*both(tmp_path))
    assert isinstance(at_host, TaskResult)
    assert [type(each).__name__ for each in refused] == ["TaskFinishedError"] * 2
    assert sorted(each.name for each in (tmp_path / "tiny").iterdir()) == ["alice", "bob", "carol"]
    assert all(path.read_bytes() == before for path, before in first.items())


@pytest.mark.parametrize("waits", [0, 30])
def test_killed_before_the_goodbye_left(
    waits: int,
    tmp_path: Path,
    dying: Any,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: tuple[Any, Any],
) -> None:
    """It knows that the run is complete; a Host that waits for it is told so."""
    soon_gone(monkeypatch)
    dying("bob", "leave")
    bob = TinyCollaborator(tmp_path)
    original = bob.launch_task

    def launch(task: str) -> Any:
        with pytest.raises(CrashError):
            original(task)
        if not waits:
            settled(tmp_path / "tiny" / "alice")()
        return TinyCollaborator(tmp_path).launch_task(task)

    bob.launch_task = launch  # type: ignore[method-assign, assignment]
    results = run(host(tmp_path, wait_for_peers=waits), bob)
    assert_same(results, undisturbed)
    assert results[0].seconds < 25  # the Host was told, and did not wait to the end


def test_who_came_to_say_goodbye_joins_no_new_run(
    tmp_path: Path, dying: Any, undisturbed: tuple[Any, Any]
) -> None:
    dying("bob", "leave")
    _, crashed = run(host(tmp_path), TinyCollaborator(tmp_path))
    assert isinstance(crashed, CrashError)
    shutil.rmtree(tmp_path / "tiny" / "alice")  # it knows nothing of the old run
    told, at_bob = run(host(tmp_path / "elsewhere"), TinyCollaborator(tmp_path))
    assert isinstance(told, e.TaskFinishedError)
    assert isinstance(told, e.TaskAborted)
    assert isinstance(at_bob, TaskResult)
    assert all(torch.equal(each, undisturbed[0][name]) for name, each in weights(at_bob).items())
    assert not (tmp_path / "tiny" / "bob.1").exists()


def test_who_never_says_goodbye_costs_only_the_wait(
    tmp_path: Path, undisturbed: tuple[Any, Any]
) -> None:
    bob = die_before(TinyCollaborator(tmp_path), "_finish")
    at_host, _ = run(host(tmp_path, wait_for_peers=2), bob)
    assert isinstance(at_host, TaskResult)
    assert rows(at_host) == undisturbed[1]


@pytest.mark.parametrize("fusion", ["separate", "masked_sum"])
def test_one_of_several_is_lost_before_its_goodbye(fusion: str, tmp_path: Path) -> None:
    whole = run(*both(tmp_path / "whole", fusion=fusion), task="whole")
    parties = both(tmp_path, fusion=fusion, wait_for_peers=60)
    bob = die_before(parties[1], "_finish")
    original = bob.launch_task

    def launch(task: str) -> Any:
        with pytest.raises(CrashError):
            original(task)
        settled(tmp_path / "tiny" / "carol")()
        return TinyCollaborator(tmp_path).launch_task(task)

    bob.launch_task = launch
    results = run(*parties)
    assert all(isinstance(each, TaskResult) for each in results), results
    expected, now = weights(*whole), weights(*results)
    assert all(torch.equal(now[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("victim", "how"), [("host", "torn"), ("collaborator", "torn"), ("collaborator", "mute")]
)
def test_killed_processes_in_places_that_matter(
    victim: str, how: str, parties: Parties, tmp_path: Path, undisturbed: tuple[Any, Any]
) -> None:
    """While a checkpoint is written, and between the last file and the goodbye."""

    def start(role: str, *what: str) -> Any:
        return parties.start("-m", "tests.e2e.tiny", role, "tiny", str(tmp_path), "patient", *what)

    (other,) = {"host", "collaborator"} - {victim}
    killed, waiting = start(victim, how), start(other)
    assert killed.wait() == -signal.SIGKILL, killed.output
    folder = tmp_path / "tiny" / ("alice" if victim == "host" else "bob")
    if how == "torn":
        assert len(list((folder / "resume").glob(".heterofed-*.draft"))) == 1
        assert (folder / "resume" / "round-2").exists()
    else:
        assert (folder / "resume" / "finished").exists()
    again = start(victim)
    assert again.wait() == 0, again.output
    assert waiting.wait(50) == 0, waiting.output
    if how == "torn":
        assert "going on from round 2" in again.output
    found = {
        f"{party}.{path.stem}.{name}": tensor
        for party in ("alice", "bob")
        for path in (tmp_path / "tiny" / party).glob("*_model.pt")
        for name, tensor in torch.load(path, weights_only=True).items()
    }
    assert found.keys() == undisturbed[0].keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in undisturbed[0].items())
    for name in ("quality", "train"):
        assert (tmp_path / "tiny" / "alice" / f"{name}.csv").read_text() == undisturbed[1][name]


# -- clean endings --------------------------------------------------------------------------


@pytest.mark.long
def test_a_full_disk_ends_the_task_by_name_and_loses_nothing(
    parties: Parties, tmp_path: Path
) -> None:
    host_process = parties.start("-m", "tests.e2e.tiny", "host", "tiny", str(tmp_path), "slow")
    full = ["collaborator", "tiny", str(tmp_path), "full"]
    collaborator = parties.start("-m", "tests.e2e.tiny", *full)
    collaborator.wait_for("full")
    assert collaborator.wait(30) == 1
    assert host_process.wait(30) == 1
    # Its own log was cut short by the limit as well; the Host says it.
    assert "CheckpointError: bob ended the task in phase checkpoint, round 2" in host_process.output
    assert store(tmp_path, "bob").marks() == (Mark(0), Mark(1))
    assert store(tmp_path, "alice").marks() == (Mark(1), Mark(2))


@pytest.mark.parametrize(
    ("party", "name"),
    [
        ("alice", "train.csv"),
        ("alice", "quality.csv"),
        ("alice", "best_infer_model.pt"),
        ("alice", "infer_model.pt"),
        ("alice", "summary.json"),
    ],
)
def test_results_that_cannot_be_written_lose_nothing(
    party: str, name: str, tmp_path: Path, undisturbed: tuple[Any, Any]
) -> None:
    """A folder stands where the file belongs; a full disk fails at the same places."""
    taken = tmp_path / "tiny" / party / name
    aside = tmp_path / name

    class Marks(TinyHost):
        def on_round_end(self) -> None:
            if self.current_round == 2:
                if taken.exists():
                    taken.rename(aside)
                taken.mkdir()

        @register_metrics(name="quality", keys=["accuracy"])
        def test(self, *args: Any, **kwargs: Any) -> None:
            super().test(*args, **kwargs)
            if self.current_round == 3 and name.startswith("best_"):
                self.mark_best()

    def started(role: str) -> Any:
        settings: Any = {"max_rounds": ROUNDS, "log_rounds": 1}
        return Marks(tmp_path, **settings) if role == "alice" else TinyCollaborator(tmp_path)

    outcomes = run(started("alice"), started("bob"))
    culprit, told = outcomes if party == "alice" else outcomes[::-1]
    assert type(culprit) is e.ResultsError, repr(culprit)
    assert f"{taken} cannot be written" in str(culprit)
    taken.rmdir()
    if aside.exists():
        aside.rename(taken)
    if isinstance(told, TaskResult):  # its own part was complete, and so was the culprit's
        (culprit,) = run(started(party))
        outcomes = [culprit, told] if party == "alice" else [told, culprit]
    else:
        assert isinstance(told, e.ResultsError)
        outcomes = run(started("alice"), started("bob"))
    for each in outcomes:
        for model in [name for name in getattr(each, "models", {}) if name.startswith("best_")]:
            del each.models[model]
    assert_same(outcomes, undisturbed)


def test_what_a_hook_raised_comes_out_whatever_the_checkpoints_say(tmp_path: Path) -> None:
    class Fails(TinyCollaborator):
        def on_round_end(self) -> None:
            if self.current_round == 2:
                checkpoint = store(tmp_path, "bob").folder / "round-1"
                checkpoint.unlink()
                checkpoint.mkdir()  # cannot be read
                raise ValueError("mine")

    at_host, at_bob = run(host(tmp_path), Fails(tmp_path))
    assert type(at_bob) is ValueError
    assert isinstance(at_host, e.HookFailedError)


def test_a_results_folder_that_is_gone(tmp_path: Path) -> None:
    class Removed(TinyCollaborator):
        def on_round_end(self) -> None:
            if self.current_round == 2:
                shutil.rmtree(tmp_path / "tiny" / "bob")

    at_host, at_bob = run(host(tmp_path), Removed(tmp_path))
    assert type(at_bob) is e.CheckpointError
    assert "cannot be written" in str(at_bob)
    assert isinstance(at_host, e.CheckpointError)
    assert store(tmp_path, "alice").marks() == (Mark(1), Mark(2))


@pytest.mark.parametrize("hook", ["iterate_train_feature", "iterate_test_feature", "on_round_end"])
def test_out_of_memory(hook: str, tmp_path: Path, undisturbed: tuple[Any, Any]) -> None:
    def fail(*_: Any) -> Any:
        if bob.current_round == 2:
            raise MemoryError
        return original(*_)

    bob: Any = TinyCollaborator(tmp_path)
    original = getattr(bob, hook)
    setattr(bob, hook, fail)
    at_host, at_bob = run(host(tmp_path), bob)
    assert type(at_bob) is MemoryError
    assert isinstance(at_host, e.HookFailedError)
    assert_same(run(host(tmp_path), TinyCollaborator(tmp_path)), undisturbed)


def test_a_second_interrupt_ends_at_once(parties: Parties, tmp_path: Path) -> None:
    host_process = parties.start("-m", "tests.e2e.tiny", "host", "tiny", str(tmp_path), "slow")
    other = parties.start("-m", "tests.e2e.tiny", "collaborator", "tiny", str(tmp_path))
    host_process.wait_for("batch 2", 100)
    host_process.interrupt()
    began = time.monotonic()
    while time.monotonic() - began < 0.3:
        time.sleep(0.02)
        host_process.interrupt()
    host_process.wait(10)
    assert other.wait(20) == 1
    assert "alice" in other.output


# -- while others wait ----------------------------------------------------------------------


@pytest.mark.long
def test_nobody_waits_for_ever(tmp_path: Path) -> None:
    bob = crashing(TinyCollaborator(tmp_path), "iterate_train_feature", 2)
    carol = TinyCollaborator(tmp_path, "carol")
    names = ["bob", "carol"]
    # Long enough that carol, who is waited for too, is back by then on a busy machine.
    alice = host(tmp_path, collaborators=names, wait_for_peers=10)
    at_host, _, at_carol = run(alice, bob, carol, timeout=100)
    assert type(at_host) is e.JoinTimeoutError
    assert "bob" in str(at_host)
    assert "carol" not in str(at_host)
    assert isinstance(at_carol, e.JoinTimeoutError)


@pytest.mark.long
def test_who_comes_back_with_nothing_is_turned_away(tmp_path: Path) -> None:
    waiting = threading.Event()

    def note(event: Any) -> None:
        if isinstance(event, PartyLost):
            waiting.set()

    bob = crashing(TinyCollaborator(tmp_path), "iterate_train_feature", 5)
    original = bob.launch_task

    def launch(task: str) -> Any:
        with pytest.raises(CrashError):
            original(task)
        assert waiting.wait(60)
        return TinyCollaborator(tmp_path / "elsewhere").launch_task(task)

    bob.launch_task = launch
    alice = host(tmp_path, wait_for_peers=20, callbacks=[note])
    at_host, at_bob = run(alice, bob, timeout=100)
    assert isinstance(at_bob, e.ResumeError), repr(at_bob)
    assert "holds none" in str(at_bob)
    assert isinstance(at_host, e.JoinTimeoutError)


def test_a_host_that_comes_back_with_nothing_begins_anew(
    tmp_path: Path, undisturbed: tuple[Any, Any]
) -> None:
    alice = crashing(host(tmp_path, wait_for_peers=60), "iterate_train_feature", 5)
    original = alice.launch_task

    def launch(task: str) -> Any:
        with pytest.raises(CrashError):
            original(task)
        return host(tmp_path / "elsewhere", wait_for_peers=60).launch_task(task)

    alice.launch_task = launch
    assert_same(run(alice, TinyCollaborator(tmp_path), timeout=100), undisturbed)
    assert (tmp_path / "tiny" / "bob.1" / "resume" / "round-2").exists()


def test_csv_rows_appear_once_and_in_order(tmp_path: Path) -> None:
    class Twice(TinyHost):
        def iterate_test_feature(self, feature_model: Any, test_ids: list[str]) -> Iterator[Any]:
            yield from super().iterate_test_feature(feature_model, test_ids)

    settings: Any = {"max_rounds": ROUNDS, "log_rounds": 1}
    first = crashing(Twice(tmp_path, **settings), "on_round_end", 3)  # after the rows of round 3
    run(first, TinyCollaborator(tmp_path))
    result, _ = run(Twice(tmp_path, **settings), TinyCollaborator(tmp_path))
    leaks = pd.read_csv(result.metrics.pop("leakage"))  # of rounds in which there was time
    assert leaks["round"].is_monotonic_increasing
    assert not leaks.duplicated(["round", "attack"]).any()
    for path in result.metrics.values():
        assert pd.read_csv(path)["round"].tolist() == [1, 2, 3, 4]
