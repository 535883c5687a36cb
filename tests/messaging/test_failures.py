"""What goes wrong ends the task at every party, by name, soon, and with a remedy."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from heterofed import ConfigError, HeteroFedError, TaskAborted
from heterofed import errors as e
from tests.e2e.processes import Parties
from tests.e2e.tiny import IDS, TinyCollaborator, TinyHost, run, slow_batches

pytestmark = pytest.mark.usefixtures("home")


def both(host: Any, collaborator: Any) -> tuple[Any, Any]:
    at_host, at_collaborator = run(host, collaborator)
    return at_host, at_collaborator


class LateCollaborator(TinyCollaborator):
    def validate_context(self) -> None:
        time.sleep(1.5)
        super().validate_context()


def assert_told(error: BaseException, kind: type[e.TaskFailed], *words: str) -> None:
    """The error of a party that is not at fault."""
    assert isinstance(error, kind), repr(error)
    assert isinstance(error, TaskAborted), repr(error)
    for word in words:
        assert word in str(error), str(error)


# -- ids and splits -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([], "no id"),
        (["a", "b", "a", "c", "b"], "2 ids more than once (positions 0, 1, 2, 4)"),
        (["a", 7], "position 1 is a int"),
        (["a", "\ud800"], "lone surrogate"),
        ("abc", "list of str"),
        (7, "list of str"),
    ],
)
def test_bad_ids(ids: Any, says: str, tmp_path: Path) -> None:
    class Bad(TinyCollaborator):
        def load_local_ids(self) -> Any:
            return ids

    at_host, at_collaborator = both(TinyHost(tmp_path), Bad(tmp_path))
    assert type(at_collaborator) is e.IdError
    assert says in str(at_collaborator)
    assert_told(at_host, e.IdError, "bob", "prepare")


def test_empty_intersection(tmp_path: Path) -> None:
    class Other(TinyCollaborator):
        def load_local_ids(self) -> list[str]:
            return ["elsewhere"]

    at_host, at_collaborator = both(TinyHost(tmp_path), Other(tmp_path))
    assert type(at_host) is e.EmptyIntersectionError
    assert_told(at_collaborator, e.EmptyIntersectionError, "alice", "psi")


def test_different_splits(tmp_path: Path) -> None:
    class Other(TinyCollaborator):
        def split_dataset(self, id_intersection: set[str]) -> Any:
            ids = list(id_intersection)
            return set(ids[:5]), set(ids[5:])

    at_host, at_collaborator = both(TinyHost(tmp_path), Other(tmp_path))
    assert type(at_collaborator) is e.SplitMismatchError
    assert_told(at_host, e.SplitMismatchError, "bob", "split")


@pytest.mark.parametrize("empty", ["train", "test"])
def test_empty_split(empty: str, tmp_path: Path) -> None:
    class Other(TinyHost):
        def split_dataset(self, id_intersection: set[str]) -> Any:
            ids = set(id_intersection)
            return (set(), ids) if empty == "train" else (ids, set())

    at_host, at_collaborator = both(Other(tmp_path), TinyCollaborator(tmp_path))
    assert type(at_host) is e.EmptySplitError
    assert f"no {empty} ids" in str(at_host)
    assert_told(at_collaborator, e.EmptySplitError, "alice")


# -- rows and batches -----------------------------------------------------------------------


def test_other_batch_size(tmp_path: Path) -> None:
    stepped = []

    class Counts(TinyHost):
        def train_a_batch(self, *args: Any, **kwargs: Any) -> Any:
            stepped.append(1)
            return super().train_a_batch(*args, **kwargs)

    collaborator = TinyCollaborator(tmp_path)
    collaborator.batch = 10_000
    at_host, at_collaborator = both(Counts(tmp_path), collaborator)
    assert type(at_host) is e.RowCountError
    assert isinstance(at_host, e.AlignmentError)
    assert "at bob and 16 at alice" in str(at_host)
    assert_told(at_collaborator, e.AlignmentError, "bob", "round 1", "batch 0", "16")
    assert at_host.numbers == at_collaborator.numbers
    assert not stepped


@pytest.mark.parametrize("short", ["host", "collaborator"])
def test_other_batch_count(short: str, tmp_path: Path) -> None:
    def drop_last(scheduler: Any) -> None:
        original = scheduler.iterate_train_feature

        def iterate(feature_model: Any, train_ids: list[str]) -> Iterator[Any]:
            whole = (len(train_ids) - 1) // scheduler.batch * scheduler.batch
            yield from original(feature_model, train_ids[:whole])

        scheduler.iterate_train_feature = iterate

    host, collaborator = TinyHost(tmp_path), TinyCollaborator(tmp_path)
    drop_last(host if short == "host" else collaborator)
    at_host, at_collaborator = both(host, collaborator)
    assert type(at_host) is e.BatchCountError
    assert "bob" in str(at_host)
    assert_told(at_collaborator, e.BatchCountError, "round 1")


# -- what hooks yield -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "kind", "says"),
    [
        (None, e.FeatureError, "no features"),
        ("features", e.FeatureError, "yielded a str"),
        (torch.zeros(16, 2, dtype=torch.complex64), e.FeatureError, "complex64 cannot be sent"),
        (torch.tensor(1.0), e.FeatureError, "0 dimensions"),
        ((torch.zeros(16, 2), torch.zeros(15, 2)), e.FeatureError, "row counts [15, 16]"),
        ({"a": 3}, e.FeatureError, "is not a tensor"),
        ({}, e.FeatureError, "0 tensors"),
        (torch.full((16, 2), float("nan")), e.NonFiniteError, "NaN"),
    ],
)
def test_bad_features(item: Any, kind: type[e.TaskFailed], says: str, tmp_path: Path) -> None:
    class Bad(TinyCollaborator):
        def iterate_train_feature(self, *_: Any) -> Iterator[Any]:
            yield item

    at_host, at_collaborator = both(TinyHost(tmp_path), Bad(tmp_path))
    assert type(at_collaborator) is kind
    assert says in str(at_collaborator)
    assert "round 1, batch 0" in at_collaborator.__notes__[-1]
    assert_told(at_host, kind, "bob", "phase train, round 1")


@pytest.mark.parametrize("returned", [None, torch.ones(16, 3), {"a": torch.ones(16, 3)}])
def test_not_a_generator(returned: Any, tmp_path: Path) -> None:
    """A tensor has rows to iterate over, which are no batches."""

    class Bad(TinyHost):
        def iterate_train_feature(self, *_: Any) -> Any:
            return returned

    at_host, at_collaborator = both(Bad(tmp_path), TinyCollaborator(tmp_path))
    assert type(at_host) is ConfigError
    assert "must be a generator" in str(at_host)
    assert isinstance(at_collaborator, TaskAborted)


def test_host_without_labels(tmp_path: Path) -> None:
    class Bad(TinyHost):
        def iterate_train_feature(self, *_: Any) -> Iterator[Any]:
            yield torch.zeros(16, 2)

    at_host, _ = both(Bad(tmp_path), TinyCollaborator(tmp_path))
    assert type(at_host) is e.FeatureError
    assert "(features, labels)" in str(at_host)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("role", "hook", "phase"),
    [
        ("host", "load_local_ids", "prepare"),
        ("host", "make_infer_model", "prepare"),
        ("host", "split_dataset", "split"),
        ("host", "train_a_batch", "train"),
        ("host", "test", "test"),
        ("host", "is_task_finished", "test"),
        ("host", "on_round_end", "checkpoint"),
        ("collaborator", "load_local_ids", "prepare"),
        ("collaborator", "make_feature_optimizer", "prepare"),
        ("collaborator", "split_dataset", "split"),
        ("collaborator", "iterate_train_feature", "train"),
        ("collaborator", "update_feature_model", "train"),
        ("collaborator", "iterate_test_feature", "test"),
        ("collaborator", "on_round_end", "checkpoint"),
    ],
)
def test_exception_in_a_hook(role: str, hook: str, phase: str, tmp_path: Path) -> None:
    class SecretError(Exception):
        pass

    def fail(*_: Any, **__: Any) -> Any:
        raise SecretError("patient 4711")

    host: Any = TinyHost(tmp_path)
    collaborator: Any = TinyCollaborator(tmp_path)
    setattr(host if role == "host" else collaborator, hook, fail)
    outcomes = both(host, collaborator)
    culprit, told = outcomes if role == "host" else reversed(outcomes)
    assert type(culprit) is SecretError
    assert culprit.args == ("patient 4711",)
    assert any(hook in note for note in culprit.__notes__)
    assert any(f"phase {phase}" in note for note in culprit.__notes__)
    name = "alice" if role == "host" else "bob"
    assert_told(told, e.HookFailedError, name, f"phase {phase}")
    assert "4711" not in str(told)


@pytest.mark.parametrize("hook", ["train_a_batch", "test"])
def test_a_hook_that_fails_tells_what_features_came(hook: str, tmp_path: Path) -> None:
    class Picky(TinyHost):
        pass

    def fail(_self: Any, feature_projection: Any = (), *_: Any, **given: Any) -> Any:
        for each in given.get("batched_feature_projections", [feature_projection]):
            each.clear()
        raise KeyError(3)

    class Odd(TinyCollaborator):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Any:
            for each in super().iterate_train_feature(feature_model, train_ids):
                yield {"a": each, "b": torch.ones(len(each), 2, 1, dtype=torch.int64)}

    if hook == "test":
        Picky.train_a_batch = lambda *_: None  # type: ignore[method-assign]
    setattr(Picky, hook, fail)
    at_host, _ = both(Picky(tmp_path), Odd(tmp_path))
    assert type(at_host) is KeyError
    rows = 16 if hook == "train_a_batch" else 7
    assert (
        f"heterofed: the features given were alice: float32 [{rows}, 3];"
        f" bob: a float32 [{rows}, 4], b int64 [{rows}, 2, 1]"
    ) in at_host.__notes__


def test_wrong_metrics_keys(tmp_path: Path) -> None:
    class Bad(TinyHost):
        def on_round_end(self) -> None:
            self.get_metrics("quality").append_metrics_item({"acc": 1})

    at_host, _ = both(Bad(tmp_path), TinyCollaborator(tmp_path))
    assert type(at_host) is ConfigError
    assert "missing ['accuracy'], unknown ['acc']" in str(at_host)


# -- who is there ---------------------------------------------------------------------------


@pytest.mark.slow
def test_host_alone(tmp_path: Path) -> None:
    (outcome,) = run(TinyHost(tmp_path, join_timeout=1.5))
    assert type(outcome) is e.JoinTimeoutError
    assert "1 more Collaborator" in str(outcome)
    assert [each.name for each in (tmp_path / "tiny").glob("*/*")] == ["status.json"]


@pytest.mark.slow
def test_host_names_who_is_missing(tmp_path: Path) -> None:
    host = TinyHost(tmp_path, join_timeout=4, collaborators=["bob", "carol"])
    at_host, at_collaborator = both(host, TinyCollaborator(tmp_path))
    assert type(at_host) is e.JoinTimeoutError
    assert "carol" in str(at_host)
    assert "bob" not in str(at_host)
    assert_told(at_collaborator, e.JoinTimeoutError)


@pytest.mark.slow
def test_collaborator_alone(tmp_path: Path) -> None:
    (outcome,) = run(TinyCollaborator(tmp_path, join_timeout=1.5))
    assert type(outcome) is e.JoinTimeoutError
    assert "the Host" in str(outcome)
    assert [each.name for each in (tmp_path / "tiny").glob("*/*")] == ["status.json"]


@pytest.mark.slow
def test_stranger_is_turned_away(tmp_path: Path) -> None:
    host, mallory = TinyHost(tmp_path, collaborators=["bob"]), TinyCollaborator(tmp_path, "mallory")
    outcomes = run(host, mallory, LateCollaborator(tmp_path))
    assert_told(outcomes[1], e.StrangerError, "collaborators")
    assert (outcomes[0].rounds, outcomes[2].rounds) == (2, 2)


@pytest.mark.slow
def test_same_key_twice(tmp_path: Path) -> None:
    twins = TinyCollaborator(tmp_path, name="one"), TinyCollaborator(tmp_path, name="two")
    for twin in twins:
        slow_batches(twin)
    outcomes = run(TinyHost(tmp_path, max_rounds=20), *twins)
    assert outcomes[0].rounds == 20
    refused = [each for each in outcomes[1:] if isinstance(each, BaseException)]
    assert len(refused) == 1
    assert_told(refused[0], e.DuplicatePartyError)


@pytest.mark.slow
def test_collaborator_with_the_hosts_key(tmp_path: Path) -> None:
    outcomes = run(
        TinyHost(tmp_path, join_timeout=3), TinyCollaborator(tmp_path, "alice", name="b")
    )
    assert_told(outcomes[1], e.DuplicatePartyError)
    assert type(outcomes[0]) is e.JoinTimeoutError


def test_second_host_is_refused(tmp_path: Path) -> None:
    outcomes = run(
        TinyHost(tmp_path, name="one"), TinyHost(tmp_path, name="two"), TinyCollaborator(tmp_path)
    )
    refused = [each for each in outcomes if isinstance(each, BaseException)]
    assert len(refused) == 1
    assert type(refused[0]) is ConfigError
    assert "only one at a time can listen for a task" in str(refused[0])


def test_results_folder_is_in_use(tmp_path: Path) -> None:
    outcomes = run(
        TinyHost(tmp_path),
        TinyCollaborator(tmp_path),
        TinyCollaborator(tmp_path, "carol", name="bob"),
    )
    refused = [each for each in outcomes if isinstance(each, BaseException)]
    assert len(refused) == 1
    assert "another process writes" in str(refused[0])


@pytest.mark.long
def test_late_stranger_is_turned_away_too(tmp_path: Path) -> None:
    class Later(TinyCollaborator):
        def validate_context(self) -> None:
            assert bobs_turn.wait(60)
            super().validate_context()

    class Bob(TinyCollaborator):
        def load_local_ids(self) -> list[str]:
            bobs_turn.set()  # everybody is there
            return super().load_local_ids()

    bobs_turn = threading.Event()
    host, mallory = TinyHost(tmp_path, max_rounds=20), Later(tmp_path, "mallory")
    bob = Bob(tmp_path)
    slow_batches(bob, pause=0.1)
    outcomes = run(host, mallory, bob)
    assert_told(outcomes[1], e.DuplicatePartyError)
    assert (outcomes[0].rounds, outcomes[2].rounds) == (20, 20)


@pytest.mark.slow
def test_parties_may_come_in_either_order(tmp_path: Path) -> None:
    class Late(TinyHost):
        def validate_context(self) -> None:
            time.sleep(1.5)
            super().validate_context()

    at_host, at_collaborator = both(Late(tmp_path), TinyCollaborator(tmp_path))
    assert (at_host.rounds, at_collaborator.rounds) == (2, 2)


# -- settings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_rounds": 0}, "max_rounds=0"),
        ({"max_rounds": 1.5}, "max_rounds=1.5"),
        ({"log_rounds": -1}, "log_rounds=-1"),
        ({"seed": "x"}, "seed='x'"),
        ({"calculation_timeout": -1}, "calculation_timeout=-1"),
        ({"schedule_timeout": 0}, "schedule_timeout=0"),
        ({"data_channel_timeout": (30,)}, "data_channel_timeout"),
        ({"join_timeout": "soon"}, "join_timeout='soon'"),
        ({"psi_bits": 1024}, "psi_bits=1024"),
        ({"psi_protocol": "dh"}, "psi_protocol='dh'"),
        ({"collaborators": 0}, "collaborators=0"),
        ({"collaborators": []}, "collaborators"),
        ({"collaborators": ["bob", "bob"]}, "unique"),
        ({"feature_key": "../alice"}, "feature_key"),
        ({"feature_key": ""}, "feature_key"),
        ({"name": "a/b"}, "name 'a/b'"),
    ],
)
def test_bad_settings(settings: dict[str, Any], says: str, tmp_path: Path) -> None:
    host = TinyHost(tmp_path, **settings)
    with pytest.raises(ConfigError) as caught:
        host.launch_task("tiny")
    assert says in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("task", ["", "a/b", "..", 7, "a\nb", "x" * 129])
def test_bad_task_id(task: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="task_id"):
        TinyHost(tmp_path).launch_task(task)


def test_unwritable_results_dir(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    folder = Path("/proc") if os.geteuid() == 0 else tmp_path  # root may write nearly everywhere
    with pytest.raises(ConfigError, match=r"cannot be written.*give another results_dir"):
        TinyHost(folder / "results").launch_task("tiny")


def test_results_dir_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("mine")
    with pytest.raises(ConfigError, match="cannot be written"):
        TinyHost(tmp_path / "results").launch_task("tiny")
    assert (tmp_path / "results").read_text() == "mine"


def test_missing_hooks_are_named(tmp_path: Path) -> None:
    from heterofed import HeteroNNHostScheduler

    class Bare(HeteroNNHostScheduler):
        pass

    with pytest.raises(TypeError, match=r"Bare .*make_feature_model.*test"):
        Bare("alice")  # type: ignore[abstract]


def test_home_with_too_long_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETEROFED_HOME", str(tmp_path / ("x" * 100)))
    with pytest.raises(ConfigError, match="HETEROFED_HOME"):
        TinyHost(tmp_path).launch_task("tiny")


# -- processes ------------------------------------------------------------------------------


def start_slow(parties: Parties, results: Path) -> tuple[Any, Any]:
    host, collaborator = (
        parties.start("-m", "tests.e2e.tiny", role, "tiny", str(results), "slow")
        for role in ("host", "collaborator")
    )
    host.wait_for("batch 2")
    return host, collaborator


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["host", pytest.param("collaborator", marks=pytest.mark.slow)])
def test_kill_9(victim: str, parties: Parties, tmp_path: Path) -> None:
    host, collaborator = start_slow(parties, tmp_path)
    dead, alive = (host, collaborator) if victim == "host" else (collaborator, host)
    dead.kill()
    began = time.monotonic()
    assert alive.wait(60) == 1
    assert time.monotonic() - began < 25  # 15 s to notice, 10 s to end
    assert "PeerLostError" in alive.output
    assert ("alice" if victim == "host" else "bob") in alive.output
    assert "phase train" in alive.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "how", "code"),
    [
        ("collaborator", "terminate", 128 + signal.SIGTERM),
        pytest.param("host", "interrupt", -signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("host", "terminate", 128 + signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("collaborator", "interrupt", -signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_signals(victim: str, how: str, code: int, parties: Parties, tmp_path: Path) -> None:
    host, collaborator = start_slow(parties, tmp_path)
    stopped, other = (host, collaborator) if victim == "host" else (collaborator, host)
    getattr(stopped, how)()
    assert stopped.wait(30) == code
    assert other.wait(30) == 1
    assert "InterruptedTaskError" in other.output
    assert f"{'alice' if victim == 'host' else 'bob'} ended the task in phase train" in other.output


def test_every_heterofed_error_is_in_one_tree() -> None:
    for code, kind in e.BY_CODE.items():
        assert issubclass(kind, HeteroFedError)
        told = e.aborted(code)
        assert issubclass(told, kind)
        assert issubclass(told, TaskAborted)
    assert e.aborted("unheard of") is TaskAborted
    assert IDS
