"""Tasks that only intersect ids, with any number of parties."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import psi
from heterofed import ConfigError
from heterofed import errors as e
from heterofed.hetero_nn.psi import RSAPSICollaboratorScheduler, RSAPSIInitiatorScheduler
from heterofed.intersection import collaborator as intersection
from heterofed.intersection.ids import own_ids
from heterofed.messaging.party import Party
from tests.e2e.tiny import TinyCollaborator, TinyHost, run
from tests.psi.helpers import no_libsodium

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.slow]


@pytest.mark.parametrize("protocol", ["rsa", "ecdh"])
@pytest.mark.parametrize("parties", [1, 2, 5, 16])
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


@pytest.mark.parametrize("many", ["asker", "answerer"])
def test_more_ids_than_the_plan_allows(many: str, tmp_path: Path) -> None:
    """The same named error at all, before anything is asked or signed; the Host may allow more."""

    def outcomes(**settings: Any) -> list[Any]:
        ids = {name: list("abcde" if name == many else "ab") for name in ("asker", "answerer")}
        chosen: dict[str, Any] = {"results_dir": tmp_path, "join_timeout": 30}
        return run(
            RSAPSIInitiatorScheduler("asker", ids=ids["asker"], **chosen, **settings),
            RSAPSICollaboratorScheduler("answerer", ids=ids["answerer"], **chosen),
        )

    here, there = outcomes(max_peer_ids=3)[:: 1 if many == "asker" else -1]
    assert type(here) is e.PSIFailedError
    assert f"{many} has 5 ids and the plan of asker allows 3; raise max_peer_ids" in str(here)
    assert isinstance(there, e.PSIFailedError)
    assert isinstance(there, e.TaskAborted)
    assert there.party == many
    assert outcomes(max_peer_ids=5) == [["a", "b"]] * 2


@pytest.mark.parametrize("most", [0, True, 2**33, 1.5])
def test_limits_that_cannot_be(most: Any, tmp_path: Path) -> None:
    asker = RSAPSIInitiatorScheduler("a", ids=["b"], max_peer_ids=most, results_dir=tmp_path)
    for scheduler in (asker, TinyHost(tmp_path, max_peer_ids=most)):
        with pytest.raises(ConfigError, match="max_peer_ids="):
            scheduler.launch_task("t")


def test_a_training_host_sets_the_limit(tmp_path: Path) -> None:
    at_host, at_bob = run(TinyHost(tmp_path, max_peer_ids=49), TinyCollaborator(tmp_path))
    assert type(at_host) is e.PSIFailedError
    assert isinstance(at_bob, e.PSIFailedError)


def test_a_host_without_the_library_for_its_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_libsodium(monkeypatch)
    asker = RSAPSIInitiatorScheduler("a", ids=["b"], psi_protocol="ecdh", results_dir=tmp_path)
    for scheduler in (asker, TinyHost(tmp_path, psi_protocol="ecdh")):
        with pytest.raises(ConfigError, match="install it, or the package rbcl"):
            scheduler.launch_task("t")


def test_a_protocol_of_another_package_is_refused_with_the_reason(tmp_path: Path) -> None:
    protocol: Any = "rr22"
    asker = RSAPSIInitiatorScheduler("a", ids=["b"], psi_protocol=protocol, results_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"spu computes it.*numpy below 2.*choose 'ecdh'"):
        asker.launch_task("t")
    with pytest.raises(psi.LibraryError, match="numpy below 2"):
        psi.intersect(["a"], ["a"], protocol=protocol)


def test_a_collaborator_without_the_library_for_the_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lacks(RSAPSICollaboratorScheduler):
        def load_local_ids(self) -> list[str]:
            no_libsodium(monkeypatch)  # the Host has looked by now
            return ["b"]

    asker = RSAPSIInitiatorScheduler("asker", ids=["b"], psi_protocol="ecdh", results_dir=tmp_path)
    at_asker, at_answerer = run(asker, Lacks("answerer", results_dir=tmp_path))
    assert type(at_answerer) is e.PSIFailedError
    assert "install it, or the package rbcl" in str(at_answerer)
    assert isinstance(at_asker, e.PSIFailedError)
    assert at_asker.party == "answerer"


@pytest.mark.parametrize(("protocol", "backend"), [("rsa", "gmpy2"), ("ecdh", "libsodium")])
def test_the_result_tells_how_it_was_found(protocol: Any, backend: str, tmp_path: Path) -> None:
    parties: list[Any] = [
        RSAPSIInitiatorScheduler("asker", ids=["b"], psi_protocol=protocol, results_dir=tmp_path),
        RSAPSICollaboratorScheduler("answerer", ids=["b"], results_dir=tmp_path),
    ]
    assert run(*parties, task="t") == [["b"]] * 2
    for scheduler in parties:
        told = json.loads((tmp_path / "t" / scheduler.feature_key / "summary.json").read_text())[
            "psi"
        ]
        assert told == scheduler.result.psi
        assert told["protocol"] == protocol
    assert parties[0].result.psi["backend"].startswith(backend)


@pytest.mark.parametrize("protocol", ["rsa", "ecdh"])
def test_messages_cost_little_more_than_they_carry(protocol: Any, tmp_path: Path) -> None:
    asked, held, common = 5000, 4000, 2000
    parties: list[Any] = [
        RSAPSIInitiatorScheduler(
            "asker",
            ids=map(str, range(asked)),
            psi_protocol=protocol,
            join_timeout=30,
            results_dir=tmp_path,
        ),
        RSAPSICollaboratorScheduler(
            "answerer",
            ids=map(str, range(asked - common, asked - common + held)),
            join_timeout=30,
            results_dir=tmp_path,
        ),
    ]
    found = run(*parties, task="t")
    assert [len(each) for each in found] == [common] * 2
    width = 256 if protocol == "rsa" else 32
    payload = {"PsiBlinded": asked * width, "PsiSigned": asked * width}
    payload |= {"PsiTags": held * 16, "PsiMatched": common * 16}
    payload |= {"PsiKey": 2570 if protocol == "rsa" else 52}
    seen = set()
    for name in ("asker", "answerer"):
        table = pd.read_csv(tmp_path / "t" / name / "outbound.csv")
        for row in table[table["phase"] == "psi"].to_dict("records"):
            carried = payload.get(row["kind"], 0)
            seen.add(row["kind"])
            assert carried <= row["bytes"] <= carried + 512 * row["messages"], row
    assert payload.keys() <= seen


def test_no_ids_given(tmp_path: Path) -> None:
    asker = RSAPSIInitiatorScheduler("asker", results_dir=tmp_path)
    answerer = RSAPSICollaboratorScheduler("answerer", ids=["b"], results_dir=tmp_path)
    at_asker, at_answerer = run(asker, answerer)
    assert type(at_asker) is ConfigError
    assert isinstance(at_answerer, e.TaskAborted)


def test_other_kind_of_task(tmp_path: Path) -> None:
    answerer = RSAPSICollaboratorScheduler("bob", ids=["b"], results_dir=tmp_path)
    at_host, at_answerer = run(TinyHost(tmp_path, join_timeout=3), answerer)
    assert type(at_host) is e.JoinTimeoutError
    assert isinstance(at_answerer, e.OtherTaskError)


def test_budget_holds_over_runs(tmp_path: Path) -> None:
    def once(ids: str = "abcdef") -> list[Any]:
        return run(
            RSAPSIInitiatorScheduler("asker", ids=list(ids), results_dir=tmp_path),
            RSAPSICollaboratorScheduler(
                "answerer", ids=list("defghi"), max_peer_ids=13, results_dir=tmp_path
            ),
        )

    assert once() == once("fedcba") == [list("def")] * 2
    at_asker, at_answerer = once("abcdez")
    assert type(at_answerer) is e.PSILimitError
    assert "raise max_peer_ids at answerer" in str(at_answerer)
    assert "12 of the 13 allowed in this task are spent" in str(at_answerer)
    assert isinstance(at_asker, e.PSILimitError)
    assert isinstance(at_asker, e.TaskAborted)
    assert "count against its max_peer_ids" in str(at_asker)
    assert "trust" not in f"{at_asker}{at_answerer}"


def test_the_same_ids_count_once_in_however_many_runs(tmp_path: Path) -> None:
    """The eleventh honest run needs nothing of what the first one has used up."""

    def once(**changed: Any) -> list[Any]:
        shared: dict[str, Any] = {"results_dir": tmp_path, "max_peer_ids": 6}
        answerer: dict[str, Any] = {"ids": list("defghi"), **changed}
        return run(
            RSAPSIInitiatorScheduler("asker", ids=list("abcdef"), **shared),
            RSAPSICollaboratorScheduler("answerer", **shared, **answerer),
        )

    for _ in range(11):
        assert once() == [list("def")] * 2
    at_asker, at_answerer = once(ids=list("defghz"))  # one made-up id, tested under another key
    assert type(at_asker) is e.PSILimitError
    assert "asks for 6 more ids to be tested here; 6 of the 6" in str(at_asker)
    assert isinstance(at_answerer, e.PSILimitError)


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


@pytest.mark.parametrize(
    ("theirs", "line"),
    [
        ("defghi", "psi: 3 ids in common, of 6 here (50 %)"),
        ("abcdef", "psi: 6 ids in common, of 6 here (100 %)"),
        ("f" + "".join(map(chr, range(200, 300))), "psi: 1 ids in common, of 6 here (17 %)"),
    ],
)
def test_how_many_are_common_is_said(
    theirs: str, line: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "heterofed")
    run(
        RSAPSIInitiatorScheduler("asker", ids=list("abcdef"), results_dir=tmp_path),
        RSAPSICollaboratorScheduler("answerer", ids=list(theirs), results_dir=tmp_path),
    )
    said = [each for each in caplog.messages if "in common" in each]
    assert line in said
    assert len(said) == 2  # one at each party, and no warning


def test_few_common_ids_are_warned_of_at_both(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "heterofed")
    mine, theirs = [str(i) for i in range(100)], [f"{i}.0" for i in range(200)] + ["7"]
    run(
        RSAPSIInitiatorScheduler("asker", ids=mine, results_dir=tmp_path),
        RSAPSICollaboratorScheduler("answerer", ids=theirs, results_dir=tmp_path),
    )
    warned = [each for each in caplog.messages if "few ids are in common: 1 %" in each]
    assert len(warned) == 2
    assert all("leading zeros" in each for each in warned)
    assert "psi: 1 ids in common, of 201 here (0.5 %)" in caplog.messages
