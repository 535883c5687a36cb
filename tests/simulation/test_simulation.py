"""A simulated task is the task of separate processes: messages, bytes, weights."""

from __future__ import annotations

import json
import math
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import heterofed
from heterofed import ConfigError, simulate
from heterofed.errors import EmptyIntersectionError, JoinTimeoutError
from heterofed.hetero_nn.psi import RSAPSICollaboratorScheduler, RSAPSIInitiatorScheduler
from heterofed.protocol.messages import Features, Gradients
from tests.e2e.processes import Parties
from tests.e2e.tiny import IDS, TinyCollaborator, TinyHost, rows

BATCHES = {"train": 6, "test": 2}

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]


def test_simulated_and_separate_processes_are_the_same(parties: Parties, tmp_path: Path) -> None:
    started = [
        parties.start("-m", "tests.e2e.tiny", role, "apart", str(tmp_path), "ecdh")
        for role in ("host", "collaborator")
    ]
    host = TinyHost(tmp_path, psi_protocol="ecdh")  # RSA's keys differ in how their numbers travel
    done = simulate(host, [TinyCollaborator(tmp_path)], task_id="together")
    for each in started:
        assert each.wait() == 0, each.output
    for party, result in done.results.items():
        folder = tmp_path / "apart" / party
        for name, path in result.models.items():
            theirs = torch.load(folder / f"{name}.pt", weights_only=True)
            for key, value in torch.load(path, weights_only=True).items():
                assert torch.equal(value, theirs[key]), (party, key)
    for name in ("train", "quality"):
        apart, together = (
            pd.read_csv(tmp_path / task / "alice" / f"{name}.csv") for task in ("apart", "together")
        )
        pd.testing.assert_frame_equal(apart, together, check_exact=True)
    for party, result in done.results.items():
        summary = json.loads((tmp_path / "apart" / party / "summary.json").read_text())
        assert summary["rounds"] == result.rounds == 2
        for phase, cost in summary["phases"].items():
            # Each Features says how long it took, in a number of 1 to 5 bytes.
            slack = 4 * BATCHES[phase] if phase in BATCHES else 0
            assert abs(cost["bytes_sent"] - result.phases[phase].bytes_sent) <= slack, phase
        for total in ("bytes_sent", "bytes_received"):
            assert abs(summary[total] - getattr(result, total)) <= 4 * sum(BATCHES.values())


def test_what_each_party_received_holds_no_column_and_no_label(tmp_path: Path) -> None:
    done = simulate(TinyHost(tmp_path), [TinyCollaborator(tmp_path)], task_id="tiny")
    assert list(done.results) == ["alice", "bob"]
    kinds = {key: {type(each.message) for each in got} for key, got in done.received.items()}
    assert Features in kinds["alice"] and Gradients in kinds["bob"]  # noqa: PT018
    assert {each.sender for each in done.received["alice"]} == {"bob"}
    assert {each.sender for each in done.received["bob"]} == {"alice"}
    features = [each for each in done.received["alice"] if isinstance(each.message, Features)]
    assert all(each.tensors()[""].shape[1] == 4 for each in features)
    assert done.received["alice"][0].tensors() == {}
    columns = [rows(IDS, 3, 7), rows(IDS, 2, 0)]
    for got in done.received.values():
        seen = b"".join(each.payload for each in got)
        for table in columns:
            for column in table.T:
                assert all(value.numpy().tobytes() not in seen for value in column[:5])
        assert not any(each.encode() in seen for each in IDS)


def test_parties_are_as_alone_with_their_random_numbers(tmp_path: Path) -> None:
    drawn: dict[str, list[Any]] = {}

    def draw() -> list[Any]:
        return [torch.rand(1).item(), float(np.random.rand()), random.random()]

    class Host(TinyHost):
        def load_local_ids(self) -> list[str]:
            drawn["host"] = draw()
            return super().load_local_ids()

        def on_round_end(self) -> None:
            drawn["host"] += draw()

    class Collaborator(TinyCollaborator):
        def load_local_ids(self) -> list[str]:
            drawn["collaborator"] = draw()
            return super().load_local_ids()

        def on_round_end(self) -> None:
            drawn["collaborator"] += draw()

    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    done = simulate(Host(tmp_path), [Collaborator(tmp_path)], task_id="tiny")
    assert done.results["alice"].rounds == 2
    after = [draw() for _ in range(3)]
    assert drawn["host"] == drawn["collaborator"] == [*after[0], *after[1], *after[2]]


def test_three_parties_and_only_one_at_a_time(tmp_path: Path) -> None:
    running: list[str] = []
    most = 0

    def busy(base: Any) -> Any:
        class Busy(base):  # type: ignore[misc]
            def make_feature_model(self) -> nn.Module:
                nonlocal most
                running.append(self.feature_key)
                most = max(most, len(running))
                time.sleep(0.05)
                running.remove(self.feature_key)
                return super().make_feature_model()  # type: ignore[no-any-return]

        return Busy

    done = simulate(
        busy(TinyHost)(tmp_path, collaborators=["carol", "bob"]),
        [busy(TinyCollaborator)(tmp_path, key) for key in ("bob", "carol")],
        task_id="tiny",
    )
    assert most == 1
    assert {each.rounds for each in done.results.values()} == {2}
    assert {each.sender for each in done.received["alice"]} == {"bob", "carol"}


def test_tasks_that_only_intersect(tmp_path: Path) -> None:
    asker = RSAPSIInitiatorScheduler(
        "asker", ids=["a", "b", "c"], psi_protocol="ecdh", results_dir=tmp_path
    )
    answerer = RSAPSICollaboratorScheduler("answerer", ids=["c", "d", "b"], results_dir=tmp_path)
    done = simulate(asker, [answerer], task_id="ids")
    assert done.results == {"asker": ["b", "c"], "answerer": ["b", "c"]}


def test_simulations_take_nothing_from_a_limit(tmp_path: Path, home: Path) -> None:
    for _ in range(2):
        host = TinyHost(tmp_path, psi_protocol="ecdh", max_rounds=1)
        simulate(host, [TinyCollaborator(tmp_path, max_peer_ids=60)], task_id="tiny")
    assert not (home / "budgets").exists()


def test_ctrl_c_while_another_party_runs(tmp_path: Path) -> None:
    """The Host waits for its turn then, and gets it only after the other one."""

    class Slow(TinyCollaborator):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Any:
            for number, each in enumerate(super().iterate_train_feature(feature_model, train_ids)):
                if number == 1:
                    time.sleep(1.5)  # longer than a poll: the Host is back and wants its turn
                    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                    time.sleep(0.5)
                yield each

    host = TinyHost(tmp_path, psi_protocol="ecdh", max_rounds=3)
    with pytest.raises(KeyboardInterrupt):
        simulate(host, [Slow(tmp_path)], task_id="tiny")
    assert not [each.name for each in threading.enumerate() if each.name == "bob"]
    again = TinyHost(tmp_path, psi_protocol="ecdh", max_rounds=1)
    assert simulate(again, [TinyCollaborator(tmp_path)], task_id="again").results["alice"].rounds


def test_a_slow_link(tmp_path: Path) -> None:
    seconds = []
    links: list[dict[str, Any]] = [{}, {"latency_ms": 20.0}, {"mbit": 1.0}]
    for link in links:
        host = TinyHost(tmp_path, psi_protocol="ecdh")
        done = simulate(host, [TinyCollaborator(tmp_path)], task_id="tiny", **link)
        result = done.results["alice"]
        seconds.append(result.seconds)
    sent = result.bytes_sent + result.bytes_received
    batches = 2 * 3
    assert seconds[1] > 2 * batches * 0.02, "there and back for each batch"
    assert seconds[2] > sent * 8 / 1e6 / 2, "half of it at least is not at the same time"


@pytest.mark.parametrize("where", ["load_local_ids", "validate_context", "train_a_batch"])
@pytest.mark.parametrize("who", ["host", "collaborator"])
def test_what_ended_the_task_comes_out(where: str, who: str, tmp_path: Path) -> None:
    host, collaborator = TinyHost(tmp_path), TinyCollaborator(tmp_path)
    if (where, who) == ("train_a_batch", "collaborator"):
        where = "update_feature_model"

    def fail(*_: Any) -> Any:
        raise ZeroDivisionError("mine")

    setattr(host if who == "host" else collaborator, where, fail)
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        simulate(host, [collaborator], task_id="tiny")
    key = "alice" if who == "host" else "bob"
    assert any(note.endswith(f"party {key}") for note in caught.value.__notes__)
    assert time.monotonic() - began < 20
    assert host._heterofed.settings.place is None is collaborator._heterofed.settings.place


def test_errors_of_the_task_are_those_of_the_one_at_fault(tmp_path: Path) -> None:
    class Elsewhere(TinyCollaborator):
        def load_local_ids(self) -> list[str]:
            return ["x"]

    with pytest.raises(EmptyIntersectionError) as caught:
        simulate(TinyHost(tmp_path), [Elsewhere(tmp_path)], task_id="tiny")
    assert not isinstance(caught.value, heterofed.TaskAborted)


def test_a_host_that_turns_a_party_away(tmp_path: Path) -> None:
    host = TinyHost(tmp_path, collaborators=["bob"])
    with pytest.raises(ConfigError, match="waits for collaborators"):
        simulate(host, [TinyCollaborator(tmp_path, "mallory")], task_id="tiny")


def test_parties_that_cannot_be_in_one_task(tmp_path: Path) -> None:
    host, bob = TinyHost(tmp_path), TinyCollaborator(tmp_path)
    for arguments, says in (
        ((host, []), "a list of Collaborators"),
        ((host, bob), "a list of Collaborators"),
        ((TinyHost(tmp_path, feature_key=["alice"]), [bob]), "feature_key"),
        ((TinyHost(tmp_path, collaborators=None), [bob]), "collaborators=None"),
        ((bob, [host]), "give the Host first"),
        ((host, [TinyHost(tmp_path)]), "one Host"),
        ((host, [bob, TinyCollaborator(tmp_path, "carol")]), "waits for collaborators=1"),
        ((host, [TinyCollaborator(tmp_path, "alice")]), "of its own"),
        ((host, [TinyCollaborator(tmp_path, name="alice")]), "of its own"),
    ):
        with pytest.raises(ConfigError, match=says):
            simulate(*arguments, task_id="tiny")
    for link in ({"latency_ms": -1}, {"mbit": 0}, {"mbit": True}, {"mbit": math.nan}):
        with pytest.raises(ConfigError, match="above 0"):
            simulate(host, [bob], task_id="tiny", **link)
    for name in ("home", "baselines", "rehearse"):
        wrong: dict[str, Any] = {name: 7}
        with pytest.raises(ConfigError, match=name):
            simulate(host, [bob], task_id="tiny", **wrong)
    assert not (tmp_path / "tiny").exists()


def test_a_party_that_never_comes_is_not_waited_for(tmp_path: Path) -> None:
    class Early(TinyCollaborator):
        def launch_task(self, *_: Any, **__: Any) -> Any:
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        simulate(TinyHost(tmp_path, join_timeout=0), [Early(tmp_path)], task_id="tiny")
    with pytest.raises(JoinTimeoutError):
        TinyHost(tmp_path, join_timeout=0.1).launch_task("tiny")


def test_a_failed_run_leaves_nothing_to_the_next(tmp_path: Path) -> None:
    """A simulation begins anew: other code, another seed, another learning rate."""

    class Falls(TinyHost):
        def on_round_end(self) -> None:
            if self.current_round == 2:
                raise RuntimeError("a typo")

    def weights(folder: Path, seed: int) -> Any:
        host = TinyHost(folder, max_rounds=3, seed=seed)
        done = simulate(host, [TinyCollaborator(folder)], task_id="cell")
        assert done.results["alice"].rounds == 3
        return host.infer_model.state_dict()

    with pytest.raises(RuntimeError, match="a typo"):
        simulate(
            Falls(tmp_path / "a", max_rounds=3), [TinyCollaborator(tmp_path / "a")], task_id="cell"
        )
    for seed in (0, 7):
        again, fresh = weights(tmp_path / "a", seed), weights(tmp_path / f"fresh{seed}", seed)
        assert all(torch.equal(again[name], fresh[name]) for name in fresh)
    with pytest.raises(RuntimeError, match="a typo"):
        simulate(
            Falls(tmp_path / "b", max_rounds=3), [TinyCollaborator(tmp_path / "b")], task_id="cell"
        )
    host = TinyHost(tmp_path / "b", max_rounds=3)
    simulate(host, [TinyCollaborator(tmp_path / "b")], task_id="cell", resume="require")
    fresh = weights(tmp_path / "c", 0)
    assert all(torch.equal(host.infer_model.state_dict()[name], fresh[name]) for name in fresh)


def test_results_are_short_and_hold_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="heterofed"):
        done = simulate(TinyHost(tmp_path), [TinyCollaborator(tmp_path)], task_id="short")
    result = done.results["alice"]
    assert len(repr(result).splitlines()) == 1
    assert 0 <= result.last["quality"]["accuracy"] <= 1
    assert result.last["quality"]["round"] == 2
    assert list(result.frame()["accuracy"])[-1] == result.last["quality"]["accuracy"]
    assert list(result.frame("train")["round"]) == [1, 2]
    with pytest.raises(ConfigError, match="name one"):
        result.frame("nothing")
    assert all(each.startswith(("alice", "bob")) for each in caplog.messages)
    assert {each.split(":")[0] for each in caplog.messages} == {"alice", "bob"}


def test_batches_may_leave_out_a_shorter_last_one(tmp_path: Path) -> None:
    seen: list[int] = []

    class Host(TinyHost):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Any:
            for ids in self.batches(train_ids, drop_last=True):
                seen.append(len(ids))
                yield from super().iterate_train_feature(feature_model, ids)

    class Collaborator(TinyCollaborator):
        def iterate_train_feature(self, feature_model: Any, train_ids: list[str]) -> Any:
            for ids in self.batches(train_ids, drop_last=True):
                yield from super().iterate_train_feature(feature_model, ids)

    host = Host(tmp_path, batch_size=16, max_rounds=1)
    simulate(host, [Collaborator(tmp_path)], task_id="drop")
    left = len(host.train_ids) // 16
    assert seen == [16] * left + [16] * (len(host.test_ids) // 16)
