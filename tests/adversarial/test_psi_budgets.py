"""Who makes parties meet again and again learns no more than its budget, and uses up no other's."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import psi
import psi.ecdh.oprf
from heterofed import errors as e
from heterofed.hetero_nn.psi import RSAPSIInitiatorScheduler, ask_stored
from heterofed.intersection.storage import TAGS
from heterofed.protocol import messages as m
from psi.rsa.signer import RSASigner
from tests.adversarial.peers import (
    Link,
    LyingCollaborator,
    LyingHost,
    Victim,
    connected,
    domain_of,
    hello,
)
from tests.e2e.tiny import IDS, TinyCollaborator, TinyHost, run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("home")]

MADE_UP = [f"guess-{number}" for number in range(30)] + IDS[:30]


def matched(home: Path) -> int:
    return psi.Budget(home / "budgets", peer="", task="tiny", counts=TAGS).spent()


def signed(home: Path) -> int:
    return psi.Budget(home / "budgets", peer="", task="tiny").spent()


def test_made_up_ids_are_counted_at_the_host_over_all_meetings(tmp_path: Path, home: Path) -> None:
    """Each time under another key, over restarts of the Host; the last one gets no answer."""
    for meeting in (1, 2, 3):
        host = Victim(TinyHost(tmp_path, max_peer_ids=130))
        eve = LyingCollaborator()
        if meeting < 3:
            eve.intersect(ids=MADE_UP)
            eve.link.close()
            assert isinstance(host.outcome(), e.TaskFailed)
            assert matched(home) == 60 * meeting
        else:
            with pytest.raises(AssertionError, match="psi_limit"):
                eve.intersect(ids=MADE_UP)
            eve.link.close()
            outcome = host.outcome()
            assert type(outcome) is e.PSILimitError
            assert "raise max_peer_ids at alice" in str(outcome)
    assert matched(home) == 120


def test_other_tags_under_the_same_key_are_refused(tmp_path: Path) -> None:
    """So the ids that were counted are those that are answered."""
    ids, run_domain = [str(number) for number in range(20)], psi.domain("t", "r")
    budget = psi.Budget(tmp_path, peer="eve", task="t", counts=TAGS)

    def ask(tags: list[str]) -> list[str]:
        key = psi.ecdh.oprf.make_key() if not keys else keys[0]
        keys.append(key)
        with psi.ECDHSigner(tags, domain=run_domain, _key=key) as signer:
            asking = psi.requester(
                "ecdh",
                ids,
                signer.public_key(),
                signer.count,
                domain=run_domain,
                resume=psi.Resume(tmp_path / "kept", peer="eve", task="t"),
                budget=budget,
                max_peer_ids=15,
            )
            with asking:
                signer.begin(asking.count)
                for chunk in asking.blinded():
                    asking.unblind(signer.sign(chunk))
                signer._signed = asking.count  # it says what it likes
                for chunk in signer.tags():
                    asking.add_tags(chunk)
                return asking.intersection()

    keys: list[bytes] = []
    first = [str(number) for number in range(10, 20)]
    assert ask(first) == ask(first) == first
    assert budget.spent() == 10
    with pytest.raises(psi.ValueRefusedError, match="other tags"):
        ask([str(number) for number in range(10)])
    assert budget.spent() == 10
    keys.clear()
    with pytest.raises(psi.LimitError):
        ask(first)  # under another key they would be 10 more


def says_a_key(eve: LyingCollaborator) -> None:
    with psi.RSASigner(IDS, domain=domain_of("alice", "eve")) as signer:
        eve.link.say(m.PsiKey(len(IDS)), [signer.public_key()])
        eve.link.hear(m.PsiBegin)


def signs_nothing(eve: LyingCollaborator) -> None:
    says_a_key(eve)
    eve.link.hear(m.PsiBlinded)
    time.sleep(1)  # the others sign, and send their tags


def claims_another_party_is_to_blame(eve: LyingCollaborator) -> None:
    eve.intersect()
    eve.link.say(m.Abort("psi", "psi", "bob"))


def lies(eve: LyingCollaborator) -> None:
    eve.link.say(m.PsiKey(3), [b"no key"])
    time.sleep(1)


def shares_nothing(eve: LyingCollaborator) -> None:
    eve.intersect(ids=["none", "of", "theirs"])


def accepts_the_split(eve: LyingCollaborator) -> None:
    eve.to_train()


DROPS: list[Callable[[LyingCollaborator], Any]] = [
    lambda eve: None,
    says_a_key,
    signs_nothing,
    lambda eve: eve.intersect(),
    lies,
    shares_nothing,
    accepts_the_split,
    lambda eve: eve.intersect(),
]


@pytest.mark.long
def test_forced_meetings_use_up_nothing_of_a_third_party(tmp_path: Path, home: Path) -> None:
    """Whenever one of three goes, and says that it holds nothing: the others' run goes on."""
    settings: dict[str, Any] = {"collaborators": ["bob", "eve"], "max_peer_ids": 600}
    for drops in DROPS:
        host = Victim(TinyHost(tmp_path, **settings))
        bob = Victim(TinyCollaborator(tmp_path, max_peer_ids=50))
        eve = LyingCollaborator("eve")
        with contextlib.suppress(AssertionError):  # it may hear of the end before it has done that
            drops(eve)
        eve.link.close()
        assert isinstance(bob.outcome(), e.TaskFailed)
        assert isinstance(host.outcome(), e.TaskFailed)
        assert signed(home) <= 50
    assert signed(home) == 50


def test_tags_are_not_made_for_who_asks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may cost hours; a meeting costs a Host nothing."""
    made: list[int] = []
    real = RSASigner._pairs_of

    def note(signer: RSASigner, ids: list[str]) -> bytes:
        made.append(len(ids))
        return real(signer, ids)

    monkeypatch.setattr(RSASigner, "_pairs_of", note)
    for begins in (False, True):
        bob, host = Victim(TinyCollaborator(tmp_path)), LyingHost()
        host.welcome()
        host.link.hear(m.PsiKey)
        if begins:
            host.link.say(m.PsiBegin(50))
            time.sleep(0.5)
        host.close()
        assert isinstance(bob.outcome(), e.PeerLostError)
        assert not made


def to_tags(eve: Link, signer: RSASigner) -> None:
    """Come to the point at which the Host waits for tags."""
    eve.say(m.PsiKey(len(IDS)), [signer.public_key()])
    begin, _ = eve.hear(m.PsiBegin)
    signer.begin(begin.count)
    values = eve.hear(m.PsiBlinded)[1]
    eve.say(m.PsiSigned(begin.count), [signer.sign(values)])
    eve.hear(m.PsiUnblinded)


class Asks(RSAPSIInitiatorScheduler):
    def launch_task(self, task_id: str, resume: Any = "auto", **how: Any) -> Any:
        return ask_stored(self, task_id, "people")


class Counts(RSAPSIInitiatorScheduler):
    def launch_task(self, task_id: str, resume: Any = "auto", **how: Any) -> Any:
        return self.count_common(task_id)


@pytest.mark.parametrize(
    ("purpose", "kind", "why"),
    [
        ("psi", m.PsiTagged, "made the tags of its 60 ids"),
        ("psi", m.PsiTags, "made the tags of its 60 ids"),
        ("overlap", m.PsiTagged, "answered a count of 110 ids"),
        ("stored", m.StoredFilter, "sent the filter of its 60 ids"),
    ],
)
def test_what_trickles_ends_the_task(
    purpose: Any,
    kind: Any,
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each message is progress, and there may be millions of them."""
    trickle: dict[Any, Callable[[int], tuple[m.Message, list[bytes]]]] = {
        m.PsiTagged: lambda done: (m.PsiTagged(done), []),
        m.PsiTags: lambda done: (m.PsiTags(1), [done.to_bytes(16, "big")]),
        m.StoredFilter: lambda _: (m.StoredFilter(), [b"P"]),
    }
    for rate in ("VALUES_PER_SECOND", "FILTER_IDS_PER_SECOND"):
        monkeypatch.setattr(f"heterofed.intersection.pace.{rate}", 1000)
    make = {"psi": RSAPSIInitiatorScheduler, "overlap": Counts, "stored": Asks}[purpose]
    host = Victim(make("alice", ids=IDS[:50], calculation_timeout=1, results_dir=tmp_path))
    eve = connected()
    eve.say(msgspec.structs.replace(hello(), purpose=purpose))
    eve.hear(m.Welcome)
    with psi.RSASigner(IDS, domain=domain_of("alice", "bob")) as signer:
        if purpose == "psi":
            to_tags(eve, signer)
        elif purpose == "overlap":
            eve.hear(m.CountBegin)
            eve.say(m.CountReady(len(IDS)))
            eve.hear(m.CountBlinded)
        else:
            eve.say(m.StoredOffer("0" * 16, len(IDS), 300))
            eve.hear(m.StoredBegin)
        with pytest.raises(AssertionError, match="peer_timeout"):
            for done in range(1, len(IDS)):
                eve.say(*trickle[kind](done))
                time.sleep(0.2)
                eve.pump()
                if eve.lost or eve._heard:
                    eve.hear(m.PsiMatched)
    eve.close()
    outcome = host.outcome()
    assert type(outcome) is e.PeerTimeoutError
    assert f"bob has not {why}" in str(outcome)


def test_honest_parties_need_one_intersection_for_many_runs(tmp_path: Path, home: Path) -> None:
    for _ in range(3):
        outcomes = run(
            TinyHost(tmp_path, max_rounds=1, max_peer_ids=60),
            TinyCollaborator(tmp_path, max_peer_ids=50),
        )
        assert not any(isinstance(each, BaseException) for each in outcomes), outcomes
    assert (signed(home), matched(home)) == (50, 50)
    assert not [*home.glob("intersections/*.key")]
