"""Tasks in which nobody learns a pairwise intersection (`psi_parties="joint"`)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import psi
from heterofed import ConfigError
from heterofed import errors as e
from heterofed.cli.psi import run_psi
from heterofed.hetero_nn.psi import RSAPSICollaboratorScheduler, RSAPSIInitiatorScheduler
from heterofed.intersection.request import Request
from heterofed.protocol.messages import PsiBegin, PsiTags
from heterofed.protocol.plan import Plan
from heterofed.rendezvous import join
from psi.multiparty.key_value_store import SLOT_BYTES, size_for
from tests.e2e.tiny import TinyCollaborator, TinyHost, run
from tests.identity.offices import open_offices
from tests.runs.test_resume import CrashError

pytestmark = pytest.mark.usefixtures("home")

SETS = [list("abcdefg"), list("cdefghi"), list("aefgxyz")]
COMMON = list("efg")


def parties(tmp_path: Path, **settings: Any) -> list[Any]:
    chosen: dict[str, Any] = {
        "psi_protocol": "ecdh",
        "psi_parties": "joint",
        "collaborators": 2,
    } | settings
    common: dict[str, Any] = {"join_timeout": 30, "results_dir": tmp_path}
    return [
        RSAPSIInitiatorScheduler("asker", ids=SETS[0], **chosen, **common),
        *(
            RSAPSICollaboratorScheduler(f"party{number}", ids=ids, **common)
            for number, ids in enumerate(SETS[1:])
        ),
    ]


def test_all_parties_get_the_common_ids_and_no_pair_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[list[int]] = []
    matches: list[int] = []
    take = Request.take_tags

    def watched(request: Request) -> None:
        take(request)
        matches.extend(request.matches)
        shares.append(request.decoded.shares())

    monkeypatch.setattr(Request, "take_tags", watched)
    assert run(*parties(tmp_path), task="joint") == [COMMON] * 3
    assert matches == []
    # What each id decodes to looks random, whether or not that party has it; only the sum is 0.
    first, second = shares
    assert len({*first, *second, 0}) == 2 * len(SETS[0]) + 1 - len(COMMON)
    sums = [one ^ other for one, other in zip(first, second, strict=True)]
    assert [name for name, total in zip(SETS[0], sums, strict=True) if not total] == COMMON


class Watched:
    """The stores that signers send, and the requests of the Host."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stores: list[bytes] = []
        self.begun: list[PsiBegin] = []
        make, announce = psi.JointSigner.tags, Request.announce

        def tags(signer: psi.JointSigner) -> Iterator[bytes]:
            chunks = list(make(signer))
            self.stores.append(b"".join(chunks))
            return iter(chunks)

        def announced(request: Request, *, again: bool = False) -> None:
            self.begun.append(PsiBegin(7, request.answered, again))
            announce(request, again=again)

        monkeypatch.setattr(psi.JointSigner, "tags", tags)
        monkeypatch.setattr(Request, "announce", announced)


def test_unchanged_sets_get_the_same_stores_and_count_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch)
    for _ in range(2):
        assert run(*parties(tmp_path, max_peer_ids=7), task="joint") == [COMMON] * 3
    assert sorted(watched.stores[:2]) == sorted(watched.stores[2:])
    assert watched.begun == [PsiBegin(7, 0)] * 2 + [PsiBegin(7, 7, again=True)] * 2


@pytest.mark.slow
def test_a_changed_set_gives_all_parties_new_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch)
    assert run(*parties(tmp_path), task="joint") == [COMMON] * 3
    changed = parties(tmp_path)
    changed[2] = RSAPSICollaboratorScheduler("party1", ids=list("aefg"), results_dir=tmp_path)
    assert run(*changed, task="joint") == [COMMON] * 3
    # The unchanged signer signs nothing again, but its store has other shares.
    assert sorted(each.done for each in watched.begun[2:]) == [0, 7]
    assert not any(each.again for each in watched.begun)
    slots = [{each[at : at + 16] for at in range(16, len(each), 16)} for each in watched.stores]
    assert len(set.union(*slots)) == sum(map(len, slots))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "done", "again"),
    [("take_signed", 0, False), ("take_tags", 7, False), ("claim", 7, True)],
)
def test_an_interrupted_one_goes_on(
    place: str, done: int, again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at the second Collaborator: no answer, one store or all of them are stored."""
    watched, first = Watched(monkeypatch), parties(tmp_path, max_peer_ids=14)
    going, met = getattr(Request, place), list[str]()

    def dies(request: Request, *args: Any) -> Any:
        met.append(request.name)
        if len(met) == 2:
            first[0]._heterofed.run.party.close(0)
            first[0]._heterofed.run.party.abort = lambda *_: None
            raise CrashError
        return going(request, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Request, place, dies)
        outcomes = run(*first, task="joint")
    assert isinstance(outcomes[0], CrashError)
    assert run(*parties(tmp_path, max_peer_ids=14), task="joint") == [COMMON] * 3
    assert watched.begun[3] == PsiBegin(7, done, again)


@pytest.mark.slow
def test_training_uses_it(tmp_path: Path) -> None:
    host = TinyHost(tmp_path, collaborators=2, psi_protocol="ecdh", psi_parties="joint")
    others = [TinyCollaborator(tmp_path, feature_key=name) for name in ("bob", "carol")]
    outcomes = run(host, *others)
    assert not any(isinstance(each, BaseException) for each in outcomes), outcomes
    assert host._heterofed.run is not None
    assert host._heterofed.run.plan.psi_parties == "joint"
    assert host._heterofed.run.plan.fusion == "separate"


@pytest.mark.slow
def test_the_command_and_a_task_file_ask_for_it(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task file says so at all parties, and the option without a task file."""
    watched = Watched(monkeypatch)
    plan = ["psi_protocol=ecdh"]  # for three parties with keys, this is joint
    open_offices(home, ["bob", "carol"], task="agreed", purpose="psi", plan=plan)
    names = ("alice", "bob", "carol")
    for name, ids in zip(names, SETS, strict=True):
        (tmp_path / name).write_text("".join(f"{each}\n" for each in ids))
    for task, asked in (("agreed", {}), ("spoken", {"psi_parties": "joint"})):
        with ThreadPoolExecutor(3) as pool:
            started = [
                pool.submit(run_psi_with, tmp_path, task, name, **(asked if place == 0 else {}))
                for place, name in enumerate(names)
            ]
        assert [each.result()["matched"] for each in started] == [3] * 3
        assert (tmp_path / f"{task}.carol").read_text() == "e\nf\ng\n"
    assert len(watched.stores) == 4


def run_psi_with(folder: Path, task: str, name: str, **more: Any) -> dict[str, Any]:
    return run_psi(
        task=task,
        role="initiator" if name == "alice" else "collaborator",
        party=name,
        parties=2,
        ids=folder / name,
        id_column=None,
        protocol="ecdh",
        max_peer_ids=10_000_000,
        out=folder / f"{task}.{name}",
        join_timeout=30,
        fresh=False,
        **more,
    )


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"psi_protocol": "rsa"}, 'psi_protocol="ecdh"'),
        ({"collaborators": 1}, "two Collaborators"),
        ({"collaborators": ["party0"]}, "two Collaborators"),
        ({"psi_parties": "all"}, "give pairwise or joint"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        parties(tmp_path, **settings)[0].launch_task("joint")


@pytest.mark.slow
def test_a_host_that_relays_other_keys_ends_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from heterofed.privacy.mask_keys import MaskKey

    monkeypatch.setattr(
        join, "_mask_keys", lambda _, plan, __: (MaskKey().public,) * len(plan.collaborators)
    )
    outcomes = run(*parties(tmp_path))
    assert all(isinstance(each, e.TaskFailed) for each in outcomes)
    assert any("relayed another masking key" in str(each) for each in outcomes)


@pytest.mark.parametrize("count", [1, 9, 10, 11, 12_345])
def test_the_plan_knows_the_size_of_a_store(count: int) -> None:
    joint = Plan(
        host="a", collaborators=("b", "c"), psi_protocol="ecdh", psi_parties="joint"
    ).psi_tags(count)
    assert joint * SLOT_BYTES == size_for(count)
    assert Plan(host="a", collaborators=("b",)).psi_tags(count) == count
    assert PsiTags(joint).values == joint
