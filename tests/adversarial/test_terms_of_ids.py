"""No kind of task has more ids tested than the terms allow, and all of them count together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from heterofed import errors as e
from heterofed.hetero_nn.psi import RSAPSICollaboratorScheduler, answer_stored
from heterofed.intersection.stored import set_domain
from heterofed.protocol import messages as m
from heterofed.protocol.leak_limits import LeakLimits
from psi import StoredSet
from tests.adversarial.peers import LyingHost, Victim
from tests.e2e.tiny import IDS, TinyCollaborator

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("home")]

LIMIT = 100


class Intersects(RSAPSICollaboratorScheduler):
    def __init__(self, folder: Path) -> None:
        super().__init__("bob", ids=IDS[:30], results_dir=folder, join_timeout=30)


class Counts(Intersects):
    def launch_task(self, task_id: str, resume: Any = "auto", **how: Any) -> Any:
        return self.count_common(task_id)


class Answers(Intersects):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        place = folder / "set"
        self.stored = (
            StoredSet(place)
            if place.exists()
            else StoredSet.create(place, IDS[:30], domain=set_domain("s"), workers=1)
        )
        self.stored.allow("alice", 10**6)

    def launch_task(self, task_id: str, resume: Any = "auto", **how: Any) -> Any:
        return answer_stored(self, task_id, self.stored)


KINDS: dict[str, tuple[Callable[[Path], Any], type[m.Message] | None, Any]] = {
    "training": (lambda folder: TinyCollaborator(folder, "bob"), m.PsiKey, m.PsiBegin),
    "intersection": (Intersects, m.PsiKey, m.PsiBegin),
    "count": (Counts, None, m.CountBegin),
    "stored set": (Answers, m.StoredOffer, lambda count: m.StoredBegin(count, fetch=False)),
}


def asked(kind: str, count: int, folder: Path) -> tuple[LyingHost, Victim]:
    """A Host that asks a Collaborator for so many ids."""
    make, offer, begin = KINDS[kind]
    victim = Victim(make(folder))
    host = LyingHost(limits=LeakLimits(max_ids=LIMIT), psi_protocol="ecdh").welcome()
    if offer is not None:
        host.link.hear(offer)
    host.link.say(begin(count))
    return host, victim


def refused(kind: str, count: int, folder: Path) -> None:
    host, victim = asked(kind, count, folder)
    outcome = victim.outcome()
    host.close()
    assert type(outcome) is e.PSILimitError, repr(outcome)
    assert "max_ids of the terms" in str(outcome)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(each, marks=[pytest.mark.long] if each != "count" else []) for each in KINDS],
)
def test_a_host_cannot_ask_for_more(kind: str, tmp_path: Path) -> None:
    refused(kind, LIMIT + 1, tmp_path)


@pytest.mark.parametrize(
    "kind",
    [
        "count",
        "stored set",
        *(pytest.param(each, marks=pytest.mark.long) for each in list(KINDS)[:2]),
    ],
)
def test_what_was_asked_before_counts(kind: str, tmp_path: Path) -> None:
    host, victim = asked("count", 60, tmp_path)
    host.link.hear(m.CountReady)
    host.close()
    assert isinstance(victim.outcome(), e.PeerLostError)
    refused(kind, 60, tmp_path)
