"""A split that only the Host can make: the others follow, and learn the parts of ids alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heterofed import ConfigError, simulate
from heterofed.compute.alignment import pack_parts, unpack_parts
from heterofed.errors import IdError
from heterofed.hetero_nn.train import announced_split
from heterofed.protocol.messages import SplitParts
from tests.e2e.tiny import IDS, TinyCollaborator, TinyHost

pytestmark = pytest.mark.usefixtures("home")

COMMON = IDS[10:50]
TEST = {each for each in COMMON if int(each[3:]) % 7 == 3}


class SecretSplit(TinyHost):
    """Splits by something that no other party has."""

    stray: str | None = None

    def __init__(self, results: Path, **settings: Any) -> None:
        super().__init__(
            results, announce_split=True, max_rounds=1, psi_protocol="ecdh", **settings
        )

    def split_dataset(self, id_intersection: set[str]) -> tuple[set[str], set[str]]:
        assert sorted(id_intersection) == COMMON
        strays = {self.stray} if self.stray else set()
        return (id_intersection - TEST - {COMMON[0]}) | strays, TEST


class Follower(TinyCollaborator):
    """Is not asked how to split."""

    seen: tuple[list[str], list[str]]

    def split_dataset(self, id_intersection: set[str]) -> tuple[set[str], set[str]]:
        raise AssertionError

    def on_round_end(self) -> None:
        self.seen = self.train_ids, self.test_ids


def test_all_follow_the_hosts_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announced_split, "IDS_AT_ONCE", 9)
    parties = [Follower(tmp_path), Follower(tmp_path, "carol")]
    host = SecretSplit(tmp_path, collaborators=2, batch_size=16)
    done = simulate(host, parties, task_id="t", baselines=["local"])
    for each in parties:
        assert each.seen == (sorted(set(COMMON) - TEST - {COMMON[0]}), sorted(TEST))
    told = [each for each in done.received["bob"] if isinstance(each.message, SplitParts)]
    assert [each.message.ids for each in told] == [9, 9, 9, 9, 4]  # type: ignore[attr-defined]
    assert sum(len(each.payload) for each in told) == 4 * 3 + 1
    assert done.comparison is not None


def test_a_rehearsal_follows_too(tmp_path: Path) -> None:
    simulate(SecretSplit(tmp_path), [Follower(tmp_path)], task_id="t", rehearse=True)


def test_only_common_ids_can_be_announced(tmp_path: Path) -> None:
    host = SecretSplit(tmp_path)
    host.stray = IDS[0]
    with pytest.raises(IdError, match="announce_split: split_dataset returned ids"):
        simulate(host, [Follower(tmp_path)], task_id="t")


def test_it_is_a_flag(tmp_path: Path) -> None:
    host = TinyHost(tmp_path, announce_split="yes")
    with pytest.raises(ConfigError, match="announce_split='yes'"):
        simulate(host, [Follower(tmp_path)], task_id="t")


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
def test_parts_are_packed_in_two_bits(parts: list[tuple[bool, bool]]) -> None:
    ids = [f"{at:03}" for at in range(len(parts))]
    train = [each for each, part in zip(ids, parts, strict=True) if part[0]]
    test = [each for each, part in zip(ids, parts, strict=True) if part[1]]
    packed = pack_parts(ids, train, test)
    assert len(packed) == -(-len(ids) // 4)
    assert unpack_parts(ids, packed) == (train, test)
