"""Tasks that only intersect ids, with any number of parties."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import psi
from heterofed import ConfigError
from heterofed import errors as e
from heterofed.hetero_nn import intersection
from heterofed.hetero_nn.intersection import own_ids
from heterofed.hetero_nn.psi import RSAPSICollaboratorScheduler, RSAPSIInitiatorScheduler
from heterofed.party import Party
from tests.e2e.tiny import TinyCollaborator, TinyHost, run

pytestmark = pytest.mark.usefixtures("home")


@pytest.mark.parametrize("protocol", ["rsa", "ecdh"])
@pytest.mark.parametrize("parties", [1, 2, 5, pytest.param(16, marks=pytest.mark.slow)])
def test_all_parties_get_the_common_ids(parties: int, protocol: Any, tmp_path: Path) -> None:
    chance = random.Random(parties)
    everybody = [f"ümläut {number}\n,\"'" for number in range(300)]
    sets = [chance.sample(everybody, 280) for _ in range(parties + 1)]
    expected = sorted(set(everybody).intersection(*map(set, sets)))
    assert 0 < len(expected) < 280
    schedulers: list[Any] = [
        RSAPSIInitiatorScheduler(
            "asker",
            ids=sets[0],
            collaborators=parties,
            psi_protocol=protocol,
            join_timeout=30,
            results_dir=tmp_path,
        )
    ]
    schedulers += [
        RSAPSICollaboratorScheduler(
            f"party{number}", ids=ids, join_timeout=30, results_dir=tmp_path
        )
        for number, ids in enumerate(sets[1:])
    ]
    assert run(*schedulers, task="psi") == [expected] * (parties + 1)
    for folder in ("asker", "party0"):
        table = pd.read_csv(tmp_path / "psi" / folder / "intersection.csv", dtype=str)
        assert table["id"].tolist() == expected


def test_a_subclass_may_load_the_ids(tmp_path: Path) -> None:
    class Loads(RSAPSICollaboratorScheduler):
        def load_local_ids(self) -> list[str]:
            return ["a", "b"]

    asker = RSAPSIInitiatorScheduler("asker", ids=["b", "c"], results_dir=tmp_path)
    assert run(asker, Loads("answerer", results_dir=tmp_path)) == [["b"], ["b"]]


def test_ids_from_any_iterable(tmp_path: Path) -> None:
    asker = RSAPSIInitiatorScheduler("asker", ids=map(str, range(9)), results_dir=tmp_path)
    answerer = RSAPSICollaboratorScheduler(
        "answerer", ids=psi.OwnIds(map(str, range(5, 30)), bucket_ids=10), results_dir=tmp_path
    )
    assert run(asker, answerer) == [list("5678")] * 2


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (["a", "b", "a"], "1 id is repeated; positions (from 0): 2"),
        (["a", 7], "1 id is not a string"),
        (["a", "\ud800"], "1 id is not encodable"),
        ([], "no id"),
        ("abc", "not str"),
        (7, "not int"),
    ],
)
def test_ids_that_cannot_be_used(ids: Any, says: str) -> None:
    with pytest.raises(e.IdError) as caught:
        own_ids(ids)
    assert says in str(caught.value)


def test_a_signer_that_computes_for_long_is_not_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intersection, "NOTICE_SECONDS", 0)
    monkeypatch.setattr(intersection, "POLL_SECONDS", 0.01)
    said: list[str] = []
    post = Party.post

    def spy(self: Party, peer: Any, message: Any, *rest: Any, **more: Any) -> None:
        said.append(type(message).__name__)
        post(self, peer, message, *rest, **more)

    monkeypatch.setattr(Party, "post", spy)
    ids = [str(number) for number in range(2000)]
    asker = RSAPSIInitiatorScheduler("asker", ids=["7"], results_dir=tmp_path)
    answerer = RSAPSICollaboratorScheduler("answerer", ids=ids, results_dir=tmp_path)
    assert run(asker, answerer) == [["7"]] * 2
    assert said.index("PsiSigned") < said.index("PsiTagged") < said.index("PsiTags")


def test_no_ids_given(tmp_path: Path) -> None:
    asker = RSAPSIInitiatorScheduler("asker", results_dir=tmp_path)
    answerer = RSAPSICollaboratorScheduler("answerer", ids=["b"], results_dir=tmp_path)
    at_asker, at_answerer = run(asker, answerer)
    assert type(at_asker) is ConfigError
    assert isinstance(at_answerer, e.TaskAborted)


@pytest.mark.slow
def test_other_kind_of_task(tmp_path: Path) -> None:
    answerer = RSAPSICollaboratorScheduler("bob", ids=["b"], results_dir=tmp_path)
    at_host, at_answerer = run(TinyHost(tmp_path, join_timeout=3), answerer)
    assert type(at_host) is e.JoinTimeoutError
    assert isinstance(at_answerer, e.OtherTaskError)


def test_budget_holds_over_runs(tmp_path: Path) -> None:
    def once() -> list[Any]:
        return run(
            RSAPSIInitiatorScheduler("asker", ids=list("abcdef"), results_dir=tmp_path),
            RSAPSICollaboratorScheduler(
                "answerer", ids=list("defghi"), max_peer_ids=13, results_dir=tmp_path
            ),
        )

    assert once() == once() == [list("def")] * 2
    at_asker, at_answerer = once()
    assert type(at_answerer) is e.PSIFailedError
    assert isinstance(at_asker, e.PSIFailedError)
    assert isinstance(at_asker, e.TaskAborted)


@pytest.mark.parametrize("number", [2, 5, 16])
def test_training_with_any_number_of_collaborators(number: int, tmp_path: Path) -> None:
    names = [f"c{each:02}" for each in range(number)]
    seen: list[list[str]] = []

    class Looks(TinyHost):
        def train_a_batch(self, feature_projection: Any, labels: Any) -> Any:
            seen.append(list(feature_projection))
            return super().train_a_batch(feature_projection, labels)

    host = Looks(tmp_path, collaborators=names[::-1])
    outcomes = run(host, *(TinyCollaborator(tmp_path, name) for name in names))
    assert not any(isinstance(each, BaseException) for each in outcomes), outcomes
    assert all(order == ["alice", *names[::-1]] for order in seen)


def test_one_of_many_fails_and_all_learn_of_it(tmp_path: Path) -> None:
    class Fails(TinyCollaborator):
        def update_feature_model(self, features: Any, gradients: Any) -> None:
            raise RuntimeError("mine")

    outcomes = run(
        TinyHost(tmp_path, collaborators=3),
        TinyCollaborator(tmp_path, "c1"),
        Fails(tmp_path, "c2"),
        TinyCollaborator(tmp_path, "c3"),
    )
    assert type(outcomes[2]) is RuntimeError
    for other in (outcomes[0], outcomes[1], outcomes[3]):
        assert isinstance(other, e.HookFailedError), repr(other)
        assert str(other).startswith("c2 ended the task in phase train, round 1")
