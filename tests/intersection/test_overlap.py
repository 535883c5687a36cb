"""A count of common ids as a task: both learn the number, files and messages hold no id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from heterofed import errors as e
from heterofed.hetero_nn.psi import RSAPSICollaboratorScheduler, RSAPSIInitiatorScheduler
from heterofed.messaging.party import Party
from tests.e2e.tiny import run

pytestmark = pytest.mark.usefixtures("home")


class Asker(RSAPSIInitiatorScheduler):
    """What `run` starts is the count."""

    def launch_task(self, task_id: str, resume: Any = "auto", **how: Any) -> Any:
        return self.count_common(task_id)


class Answerer(RSAPSICollaboratorScheduler):
    def launch_task(self, task_id: str, resume: Any = "auto", **how: Any) -> Any:
        return self.count_common(task_id)


def ids(*numbers: int) -> list[str]:
    return [f"somebody-{number}-here" for number in numbers]


def parties(tmp_path: Path, first: list[str], *others: list[str], **given: Any) -> list[Any]:
    here: Any = {"join_timeout": 30, "results_dir": tmp_path}
    asker = Asker("bank", ids=first, collaborators=len(others), **here)
    names = [f"shop{number}" for number in range(len(others))]
    rest = zip(names, others, strict=True)
    return [asker, *(Answerer(name, ids=own, **here, **given) for name, own in rest)]


def test_both_learn_the_number_and_nothing_else(tmp_path: Path) -> None:
    both = parties(tmp_path, ids(*range(60)), ids(*range(40, 100)), ids(*range(1000, 1030)))
    bank, shop, other = run(*both, task="count")
    assert bank == {"shop0": 20, "shop1": 0}
    assert (shop, other) == ({"bank": 20}, {"bank": 0})
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    for path in written:
        assert b"somebody-" not in path.read_bytes(), path
    assert not list(tmp_path.rglob("intersection.csv"))


def test_what_travels_holds_no_id_and_not_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lists of both directions, as they pass the channel: sorted, whatever the ids' order."""
    seen: dict[str, bytes] = {}
    post = Party.post

    def noted(self: Party, peer: Any, message: Any, payload: Any = ()) -> Any:
        name = type(message).__name__
        if name in ("CountBlinded", "CountRaised", "CountOwn"):
            seen[name] = seen.get(name, b"") + b"".join(map(bytes, payload))
        return post(self, peer, message, payload)

    monkeypatch.setattr(Party, "post", noted)
    own = ids(*range(60))
    run(*parties(tmp_path, own[::-1], own), task="count")
    assert set(seen) == {"CountBlinded", "CountRaised", "CountOwn"}
    for values in seen.values():
        cut = [values[at : at + 32] for at in range(0, len(values), 32)]
        assert len(cut) == 60
        assert cut == sorted(set(cut))
        assert b"somebody-" not in values


@pytest.mark.slow
def test_a_party_that_wants_to_count_takes_part_in_nothing_else(tmp_path: Path) -> None:
    bank = RSAPSIInitiatorScheduler(
        "bank", ids=ids(*range(30)), join_timeout=3, results_dir=tmp_path
    )
    shop = Answerer("shop", ids=ids(*range(30)), join_timeout=3, results_dir=tmp_path)
    outcome = run(bank, shop, task="count")
    assert isinstance(outcome[1], e.OtherTaskError)
    assert isinstance(outcome[0], e.JoinTimeoutError)


def test_too_few_ids_and_too_many(tmp_path: Path) -> None:
    outcome = run(*parties(tmp_path, ids(*range(30)), ids(*range(5))), task="few")
    assert all(isinstance(each, e.TaskFailed) for each in outcome)
    assert isinstance(outcome[1], e.IdError)
    outcome = run(
        *parties(tmp_path, ids(*range(30)), ids(*range(30)), max_peer_ids=29), task="more"
    )
    assert all(isinstance(each, e.PSIFailedError) for each in outcome)


def test_counts_use_up_what_the_host_may_have(tmp_path: Path) -> None:
    settings = {"max_peer_ids": 50}
    for attempt, expected in enumerate([{"shop0": 30}, None]):
        outcome = run(
            *parties(tmp_path / str(attempt), ids(*range(30)), ids(*range(30)), **settings),
            task="again",
        )
        if expected is None:
            assert isinstance(outcome[1], e.PSILimitError)
        else:
            assert outcome[0] == expected
