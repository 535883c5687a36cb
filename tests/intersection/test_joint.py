"""Tasks in which nobody learns a pairwise intersection (`psi_parties="joint"`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import psi
from heterofed import ConfigError
from heterofed import errors as e
from heterofed.hetero_nn.psi import RSAPSICollaboratorScheduler, RSAPSIInitiatorScheduler
from heterofed.intersection.request import Request
from heterofed.protocol.messages import PsiTags
from heterofed.protocol.plan import Plan
from heterofed.rendezvous import join
from psi.multiparty.key_value_store import SLOT_BYTES, size_for
from tests.e2e.tiny import TinyCollaborator, TinyHost, run

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


@pytest.mark.slow
def test_a_later_run_has_another_key_and_counts_again(tmp_path: Path) -> None:
    sent: list[bytes] = []
    make = psi.JointSigner.tags

    def watched(signer: psi.JointSigner) -> Any:
        for chunk in make(signer):
            sent.append(chunk)
            yield chunk

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psi.JointSigner, "tags", watched)
        for _ in range(2):
            assert run(*parties(tmp_path, max_peer_ids=14), task="joint") == [COMMON] * 3
    slots = {each[at : at + 16] for each in sent for at in range(16, len(each), 16)}
    assert len(sent) == 4
    assert len(slots) == sum(len(each) // 16 - 1 for each in sent)
    outcomes = run(*parties(tmp_path, max_peer_ids=14), task="joint")
    assert any(isinstance(each, e.PSIFailedError) for each in outcomes)


@pytest.mark.slow
def test_training_uses_it(tmp_path: Path) -> None:
    host = TinyHost(tmp_path, collaborators=2, psi_protocol="ecdh", psi_parties="joint")
    others = [TinyCollaborator(tmp_path, feature_key=name) for name in ("bob", "carol")]
    outcomes = run(host, *others)
    assert not any(isinstance(each, BaseException) for each in outcomes), outcomes
    assert host._heterofed.run is not None
    assert host._heterofed.run.plan.psi_parties == "joint"
    assert host._heterofed.run.plan.fusion == "separate"


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
