"""A task's intersection on an executor: which one is taken, and what is refused before any work."""

from __future__ import annotations

from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from heterofed import ConfigError
from heterofed import errors as e
from heterofed.hetero_nn.psi import RSAPSICollaboratorScheduler, RSAPSIInitiatorScheduler
from heterofed.intersection.request import (
    CHUNK_IDS,
    CHUNKS_AHEAD,
    MOST_CHUNK_IDS,
    chunk_ids,
)
from heterofed.runs.psi_executor import ExecutorChoice, chosen_executor
from psi.signing import MAX_CHUNK, RESIGN_VALUES
from tests.e2e.tiny import TinyCollaborator, TinyHost, run

pytestmark = pytest.mark.usefixtures("home")
A, B = [str(number) for number in range(60)], [str(number) for number in range(40, 100)]


class Elsewhere(Executor):
    """Threads of this process, which nothing tells from a cluster."""

    def __init__(self) -> None:
        self.pool, self.calls = ThreadPoolExecutor(2), 0

    def submit(self, work: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.calls += 1
        return self.pool.submit(work, *args, **kwargs)


def parties(folder: Path, at_host: dict[str, Any], at_other: dict[str, Any]) -> list[Any]:
    common: dict[str, Any] = {"results_dir": folder, "join_timeout": 30}
    return run(
        RSAPSIInitiatorScheduler("asker", ids=A, psi_protocol="ecdh", **at_host, **common),
        RSAPSICollaboratorScheduler("answerer", ids=B, **at_other, **common),
    )


def test_both_parties_compute_on_executors(tmp_path: Path) -> None:
    asking, answering = Elsewhere(), Elsewhere()
    at_other = {"psi_executor": answering, "psi_key_leaves": True}
    found = parties(tmp_path, {"psi_executor": asking}, at_other)
    assert found == [sorted(A[40:])] * 2
    assert min(asking.calls, answering.calls) >= 2


@pytest.mark.slow
def test_processes_and_the_configuration_of_the_user(tmp_path: Path, home: Path) -> None:
    (home / "config.toml").write_text('[psi]\nexecutor = "processes:1"\n')
    assert parties(tmp_path, {}, {}) == [sorted(A[40:])] * 2


def test_the_key_stays_here_unless_it_is_allowed_to_leave(tmp_path: Path) -> None:
    for executor in ("dask://scheduler:8786", "ray://head:10001", Elsewhere()):
        given: dict[str, Any] = {"psi_executor": executor}
        for scheduler in (
            TinyCollaborator(tmp_path, **given),
            RSAPSICollaboratorScheduler("a", ids=A, results_dir=tmp_path, **given),
        ):
            with pytest.raises(ConfigError, match="psi_key_leaves=True"):
                scheduler.launch_task("t")


@pytest.mark.parametrize("bad", ["processes:0", "dask://host", 4, "localhost:8786"])
def test_what_is_no_executor_is_refused_before_anything_else(bad: Any, tmp_path: Path) -> None:
    asker = RSAPSIInitiatorScheduler("a", ids=A, psi_executor=bad, results_dir=tmp_path)
    for scheduler in (asker, TinyHost(tmp_path, psi_executor=bad)):
        with pytest.raises(ConfigError, match=r"psi_executor: .* is no executor; give"):
            scheduler.launch_task("t")
    assert not list(tmp_path.rglob("*.csv"))
    strange: Any = "yes"
    with pytest.raises(ConfigError, match="psi_key_leaves='yes': give True or False"):
        ExecutorChoice("processes:2", strange).check(has_key=True)


def test_an_executor_that_does_not_answer_ends_the_task_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psi.executors.pool.CALL_SECONDS", 0.1)

    class Silent(Executor):
        def submit(self, work: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            return Future()

    here, there = parties(tmp_path, {"psi_executor": Silent()}, {})
    assert type(here) is e.PSIFailedError
    assert here.party == "asker"
    assert "the executor (Silent) gave no result within" in str(here)
    assert isinstance(there, e.PSIFailedError)


def test_chunks_grow_with_the_set_up_to_what_may_be_signed_again() -> None:
    assert chunk_ids(0) == chunk_ids(32 * CHUNK_IDS) == CHUNK_IDS
    assert CHUNK_IDS < chunk_ids(70_000) < chunk_ids(10**6) == chunk_ids(10**9) == MOST_CHUNK_IDS
    assert chunk_ids(5, pooled=True) == MOST_CHUNK_IDS
    assert CHUNKS_AHEAD * MOST_CHUNK_IDS <= RESIGN_VALUES
    assert MOST_CHUNK_IDS * 256 <= MAX_CHUNK


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[psi\n", "is no TOML file"),
        ("psi = 3\n", "something else than executor and key_leaves; remove it"),
        ('[psi]\nexecuter = "processes:2"\n', "something else than executor and key_leaves"),
        ('[psi]\nexecutor = "processes"\n', "is no executor"),
        ("[psi]\nexecutor = 7\n", "is no executor"),
        ('[psi]\nexecutor = "processes:2"\nkey_leaves = 1\n', "psi_key_leaves=1: give True"),
    ],
)
def test_a_configuration_that_is_wrong(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        chosen_executor(None, False, tmp_path).check(has_key=True)
    assert chosen_executor("processes:3", False, tmp_path).executor == "processes:3"


def test_without_a_configuration_threads_compute(tmp_path: Path) -> None:
    assert chosen_executor(None, False, tmp_path) == ExecutorChoice()
    (tmp_path / "config.toml").write_text('[psi]\nexecutor = "dask://a:1"\nkey_leaves = true\n')
    assert chosen_executor(None, False, tmp_path).key_leaves
