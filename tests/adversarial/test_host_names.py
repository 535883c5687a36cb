"""A Host that names itself oddly is not known, or blamed, by a name that this party refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from heterofed import errors as e
from heterofed.protocol import messages as m
from heterofed.reporting.costs import Account
from tests.adversarial.peers import LyingHost, Victim
from tests.e2e.tiny import TinyCollaborator


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("bob", "no place"),
        ("carol", "no place"),
        ("alice\n\x1b[2J", "broke the protocol"),
        ("a" * 10_000, "broke the protocol"),
    ],
    ids=["own", "another's", "control", "long"],
)
def test_a_host_is_not_blamed_by_a_name_that_is_refused(
    tmp_path: Path, open_links: list[Any], name: str, says: str
) -> None:
    bob = Victim(TinyCollaborator(tmp_path))
    host = LyingHost(host=name, collaborators=("bob", "carol"))
    open_links.append(host)
    plan = host.plan_for(host.met())
    host.link.say_anything(m.Welcome(1, host.run, host.secret, plan))
    host.link.say(m.PsiUnblinded())  # out of turn, and read together with the Welcome
    error = bob.outcome()
    assert isinstance(error, e.RemoteProtocolError)
    assert error.party == "the Host"
    assert says in str(error)
    assert len(str(error)) < 1000
    assert str(error).isprintable()


@pytest.mark.usefixtures("home")
def test_a_second_welcome_does_not_rename_the_host(tmp_path: Path, open_links: list[Any]) -> None:
    bob, host = Victim(TinyCollaborator(tmp_path)), LyingHost()
    open_links.append(host)
    plan = host.plan_for(host.met())
    for name in ("alice", "mallory"):
        told = msgspec.structs.replace(plan, host=name)
        host.link.say(m.Welcome(1, host.run, host.secret, told))
    error = bob.outcome()
    assert isinstance(error, e.RemoteProtocolError)
    assert error.party == "alice"
    assert "out of turn" in str(error)


def test_a_host_that_is_called_the_host_keeps_its_counts() -> None:
    account = Account("bob")
    account.moved("join", "the Host", "sent", 10, messages=1, seconds=0.1)
    account.waited("join", "the Host", "received", 2.0)
    before, waits = account.table(), dict(account.waits)
    account.renamed("the Host", "the Host")
    assert account.table() == before
    assert account.waits == waits
