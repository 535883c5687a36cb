"""Joint predictions under a task file: keys, TCP, and a Collaborator that does not come."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from heterofed.errors import ConfigError, MissingPartyError
from heterofed.identity.task_file import load_task
from heterofed.protocol.plan import of_prediction
from heterofed.rendezvous.backend import TaskPlace
from tests.e2e.tiny import IDS, run
from tests.hetero_nn.test_prediction import ALL, Carol, Collaborator, Host, Serving, end
from tests.identity.offices import open_offices


@pytest.mark.long
def test_a_party_that_does_not_come(home: Path, tmp_path: Path) -> None:
    open_offices(home, ALL, plan=["max_rounds=2", "psi_protocol=ecdh"])
    bob = Collaborator(tmp_path)
    outcomes = run(Host(tmp_path, collaborators=ALL), Carol(tmp_path), bob)
    assert not any(isinstance(each, BaseException) for each in outcomes), outcomes
    servers = [Serving(bob)]
    patient = Host(tmp_path, collaborators=ALL, join_timeout=60)
    hurried = Host(tmp_path, collaborators=ALL, join_timeout=10)
    ids = IDS[9:12]
    frame = patient.predict("tiny", ids, parties=["bob"], missing_party="zero")
    assert list(frame["parties"]) == ["alice", "alice+bob", "alice+bob"]
    frame = hurried.predict("tiny", ids, missing_party="zero")  # waits for carol in vain
    assert list(frame["parties"]) == ["alice", "alice+bob", "alice+bob"]
    with pytest.raises(MissingPartyError):
        patient.predict("tiny", ids, parties=["bob"])
    servers.append(Serving(Carol(tmp_path)))
    frame = patient.predict("tiny", ids[1:])
    assert list(frame["parties"]) == ["alice+carol+bob"] * 2
    for server in servers:
        end(server, patient)


def test_only_predictions_do_with_fewer(home: Path, tmp_path: Path) -> None:
    path = open_offices(home, ALL)
    place = TaskPlace(load_task(path), "bob", home)
    plan = place.task.make_plan()
    for fewer in (("bob",), ("carol",)):
        made = type(plan)(host="alice", collaborators=fewer)
        assert not place.differences(made, partial=True)
        assert "collaborators" in str(place.differences(made))
    for others in (("bob", "carol"), ("carol", "bob", "dave"), ("dave",)):
        made = type(plan)(host="alice", collaborators=others)
        assert "collaborators" in str(place.differences(made, partial=True))
    assert place.expected(["bob"], partial=True) == ["bob"]
    for given, partial in ((["bob"], False), (["dave"], True), (["bob", "carol"], False)):
        with pytest.raises(ConfigError, match="lists carol, bob"):
            place.expected(given, partial=partial)


@pytest.mark.parametrize("fewer", [False, True])
def test_predictions_of_a_joint_task_show_who_has_a_row(
    fewer: bool, home: Path, tmp_path: Path
) -> None:
    path = open_offices(home, ALL, plan=["psi_protocol=ecdh"])
    place = TaskPlace(load_task(path), "bob", home)
    joint = place.task.make_plan()
    assert joint.psi_parties == "joint"
    plan = of_prediction(joint)
    if fewer:
        plan = msgspec.structs.replace(plan, collaborators=("bob",))
    assert not place.differences(plan, partial=fewer, predicts=True)
    assert "psi_parties" in str(place.differences(plan, partial=fewer))
